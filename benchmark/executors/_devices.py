"""How many workers a machine gets, and on which device each runs."""

import os

import torch


def devices_for(device: torch.device, n_workers: int | None, *, n_cores: int, n_gpus: int) -> tuple[str, ...]:
    """Return the device of each worker process, by name; none when everything runs in this process.

    Args:
        device: what was asked for; `cuda` without a number stands for all GPUs, which the workers take in turns.
        n_workers: how many workers; None for one per GPU, or one per core on a CPU.
        n_cores: workers that the CPU cores serve at the same time.
        n_gpus: GPUs that torch sees.
    """
    choices = [f"cuda:{index}" for index in range(n_gpus)] if str(device) == "cuda" and n_gpus else [str(device)]
    if n_workers is None:
        n_workers = n_cores if device.type == "cpu" else len(choices)
    return tuple(choices[slot % len(choices)] for slot in range(n_workers))


def local_devices(device: torch.device, n_workers: int | None, n_threads: int | None = None) -> tuple[str, ...]:
    """Return `devices_for` on this machine, where each worker has `n_threads` CPU threads, by default one."""
    n_gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    return devices_for(device, n_workers, n_cores=max(1, count_cores() // (n_threads or 1)), n_gpus=n_gpus)


def threads_for(n_workers: int) -> int:
    """Return the CPU threads of each worker: an equal share of the cores."""
    return max(1, count_cores() // max(1, n_workers))


def count_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
