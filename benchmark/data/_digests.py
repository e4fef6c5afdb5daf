"""Digests of large data sets, which take minutes to compute, remembered between processes."""

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from pruneboard.benchmark.assets import cache_folder
from pruneboard.benchmark.errors import AssetError
from pruneboard.benchmark.schema import digest

LARGE = 2**30
"""Bytes from which on a data set is worth remembering."""


def remembered(files: Mapping[str, Path], compute: Callable[[], str]) -> str:
    """Return the digest of files, computed when one of them is new, or has another size or time of change.

    Where the cache cannot be written, it is computed in every process.

    Args:
        files: the files and folders of a data set by their places in it.
        compute: reads them all.

    Raises:
        AssetError: a file cannot be looked at.
    """
    try:
        seen = [(place, str(path.resolve()), path.stat()) for place, path in sorted(files.items())]
    except OSError as error:
        raise AssetError(f"every file of a data set must be readable, but {error}; correct its permissions.") from error
    if sum(status.st_size for _, _, status in seen) < LARGE:
        return compute()
    stamp = digest([[place, path, status.st_size, status.st_mtime_ns] for place, path, status in seen])
    known = cache_folder() / "digests" / stamp
    with contextlib.suppress(OSError):
        return known.read_text(encoding="ascii")
    found = compute()
    with contextlib.suppress(OSError):
        known.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=known.parent) as folder:
            written = Path(folder) / "digest"
            written.write_text(found, encoding="ascii")
            written.replace(known)
    return found
