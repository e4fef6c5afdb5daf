"""Measured speed on disk: one tidy table for each suite, apart from accuracies and from numbers that are counted.

The table is `SUITE/speed.csv` of a run folder or of a results folder, and is rewritten as a whole after each network.
"""

import csv
import dataclasses
import math
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pruneboard.benchmark.errors import StoreError
from pruneboard.benchmark.schema import Suite
from pruneboard.benchmark.store import atomic_file

VERSION = 1
"""Version of the columns; rises when a column is added, removed or changes its meaning."""

_FILE = "speed.csv"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast one physically pruned network is for one number of images at once.

    Attributes:
        version: version of these columns.
        suite: suite.
        suite_digest: sha256 of the suite's deciding fields.
        key: digest of everything that decides which units are removed, but the rate and the shots.
        model: network.
        granularity: kind of unit.
        criterion: criterion.
        seed: seed of the reference draw and of random ties.
        shots: reference images per class.
        rate: fraction of units that was asked to be removed, in [0, 1).
        form: `exact` or `coupled`.
        n_units_removed: units removed.
        params: parameters of the physical network.
        macs: its multiply-accumulates for one image.
        batch_size: images at once.
        latency_seconds: median time of one pass, in s.
        latency_iqr_seconds: interquartile range of the same, in s.
        n_runs: passes that were timed.
        images_per_second: batch_size / latency_seconds, in 1/s.
        unpruned_seconds: median time of the unpruned network, timed in turns with this one, in s.
        speedup: unpruned_seconds / latency_seconds.
        device: device, by name.
        threads: CPU threads.
        torch: version of PyTorch.
        pruneboard: version of pruneboard.
        commit: commit of the code, empty for an installed package.
        clean: whether the code was exactly that commit.
        time_utc: when it was measured, UTC.
    """

    version: int
    suite: str
    suite_digest: str
    key: str
    model: str
    granularity: str
    criterion: str
    seed: int
    shots: int
    rate: float
    form: str
    n_units_removed: int
    params: int
    macs: int
    batch_size: int
    latency_seconds: float
    latency_iqr_seconds: float
    n_runs: int
    images_per_second: float
    unpruned_seconds: float
    speedup: float
    device: str
    threads: int
    torch: str
    pruneboard: str
    commit: str
    clean: bool
    time_utc: str

    @property
    def hardware(self) -> str:
        """What it was measured on, for people."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.device}, {threads}, PyTorch {self.torch}"

    @property
    def cell(self) -> tuple[object, ...]:
        """What was measured on what; a table holds each cell once."""
        names = ("model", "granularity", "criterion", "seed", "shots", "rate", "form", "batch_size", "device")
        return (*(getattr(self, name) for name in names), self.threads)

    @property
    def group(self) -> tuple[object, ...]:
        """What is compared with each other; the rows of a group share `basis`."""
        return (self.model, self.granularity, self.criterion, self.form, self.device, self.threads)

    @property
    def basis(self) -> tuple[str, str, str]:
        """What may have changed between two measurements of a group."""
        return (self.key, self.torch, self.pruneboard)


_POSITIVE = ("latency_seconds", "images_per_second", "unpruned_seconds", "speedup")
_NOT_NEGATIVE = ("latency_iqr_seconds", "rate")
_KINDS: Mapping[str, type] = typing.get_type_hints(Speed)
_ORDER = ("model", "granularity", "criterion", "form", "device", "threads", "batch_size", "rate", "seed", "shots")


class SpeedStore:
    """The measured speeds of a run folder or of a results folder.

    Args:
        folder: run folder or results folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, suite: str) -> Path:
        """Return the file of a suite's speeds."""
        return self.folder / suite / _FILE

    def read(self, suite: str) -> list[Speed]:
        """Read a suite's speeds; none when there is no file.

        Raises:
            StoreError: the file is damaged, foreign, or of another version.
        """
        path = self.path(suite)
        if not path.exists():
            return []
        try:
            with path.open(encoding="utf-8", newline="") as file:
                return list(_speeds(csv.reader(file, strict=True)))
        except (OSError, ValueError, csv.Error) as error:
            raise StoreError(
                f"a table of speeds must be whole and of version {VERSION}, but `{path}` cannot be used: {error}; "
                f"delete it and measure again with `pruneboard speed {suite}`."
            ) from error

    def add(self, suite: str, speeds: Iterable[Speed]) -> Path:
        """Add speeds to a suite's table, in the place of older ones of the same cells, and return the file.

        Where a network, criterion or library has changed since, older rows of the same group go as well.

        Raises:
            StoreError: the file is damaged or cannot be written.
        """
        known = {speed.cell: speed for speed in (*self.read(suite), *speeds)}
        path = self.path(suite)
        with atomic_file(path) as temporary:
            write_speeds(_latest(list(known.values())), temporary)
        return path


def write_speeds(speeds: Sequence[Speed], path: Path) -> None:
    """Write a table of speeds to a file, in a fixed order."""
    ordered = sorted(speeds, key=lambda speed: tuple(getattr(speed, name) for name in _ORDER))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(_KINDS), lineterminator="\n")
        writer.writeheader()
        writer.writerows(dataclasses.asdict(speed) for speed in ordered)


def current_speeds(speeds: Iterable[Speed], suite: Suite) -> list[Speed]:
    """Return the speeds that belong to the suite as it is now, of each group those measured on the latest basis."""
    cells = {(model.name, granularity) for model in suite.models for granularity in model.granularities}
    return _latest(
        [speed for speed in speeds if speed.suite_digest == suite.digest and (speed.model, speed.granularity) in cells]
    )


def _latest(speeds: Sequence[Speed]) -> list[Speed]:
    """Leave out the speeds of each group whose key or library version is not that of its latest one."""
    basis = {speed.group: speed.basis for speed in sorted(speeds, key=lambda speed: speed.time_utc)}
    return [speed for speed in speeds if speed.basis == basis[speed.group]]


def _speeds(lines: Iterator[Sequence[str]]) -> Iterator[Speed]:
    if tuple(next(lines, ())) != tuple(_KINDS):
        raise ValueError(f"its columns must be {', '.join(_KINDS)}")
    for number, line in enumerate(lines, start=1):
        try:
            yield _speed(line)
        except ValueError as error:
            raise ValueError(f"in row {number} below the names of the columns, {error}") from error


def _speed(line: Sequence[str]) -> Speed:
    if len(line) != len(_KINDS):
        raise ValueError(f"there must be {len(_KINDS)} fields, got {len(line)}")
    values = {name: _value(name, kind, text) for (name, kind), text in zip(_KINDS.items(), line, strict=True)}
    if values["version"] != VERSION:
        raise ValueError(f"the version is {values['version']}")
    return Speed(**values)


def _value(name: str, kind: type, text: str) -> Any:
    if kind is bool:
        if text not in ("True", "False"):
            raise ValueError(f"`{name}` must be True or False, got `{text}`")
        return text == "True"
    try:
        value = kind(text)
    except ValueError as error:
        raise ValueError(f"`{name}` must be a number, got `{text}`") from error
    if name in _POSITIVE and not (math.isfinite(value) and value > 0):
        raise ValueError(f"`{name}` must be finite and above 0, got `{text}`")
    if name in _NOT_NEGATIVE and not (math.isfinite(value) and value >= 0):
        raise ValueError(f"`{name}` must be finite and not below 0, got `{text}`")
    return value
