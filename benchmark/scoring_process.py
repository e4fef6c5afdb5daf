"""The program of the processes that run criteria from elsewhere; `foreign` starts it, and nothing imports it.

The fork server imports the engine once, and forks a child for each request. Only children import plugins, and each
answers one request, so whatever a plugin does to its process, or leaves behind, ends with it.
"""

import contextlib
import faulthandler
import os
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

# Networks are made of its classes, which take seconds to import.
import timm  # noqa: F401

from pruneboard.benchmark import discovery, plugins
from pruneboard.benchmark.errors import PruneboardError, Unsupported
from pruneboard.benchmark.failures import clean_reason, describe_error, is_out_of_memory
from pruneboard.benchmark.foreign import (
    READY,
    Reply,
    Request,
    named_scores,
    read_payload,
    read_request,
    received_context,
    write_reply,
)
from pruneboard.benchmark.scoring import score_all_shots
from pruneboard.benchmark.workers import adopt_orphans, kill_descendants

_MOST_PRINTED = 2000


def main() -> None:
    """Answer one request after the other until standard input ends."""
    # Keys that are pressed at the terminal are for the process that asks.
    os.setsid()
    adopt_orphans()
    given, taken = os.dup(0), os.dup(1)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    # What plugins print is no answer.
    os.dup2(2, 1)
    woken, wakes = os.pipe()
    for descriptor in (woken, wakes):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    os.write(taken, f"{READY}\n".encode())
    with os.fdopen(given, "rb", buffering=0) as requests:
        while line := requests.readline():
            child = os.fork()
            if child == 0:
                _begin_child((given, taken, woken, wakes))
                _answer(Path(os.fsdecode(line.removesuffix(b"\n"))))
            how = _await(child, given, woken)
            kill_descendants(os.getpid())
            _reap()
            if how is None:
                return
            os.write(taken, f"{how}\n".encode())


def _await(child: int, requests: int, woken: int) -> str | None:
    """Return how a child ended, or None when the process that asked has ended before."""
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        ready, _, _ = select.select([requests, woken], [], [])
        if requests in ready:
            # The next request comes after the answer to this one, so this is the end.
            return None
        with contextlib.suppress(BlockingIOError):
            os.read(woken, 1024)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _begin_child(descriptors: tuple[int, ...]) -> None:
    """Take what belongs to the fork server away from a child."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for descriptor in descriptors:
        os.close(descriptor)
    os.setsid()
    # A pool asks so where a job is that takes too long.
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)


def _answer(folder: Path) -> NoReturn:
    """Answer a request in a child, and end it."""
    describes = False
    try:
        discovery.hide_foreign()
        request = read_request(folder)
        describes = request.task == "describe"
        content, tensors = _ANSWERS[request.task](request, folder)
        reply = Reply(status="ok", content=content, tensors=tensors)
    except Unsupported as refusal:
        reply = Reply(status="unsupported", reason=clean_reason(refusal))
    # A plugin is foreign code: whatever it raises, even sys.exit(), is its result.
    except BaseException as error:  # noqa: BLE001
        reply = Reply(
            status="failed",
            # What is wrong with a declaration is a sentence of ours.
            reason=clean_reason(error) if describes and isinstance(error, PruneboardError) else describe_error(error),
            trace=_trace(error),
            out_of_memory=is_out_of_memory(error),
        )
    with contextlib.suppress(BaseException):
        write_reply(folder, reply)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    os._exit(0)


def _trace(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error)).encode("utf-8", "replace").decode()
    except BaseException as failure:  # noqa: BLE001 - an exception's text is foreign code too
        return f"the traceback cannot be read: {type(failure).__name__}\n"


_Answer = tuple[Mapping[str, Any], Mapping[str, Any]]


def _describe(request: Request, folder: Path) -> _Answer:
    with tempfile.TemporaryFile() as file:
        shown = [os.dup(descriptor) for descriptor in (1, 2)]
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        try:
            criteria, models = plugins.definitions(request.source)
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            for descriptor, before in zip((1, 2), shown, strict=True):
                os.dup2(before, descriptor)
        file.seek(0)
        printed = file.read(_MOST_PRINTED).decode("utf-8", "replace")
    declared = [plugins.declaration(name, criterion) for name, criterion in criteria]
    return {"criteria": declared, "models": [name for name, _ in models], "printed": printed}, {}


def _score(request: Request, folder: Path) -> _Answer:
    payload = read_payload(folder)
    criterion = plugins.imported_criterion(request.source, request.criterion, request.parameters)
    scoring = score_all_shots(
        criterion, received_context(payload), request.shots, payload["probe"], kept=payload["kept"]
    )
    return {"seconds": scoring.seconds, "peak_bytes": scoring.peak_bytes}, named_scores(scoring.by_shots)


def _space(request: Request, folder: Path) -> _Answer:
    criterion = plugins.imported_criterion(request.source, request.criterion, request.parameters)
    return dict(criterion.search_space(received_context(read_payload(folder)))), {}


_ANSWERS = {"describe": _describe, "score": _score, "space": _space}

if __name__ == "__main__":
    main()
