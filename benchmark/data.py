"""Data sets by name: their splits, their decoded images, and the draw of reference images.

A data set is embedded in scikit-learn, or a folder of its name: parquet files `<split>-00000-of-00001.parquet` in the
hub's layout, or images `<split>/<class>/*.png`. The known ones are recorded in `datasets.toml`.
"""

import contextlib
import difflib
import functools
import hashlib
import io
import json
import os
import re
import struct
import tempfile
import tomllib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import huggingface_hub
import huggingface_hub.errors
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import sklearn.datasets
import torch
from PIL import Image
from torch import Tensor

from pruneboard.benchmark.assets import (
    cache_folder,
    check_sha256,
    data_folders,
    download,
    file_sha256,
    is_file,
    is_folder,
)
from pruneboard.benchmark.errors import AssetError, UnknownNameError
from pruneboard.benchmark.schema import digest

Labels = npt.NDArray[np.int64]
Picture = bytes | Image.Image

_SHARD = re.compile(r"(?P<split>\w+)-(?P<index>\d+)(-of-(?P<count>\d+))?(-[0-9a-f]+)?\.parquet")
_NAME = re.compile(r"\w[\w.-]*")
_SUFFIXES = (".png", ".jpg", ".jpeg")
_MODES = {1: "L", 3: "RGB"}

# What PIL raises on a damaged image.
_IMAGE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)

# The hub's client names its base error so in every release, though it comes from another HTTP library in some of them.
_HUB_ERRORS = (OSError, ValueError, huggingface_hub.errors.HTTPError)  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What is known about a recorded data set.

    Attributes:
        name: its name in suites.
        kind: `sklearn`, `parquet` or `folder`.
        title: a line for people.
        terms: licence or terms of use.
        contamination: which of its images networks have seen, as far as that is known.
        subset_of: the data set that its images come from; empty when it is none's part.
        where: the folder in which it was found, or how it can be had.
    """

    name: str
    kind: str
    title: str
    terms: str
    contamination: str
    subset_of: str
    where: str


class Split:
    """Labels and images of one part of a data set; images are decoded when they are asked for.

    Args:
        name: data set and split, for messages.
        labels: class of each image, (n,).
        read: yields, for rows (k,), each position in them with the encoded or decoded image; in any order.

    Attributes:
        labels: class of each image, int64 (n,).
    """

    def __init__(
        self, name: str, labels: Labels, read: Callable[[npt.NDArray[np.intp]], Iterator[tuple[int, Picture]]]
    ) -> None:
        self.labels = labels
        self._name = name
        self._read = read

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: npt.ArrayLike | None = None, *, size: tuple[int, int, int]) -> Tensor:
        """Decode images.

        Args:
            indices: rows (k,) in the order wanted; None takes all.
            size: (channels, height, width); an image of another height or width is resized as a whole, bilinearly.

        Returns:
            Pixels, uint8 (k, channels, height, width).

        Raises:
            AssetError: a row does not exist or cannot be decoded, or `size` is no size of an image.
        """
        if size[0] not in _MODES or min(size) < 1:
            raise AssetError(f"`size` must be (1 or 3 channels, height, width), got {size}.")
        rows = np.arange(len(self)) if indices is None else np.asarray(indices, dtype=np.intp)
        if rows.ndim != 1 or ((rows < 0) | (rows >= len(self))).any():
            raise AssetError(
                f"rows of {self._name} must be a list of numbers in [0, {len(self)}), got {rows.tolist()}."
            )
        pixels = np.empty((len(rows), *size), dtype=np.uint8)
        for position, picture in self._read(rows):
            pixels[position] = _decode(picture, size, f"row {rows[position]} of {self._name}")
        return torch.from_numpy(pixels)


def _decode(picture: Picture, size: tuple[int, int, int], row: str) -> npt.NDArray[np.uint8]:
    channels, height, width = size
    try:
        image = Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
        image = image.convert(_MODES[channels])
    except _IMAGE_ERRORS as error:
        raise AssetError(f"{row} must be an image, but it cannot be decoded: {error}; get the file again.") from error
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8).reshape(height, width, channels).transpose(2, 0, 1)


class _Source(Protocol):
    """One split where it lies: what it is known by, and what reads it."""

    def fingerprint(self) -> list[tuple[str, str]]: ...

    def load(self) -> Split: ...


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set at hand.

    Attributes:
        name: its name in suites.
        classes: name of each label, or None where the labels have no names of their own.
        sources: split name to where the split lies.
    """

    name: str
    classes: tuple[str, ...] | None
    sources: Mapping[str, _Source]

    @functools.cached_property
    def digest(self) -> str:
        """The sha256 over split, file name and sha256 of every file, sorted, or over the embedded arrays."""
        return digest([[split, *part] for split in sorted(self.sources) for part in self.sources[split].fingerprint()])

    def split(self, name: str) -> Split:
        """Return a split, with its labels read and checked.

        Raises:
            UnknownNameError: there is no such split.
            AssetError: the split is empty, or a file of it is damaged or holds other columns or labels.
        """
        if name not in self.sources:
            raise UnknownNameError(f"`{self.name}` has no split `{name}`; it has {', '.join(sorted(self.sources))}.")
        split = self.sources[name].load()
        if len(split) == 0:
            raise AssetError(f"a split must hold images, but `{name}` of `{self.name}` is empty; get the data again.")
        return split


