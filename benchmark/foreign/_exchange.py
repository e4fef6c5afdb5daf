"""What the engine and a child that runs foreign code tell each other, as files in a folder of their own.

The engine trusts its own request, which may be pickled; of a reply it takes plain numbers and texts of bounded size.
"""

import dataclasses
import json
import math
import os
import stat
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pruneboard.benchmark import discovery
from pruneboard.benchmark.discovery import Source
from pruneboard.benchmark.errors import ForeignError, Unsupported
from pruneboard.benchmark.failures import printable
from pruneboard.benchmark.foreign._server import fork_server

Task = Literal["describe", "score", "space"]

_REQUEST, _PAYLOAD, _REPLY, _TENSORS = "request.json", "payload.pt", "reply.json", "reply.safetensors"
_MOST_BYTES = 4 * 2**20
_MOST_TEXT = 50_000
_STATUSES = ("ok", "unsupported", "failed")
_MOST_ATTEMPTS = 3
_FROM_OUTSIDE = ("signal SIGKILL", "signal SIGTERM", "signal SIGHUP")
"""Ends that mostly come from the system, such as where memory runs out."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a child is asked for.

    Attributes:
        task: to describe plugins, to score, or to name the search space.
        source: where the plugins come from.
        criterion: registered name of the criterion; empty to describe.
        parameters: its parameters.
        shots: numbers of shots to score at.
    """

    task: Task
    source: Source
    criterion: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    shots: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a child gives back.

    Attributes:
        status: `ok`, `unsupported` or `failed`.
        reason: why it is not `ok`, in one line.
        trace: the traceback of a failure.
        out_of_memory: whether memory ran out, so that a smaller call may succeed.
        content: what was asked for, as plain values.
        tensors: scores, by a name that holds the number of shots and the layer.
    """

    status: str
    reason: str = ""
    trace: str = ""
    out_of_memory: bool = False
    content: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def ask(
    request: Request, payload: Mapping[str, Any] | None = None, *, n_values: int = 0, seconds: float | None = None
) -> Reply:
    """Have a child of its own answer a request.

    Args:
        request: what is asked for.
        payload: network, images and the like, as `torch.save` takes them.
        n_values: float32 numbers that the reply may hold.
        seconds: time that it may take, in s; None for no limit.

    Raises:
        Unsupported: the criterion declines.
        ForeignError: there is no answer, or none that can be used.
    """
    how = ""
    for _ in range(_MOST_ATTEMPTS):
        with tempfile.TemporaryDirectory(prefix="pruneboard-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            _write_request(folder, request, payload)
            how = fork_server().run(folder, seconds)
            reply = read_reply(folder, n_values)
        if reply is not None and reply.status == "unsupported":
            raise Unsupported(reply.reason)
        if reply is not None and reply.status == "failed":
            raise ForeignError(reply.reason, trace=reply.trace, out_of_memory=reply.out_of_memory, replied=True)
        if reply is not None:
            return reply
        if how not in _FROM_OUTSIDE:
            break
    raise ForeignError(f"a plugin must return what it is asked for, but its process died with {how} before it did.")


def _write_request(folder: Path, request: Request, payload: Mapping[str, Any] | None) -> None:
    if payload is not None:
        try:
            torch.save(dict(payload), folder / _PAYLOAD)
        except Exception as error:
            raise ForeignError(
                "a network must be one that can be pickled to be scored by a criterion from elsewhere, but this one is "
                f"not: {type(error).__name__}: {error}; define its classes in a module, or move the criterion to "
                "`criteria/`."
            ) from error
    document = {
        **dataclasses.asdict(request),
        "files": discovery.imported_files(),
        "setup": {
            "environment": dict(os.environ),
            "path": sys.path,
            "folder": _present_folder(),
            "threads": torch.get_num_threads(),
            "tf32": torch.backends.cudnn.allow_tf32,
        },
    }
    (folder / _REQUEST).write_text(json.dumps(document), encoding="utf-8")


def _present_folder() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return str(discovery.ROOT)


def read_request(folder: Path) -> Request:
    """Read a request, bring this process to where the one that asks is, and import the files of its networks.

    Raises:
        PluginError: one cannot be imported.
    """
    document = json.loads((folder / _REQUEST).read_text(encoding="utf-8"))
    setup, files = document.pop("setup"), document.pop("files")
    os.environ.clear()
    os.environ.update(setup["environment"])
    sys.path[:] = setup["path"]
    os.chdir(setup["folder"])
    torch.set_num_threads(setup["threads"])
    torch.backends.cudnn.allow_tf32 = setup["tf32"]
    for path in files:
        discovery.file_module(Path(path))
    return Request(**{**document, "source": Source(**document["source"])})


def read_payload(folder: Path) -> dict[str, Any]:
    """Read what came with a request."""
    return dict(torch.load(folder / _PAYLOAD, weights_only=False))


def write_reply(folder: Path, reply: Reply) -> None:
    """Write a reply."""
    plain = {name: getattr(reply, name) for name in ("status", "reason", "trace", "out_of_memory", "content")}
    tensors = {name: values.detach().cpu().contiguous() for name, values in reply.tensors.items()}
    (folder / _TENSORS).write_bytes(safetensors.torch.save(tensors))
    (folder / _REPLY).write_text(json.dumps(plain), encoding="utf-8")


def read_reply(folder: Path, n_values: int) -> Reply | None:
    """Read a reply as data that anybody may have written; None when there is none.

    Args:
        folder: where it lies.
        n_values: float32 numbers that it may hold.

    Raises:
        ForeignError: it cannot be used.
    """
    if not (folder / _REPLY).is_symlink() and not (folder / _REPLY).exists():
        return None
    try:
        document = json.loads(_read_plain(folder / _REPLY, _MOST_BYTES).decode())
        tensors = safetensors.torch.load(_read_plain(folder / _TENSORS, _MOST_BYTES + 4 * n_values))
        reply = Reply(**document, tensors=tensors)
    except (OSError, ValueError, TypeError, KeyError, RecursionError, safetensors.SafetensorError) as error:
        raise ForeignError(
            f"the reply of a plugin's process must be one that it was given to write, but it is not: "
            f"{type(error).__name__}; let the plugin leave the engine alone."
        ) from error
    is_plain = (
        reply.status in _STATUSES
        and isinstance(reply.reason, str)
        and isinstance(reply.trace, str)
        and isinstance(reply.out_of_memory, bool)
        and isinstance(reply.content, dict)
    )
    if not is_plain:
        raise ForeignError("the reply of a plugin's process must hold plain values; let it leave the engine alone.")
    return dataclasses.replace(reply, reason=printable(reply.reason, 1000), trace=reply.trace[:_MOST_TEXT])


def number(value: Any, what: str) -> float:
    """Return a finite number from 0 of a reply.

    Raises:
        ForeignError: it is none.
    """
    if type(value) not in (int, float) or not (math.isfinite(value) and value >= 0):
        raise ForeignError(f"{what} in the reply of a plugin's process must be a number from 0, got {value!r:.80}.")
    return float(value)


def _read_plain(path: Path, most_bytes: int) -> bytes:
    """Read a file unless it is a link, a pipe or a device, on which reading could wait for ever, or too large."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size > most_bytes:
            raise ValueError("it is no file, or too large")
        return file.read(most_bytes + 1)
