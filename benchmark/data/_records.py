"""The data sets recorded in `datasets.toml`."""

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What is known about a recorded data set.

    Attributes:
        name: its name in suites.
        kind: `sklearn` (its digits), `points` (generated ones in the plane), `parquet` (files that are recorded), or
            `folder` (parquet files or images of which nothing is recorded).
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


@dataclass(frozen=True, kw_only=True)
class File:
    """A parquet file of a recorded data set.

    Attributes:
        split: the split that it is a part of.
        name: its path in the hub's repository; in a folder it may lie without the folders of that path.
        sha256: of the file; empty where the hub states it.
    """

    split: str
    name: str
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Record:
    """An entry of `datasets.toml`; what people are told of it is explained in `DatasetInfo`.

    Attributes:
        hub: repository from which the hub delivers its files; empty when none does.
        classes: name of each label, or None where the labels have no names of their own.
        n_classes: number of labels.
        files: its files, those of each split in order.
    """

    name: str
    kind: str
    title: str
    terms: str
    contamination: str
    subset_of: str = ""
    hub: str = ""
    classes: tuple[str, ...] | None = None
    n_classes: int
    files: tuple[File, ...] = ()


@functools.cache
def records() -> dict[str, Record]:
    """Return the recorded data sets by name."""
    tables = tomllib.loads(Path(__file__).with_name("datasets.toml").read_text(encoding="utf-8"))
    found = {}
    for name, table in tables.items():
        classes = tuple(table.pop("classes")) if "classes" in table else None
        n_classes = table.pop("n_classes") if classes is None else len(classes)
        files = tuple(File(**file) for file in table.pop("files", ()))
        found[name] = Record(name=name, classes=classes, n_classes=n_classes, files=files, **table)
    return found
