"""What a plugin may set for the whole process, remembered and put back."""

import os
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch


def _set_environment(variables: Mapping[str, str]) -> None:
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)


def _cuda_states() -> list[torch.Tensor]:
    # Asking a GPU that nobody has used yet would set it up.
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]


def _set_cuda_states(states: list[torch.Tensor]) -> None:
    if states:
        torch.cuda.set_rng_state_all(states)


_SETTINGS: Mapping[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "the random state of torch": (torch.get_rng_state, torch.set_rng_state),
    "the random state of torch on GPUs": (_cuda_states, _set_cuda_states),
    "the random state of NumPy": (np.random.get_state, np.random.set_state),
    "the random state of Python": (random.getstate, random.setstate),
    "the default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "the gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "the precision of matrix products": (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    "the choice of deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "the precision of convolutions on GPUs": (
        lambda: torch.backends.cudnn.allow_tf32,
        lambda value: setattr(torch.backends.cudnn, "allow_tf32", value),
    ),
    "the present folder": (os.getcwd, os.chdir),
    "the environment": (lambda: dict(os.environ), _set_environment),
}


class ProcessState:
    """The state of the process when this is made."""

    def __init__(self) -> None:
        self._values = {name: get() for name, (get, _) in _SETTINGS.items()}

    def changes(self) -> list[str]:
        """Return what is different now, by names for people."""
        return [name for name, (get, _) in _SETTINGS.items() if not _same(self._values[name], get())]

    def restore(self) -> None:
        """Put everything back."""
        for name in self.changes():
            _SETTINGS[name][1](self._values[name])


def _same(before: Any, now: Any) -> bool:
    if isinstance(before, torch.Tensor):
        return torch.equal(before, now)
    if isinstance(before, np.ndarray):
        return np.array_equal(before, now)
    if isinstance(before, list | tuple):
        return len(before) == len(now) and all(map(_same, before, now))
    return bool(before == now)
