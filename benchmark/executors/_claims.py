"""Which run is at which job, for several runs on one folder, also from several machines that share it."""

import contextlib
import json
import os
import platform
import re
import secrets
import threading
import time
import types
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import psutil

from pruneboard.benchmark.errors import StoreError

BEAT_SECONDS = 15.0
"""How often a run shows that it is alive."""

STALE_SECONDS = 120.0
"""Without a sign of life for so long, a run on another machine is taken for dead."""

_LEFTOVER_SECONDS = 86400.0
"""Signs of life and locks so old belong to nobody."""

_ALIVE = ".alive"
_RUN = re.compile(r"[A-Za-z0-9-]{1,64}")


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The run that a claim belongs to.

    Attributes:
        run: id of the run, which no other has.
        host: the machine, and on it the space that process ids belong to.
        pid: process id of the run.
    """

    run: str
    host: str
    pid: int


def new_run_id() -> str:
    """Return an id that sorts by time and that no other run has."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(4)}"


class Claims:
    """The jobs that this run has taken, as files that other runs on the folder see.

    A claim is a file that only one run can create; it names its owner. The owner shows that it is alive by the time of
    modification of one more file, `RUN.alive`. Such times are compared with each other only, and never with a clock,
    so that clocks that are wrong or jump do no harm. One that lies ahead says nothing, so it has to change while this
    run looks; on the owner's own machine its process is looked for as well.

    Args:
        folder: where the claims of a suite lie; made when it is missing.
        run: id of this run.

    Raises:
        StoreError: the folder cannot be written.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self.owner = Owner(run=run, host=_host(), pid=os.getpid())
        self._folder = folder
        self._alive = folder / f"{run}{_ALIVE}"
        self._held: set[str] = set()
        self._signs: dict[Path, tuple[int, float]] = {}
        self._closed = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        with _mended(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._alive.touch()
            self._sweep()
        self._beating.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self._closed.set()
        self._beating.join()
        for name in list(self._held):
            self.release(name)
        with contextlib.suppress(OSError):
            self._alive.unlink(missing_ok=True)

    def take(self, name: str) -> bool:
        """Try to get a job for this run, and return whether it now has it.

        Args:
            name: of the job's file, without suffix.

        Raises:
            StoreError: the folder cannot be written.
        """
        path = self._folder / name
        with _mended(path):
            taken = name in self._held or self._create(path) or self._take_over(path)
        if taken:
            self._held.add(name)
        return taken

    def release(self, name: str) -> None:
        """Give a job back, if this run has it."""
        if name not in self._held:
            return
        self._held.discard(name)
        path = self._folder / name
        # Another run that took this one for dead may have taken it over.
        with contextlib.suppress(OSError):
            if _read(path) == self.owner:
                path.unlink(missing_ok=True)

    def _create(self, path: Path) -> bool:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(asdict(self.owner), file)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return True

    def _take_over(self, path: Path) -> bool:
        """Put this run in the place of a dead one; of several runs that try, one succeeds."""
        owner = _read(path)
        if self._lives(path, owner):
            return False
        # Its name holds that of the dead run, so whoever comes late with an old view finds another owner below.
        lock = path.with_name(f".{path.name}.after-{owner.run if owner else 'nobody'}")
        if not self._create(lock):
            if not self._lives(lock, _read(lock)):
                lock.unlink(missing_ok=True)
            return False
        try:
            if not path.exists() or _read(path) != owner:
                return False
            mine = path.with_name(f".{path.name}.{self.owner.run}")
            self._create(mine)
            mine.replace(path)
            return True
        finally:
            lock.unlink(missing_ok=True)

    def _lives(self, claim: Path, owner: Owner | None) -> bool:
        """Whether a claim has to be respected."""
        if owner is not None and owner.host == self.owner.host and not _is_running(owner.pid):
            return False
        self._alive.touch()
        # A claim that names nobody was just created, or its owner died over it.
        sign = claim if owner is None else self._folder / f"{owner.run}{_ALIVE}"
        try:
            now, shown = self._alive.stat(), sign.stat()
        except FileNotFoundError:
            return False
        last, since = self._signs.get(sign, (None, 0.0))
        if shown.st_mtime_ns != last:
            since = time.monotonic()
            self._signs[sign] = shown.st_mtime_ns, since
        return now.st_mtime - shown.st_mtime < STALE_SECONDS and time.monotonic() - since < STALE_SECONDS

    def _sweep(self) -> None:
        """Remove what dead runs left."""
        now = self._alive.stat().st_mtime
        for path in list(self._folder.iterdir()):
            if path.name.startswith(".") or path.suffix == _ALIVE:
                with contextlib.suppress(FileNotFoundError):
                    if now - path.stat().st_mtime > _LEFTOVER_SECONDS:
                        path.unlink(missing_ok=True)
            elif self._take_over(path):
                path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            # A disk that is full or away for a moment is for those to report who have results to write.
            with contextlib.suppress(OSError):
                self._alive.touch()


@contextlib.contextmanager
def _mended(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StoreError(f"`{path}` must be writable, but {reason}; free space or choose another folder.") from error


def _read(path: Path) -> Owner | None:
    """Return the owner that a claim names; None when it names none, or is not there any more."""
    try:
        owner = Owner(**json.loads(path.read_text(encoding="utf-8")))
        # The id becomes part of names of files.
        is_one = _RUN.fullmatch(owner.run) and type(owner.host) is str and type(owner.pid) is int
        return owner if is_one and 0 < owner.pid < 2**31 else None
    except (FileNotFoundError, ValueError, TypeError, RecursionError):
        return None


def _is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _host() -> str:
    """Return the machine by name, and what tells it from others of that name, which containers often share."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return "/".join(parts)