@dataclass(frozen=True)
class _Digits:
    """Scikit-learn's handwritten digits, brought from 0..16 to 0..255."""

    split: str

    def _arrays(self) -> tuple[npt.NDArray[np.uint8], Labels]:
        pixels, labels = _digits()
        tested = np.arange(len(labels)) % 3 == 0
        chosen = tested if self.split == "test" else ~tested
        return pixels[chosen], labels[chosen]

    def fingerprint(self) -> list[tuple[str, str]]:
        pixels, labels = self._arrays()
        little = labels.astype("<i8")
        return [(name, hashlib.sha256(a.tobytes()).hexdigest()) for name, a in (("images", pixels), ("labels", little))]

    def load(self) -> Split:
        pixels, labels = self._arrays()

        def read(rows: npt.NDArray[np.intp]) -> Iterator[tuple[int, Picture]]:
            yield from ((position, Image.fromarray(pixels[row])) for position, row in enumerate(rows))

        return Split(f"`{self.split}` of `digits`", labels, read)


@functools.cache
def _digits() -> tuple[npt.NDArray[np.uint8], Labels]:
    values, labels = sklearn.datasets.load_digits(return_X_y=True)
    return np.rint(values * 255 / 16).astype(np.uint8).reshape(-1, 8, 8), labels.astype(np.int64)


@dataclass(frozen=True)
class _Images:
    """Image files `<class>/*.png` of one split; the label is the place of the class among the sorted ones."""

    name: str
    folder: Path
    classes: tuple[str, ...]

    def _files(self) -> list[tuple[Path, int]]:
        return [
            (path, label)
            for label, name in enumerate(self.classes)
            for path in (_entries(self.folder / name) if is_folder(self.folder / name) else ())
            if path.suffix.lower() in _SUFFIXES
        ]

    def fingerprint(self) -> list[tuple[str, str]]:
        return [(f"{path.parent.name}/{path.name}", file_sha256(path)) for path, _ in self._files()]

    def load(self) -> Split:
        files = self._files()

        def read(rows: npt.NDArray[np.intp]) -> Iterator[tuple[int, Picture]]:
            for position, row in enumerate(rows):
                path = files[row][0]
                try:
                    yield position, path.read_bytes()
                except OSError as error:
                    raise AssetError(f"`{path}` must be a readable file, but {error}.") from error

        return Split(self.name, np.array([label for _, label in files], dtype=np.int64), read)


