"""Process trees: their memory, and their end, which nothing that a plugin forked outlives."""

import contextlib
import ctypes
import os
import signal
import sys
import time
import types
from collections.abc import Collection, Iterator
from typing import Self

import psutil

# prctl(2): a process that has set this, and not init, becomes the parent of descendants whose own parent ends.
_SET_CHILD_SUBREAPER, _GET_CHILD_SUBREAPER = 36, 37

_PATIENCE_SECONDS = 5.0


def descendants(pid: int) -> list[psutil.Process]:
    """Return the processes below one that have not ended, whatever group or session they are in."""
    try:
        found = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [process for process in found if not _has_ended(process)]


def kill_descendants(pid: int) -> None:
    """Kill all processes below one until there is none; it must not fork meanwhile."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while (found := descendants(pid)) and time.monotonic() < end:
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        # Killing takes a moment, and brings those to light whose parent was among them.
        time.sleep(0.002)


def kill_tree(pid: int) -> None:
    """Kill a child process, its process group, and all that descends from it."""
    with contextlib.suppress(ProcessLookupError):
        # Stopped, it neither forks nor reacts, and still adopts those whose parents are killed.
        os.kill(pid, signal.SIGSTOP)
        kill_descendants(pid)
    # Before a child leads a group of its own there is none.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def memory_of_trees(pids: Collection[int], limit: int) -> dict[int, int]:
    """Return how much memory processes hold together with all their descendants, in byte.

    Memory that several processes share is counted once where the sum over them would be above `limit`.
    """
    children: dict[int, list[psutil.Process]] = {}
    own = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            children.setdefault(process.ppid(), []).append(process)
            if process.pid in pids:
                own[process.pid] = process
    sizes = {}
    for pid, process in own.items():
        tree = [process]
        for member in tree:
            tree += children.get(member.pid, [])
        size = _sum_of(tree, "rss")
        sizes[pid] = _sum_of(tree, "pss") if size > limit and sys.platform == "linux" else size
    return sizes


def _sum_of(processes: Collection[psutil.Process], kind: str) -> int:
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += getattr(process.memory_info() if kind == "rss" else process.memory_full_info(), kind)
    return total


def _has_ended(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent ends, where the system allows it."""
    _set_subreaper(1)


class Adoption:
    """While it lasts, what is left over from a worker that died falls to this process, which ends it."""

    def __init__(self) -> None:
        self._before: set[int] = set()
        self._was_subreaper = 0

    def __enter__(self) -> Self:
        self._before = {child.pid for child in psutil.Process().children()}
        self._was_subreaper = _get_subreaper()
        _set_subreaper(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        _set_subreaper(self._was_subreaper)

    def end_orphans(self, workers: Collection[int]) -> None:
        """End all children of this process that it did not start itself, with all that descends from them.

        Args:
            workers: process ids of its workers; its other children are in its own process group.
        """
        if os.getpid() == 1:
            # The first process of a container gets everybody's orphans, and cannot tell them apart.
            return
        end = time.monotonic() + _PATIENCE_SECONDS
        while (orphans := list(self._orphans(workers))) and time.monotonic() < end:
            for pid in orphans:
                kill_tree(pid)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            time.sleep(0.002)

    def _orphans(self, workers: Collection[int]) -> Iterator[int]:
        for child in psutil.Process().children():
            with contextlib.suppress(ProcessLookupError):
                if child.pid not in self._before and child.pid not in workers and os.getpgid(child.pid) != os.getpgrp():
                    yield child.pid


def _get_subreaper() -> int:
    value = ctypes.c_int(0)
    _prctl(_GET_CHILD_SUBREAPER, ctypes.byref(value))
    return value.value


def _set_subreaper(value: int) -> None:
    _prctl(_SET_CHILD_SUBREAPER, ctypes.c_ulong(value))


def _prctl(option: int, argument: object) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)
