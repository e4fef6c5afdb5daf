"""Published tables: tidy CSV files, so that a pull request shows what changed."""

import dataclasses
from collections.abc import Hashable, Sequence
from pathlib import Path

import pandas as pd

from pruneboard.benchmark.errors import StoreError
from pruneboard.benchmark.registry import name_fault
from pruneboard.benchmark.schema import COLUMNS, SCHEMA_VERSION
from pruneboard.benchmark.store._files import atomic_file
from pruneboard.benchmark.store._folder import KEY_DIGITS
from pruneboard.benchmark.store._migrations import OLDEST, migrate
from pruneboard.benchmark.store._tables import NAMES, PANDAS, concatenate, in_order, typed, with_categories

_JOB_COLUMNS = [c.name for c in COLUMNS if c.level == "job"]
_POINT_COLUMNS = [c.name for c in COLUMNS if c.level == "point"]
_POINT_TEXT = [c.name for c in COLUMNS if c.level == "point" and c.kind is str]
_CELL = ["model", "granularity", "seed"]

JOB_FILE_COLUMNS = tuple(_JOB_COLUMNS)
"""Columns of a published table of jobs, in order."""

POINT_FILE_COLUMNS = ("key", *_POINT_COLUMNS)
"""Columns of a published table of points, in order."""


def points_and_jobs(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split rows into what differs from point to point and what all points of a job share, joined by `key`.

    One wide table would repeat forty columns of provenance in every row. The points hold the first digits of the key.
    """
    kinds = {c.name: PANDAS[c.kind] for c in COLUMNS}
    jobs = rows[_JOB_COLUMNS].drop_duplicates("key").astype({name: kinds[name] for name in _JOB_COLUMNS})
    jobs = jobs.sort_values(["model", "granularity", "criterion", "seed"])
    points = rows.loc[rows["status"] == "ok", ["key", *_POINT_COLUMNS]]
    points = points.astype({name: kinds[name] for name in points.columns})
    return points.assign(key=points["key"].str[:KEY_DIGITS]), jobs


class ResultsStore:
    """Published tables: `SUITE/CRITERION.csv` holds the points, `SUITE/CRITERION.jobs.csv` the jobs they belong to.

    Args:
        folder: results folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, rows: pd.DataFrame) -> list[Path]:
        """Write one pair of tables per suite and criterion, and return the files.

        Cells that were published before and are not among `rows` are kept, so a run of a part updates that part.

        Raises:
            StoreError: the folder cannot be written, or a table that is there is damaged.
        """
        paths = []
        for (suite, criterion), part in rows.groupby(["suite", "criterion"], sort=True):
            base = self.folder / str(suite) / str(criterion)
            points, jobs = points_and_jobs(self._updated(part, base.with_suffix(".jobs.csv")))
            for table, path in ((points, base.with_suffix(".csv")), (jobs, base.with_suffix(".jobs.csv"))):
                with atomic_file(path) as temporary:
                    table.to_csv(temporary, index=False, lineterminator="\n")
                paths.append(path)
        return paths

    def criteria(self, suite: str) -> list[str]:
        """Return the criteria that have a table of jobs in a suite, sorted.

        No other table is read by anyone: a file whose name is no criterion's, such as a hidden one, holds no results.
        """
        names = (path.name.removesuffix(".jobs.csv") for path in (self.folder / suite).glob("*.jobs.csv"))
        return sorted(name for name in names if name_fault("criterion", name) is None)

    def read_criterion(self, suite: str, criterion: str) -> pd.DataFrame:
        """Read the rows of one criterion as its two tables have them, those that are there twice included.

        Raises:
            StoreError: a table is damaged, lacks its partner, or is of another schema version.
        """
        return _joined([_read_pair(self.folder / suite / f"{criterion}.jobs.csv")])

    def read(self, suite: str) -> pd.DataFrame:
        """Read all rows of a published suite, sorted.

        Raises:
            StoreError: a table is damaged, lacks its partner, or is of another schema version.
        """
        pairs = [_read_pair(self.folder / suite / f"{criterion}.jobs.csv") for criterion in self.criteria(suite)]
        # One join of all: there are many small files, and each step of pandas costs more than their rows.
        alike: dict[Hashable, list[_Pair]] = {}
        for pair in pairs:
            alike.setdefault((pair.version, *pair.jobs.columns, *pair.points.columns), []).append(pair)
        return in_order(concatenate(map(_joined, alike.values())))

    def _updated(self, rows: pd.DataFrame, jobs_path: Path) -> pd.DataFrame:
        """Add the published rows of other cells of the same version of the suite, on the same data."""
        if not jobs_path.exists():
            return rows
        before = _joined([_read_pair(jobs_path)])
        cells = pd.MultiIndex.from_frame(before[_CELL])
        kept = ~cells.isin(pd.MultiIndex.from_frame(rows[_CELL]))
        kept &= before["suite_digest"].isin(rows["suite_digest"]).to_numpy()
        for name in ("model", "dataset"):
            others = ~before[name].isin(rows[name])
            kept &= (others | before["data_digest"].isin(rows["data_digest"])).to_numpy()
        return in_order(concatenate([before[kept], rows]))


