"""The folder of a site: replaced as a whole, and only when all of the new one is there."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pruneboard.benchmark.errors import SiteError

_MARKER = ".pruneboard-site"
_MARKER_TEXT = "Made by `pruneboard site build`, which replaces this folder as a whole.\n"


@contextlib.contextmanager
def replaced(out: Path) -> Iterator[Path]:
    """Give a fresh folder to write a site into, which takes the place of `out` when the block ends without an error.

    Raises:
        SiteError: `out` cannot be written, or is neither empty nor an earlier site.
    """
    target = out.resolve()
    _check_target(target, out)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise _unwritable(out, error) from error
    try:
        fresh = scratch / "site"
        fresh.mkdir()
        (fresh / _MARKER).write_text(_MARKER_TEXT, encoding="utf-8")
        yield fresh
        _swap(fresh, target, scratch / "old")
    except OSError as error:
        raise _unwritable(out, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _check_target(target: Path, out: Path) -> None:
    if target.exists() and not target.is_dir():
        raise SiteError(f"the site must go into a folder, but `{out}` is a file; name another folder.")
    if target.is_dir() and not (target / _MARKER).is_file() and any(target.iterdir()):
        raise SiteError(
            f"the site may only replace an empty folder or an earlier site, but `{out}` holds other files; "
            "name another folder or empty it."
        )


def _unwritable(out: Path, error: OSError) -> SiteError:
    return SiteError(f"the site's folder must be writable, but `{out}` is not: {error.strerror}; name another folder.")


def _swap(fresh: Path, target: Path, old: Path) -> None:
    """Put `fresh` in the place of `target`, which goes to `old`; if that fails, `target` is as before."""
    if not target.exists():
        fresh.rename(target)
        return
    target.rename(old)
    try:
        fresh.rename(target)
    except OSError:
        old.rename(target)
        raise
