"""Files that appear whole or not at all, on any POSIX file system: create, rename and unlink, and no locks."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pruneboard.benchmark.errors import StoreError

TEMPORARY = ".tmp-"
"""Begins the names of files that are being written."""

LEFTOVER_SECONDS = 3600.0
"""Age in s from which a temporary file is taken for what a killed writer left; writing one takes far less."""

_REMOVALS_AT_ONCE = 8


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it when the block ends well, and is removed otherwise.

    Raises:
        StoreError: the folder cannot be written or the disk is full; an older file at `path` is left as it was.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=TEMPORARY, suffix=path.suffix, dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise not_writable(path, error) from error
    finally:
        if temporary is not None:
            # A folder that can no longer be written is the error that is being raised already.
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk too, without which a power cut takes a renamed file with it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # Some network file systems have no such call, and a folder may be writable without being readable.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise


def not_writable(path: Path, error: OSError) -> StoreError:
    """Return the error of a path that cannot be written."""
    return StoreError(f"`{shown(path)}` must be writable, but {_reason(error)}; free space or choose another folder.")


def read_bytes(path: Path) -> bytes:
    """Read a whole file.

    Raises:
        FileNotFoundError: it is not there, or no longer.
        StoreError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(
            f"`{shown(path)}` must be readable, but {_reason(error)}; mend its permissions or its disk."
        ) from error


def move(source: Path, target: Path) -> bool:
    """Rename a file, over an older one where there is one; return whether it was still there.

    Raises:
        StoreError: the folder cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
    # Another process on the same folder may have moved it first.
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError(
            f"`{shown(source)}` must be movable to `{shown(target)}`, but {_reason(error)}; mend its folder."
        ) from error
    return True


def remove(path: Path) -> bool:
    """Remove a file, and return whether it was still there.

    Raises:
        StoreError: the folder cannot be written.
    """
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError(f"`{shown(path)}` must be removable, but {_reason(error)}; mend its folder.") from error
    return True


def remove_all(paths: Sequence[Path]) -> int:
    """Remove many files at once, and return how many were still there; raises as `remove`."""
    # File systems take their time for one, and no more for several at once.
    with ThreadPoolExecutor(_REMOVALS_AT_ONCE) as threads:
        return sum(threads.map(remove, paths))


def remove_folder_if_empty(folder: Path) -> None:
    """Remove a folder unless something is in it."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def entries(folder: Path) -> list["os.DirEntry[str]"]:
    """List what is in a folder, in no order; nothing when there is no such folder.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StoreError(f"`{shown(folder)}` must be a readable folder, but {_reason(error)}.") from error


def sync_folder(folder: Path) -> None:
    """Have names in a folder survive a loss of power, on systems that can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def leftovers(folder: Path) -> list[Path]:
    """Return the temporary files in a folder itself that killed writers left, sorted.

    Their age is told by the clock of the file system, which stamps a file that is made for that: neither a clock of
    this machine that is wrong nor one that jumps makes a file old that is being written.
    """
    found = [Path(entry.path) for entry in entries(folder) if entry.name.startswith(TEMPORARY)]
    if not found:
        return []
    try:
        with tempfile.NamedTemporaryFile(prefix=TEMPORARY, dir=folder) as probe:
            now = os.fstat(probe.fileno()).st_mtime
    except OSError:
        # What cannot be written cannot be tidied either.
        return []
    old = []
    for path in found:
        with contextlib.suppress(FileNotFoundError):
            if now - path.stat().st_mtime >= LEFTOVER_SECONDS:
                old.append(path)
    return sorted(old)


def leftovers_below(folder: Path) -> list[Path]:
    """Return what killed writers left in a folder and in the folders in it."""
    inner = sorted(Path(entry.path) for entry in entries(folder) if entry.is_dir(follow_symlinks=False))
    return [path for each in (folder, *inner) for path in leftovers(each)]


def remove_leftovers(folder: Path) -> int:
    """Remove what killed writers left in a folder and the folders below it; return how many files that were."""
    return remove_all(leftovers_below(folder))


def shown(path: Path | str) -> str:
    """Return a path as messages show it: in printable characters, whatever is in its name."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(path))


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