@dataclasses.dataclass(frozen=True, eq=False)
class _Pair:
    """The two tables of one criterion, in the columns of their schema version; `short_key` joins them."""

    path: Path
    jobs: pd.DataFrame
    points: pd.DataFrame
    version: int


def _read_pair(jobs_path: Path) -> _Pair:
    points_path = jobs_path.with_name(jobs_path.name.removesuffix(".jobs.csv") + ".csv")
    jobs, points = (_read_csv(path) for path in (jobs_path, points_path))
    version = _checked_version(jobs_path, jobs.get("schema_version"))
    for table, path in ((jobs, jobs_path), (points, points_path)):
        if "key" not in table:
            raise StoreError(f"a published table must have a column `key`, but `{path}` has none; publish it again.")
    jobs["short_key"] = jobs["key"].astype(str).str[:KEY_DIGITS]
    repeated = jobs.loc[jobs["short_key"].duplicated(), "key"]
    if len(repeated):
        raise StoreError(f"a job must be there once, but `{jobs_path}` has `{repeated.iloc[0]}` twice; remove one.")
    points = points.rename(columns={"key": "short_key"})
    unknown = sorted(set(points["short_key"].astype(str).unique()) - set(jobs["short_key"]))
    if unknown:
        raise StoreError(
            f"every point must belong to a job, but `{points_path}` names `{unknown[0]}`, which `{jobs_path}` "
            "lacks; write both again with `pruneboard table --publish`."
        )
    return _Pair(jobs_path, jobs, points, version)


def _joined(pairs: Sequence[_Pair]) -> pd.DataFrame:
    """Return the rows of criteria whose tables have the same columns, in the types of the present schema.

    Raises:
        StoreError: a table lacks columns or values that the schema requires, or has values of other types.
    """
    jobs, points = (
        pd.concat([table.assign(file=i) for i, table in enumerate(tables)], ignore_index=True)
        for tables in ([pair.jobs for pair in pairs], [pair.points for pair in pairs])
    )
    joined = with_categories(jobs).merge(points, on=["file", "short_key"], how="left", validate="1:m")
    # A job without a result has no points.
    joined = joined.fillna({name: "" for name in _POINT_TEXT if name in joined})
    rows = migrate(joined, pairs[0].version)
    _check_complete(rows, [pair.path for pair in pairs])
    try:
        return typed(rows)
    except (ValueError, TypeError) as error:
        files = pairs[0].path if len(pairs) == 1 else pairs[0].path.parent
        raise StoreError(
            f"a result table must have values of the schema's types, but `{files}` has not: {error}."
        ) from error


def _read_csv(path: Path) -> pd.DataFrame:
    kinds = {c.name: PANDAS[c.kind] for c in COLUMNS}
    text = [c.name for c in COLUMNS if c.kind is str]
    try:
        return pd.read_csv(
            path,
            usecols=lambda name: name in kinds,
            dtype=kinds,
            keep_default_na=False,
            na_values=dict.fromkeys(set(kinds) - set(text), ""),
        )
    except (OSError, ValueError, TypeError, OverflowError, pd.errors.ParserError) as error:
        raise StoreError(
            f"a published table must be a CSV file of known columns, but `{path}` is not: {error}."
        ) from error


def _checked_version(path: Path, versions: "pd.Series[int] | None") -> int:
    found = set() if versions is None else set(map(str, versions))
    (version,) = found if len(found) == 1 else ("",)
    if version.isdigit() and OLDEST <= int(version) <= SCHEMA_VERSION:
        return int(version)
    remedy = "write it again with `pruneboard table --publish`"
    if version.isdigit() and int(version) > SCHEMA_VERSION:
        remedy = "use a newer release of pruneboard"
    raise StoreError(
        f"tables must have one schema version from {OLDEST} to {SCHEMA_VERSION}, but `{path}` has "
        f"{', '.join(sorted(found)) or 'none'}; {remedy}."
    )


def _check_complete(rows: pd.DataFrame, paths: Sequence[Path]) -> None:
    missing = [name for name in NAMES if name not in rows]
    if missing:
        raise StoreError(f"a result table must have every column of the schema, but `{paths[0]}` lacks {missing}.")
    for name in (c.name for c in COLUMNS if c.kind is int and not c.nullable):
        empty = rows[name].isna()
        if empty.any():
            raise StoreError(
                f"a result table must have every value that the schema requires, but `{name}` is empty in "
                f"`{paths[rows.loc[empty, 'file'].iloc[0]]}`; write it again with `pruneboard table --publish`."
            )