@dataclass(frozen=True)
class _Shards:
    """Parquet files of one split, in order."""

    name: str
    files: tuple[Path, ...]
    n_classes: int | None
    image_column: str | None = None
    label_column: str = "label"

    def fingerprint(self) -> list[tuple[str, str]]:
        return sorted((path.name, file_sha256(path)) for path in self.files)

    def load(self) -> Split:
        labels = np.concatenate([self._labels(path) for path in self.files])
        limit = np.inf if self.n_classes is None else self.n_classes
        wrong = np.flatnonzero((labels < 0) | (labels >= limit))
        if len(wrong):
            raise AssetError(
                f"labels of {self.name} must be in [0, {limit}), but row {wrong[0]} has {labels[wrong[0]]}; get the "
                "data again, or correct it."
            )
        return Split(self.name, labels, self._read)

    def _labels(self, path: Path) -> Labels:
        with _parquet(path) as file:
            _image_column(path, file, self.image_column)
            schema = file.schema_arrow
            if self.label_column not in schema.names or not pa.types.is_integer(schema.field(self.label_column).type):
                raise AssetError(
                    f"`{path}` must have a column `{self.label_column}` of integers, got {_columns(schema)}; rename or "
                    "add it."
                )
            column = file.read(columns=[self.label_column]).column(0)
            if column.null_count:
                raise AssetError(f"`{path}` must have a label in every row, but {column.null_count} are null.")
            return np.array(column.cast(pa.int64()).to_numpy(), dtype=np.int64)

    def _read(self, rows: npt.NDArray[np.intp]) -> Iterator[tuple[int, Picture]]:
        start = 0
        for path in self.files:
            with _parquet(path) as file:
                column = _image_column(path, file, self.image_column)
                for group in range(file.num_row_groups):
                    stop = start + file.metadata.row_group(group).num_rows
                    positions = np.flatnonzero((rows >= start) & (rows < stop))
                    if len(positions):
                        images = file.read_row_group(group, columns=[f"{column}.bytes"]).column(0)
                        for position in positions:
                            cell = images[int(rows[position] - start)].as_py()
                            if cell is None or cell["bytes"] is None:
                                raise AssetError(f"row {rows[position]} of {self.name} must hold an image's bytes.")
                            yield int(position), cell["bytes"]
                    start = stop


@contextlib.contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise AssetError(
            f"`{path}` must be a whole parquet file, but it cannot be read: {error}; get it again."
        ) from error


def _image_column(path: Path, file: Any, name: str | None) -> str:
    schema = file.schema_arrow
    for column in ("img", "image") if name is None else (name,):
        if column in schema.names:
            kind = schema.field(column).type
            if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
                return column
    wanted = f"`{name}`" if name else "`img` or `image`"
    raise AssetError(f"`{path}` must have a column {wanted}, a struct with `bytes`, got {_columns(schema)}; rename it.")


def _columns(schema: Any) -> str:
    return ", ".join(f"`{field.name}` ({field.type})" for field in schema)


def _class_names(path: Path) -> tuple[str, ...] | None:
    """Read the class names that the `datasets` library wrote into a file, if it did."""
    with _parquet(path) as file:
        written = (file.schema_arrow.metadata or {}).get(b"huggingface")
    try:
        return tuple(json.loads(written)["info"]["features"]["label"]["names"]) if written else None
    except (ValueError, LookupError, TypeError):
        return None  # The description is optional, and may describe a label without names.


@dataclass(frozen=True, kw_only=True)
class _File:
    split: str
    name: str
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class _Record:
    """An entry of `datasets.toml`."""

    name: str
    kind: str
    title: str
    terms: str
    contamination: str
    subset_of: str = ""
    hub: str = ""
    image_column: str = ""
    label_column: str = ""
    classes: tuple[str, ...] | None = None
    n_classes: int | None = None
    files: tuple[_File, ...] = ()


@functools.cache
def _records() -> dict[str, _Record]:
    tables = tomllib.loads(Path(__file__).with_name("datasets.toml").read_text(encoding="utf-8"))
    records = {}
    for name, table in tables.items():
        classes = tuple(table.pop("classes")) if "classes" in table else None
        files = tuple(_File(**file) for file in table.pop("files", ()))
        n_classes = table.pop("n_classes", len(classes) if classes else None)
        records[name] = _Record(name=name, classes=classes, n_classes=n_classes, files=files, **table)
    return records


