"""Where splits lie, and how they are read: scikit-learn's digits, and parquet files."""

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

from pruneboard.benchmark.assets import file_sha256
from pruneboard.benchmark.data._images import entries, open_images
from pruneboard.benchmark.data._splits import Dataset, ImageSplit, Labels, Picture, Split
from pruneboard.benchmark.errors import AssetError

_SHARD = re.compile(r"(?P<split>\w+)-(?P<index>\d+)(-of-(?P<count>\d+))?(-[0-9a-f]+)?\.parquet")


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

        def read(rows: npt.NDArray[np.intp]) -> Iterator[tuple[int, Picture, str]]:
            return ((position, Image.fromarray(pixels[row]), name) for position, row in enumerate(rows))

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

        def read(rows: npt.NDArray[np.intp]) -> Iterator[tuple[int, Picture, str]]:
            for position, cell in self._cells(rows):
                where = f"row {rows[position]} of {name}"
                if cell is None or cell["bytes"] is None:
                    raise AssetError(f"{where} must hold an image's bytes.")
                yield position, cell["bytes"], where

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
    if files := [folder / entry for entry, _ in entries(folder) if Path(entry).suffix == ".parquet"]:
        shards = _shards(files)
        classes = _class_names(files)
        n_classes = len(classes) if classes else None
        return Dataset(name, classes, {split: Shards(paths, n_classes) for split, paths in shards.items()})
    return open_images(name, folder)


def _class_names(files: list[Path]) -> tuple[str, ...] | None:
    """Read the class names that the `datasets` library wrote into files, if it did; all must say the same."""
    found: dict[tuple[str, ...], Path] = {}
    for path in files:
        with _parquet(path) as file:
            written = (file.schema_arrow.metadata or {}).get(b"huggingface", b"")
        # The description is optional, and may describe a label without names.
        with contextlib.suppress(ValueError, LookupError, TypeError):
            found[tuple(json.loads(written)["info"]["features"]["label"]["names"])] = path
    if len(found) > 1:
        (one, first), (other, second) = list(found.items())[:2]
        raise AssetError(
            f"the files of a data set must name the same classes, but `{first}` has {', '.join(one)} and `{second}` "
            f"{', '.join(other)}; get files of one data set."
        )
    return next(iter(found), None)


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
