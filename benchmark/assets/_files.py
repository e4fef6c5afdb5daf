"""Files as wholes: their sha256, and fetching them."""

import functools
import hashlib
import http.client
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from pruneboard.benchmark.assets._places import make_folder, reason_of
from pruneboard.benchmark.errors import AssetError

_TIMEOUT = 30.0
_CHUNK = 1 << 20


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file; a file that has not changed is read once per process.

    Raises:
        AssetError: the file cannot be read.
    """
    try:
        status = path.stat()
        return _sha256_of(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise AssetError(f"`{path}` must be a readable file, but {reason_of(error)}.") from error


@functools.cache
def _sha256_of(path: Path, _size: int, _modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, sha256: str, remedy: str) -> None:
    """Raise unless a file has the sha256 that is recorded for it.

    Raises:
        AssetError: it has another one; the message ends with `remedy`.
    """
    if (found := file_sha256(path)) != sha256:
        raise AssetError(f"`{path}` must have the sha256 {sha256}, got {found}; {remedy}.")


def download(url: str, target: Path, sha256: str = "") -> None:
    """Fetch a file; it appears at `target` whole and checked, or not at all.

    Args:
        url: http, https or file address.
        target: path of the new file.
        sha256: of the file, or its leading hexadecimal digits; empty checks the length only.

    Raises:
        AssetError: the address cannot be reached, delivers another file or less than it announces, or the folder of
            `target` cannot be written to.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https", "file"):
        raise AssetError(f"`url` must start with http://, https:// or file://, got `{url}`.")
    make_folder(target.parent)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as folder:
        fetched = Path(folder) / "file"
        found = _receive(url, fetched)
        if not found.startswith(sha256.lower()):
            raise AssetError(
                f"what {url} delivers must have a sha256 that starts with {sha256}, got {found}, so it was not kept"
            )
        fetched.replace(target)


def _receive(url: str, target: Path) -> str:
    request = urllib.request.Request(url, headers={"User-Agent": "pruneboard"})
    total = hashlib.sha256()
    n_bytes = 0
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response, target.open("wb") as file:
            announced = response.headers.get("Content-Length")
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                total.update(chunk)
                n_bytes += len(chunk)
    except urllib.error.HTTPError as error:
        error.close()
        raise AssetError(f"{url} could not be fetched: HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise AssetError(f"{url} could not be fetched: {reason_of(error)}") from error
    if announced is not None and n_bytes != int(announced):
        raise AssetError(f"{url} could not be fetched: {n_bytes} of {announced} bytes arrived")
    return total.hexdigest()


def path_of_url(url: str) -> str:
    """Return the path part of an address."""
    return urllib.parse.unquote(urllib.parse.urlsplit(url).path)
