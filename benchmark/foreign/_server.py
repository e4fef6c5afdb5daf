"""The fork server: a process that has imported the engine and no plugin, and forks one child for each question."""

import contextlib
import os
import select
import subprocess
import sys
import time
from pathlib import Path

from pruneboard.benchmark.errors import ForeignError

PROGRAM = "pruneboard.benchmark.scoring_process"
"""Module that the fork server runs."""

READY = "ready"
"""What it says once it can be asked."""

_END_SECONDS = 5.0
_LONGEST_ANSWER = 100


class ForkServer:
    """A process that forks a child for each folder that it is given, waits for it, and ends all that it left.

    It sees the end of this process by the end of its standard input, and then ends itself and its children.
    """

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._is_ready = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            # It has to import the code that this process runs, wherever that came from.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    @property
    def is_usable(self) -> bool:
        """Whether it lives, and belongs to this process and not to the one that this was forked from."""
        return self.owner == os.getpid() and self._process.poll() is None

    def run(self, folder: Path, seconds: float | None) -> str:
        """Have a child do what the request in a folder says, and return how it ended, such as `exit code 0`.

        Args:
            folder: holds the request, and then the reply.
            seconds: time that it may take, in s; None for no limit.

        Raises:
            ForeignError: it took longer, or ended the fork server; the fork server is ended.
        """
        try:
            return self._run(folder, seconds)
        except BaseException:
            self.end()
            raise

    def await_ready(self) -> None:
        """Wait until it has imported the engine, which takes its time, and not the plugin's."""
        if not self._is_ready:
            self._is_ready = self._line(None) == READY

    def _run(self, folder: Path, seconds: float | None) -> str:
        self.await_ready()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(f"{folder}\n".encode())
        return self._line(seconds)

    def _line(self, seconds: float | None) -> str:
        taken = self._process.stdout
        if taken is None:
            raise ForeignError("a fork server must be started with pipes; run again.")
        deadline = None if seconds is None else time.monotonic() + seconds
        answer = b""
        while not answer.endswith(b"\n"):
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([taken], [], [], left)[0]:
                raise ForeignError(f"a plugin must end within {seconds:g} s, but had not; look for an endless loop.")
            part = os.read(taken.fileno(), _LONGEST_ANSWER)
            if not part:
                raise ForeignError("a plugin must leave other processes alone, but it ended the one that started it.")
            answer += part
        return answer.decode("ascii", "replace").strip()

    def end(self) -> None:
        """End it, with its children."""
        if self.owner != os.getpid():
            return
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


_servers: list[ForkServer] = []


def fork_server() -> ForkServer:
    """Return the fork server of this process, which is started when it is first asked for."""
    while _servers and not _servers[-1].is_usable:
        _servers.pop().end()
    if not _servers:
        _servers.append(ForkServer())
    return _servers[-1]
