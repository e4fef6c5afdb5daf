"""A criterion that breaks its contract as its preset says; only tests that put this folder on the path find it."""

import contextlib
import ctypes
import dataclasses
import os
import random
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pruneboard.benchmark.api import Context, Criterion, Needs, Unsupported

WAYS = (
    *("nan", "shape", "missing", "changes_model", "leaves_hook", "raises", "exits", "killed", "forks", "slow"),
    *("labels", "order", "reuses", "declines", "patches", "settings", "garbles"),
    *("floods", "wanders", "engine", "wrecks"),
    *("hangs", "lingers", "daemon", "prints", "segfaults", "base", "eats", "big_batch", "never_fits"),
)
_BUFFER: dict[str, Tensor] = {}
_eaten: list[Tensor] = []


class Unstoppable(BaseException):
    """What no `except Exception` catches."""


def _perfect(*given: Any) -> Any:
    """Return the curve of a network that is never wrong."""
    points = sys.modules["pruneboard.benchmark.protocols"]._curve(*given)  # type: ignore[attr-defined]
    return [dataclasses.replace(point, top1=1.0, top5=1.0) for point in points]


def _leave_daemon(name: str) -> None:
    """Start a process that belongs to nobody, writes its id to a file in the present folder, and sleeps."""
    path = Path(f"{name}.pid")
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            path.with_suffix(".tmp").write_text(str(os.getpid()))
            path.with_suffix(".tmp").rename(path)
            time.sleep(600)
        os._exit(0)
    os.wait()
    while not path.exists():
        time.sleep(0.01)


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
        scores = {layer.name: torch.arange(layer.n_units, dtype=torch.float32) for layer in context.layers}
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
            case "forks":
                if os.fork() == 0:
                    time.sleep(600)
                os._exit(3)
            case "slow":
                time.sleep(600)
            case "labels":
                scores[first] += context.reference.labels.sum()
            case "order":
                # Bright images first, so that the scores tell in which order the images came.
                scores[first] += context.reference.images.mean((1, 2, 3)).argmax()
            case "reuses":
                n_images = len(context.reference.images)
                context.reference.images.zero_()
                for name, values in scores.items():
                    _BUFFER.setdefault(name, torch.empty_like(values)).copy_(values if n_images > 10 else -values)
                return _BUFFER
            case "declines":
                context.model.register_forward_hook(lambda _m, _i, output: output * 0)
                raise Unsupported("not this one\x1b[31m\r" + 1000 * "x")
            case "patches":
                torch.nn.BatchNorm2d.forward = lambda self, values: values  # type: ignore[method-assign]
            case "settings":
                torch.set_default_dtype(torch.float64)
                torch.set_grad_enabled(False)
                torch.set_num_threads(3)
                torch.manual_seed(0)
                np.random.seed(0)
                random.seed(0)
            case "floods":
                for _ in range(100):
                    os.write(1, 1_000_000 * b"f")
                    os.write(2, 1_000_000 * b"f")
            case "wanders":
                os.chdir("/")
                os.environ["PRUNEBOARD_DATA"] = "/nowhere"
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            case "engine":
                # It would make every later job perfect.
                protocols, curve = sys.modules["pruneboard.benchmark.protocols"], _perfect
                protocols._curve, protocols.accuracy_curve = protocols.accuracy_curve, curve  # type: ignore[attr-defined]
            case "wrecks":
                for path in Path("runs").rglob("*.parquet"):
                    path.write_bytes(path.read_bytes()[:-9] + 9 * b"w")
            case "hangs":
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)
                _leave_daemon("hangs")
                while True:
                    with contextlib.suppress(BaseException):
                        time.sleep(600)
            case "lingers":
                time.sleep(4)
            case "daemon":
                _leave_daemon("daemon")
            case "prints":
                for _ in range(30):
                    print(100_000 * "p")
                raise ValueError("said too much")
            case "segfaults":
                _leave_daemon("segfaults")
                ctypes.string_at(0)
            case "base":
                raise Unstoppable("whatever you catch")
            case "eats":
                _eaten.append(torch.ones(2**31 // 4))
                time.sleep(600)
            case "big_batch":
                if context.batch_size > 3:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
            case "never_fits":
                torch.empty(10**14)
            case "garbles":
                raise ValueError("\ud800 \x1b[31m second\rline" + 10_000 * "x")
        return scores
