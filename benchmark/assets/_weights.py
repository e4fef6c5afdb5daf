"""Trained weights: where they can be had, whether they are the right ones, and what is known of them."""

import functools
import hashlib
import json
import os
import pickle
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pruneboard.benchmark.assets._files import check_sha256, download, file_sha256, path_of_url
from pruneboard.benchmark.assets._hub import address_on_hub
from pruneboard.benchmark.assets._places import cache_folder, is_file, make_folder, reason_of, weights_folders
from pruneboard.benchmark.errors import AssetError

_PUT = "put the file into a folder and name that folder in `PRUNEBOARD_WEIGHTS`"
_PICKLE_STARTS = (b"PK", b"\x80")
"""Of what torch.save writes, today and formerly."""
_STATE_KEYS = ("state_dict", "model", "model_state_dict")
"""Under which checkpoints of trainings keep the state dict of their network."""

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
        file: name of the safetensors file, or of a pickled state dict (`.pth`, `.pt`).
        digest: `tensors_digest` of the tensors, whatever file they come in; empty where only the hub knows the file.
        sha256: of that file; empty where only the hub knows it. Then the first file that is used is recorded
            in the cache, and no other is taken for it later.
        package: folder in which the file is shipped with pruneboard.
        url: http, https or file address of a safetensors file or of a pickled state dict (`.th`, `.pth`, `.pt`).
        url_sha256: sha256 of what `url` delivers, or the leading digits of it that the publisher states.
        url_prefix: what is cut off the keys of the state dict that `url` delivers, such as `module.`.
        hub: repository of the Hugging Face hub whose `model.safetensors` this is; the hub states its sha256.
    """

    file: str
    digest: str = ""
    sha256: str = ""
    package: Path | None = None
    url: str | None = None
    url_sha256: str | None = None
    url_prefix: str = ""
    hub: str | None = None

    @property
    def converts(self) -> bool:
        """Whether what `url` delivers is stored as another file, whose sha256 nobody states."""
        return self.url is not None and (not path_of_url(self.url).endswith(".safetensors") or self.url_prefix != "")


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


def load_weights(weights: Weights) -> dict[str, Tensor]:
    """Return the tensors of trained weights, on the CPU.

    They are looked for among the shipped files, in `$PRUNEBOARD_WEIGHTS` (one folder or several) and in the cache, in
    this order, and fetched to the cache when none has them. The first file found is the one that counts: when it is
    damaged or another one, no further place is tried.

    Raises:
        AssetError: the weights are nowhere, cannot be fetched, are damaged, or are not the ones that were asked for.
    """
    path, cached = look_for_weights(weights), _weights_places(weights)[-1]
    if path is not None and path != cached:
        _check_file(weights, path, "replace it by the published file")
        return _checked(weights, read_weights(path), str(path), "replace it by the published file")
    if path is None:
        _fetch(weights, cached)
    remedy = "delete it, and it is fetched again"
    if not weights.converts:
        _check_file(weights, cached, remedy)
    return _checked(weights, read_weights(cached), str(cached), remedy)


def _check_file(weights: Weights, path: Path, remedy: str) -> None:
    """Raise unless a file has the sha256 that the code records or, where it has none, that of the first file used."""
    if weights.sha256:
        check_sha256(path, weights.sha256, remedy)
        return
    record = cache_folder() / "weights" / f"{weights.file}.sha256"
    if not is_file(record):
        _record(record, file_sha256(path))
        return
    remedy = f"get the file again that was used before, or delete `{record}` to use another one"
    check_sha256(path, record.read_text(encoding="utf-8").strip(), remedy)


def _record(record: Path, sha256: str) -> None:
    make_folder(record.parent)
    with tempfile.TemporaryDirectory(dir=record.parent, prefix=".record-") as folder:
        written = Path(folder) / "sha256"
        written.write_text(f"{sha256}\n", encoding="utf-8")
        written.replace(record)


def weights_digest(weights: Weights) -> str:
    """Return the `tensors_digest` of weights; empty while the code does not know it and no file is at hand.

    Raises:
        AssetError: the file is damaged, or a place cannot be looked at.
    """
    if weights.digest:
        return weights.digest
    path = find_weights(weights)
    if path is None:
        return ""
    status = path.stat()
    return _digest_of(path, status.st_size, status.st_mtime_ns)


@functools.cache
def _digest_of(path: Path, _size: int, _modified: int) -> str:
    return tensors_digest(read_weights(path))


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
    state = read_weights(path)
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
        raise AssetError(f"`{path}` must be a whole safetensors file, but {reason_of(error)}; get it again.") from error
    return facts if isinstance(facts, dict) else {}


def look_for_weights(weights: Weights) -> Path | None:
    """Return the file that `load_weights` reads, unchecked; None where it has to be fetched.

    Raises:
        AssetError: it is nowhere and cannot be fetched, or a place cannot be looked at.
    """
    path = find_weights(weights)
    if path is None and weights.url is None and weights.hub is None:
        raise AssetError(f"{_missing(weights)}, and they are not published; {_PUT}.")
    return path


def _missing(weights: Weights) -> str:
    looked = ", ".join(f"`{place}`" for place in _weights_places(weights))
    unset = "" if os.environ.get("PRUNEBOARD_WEIGHTS") else " (`PRUNEBOARD_WEIGHTS` is not set)"
    return f"the weights `{weights.file}` must be at hand, but there is no {looked}{unset}"


def _fetch(weights: Weights, cached: Path) -> None:
    make_folder(cached.parent)
    with tempfile.TemporaryDirectory(dir=cached.parent, prefix=".fetch-") as folder:
        try:
            url, sha256 = _published_at(weights)
            fetched = Path(folder) / Path(path_of_url(url)).name
            download(url, fetched, sha256)
        except AssetError as error:
            raise AssetError(f"{_missing(weights)}, and {error}; {_PUT}, or try again with a network.") from error
        remedy = "nothing was kept; get the file elsewhere"
        if weights.converts:
            state = _checked(weights, read_weights(fetched, f"what {url} delivers", weights.url_prefix), url, remedy)
            fetched = fetched.with_name("converted")
            # Published tensors may share memory, which files of safetensors cannot.
            state = {name: tensor.clone() for name, tensor in state.items()}
            safetensors.torch.save_file(state, fetched, metadata={"source": url})
        else:
            _check_file(weights, fetched, remedy)
            _checked(weights, read_weights(fetched), url, remedy)
        fetched.replace(cached)


def _published_at(weights: Weights) -> tuple[str, str]:
    """Return the address of published weights, and what is stated of the sha256 of what it delivers."""
    if weights.hub is not None:
        return address_on_hub(weights.hub, "model.safetensors", "model")
    return weights.url or "", weights.url_sha256 or ""


def _checked(weights: Weights, state: dict[str, Tensor], source: str, remedy: str) -> dict[str, Tensor]:
    if weights.digest and (found := tensors_digest(state)) != weights.digest:
        raise AssetError(f"the tensors of `{source}` must have the digest {weights.digest}, got {found}; {remedy}.")
    return state


def read_weights(path: Path, source: str = "", prefix: str = "") -> dict[str, Tensor]:
    """Return the tensors of a safetensors file or of a pickled state dict, on the CPU; no code of the file is run.

    Args:
        path: the file; what it is, its content tells.
        source: what messages call it; empty for its path.
        prefix: what is cut off its keys.

    Raises:
        AssetError: the file is missing or damaged, or holds something else.
    """
    source = source or f"`{path}`"
    try:
        with path.open("rb") as file:
            start = file.read(9)
            file.seek(0)
            if start[8:] == b"{" or not start.startswith(_PICKLE_STARTS):
                content: object = safetensors.torch.load_file(path, device="cpu")
            else:
                # By the path, it would believe the name.
                content = torch.load(file, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, *_PICKLE_ERRORS) as error:
        if "weights_only" in str(error) or "Weights only" in str(error):
            raise AssetError(
                f"{source} must hold tensors only, but has objects of other kinds, such as a whole network; where you "
                "trust it, load it with the code that wrote it, and save `network.state_dict()`."
            ) from error
        raise AssetError(
            f"{source} must be a whole safetensors file or state dict, but {reason_of(error)}; get it again."
        ) from error
    if isinstance(content, dict):
        content = next((content[key] for key in _STATE_KEYS if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict):
        raise AssetError(
            f"{source} must be a state dict, got a `{type(content).__name__}`; save `network.state_dict()`."
        )
    state: dict[str, Tensor] = {}
    for name, value in content.items():
        key = str(name).removeprefix(prefix)
        if isinstance(value, Tensor) and key not in state:
            state[key] = value.detach().contiguous()
        elif isinstance(value, Tensor):
            raise AssetError(f"without `{prefix}` each key of {source} must be unique, got `{key}` twice.")
        elif not key.endswith("num_batches_tracked"):
            raise AssetError(
                f"{source} must hold tensors only, but `{name}` is a `{type(value).__name__}`; save "
                "`network.state_dict()` alone."
            )
    return state
