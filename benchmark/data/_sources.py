"""Where splits lie, and how they are read: scikit-learn's digits, folders of images, and parquet files."""

import contextlib
import functools
import hashlib
import importlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pruneboard.benchmark.assets import file_sha256, is_folder
from pruneboard.benchmark.data._splits import Dataset, ImageSplit, Labels, Picture, Split
from pruneboard.benchmark.errors import AssetError

_SHARD = re.compile(r"(?P<split>\w+)-(?P<index>\d+)(-of-(?P<count>\d+))?(-[0-9a-f]+)?\.parquet")
_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Digits:
    """One split of scikit-learn's handwritten digits, brought from 0..16 to 0..255; every third is for testing."""

    split: str

    def fingerprint(self) -> list[tuple[str, str]]:
        pixels, labels = self._arrays()
        parts = {"images": pixels.tobytes(), "labels": labels.astype("<i8").tobytes()}
        return [(name, hashlib.sha256(part).hexdigest()) for name, part in parts.items()]

    def placed_files(self) -> list[tuple[str, Path]]:
        return []

    def load(self, name: str) -> Split:
        pixels, labels = self._arrays()

        def read(rows: npt.NDArray[np.intp]) -> Iterator[tuple[int, Picture]]:
            return ((position, Image.fromarray(pixels[row])) for position, row in enumerate(rows))

        return ImageSplit(name, labels, read)

    def _arrays(self) -> tuple[npt.NDArray[np.uint8], Labels]:
        pixels, labels = _digits()
        chosen = (np.arange(len(labels)) % 3 == 0) == (self.split == "test")
        return pixels[chosen], labels[chosen]


@functools.cache
def _digits() -> tuple[npt.NDArray[np.uint8], Labels]:
    # Importing scikit-learn takes a second, which runs on other data need not wait for.
    values, labels = importlib.import_module("sklearn.datasets").load_digits(return_X_y=True)
    return np.rint(values * 255 / 16).astype(np.uint8).reshape(-1, 8, 8), labels.astype(np.int64)


@dataclass(frozen=True)
class Images:
    """Image files `<class>/*.png` of one split; the label is the place of the class among the sorted ones."""

    folder: Path
    classes: tuple[str, ...]

    def fingerprint(self) -> list[tuple[str, str]]:
        return [(f"{path.parent.name}/{path.name}", file_sha256(path)) for path, _ in self._files()]

    def placed_files(self) -> list[tuple[str, Path]]:
        folders = [self.folder / name for name in self.classes if is_folder(self.folder / name)]
        paths = [*folders, *(path for path, _ in self._files())]
        return [(path.relative_to(self.folder.parent).as_posix(), path) for path in paths]

    def load(self, name: str) -> Split:
        files = self._files()

        def read(rows: npt.NDArray[np.intp]) -> Iterator[tuple[int, Picture]]:
            for position, row in enumerate(rows):
                path = files[row][0]
                try:
                    yield position, path.read_bytes()
                except OSError as error:
                    raise AssetError(f"`{path}` must be a readable file, but {error}.") from error

        return ImageSplit(name, np.array([label for _, label in files], dtype=np.int64), read)

    def _files(self) -> list[tuple[Path, int]]:
        return [
            (path, label)
            for label, name in enumerate(self.classes)
            if is_folder(self.folder / name)
            for path in _entries(self.folder / name)
            if path.suffix.lower() in _SUFFIXES
        ]


