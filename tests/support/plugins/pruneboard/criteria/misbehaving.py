"""A criterion that breaks its contract as its preset says; only tests that put this folder on the path find it."""

import dataclasses
import os
import signal
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from pruneboard.benchmark.api import Context, Criterion, Needs

WAYS = ("nan", "shape", "missing", "changes_model", "leaves_hook", "raises", "exits", "killed", "slow", "labels")


@dataclasses.dataclass(frozen=True)
class Misbehaving(Criterion):
    """Good scores, and then something bad.

    Attributes:
        way: what it does.
    """

    way: str = "none"

    name: ClassVar[str] = "misbehaving"
    version: ClassVar[int] = 1
    family: ClassVar[str] = "control"
    source: ClassVar[str] = "https://example.org/<b>"
    needs: ClassVar[Needs] = "images"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {f"bad_{way}": {"way": way} for way in WAYS}

    def score(self, context: Context) -> dict[str, Tensor]:
        """Score by position, and misbehave."""
        scores = {layer.name: torch.arange(float(layer.n_units)) for layer in context.layers}
        first = context.layers[0].name
        match self.way:
            case "nan":
                scores[first][0] = float("nan")
            case "shape":
                scores[first] = scores[first][:-1]
            case "missing":
                del scores[first]
            case "changes_model":
                next(context.model.parameters()).data.add_(1)
            case "leaves_hook":
                context.model.register_forward_hook(lambda *_: None)
            case "raises":
                raise ValueError("not today")
            case "exits":
                raise SystemExit(7)
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "slow":
                time.sleep(600)
            case "labels":
                scores[first] += context.reference.labels.sum()
        return scores
