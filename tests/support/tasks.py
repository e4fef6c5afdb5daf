"""Trivial work for a pool, whose tasks are the names of what a worker does with them; it needs no torch."""

import contextlib
import ctypes
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from pruneboard.benchmark.errors import DamagedFileError
from pruneboard.benchmark.workers import Affinity, Death, Place, Report, _process


@dataclass(frozen=True, eq=False)
class Task:
    name: str
    folder: Path
    affinity: Affinity = ("a",)
    place: Place = (0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Said(Report):
    name: str
    text: str
    pid: int = 0


@dataclass(frozen=True)
class DoingTasks:
    def begin(self, slot: int) -> Callable[[Task], Iterator[Said]]:
        def run(task: Task) -> Iterator[Said]:
            if action := globals().get(f"do_{task.name.split(':')[0]}"):
                action(task)
            yield Said(name=task.name, text=f"done by {slot}", pid=os.getpid())

        return run


@dataclass
class Tasks:
    """What a pool asks of tasks; those that die from outside are given out `most` times."""

    most: int = 3
    body: DoingTasks = field(default_factory=DoingTasks)
    deaths: list[Death] = field(default_factory=list)

    def affinity(self, task: Task) -> Affinity:
        return task.affinity

    def place(self, task: Task) -> Place:
        return task.place

    def start_of(self, task: Task) -> Said | None:
        return Said(name=task.name, text="started", ends=False)

    def death_of(self, task: Task, last: Said | None, death: Death) -> Said:
        self.deaths.append(death)
        again = death.cause == "outside" and death.n_outside < self.most
        return Said(name=task.name, text=f"{death.cause}: {death.how}", again=again)


def do_sleep(task: Task) -> None:
    time.sleep(0.3)


def do_hang(task: Task) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    leave_daemon(task.folder / "hang.pid")
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(600)


def do_close_all(task: Task) -> None:
    """Close every descriptor, the pipe to the parent among them, and go on for ever, deaf to signals."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.closerange(0, 400)
    while True:
        pass


def do_send(task: Task) -> None:
    """Send bytes (in hex, after the colon) that are no report, and say nothing further."""
    write_to_pipe(bytes.fromhex(task.name.split(":")[1]))
    time.sleep(600)


def do_chatter(task: Task) -> None:
    """Send reports without end, also such as say that the worker has only just started."""
    pipe = pipe_to_parent()
    while True:
        pipe.send(_process._State.READY)
        pipe.send(Said(name=task.name, text="chatter", ends=False))
        time.sleep(0.05)


def do_refuse(task: Task) -> None:
    """Raise an error that ends the run, as a damaged file does."""
    raise DamagedFileError("the file is damaged; remove it.", "damaged")


def pipe_to_parent() -> Connection:
    return next(one for one in gc.get_objects() if isinstance(one, Connection) and one.writable and one.readable)


def write_to_pipe(data: bytes) -> None:
    os.write(pipe_to_parent().fileno(), data)


def do_killed(task: Task) -> None:
    (task.folder / "killed.attempts").open("a").write("x")
    os.kill(os.getpid(), signal.SIGKILL)


def do_killed_once(task: Task) -> None:
    mark = task.folder / "killed_once"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGTERM)


def do_crash(task: Task) -> None:
    leave_daemon(task.folder / "crash.pid")
    print("before the crash")
    ctypes.string_at(0)


def do_leave(task: Task) -> None:
    leave_daemon(task.folder / "leave.pid")


def do_eat(task: Task) -> None:
    """Hold much memory, most of it in a child."""
    if os.fork() == 0:
        _kept = bytearray(os.urandom(2**20)) * 300
        time.sleep(600)
    time.sleep(600)


def do_print(task: Task) -> None:
    """Print megabytes through every layer."""
    os.write(2, b"first\n")
    for _ in range(30):
        print(100_000 * "p")
    ctypes.CDLL(None).puts(b"from C")
    if os.fork() == 0:
        os.write(1, b"from a child\n")
        os._exit(0)
    os.wait()
    print("last", file=sys.stderr)


def do_say(task: Task) -> None:
    print(f"I am {task.name}")


def leave_daemon(path: Path) -> None:
    """Start a process that belongs to nobody, writes its id to a file, and sleeps."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            temporary = path.with_suffix(".tmp")
            temporary.write_text(str(os.getpid()))
            temporary.rename(path)
            time.sleep(600)
        os._exit(0)
    os.wait()
    while not path.exists():
        time.sleep(0.01)
