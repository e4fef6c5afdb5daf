"""Fetch the files of a data set from the Hugging Face hub."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from pruneboard.benchmark.assets import address_on_hub, download
from pruneboard.benchmark.errors import AssetError


def fetch(repository: str, names: Iterable[str], target: Path) -> None:
    """Fetch files of a repository; they appear in the folder `target`, all of them and checked, or it does not appear.

    Raises:
        AssetError: the hub cannot be reached or delivers other files than it states, or `target` cannot be made.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AssetError(
            f"`{target.parent}` must be writable, but {error}; name another one in `PRUNEBOARD_CACHE`."
        ) from error
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as temporary:
        fetched = Path(temporary, target.name)
        for name in names:
            url, sha256 = address_on_hub(repository, name, "dataset")
            download(url, fetched / name, sha256)
        try:
            fetched.rename(target)
        except OSError as error:
            # Another process may have been faster: a folder cannot be moved over the one it made.
            if not target.is_dir():
                raise AssetError(f"`{target}` must be writable, but {error}.") from error