def datasets() -> tuple[DatasetInfo, ...]:
    """Return the recorded data sets and where each was found; nothing is read or checked.

    Raises:
        AssetError: `$PRUNEBOARD_DATA` names something that is no folder.
    """
    infos = []
    for record in _records().values():
        folder = _locate(record.name)
        if record.kind == "sklearn":
            where = "embedded in scikit-learn"
        elif folder is not None:
            where = str(folder)
        elif record.hub:
            where = f"not found; fetched from the hub, {record.hub}"
        else:
            where = "not found; name the folder that holds it in PRUNEBOARD_DATA"
        fields = ("name", "kind", "title", "terms", "contamination", "subset_of")
        infos.append(DatasetInfo(where=where, **{field: getattr(record, field) for field in fields}))
    return tuple(infos)


def open_dataset(name: str) -> Dataset:
    """Open a data set: one that is at hand, else fetch it.

    Raises:
        UnknownNameError: it is neither recorded nor found in a data folder.
        AssetError: it is damaged, not the recorded one, or can be had from nowhere.
    """
    if name not in _records() and (not _NAME.fullmatch(name) or _locate(name) is None):
        near = difflib.get_close_matches(name, _records(), n=1)
        hint = f" Did you mean `{near[0]}`?" if near else ""
        raise UnknownNameError(
            f"there is no data set `{name}`.{hint} Known: {', '.join(sorted(_records()))}; and each folder in "
            f"{_places()}."
        )
    return find_dataset((name,))


def find_dataset(names: Sequence[str]) -> Dataset:
    """Open the first of several accepted data sets that is at hand, else the first that can be fetched.

    A data set that is at hand but damaged is an error: the next one is not tried in its place.

    Raises:
        AssetError: the one at hand is damaged or not the recorded one, or none can be had.
    """
    for name in names:
        record = _records().get(name)
        if record is not None and record.kind == "sklearn":
            return Dataset(name, record.classes, {split: _Digits(split) for split in ("test", "train")})
        if _NAME.fullmatch(name) and (folder := _locate(name)) is not None:
            return _open_recorded(record, folder) if record is not None else _open_folder(name, folder)
    failures = []
    for name in names:
        record = _records().get(name)
        if record is not None and record.hub:
            try:
                return _open_recorded(record, _fetch(record))
            except AssetError as error:
                failures.append(f"; `{name}` could not be fetched: {error}")
    raise AssetError(
        f"a data set must be at hand, but there is no folder {' or '.join(f'`{name}`' for name in names)} in "
        f"{_places()}{''.join(failures)}. Name the folder that holds it in `PRUNEBOARD_DATA`."
    )


def _folders() -> tuple[Path, ...]:
    return (*data_folders(), cache_folder() / "datasets")


def _places() -> str:
    unset = "" if os.environ.get("PRUNEBOARD_DATA") else " (`PRUNEBOARD_DATA` is not set)"
    return ", ".join(f"`{folder}`" for folder in _folders()) + unset


def _locate(name: str) -> Path | None:
    return next((folder / name for folder in _folders() if is_folder(folder / name)), None)


def _open_recorded(record: _Record, folder: Path) -> Dataset:
    shards: dict[str, list[Path]] = {}
    for file in record.files:
        candidates = [folder / file.name, folder / Path(file.name).name]
        path = next(filter(is_file, candidates), None)
        if path is None:
            raise AssetError(
                f"`{record.name}` must hold `{file.name}`, but `{folder}` does not; complete the folder, or remove it."
            )
        if file.sha256:
            check_sha256(path, file.sha256, "replace it by the published file, or give the folder another name")
        shards.setdefault(file.split, []).append(path)
    sources = {
        split: _Shards(
            f"`{split}` of `{record.name}`", tuple(files), record.n_classes, record.image_column, record.label_column
        )
        for split, files in shards.items()
    }
    return Dataset(record.name, record.classes, sources)


def _open_folder(name: str, folder: Path) -> Dataset:
    if files := [path for path in _entries(folder) if path.suffix == ".parquet"]:
        shards = _shards(files)
        classes = _class_names(files[0])
        n_classes = len(classes) if classes else None
        return Dataset(name, classes, {s: _Shards(f"`{s}` of `{name}`", p, n_classes) for s, p in shards.items()})
    splits = _subfolders(folder)
    names = tuple(sorted({path.name for split in splits for path in _subfolders(split)}))
    if not names:
        raise AssetError(
            f"a data set must hold `<split>-00000-of-00001.parquet` or `<split>/<class>/*.png`, but `{folder}` holds "
            "neither."
        )
    return Dataset(name, names, {path.name: _Images(f"`{path.name}` of `{name}`", path, names) for path in splits})


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if is_folder(path) and not path.name.startswith(".")]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise AssetError(f"`{folder}` must be a readable folder, but {error}; correct its permissions.") from error


