"""Where and with what a result was measured: versions, commit, device, memory."""

import contextlib
import ctypes
import functools
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from pruneboard.benchmark.errors import ModelError

_ROOT = Path(__file__).resolve().parents[1]

# What decides numbers; rows and sites that are written into the checkout do not make the code another one.
_CODE = ("benchmark", "criteria", "models", "pyproject.toml")

ORIGIN_FILE = "origin.json"
"""Beside the packages of code that was sent here: the version, commit and state that it had where it came from."""

_DEVICE = re.compile(r"cpu|cuda(:[0-9]+)?|mps")


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that decide numbers."""
    libraries = {name: importlib.metadata.version(name) for name in ("torch", "timm", "zennit")}
    sent = _sent_origin()
    own = sent.version if sent else importlib.metadata.version("pruneboard")
    return {"python": platform.python_version(), **libraries, "pruneboard": own}


@functools.cache
def commit() -> tuple[str, bool]:
    """Return the commit of the code and whether the code was exactly that; ("", False) outside a checkout.

    Of code that was sent here it is what was so where it came from.
    """
    if (sent := _sent_origin()) is not None:
        return sent.commit, sent.clean
    if not (_ROOT / ".git").exists():
        return "", False
    try:
        head = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "--untracked-files=normal", "--", *_CODE)
    except (OSError, subprocess.CalledProcessError):
        return "", False
    return head.strip(), not changes.strip()


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What rows say of pruneboard's own code.

    Attributes:
        version: version of pruneboard.
        commit: commit of the code, empty outside a checkout.
        clean: whether the code was exactly that commit.
    """

    version: str
    commit: str
    clean: bool

    def write(self, folder: Path) -> None:
        """Say it to the code that is sent elsewhere in a folder, which holds `benchmark/`."""
        (folder / ORIGIN_FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")


def origin() -> Origin:
    """Return the origin of the code that this process runs."""
    head, clean = commit()
    return Origin(version=versions()["pruneboard"], commit=head, clean=clean)


def _sent_origin() -> Origin | None:
    """Return the origin of code that was sent to this machine by another one; None when it was installed here."""
    path = _ROOT / ORIGIN_FILE
    return Origin(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def _git(*command: str) -> str:
    # Git's own variables, which a hook sets for example, would point it to another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        ["git", "-C", str(_ROOT), *command], env=environment, capture_output=True, text=True, check=True
    ).stdout


def resolve_device(name: str) -> torch.device:
    """Return the device of a name; `auto` is the GPU where there is one, else the CPU.

    Raises:
        ModelError: results are not measured on such a device, or it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rule = f"`--device` must be a usable device such as cpu or cuda:0, got `{name}`"
    if not _DEVICE.fullmatch(name):
        raise ModelError(f"{rule}; choose auto, cpu, cuda, cuda:N or mps.")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{rule}: {reason}") from error
    return device


@functools.cache
def device_name(device: torch.device) -> str:
    """Return the device by the name of its hardware."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    model = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{device.type} {model or platform.processor() or platform.machine()}"


@dataclass
class PeakMemory:
    """Memory that a block added at most.

    Attributes:
        n_bytes: filled when the block ends; None where the system does not tell.
    """

    n_bytes: int | None = None


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[PeakMemory]:
    """Measure how much memory the block needs beyond what was in use: of the GPU, or of the process on Linux."""
    result = PeakMemory()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield result
        result.n_bytes = torch.cuda.max_memory_allocated(device) - before
        return
    _give_back()
    resident = _status_bytes("VmRSS") if _reset_high_water_mark() else None
    yield result
    peak = _status_bytes("VmHWM")
    if resident is not None and peak is not None:
        result.n_bytes = max(0, peak - resident)


def _give_back() -> None:
    """Give free memory back to the system, where it can be asked to, since a block that takes it would add nothing."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _reset_high_water_mark() -> bool:
    try:
        # proc(5): writing 5 resets the peak resident size of the process to its current one.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _status_bytes(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")), None)
