"""Find, fetch and check the files that pruneboard needs: weights, and the folders that hold data sets."""

import functools
import hashlib
import http.client
import json
import os
import pickle
import stat
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pruneboard.benchmark.errors import AssetError

_TIMEOUT = 30.0
_CHUNK = 1 << 20

# What torch.load raises on a file that is damaged, or that holds more than tensors and plain containers.
_PICKLE_ERRORS = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Trained weights, and where they can be had.

    Attributes:
        file: name of the safetensors file.
        digest: `tensors_digest` of the tensors, whatever file they come in.
        sha256: of the safetensors file.
        package: folder in which the file is shipped with pruneboard.
        url: http, https or file address of a safetensors file or of a pickled state dict (`.th`, `.pth`, `.pt`).
        url_sha256: sha256 of what `url` delivers, or the leading digits of it that the publisher states.
        url_prefix: what is cut off the keys of the state dict that `url` delivers, such as `module.`.
    """

    file: str
    digest: str
    sha256: str
    package: Path | None = None
    url: str | None = None
    url_sha256: str | None = None
    url_prefix: str = ""

    @property
    def converts(self) -> bool:
        """Whether what `url` delivers is stored as another file, whose sha256 nobody states."""
        return self.url is not None and (not _path_of(self.url).endswith(".safetensors") or self.url_prefix != "")


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
        raise AssetError(f"`{path}` must be readable, but {_reason(error)}; correct its permissions.") from error


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file; a file that has not changed is read once per process.

    Raises:
        AssetError: the file cannot be read.
    """
    try:
        status = path.stat()
        return _sha256_of(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise AssetError(f"`{path}` must be a readable file, but {_reason(error)}.") from error


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


def tensors_digest(state: dict[str, Tensor]) -> str:
    """Return the sha256 of named tensors, which does not depend on the file they were read from.

    For each name in sorted order it takes one line of JSON, `["name","float32",[3,4]]`, and the elements' bytes in C
    order. They are taken as they lie in memory: little-endian wherever PyTorch is published.
    """
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        header = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        total.update(json.dumps(header, separators=(",", ":")).encode() + b"\n")
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


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
    _make_folder(target.parent)
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
        raise AssetError(f"{url} could not be fetched: {_reason(error)}") from error
    if announced is not None and n_bytes != int(announced):
        raise AssetError(f"{url} could not be fetched: {n_bytes} of {announced} bytes arrived")
    return total.hexdigest()


def load_weights(weights: Weights) -> dict[str, Tensor]:
    """Return the tensors of trained weights, on the CPU.

    They are looked for among the shipped files, in `$PRUNEBOARD_WEIGHTS` (one folder or several) and in the cache, in
    this order, and fetched to the cache when none has them. The first file found is the one that counts: when it is
    damaged or another one, no further place is tried.

    Raises:
        AssetError: the weights are nowhere, cannot be fetched, are damaged, or are not the ones that were asked for.
    """
    *firm, cached = _weights_places(weights)
    for path in firm:
        if is_file(path):
            check_sha256(path, weights.sha256, "replace it by the published file")
            return _checked(weights, read_safetensors(path), str(path), "replace it by the published file")
    if not is_file(cached):
        _fetch(weights, cached, [*firm, cached])
    remedy = "delete it, and it is fetched again"
    if not weights.converts:
        check_sha256(cached, weights.sha256, remedy)
    return _checked(weights, read_safetensors(cached), str(cached), remedy)


def find_weights(weights: Weights) -> Path | None:
    """Return the file that `load_weights` reads, unchecked; None when it would have to be fetched.

    Raises:
        AssetError: a place cannot be looked at.
    """
    return next(filter(is_file, _weights_places(weights)), None)


def _weights_places(weights: Weights) -> list[Path]:
    """Return where weights are looked for, in this order; the last is the cache."""
    shipped = [] if weights.package is None else [weights.package / weights.file]
    return [
        *shipped,
        *(folder / weights.file for folder in weights_folders()),
        cache_folder() / "weights" / weights.file,
    ]


def read_made_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file that a training on this machine wrote, on the CPU.

    Raises:
        AssetError: the file is damaged, or no training wrote it.
    """
    state = read_safetensors(path)
    if (found := tensors_digest(state)) != (recorded := _recorded_digest(path)):
        raise AssetError(
            f"the tensors of `{path}` must have the digest {recorded or 'that a training records'}, got {found}; "
            "delete the file, and it is made again."
        )
    return state


def made_weights_digest(path: Path) -> str:
    """Return the checked `tensors_digest` of a file that a training on this machine wrote.

    A file that has not changed is read once per process.

    Raises:
        AssetError: the file is damaged, or no training wrote it.
    """
    status = path.stat()
    return _made_digest_of(path, status.st_size, status.st_mtime_ns)


@functools.cache
def _made_digest_of(path: Path, _size: int, _modified: int) -> str:
    return tensors_digest(read_made_weights(path))


def _recorded_digest(path: Path) -> str:
    """Return the digest that a training recorded in the metadata of its file, empty when there is none."""
    return str(recorded_facts(path).get("tensors_digest", ""))


def recorded_facts(path: Path) -> dict[str, Any]:
    """Return what a training recorded in the metadata of its weights file; empty when no training wrote it.

    Raises:
        AssetError: the file is missing or damaged.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {}).get("pruneboard", "{}"))
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise AssetError(f"`{path}` must be a whole safetensors file, but {_reason(error)}; get it again.") from error
    return facts if isinstance(facts, dict) else {}


