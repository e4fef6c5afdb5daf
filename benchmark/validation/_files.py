"""Rules that the files of a results folder keep before any of them is read."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

_MOST_BYTES = 64 * 2**20
"""Largest file; the tables of the largest suite have a hundredth of it."""


def file_faults(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files below a folder that must not be read: links, devices and the like, and very large ones."""
    for path in _below(folder):
        try:
            found = path.lstat()
        except OSError as error:
            yield path, f"a results folder must be readable, but this cannot be looked at: {error.strerror}."
            continue
        if stat.S_ISLNK(found.st_mode):
            yield (
                path,
                f"results must be files of their own, but this is a link to `{_target(path)}`; put it here.",
            )
        elif not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
            yield path, "results must be plain files, but this is a device, pipe or socket; remove it."
        elif stat.S_ISREG(found.st_mode) and found.st_size > _MOST_BYTES:
            yield (
                path,
                f"a file of results must have at most {_MOST_BYTES >> 20} MiB, got {found.st_size / 2**20:.0f} MiB; "
                "write it again with `pruneboard table --publish`.",
            )


def _below(folder: Path) -> Iterator[Path]:
    """Yield a folder, if it is a link, and all that is in it, without following links."""
    if folder.is_symlink():
        yield folder
        return
    for top, folders, files in os.walk(folder):
        yield from (Path(top) / name for name in sorted([*folders, *files]))


def _target(path: Path) -> str:
    return str(path.readlink())[:200]
