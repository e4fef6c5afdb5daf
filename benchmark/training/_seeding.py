"""What every training needs to repeat itself."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one CPU thread: sums split over several threads round differently."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, which initial weights and dropout draw from, and restore them afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def global_states(device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's global generators, as far as training on a device draws from them."""
    on_device = {"device": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state(), **on_device}


@contextlib.contextmanager
def continued(states: Mapping[str, Tensor], device: torch.device) -> Iterator[None]:
    """Bring torch's global generators to earlier states for the time of a block."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.set_rng_state(states["cpu"])
        if "device" in states:
            torch.cuda.set_rng_state(states["device"], device)
        yield


def freeze_batch_norms(network: nn.Module) -> None:
    """Let the batch norms of a network that learns keep their running statistics, and normalise by them."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
