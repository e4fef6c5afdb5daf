"""Where files are looked for, and whether they are there."""

import os
import stat
from pathlib import Path

from pruneboard.benchmark.errors import AssetError


def cache_folder() -> Path:
    """Return the folder for fetched files: `$PRUNEBOARD_CACHE`, else `pruneboard` in the user's cache folder.

    Raises:
        AssetError: the folder is below a home folder that cannot be found.
    """
    if own := os.environ.get("PRUNEBOARD_CACHE"):
        return _expanded("PRUNEBOARD_CACHE", own)
    if users := os.environ.get("XDG_CACHE_HOME"):
        return _expanded("XDG_CACHE_HOME", users) / "pruneboard"
    return _expanded("PRUNEBOARD_CACHE", "~/.cache") / "pruneboard"


def data_folders() -> tuple[Path, ...]:
    """Return the folders that `$PRUNEBOARD_DATA` names; each holds data sets under their names.

    Raises:
        AssetError: an entry is not a folder, or is below a home folder that cannot be found.
    """
    return _folders("PRUNEBOARD_DATA")


def weights_folders() -> tuple[Path, ...]:
    """Return the folders that `$PRUNEBOARD_WEIGHTS` names; each holds files of weights.

    Raises:
        AssetError: an entry is not a folder, or is below a home folder that cannot be found.
    """
    return _folders("PRUNEBOARD_WEIGHTS")


def _folders(variable: str) -> tuple[Path, ...]:
    folders = tuple(_expanded(variable, part) for part in os.environ.get(variable, "").split(os.pathsep) if part)
    for folder in folders:
        if not is_folder(folder):
            raise AssetError(f"`{variable}` must name folders, but `{folder}` is none; correct it or unset it.")
    return folders


def _expanded(variable: str, name: str) -> Path:
    """Return the path of a name that may begin with `~`, which the environment variable holds or replaces."""
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise AssetError(
            f"`{variable}` must name folders that can be found, but there is no home folder for `{name}`; set it to "
            "whole paths."
        ) from error


def is_file(path: Path) -> bool:
    """Whether there is a file at `path`.

    Raises:
        AssetError: the place cannot be looked at.
    """
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Whether there is a folder at `path`.

    Raises:
        AssetError: the place cannot be looked at.
    """
    return stat.S_ISDIR(_mode(path))


def _mode(path: Path) -> int:
    """Return the kind and permissions of what is at `path`, 0 when nothing is."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:
        raise AssetError(f"`{path}` must be readable, but {reason_of(error)}; correct its permissions.") from error


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AssetError(
            f"the folder `{folder}` must be writable, but {reason_of(error)}; name another one in `PRUNEBOARD_CACHE`."
        ) from error


def reason_of(error: Exception) -> str:
    """Return an error in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{type(error).__name__}: {' '.join(text.split())[:300]}"