@dataclass(frozen=True)
class Shards:
    """Parquet files of one split, in order, with labels below `n_classes` where that is known."""

    files: tuple[Path, ...]
    n_classes: int | None

    def fingerprint(self) -> list[tuple[str, str]]:
        return sorted((path.name, file_sha256(path)) for path in self.files)

    def placed_files(self) -> list[tuple[str, Path]]:
        return [(path.name, path) for path in self.files]

    def load(self, name: str) -> Split:
        labels = np.concatenate([_labels(path) for path in self.files])
        limit = np.inf if self.n_classes is None else self.n_classes
        wrong = np.flatnonzero((labels < 0) | (labels >= limit))
        if len(wrong):
            raise AssetError(
                f"labels of {name} must be in [0, {limit}), but row {wrong[0]} has {labels[wrong[0]]}; get the data "
                "again, or correct it."
            )

        def read(rows: npt.NDArray[np.intp]) -> Iterator[tuple[int, Picture]]:
            for position, cell in self._cells(rows):
                if cell is None or cell["bytes"] is None:
                    raise AssetError(f"row {rows[position]} of {name} must hold an image's bytes.")
                yield position, cell["bytes"]

        return ImageSplit(name, labels, read)

    def _cells(self, rows: npt.NDArray[np.intp]) -> Iterator[tuple[int, Any]]:
        """Yield each position in `rows` with the cell of its image; no row group is read twice."""
        start = 0
        for path in self.files:
            with _parquet(path) as file:
                column = f"{_image_column(path, file.schema_arrow)}.bytes"
                for group in range(file.num_row_groups):
                    stop = start + file.metadata.row_group(group).num_rows
                    positions = np.flatnonzero((rows >= start) & (rows < stop))
                    if len(positions):
                        cells = file.read_row_group(group, columns=[column]).column(0)
                        yield from ((int(i), cells[int(rows[i]) - start].as_py()) for i in positions)
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


def _labels(path: Path) -> Labels:
    with _parquet(path) as file:
        schema = file.schema_arrow
        _image_column(path, schema)
        if "label" not in schema.names or not pa.types.is_integer(schema.field("label").type):
            raise AssetError(
                f"`{path}` must have a column `label` of integers, got {_columns(schema)}; rename or add it."
            )
        column = file.read(columns=["label"]).column(0)
        if column.null_count:
            raise AssetError(f"`{path}` must have a label in every row, but {column.null_count} are null.")
        return np.array(column.cast(pa.int64()).to_numpy(), dtype=np.int64)


def _image_column(path: Path, schema: Any) -> str:
    for name in ("img", "image"):
        if name in schema.names:
            kind = schema.field(name).type
            if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
                return name
    raise AssetError(
        f"`{path}` must have a column `img` or `image`, a struct with `bytes`, got {_columns(schema)}; rename it."
    )


def _columns(schema: Any) -> str:
    return ", ".join(f"`{field.name}` ({field.type})" for field in schema)


def open_folder(name: str, folder: Path) -> Dataset:
    """Open a data set without record, as the files in a folder show it.

    Parquet files `<split>-00000-of-00001.parquet` are in the hub's layout; else images are `<split>/<class>/*.png`.

    Raises:
        AssetError: the folder cannot be read, holds neither, or lacks a parquet file.
    """
    if files := [path for path in _entries(folder) if path.suffix == ".parquet"]:
        shards = _shards(files)
        classes = _class_names(files[0])
        n_classes = len(classes) if classes else None
        return Dataset(name, classes, {split: Shards(paths, n_classes) for split, paths in shards.items()})
    splits = _subfolders(folder)
    classes = tuple(sorted({path.name for split in splits for path in _subfolders(split)}))
    if not classes:
        raise AssetError(
            f"a data set must hold `<split>-00000-of-00001.parquet` or `<split>/<class>/*.png`, but `{folder}` holds "
            "neither."
        )
    return Dataset(name, classes, {path.name: Images(path, classes) for path in splits})


def _class_names(path: Path) -> tuple[str, ...] | None:
    """Read the class names that the `datasets` library wrote into a file, if it did."""
    with _parquet(path) as file:
        written = (file.schema_arrow.metadata or {}).get(b"huggingface")
    try:
        return tuple(json.loads(written)["info"]["features"]["label"]["names"]) if written else None
    except (ValueError, LookupError, TypeError):
        return None  # The description is optional, and may describe a label without names.


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