def _shards(files: list[Path]) -> dict[str, tuple[Path, ...]]:
    found: dict[str, dict[int, Path]] = {}
    counts: dict[str, int] = {}
    for path in files:
        match = _SHARD.fullmatch(path.name)
        if match is None:
            raise AssetError(f"parquet files must be named `<split>-00000-of-00001.parquet`, got `{path}`; rename it.")
        found.setdefault(match["split"], {})[int(match["index"])] = path
        counts[match["split"]] = max(counts.get(match["split"], 0), int(match["count"] or 0), int(match["index"]) + 1)
    for split, shards in found.items():
        if missing := sorted(set(range(counts[split])) - set(shards)):
            raise AssetError(
                f"split `{split}` in `{files[0].parent}` must have {counts[split]} files, but number {missing[0]} is "
                "missing; complete the folder."
            )
    return {split: tuple(path for _, path in sorted(shards.items())) for split, shards in found.items()}


def _fetch(record: _Record) -> Path:
    """Fetch all files of a record from the hub; the folder appears in the cache whole and checked, or not at all."""
    folder = cache_folder() / "datasets"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AssetError(
            f"`{folder}` must be writable, but {error}; name another one in `PRUNEBOARD_CACHE`."
        ) from error
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
        for file in record.files:
            url, sha256 = _hub_file(record.hub, file.name)
            download(url, Path(temporary, record.name, file.name), sha256)
        try:
            Path(temporary, record.name).rename(folder / record.name)
        except OSError as error:
            # Another process may have been faster: a folder cannot be moved over the one it made.
            if not (folder / record.name).is_dir():
                raise AssetError(f"`{folder / record.name}` must be writable, but {error}.") from error
    return folder / record.name


def _hub_file(repository: str, name: str) -> tuple[str, str]:
    """Return the address of a file at its present commit, and the sha256 that the hub states for it."""
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        url = huggingface_hub.hf_hub_url(repository, name, repo_type="dataset", endpoint=endpoint)
        stated = huggingface_hub.get_hf_file_metadata(url, timeout=30.0)
        commit = stated.commit_hash
        url = huggingface_hub.hf_hub_url(repository, name, repo_type="dataset", revision=commit, endpoint=endpoint)
    except _HUB_ERRORS as error:
        raise AssetError(
            f"the hub did not answer for `{name}` of {repository}: {' '.join(str(error).split())}"
        ) from error
    if not re.fullmatch("[0-9a-f]{64}", stated.etag or ""):
        raise AssetError(f"the hub must state the sha256 of `{name}` of {repository}, got {stated.etag!r}")
    return url, stated.etag or ""


def draw_reference(labels: Labels, shots: int, seed: int) -> npt.NDArray[np.intp]:
    """Draw reference images: the same number of each class, without repetition.

    Each class has its own random stream, so what is drawn from one does not depend on the others, nor on `shots`.

    Args:
        labels: class of each image, (n,).
        shots: images per class, at least 1.
        seed: at least 0.

    Returns:
        Rows (shots * n_classes,), classes in ascending order within each shot: the first k * n_classes are the draw of
        k shots.

    Raises:
        AssetError: a class has too few images, or an argument is out of range.
    """
    if shots < 1 or seed < 0:
        raise AssetError(f"`shots` must be at least 1 and `seed` at least 0, got {shots} and {seed}.")
    draws = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) < shots:
            raise AssetError(
                f"each class must have at least {shots} images for {shots} shots, but class {label} has {len(rows)}; "
                "ask for fewer shots."
            )
        draws.append(np.random.default_rng([seed, int(label)]).permutation(rows)[:shots])
    return np.stack(draws, axis=1).reshape(-1)
