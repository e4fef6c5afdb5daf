"""Fetch the files of a data set from the Hugging Face hub."""

import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

import huggingface_hub
import huggingface_hub.errors

from pruneboard.benchmark.assets import download
from pruneboard.benchmark.errors import AssetError

# The hub's client names its base error so in every release, though it comes from another HTTP library in some of them.
_ERRORS = (OSError, ValueError, huggingface_hub.errors.HTTPError)  # type: ignore[attr-defined]


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
            url, sha256 = _address(repository, name)
            download(url, fetched / name, sha256)
        try:
            fetched.rename(target)
        except OSError as error:
            # Another process may have been faster: a folder cannot be moved over the one it made.
            if not target.is_dir():
                raise AssetError(f"`{target}` must be writable, but {error}.") from error


def _address(repository: str, name: str) -> tuple[str, str]:
    """Return the address of a file at its present commit, and the sha256 that the hub states for it."""
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        url = huggingface_hub.hf_hub_url(repository, name, repo_type="dataset", endpoint=endpoint)
        stated = huggingface_hub.get_hf_file_metadata(url, timeout=30.0)
        commit = stated.commit_hash
        url = huggingface_hub.hf_hub_url(repository, name, repo_type="dataset", revision=commit, endpoint=endpoint)
    except _ERRORS as error:
        raise AssetError(
            f"the hub did not answer for `{name}` of {repository}: {' '.join(str(error).split())}"
        ) from error
    sha256 = stated.etag or ""
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise AssetError(f"the hub must state the sha256 of `{name}` of {repository}, got {stated.etag!r}")
    return url, sha256
