"""Addresses of files on the Hugging Face hub."""

import os
import re
from typing import Literal

import huggingface_hub
import huggingface_hub.errors

from pruneboard.benchmark.errors import AssetError

# The hub's client names its base error so in every release, though it comes from another HTTP library in some of them.
_ERRORS = (OSError, ValueError, huggingface_hub.errors.HTTPError)  # type: ignore[attr-defined]


def address_on_hub(repository: str, name: str, kind: Literal["dataset", "model"]) -> tuple[str, str]:
    """Return the address of a file at its present commit, and the sha256 that the hub states for it.

    Raises:
        AssetError: the hub does not answer, has no such file, or states no sha256.
    """
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        url = huggingface_hub.hf_hub_url(repository, name, repo_type=kind, endpoint=endpoint)
        stated = huggingface_hub.get_hf_file_metadata(url, timeout=30.0)
        commit = stated.commit_hash
        url = huggingface_hub.hf_hub_url(repository, name, repo_type=kind, revision=commit, endpoint=endpoint)
    except _ERRORS as error:
        raise AssetError(
            f"the hub did not answer for `{name}` of {repository}: {' '.join(str(error).split())}"
        ) from error
    sha256 = stated.etag or ""
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise AssetError(f"the hub must state the sha256 of `{name}` of {repository}, got {stated.etag!r}")
    return url, sha256