def _fetch(weights: Weights, cached: Path, places: list[Path]) -> None:
    looked = ", ".join(f"`{place}`" for place in places)
    if not os.environ.get("PRUNEBOARD_WEIGHTS"):
        looked += " (`PRUNEBOARD_WEIGHTS` is not set)"
    missing = f"the weights `{weights.file}` must be at hand, but there is no {looked}"
    put = "put the file into a folder and name that folder in `PRUNEBOARD_WEIGHTS`"
    if weights.url is None:
        raise AssetError(f"{missing}, and they are not published; {put}.")
    _make_folder(cached.parent)
    with tempfile.TemporaryDirectory(dir=cached.parent, prefix=".fetch-") as folder:
        fetched = Path(folder) / Path(_path_of(weights.url)).name
        try:
            download(weights.url, fetched, weights.url_sha256 or "")
        except AssetError as error:
            raise AssetError(f"{missing}, and {error}; {put}, or try again with a network.") from error
        remedy = "nothing was kept; get the file elsewhere"
        if weights.converts:
            state = _checked(weights, _read_published(fetched, weights), weights.url, remedy)
            fetched = fetched.with_name("converted")
            safetensors.torch.save_file(state, fetched, metadata={"source": weights.url})
        else:
            check_sha256(fetched, weights.sha256, remedy)
            _checked(weights, read_safetensors(fetched), weights.url, remedy)
        fetched.replace(cached)


def _checked(weights: Weights, state: dict[str, Tensor], source: str, remedy: str) -> dict[str, Tensor]:
    if (found := tensors_digest(state)) != weights.digest:
        raise AssetError(f"the tensors of `{source}` must have the digest {weights.digest}, got {found}; {remedy}.")
    return state


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, on the CPU.

    Raises:
        AssetError: the file is missing or damaged.
    """
    try:
        return safetensors.torch.load_file(path, device="cpu")
    except (safetensors.SafetensorError, OSError) as error:
        raise AssetError(f"`{path}` must be a whole safetensors file, but {_reason(error)}; get it again.") from error


def _read_published(path: Path, weights: Weights) -> dict[str, Tensor]:
    """Read what `weights.url` delivered, with its prefix cut off the keys."""
    if path.suffix == ".safetensors":
        content: object = read_safetensors(path)
    else:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except _PICKLE_ERRORS as error:
            raise AssetError(
                f"what {weights.url} delivers must be a whole state dict of tensors, but {_reason(error)}; nothing was "
                "kept."
            ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise AssetError(f"what {weights.url} delivers must be a state dict, got a `{type(content).__name__}`.")
    state: dict[str, Tensor] = {}
    for name, value in content.items():
        key = str(name).removeprefix(weights.url_prefix)
        if isinstance(value, Tensor) and key not in state:
            state[key] = value.detach().contiguous().clone()
        elif isinstance(value, Tensor):
            raise AssetError(
                f"without `{weights.url_prefix}` each key of {weights.url} must be unique, got `{key}` twice."
            )
        elif not key.endswith("num_batches_tracked"):
            raise AssetError(
                f"the state dict of {weights.url} must hold tensors only, but `{name}` is a `{type(value).__name__}`."
            )
    return state


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AssetError(
            f"the folder `{folder}` must be writable, but {_reason(error)}; name another one in `PRUNEBOARD_CACHE`."
        ) from error


def _path_of(url: str) -> str:
    return urllib.parse.unquote(urllib.parse.urlsplit(url).path)


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{type(error).__name__}: {' '.join(text.split())[:300]}"
