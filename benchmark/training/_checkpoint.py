"""The last finished epoch of a training, so that one which was stopped goes on there."""

import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from pruneboard.benchmark.store import atomic_file

_DAMAGED = (OSError, EOFError, RuntimeError, ValueError, LookupError, pickle.UnpicklingError)


@dataclass
class Checkpoint:
    """A file beside the weights that a training will write.

    Attributes:
        file: where it lies.
        key: digest of everything that decides the training; an epoch of another one is not taken up.
        every_seconds: at least so much time lies between two writings.
    """

    file: Path
    key: str
    every_seconds: ClassVar[float] = 30.0
    _written: float = field(default_factory=time.monotonic)

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Keep an epoch in place of the one before it, when it is time to.

        Args:
            state: gives tensors, plain values and containers of both.

        Raises:
            StoreError: the file cannot be written.
        """
        if time.monotonic() - self._written < self.every_seconds:
            return
        with atomic_file(self.file) as temporary:
            torch.save({"key": self.key, **state()}, temporary)
        self._written = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Return the last epoch that was kept, on the CPU; a damaged file and one of another training count as none."""
        try:
            state = torch.load(self.file, map_location="cpu", weights_only=True)
        except _DAMAGED:
            return None
        return state if isinstance(state, dict) and state.get("key") == self.key else None

    def forget(self) -> None:
        """Remove the file, when the weights are written."""
        self.file.unlink(missing_ok=True)
