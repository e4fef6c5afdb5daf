"""Rows on disk: one Parquet file per job in a run folder, tidy CSV tables in a results folder."""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pruneboard.benchmark.errors import StoreError
from pruneboard.benchmark.schema import COLUMNS, SCHEMA_VERSION, Job, Row

_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
_PANDAS = {str: "str", int: "Int64", float: "float64", bool: "bool"}
_ARROW_SCHEMA = pa.schema(
    [pa.field(c.name, _ARROW[c.kind], nullable=c.nullable) for c in COLUMNS],
    metadata={"pruneboard_schema": str(SCHEMA_VERSION)},
)
_JOB_COLUMNS = [c.name for c in COLUMNS if c.level == "job"]
_POINT_COLUMNS = [c.name for c in COLUMNS if c.level == "point"]
_CELL = ["model", "granularity", "seed"]
_SUPERSEDED = "superseded"
_SORT = ["suite", "criterion", "model", "granularity", "seed", "shots", "rate"]
_KEY_DIGITS = 16


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it when the block ends well, and is removed otherwise.

    Raises:
        StoreError: the folder cannot be written or the disk is full; an older file at `path` is left as it was.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".tmp-", suffix=path.suffix, dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StoreError(f"`{path}` must be writable, but {reason}; free space or choose another folder.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


class RunStore:
    """The finished jobs of a run folder; a file appears only when its job is complete.

    A job's file is named after its cell and key. When a cell was measured under several keys, because its criterion,
    data or suite changed, the files of the others are set aside in `superseded/` and come back when their key does.

    Args:
        folder: run folder; made when the first job is saved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, job: Job, key: str) -> Path:
        """Return the file of a job."""
        return self.folder / job.suite.name / f"{_cell_name(job)}.{key[:_KEY_DIGITS]}.parquet"

    def prepare(self) -> None:
        """Check before any work that the folder can be written.

        Raises:
            StoreError: it cannot.
        """
        probe = self.folder / ".pruneboard-run"
        with atomic_file(probe) as temporary:
            temporary.write_text(f"schema {SCHEMA_VERSION}\n", encoding="utf-8")

    def save(self, job: Job, rows: Sequence[Row]) -> Path:
        """Write the rows of one job at once.

        Raises:
            StoreError: the folder cannot be written.
        """
        path = self.path(job, rows[0].key)
        table = pa.Table.from_pylist([asdict(row) for row in rows], schema=_ARROW_SCHEMA)
        with atomic_file(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        self._set_others_aside(path)
        return path

    def status(self, job: Job, key: str) -> str | None:
        """Return the status of a finished job, or None when it has not run or its file is damaged.

        A finished job becomes the one that tables show for its cell.

        Raises:
            StoreError: the folder cannot be written.
        """
        path = self.path(job, key)
        aside = path.parent / _SUPERSEDED / path.name
        if not path.exists() and aside.exists():
            _move(aside, path)
        if not path.exists():
            return None
        try:
            rows = _read_parquet(path)
        except StoreError:
            return None
        if rows.empty or rows["key"].iloc[0] != key:
            return None
        self._set_others_aside(path)
        return str(rows["status"].iloc[0])

    def _set_others_aside(self, path: Path) -> None:
        cell = path.name.removesuffix(".parquet").rpartition(".")[0]
        for other in path.parent.glob(f"{cell}.*.parquet"):
            if other != path:
                _move(other, path.parent / _SUPERSEDED / other.name)

    def read(self, suite: str) -> pd.DataFrame:
        """Read all rows of a suite but the superseded ones, sorted.

        Raises:
            StoreError: a file is damaged, foreign, or of another schema version.
        """
        files = sorted((self.folder / suite).glob("[!.]*.parquet"))
        return _sorted(_concatenate(_read_parquet(path) for path in files))


def points_and_jobs(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split rows into what differs from point to point and what all points of a job share, joined by `key`.

    One wide table would repeat forty columns of provenance in every row. The points hold the first digits of the key.
    """
    typed = rows.astype({c.name: _PANDAS[c.kind] for c in COLUMNS})
    jobs = typed[_JOB_COLUMNS].drop_duplicates("key").sort_values(["model", "granularity", "criterion", "seed"])
    points = typed.loc[typed["status"] == "ok", ["key", *_POINT_COLUMNS]]
    return points.assign(key=points["key"].str[:_KEY_DIGITS]), jobs


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

    def read(self, suite: str) -> pd.DataFrame:
        """Read all rows of a published suite, sorted.

        Raises:
            StoreError: a table is damaged, lacks its partner, or is of another schema version.
        """
        files = sorted((self.folder / suite).glob("*.jobs.csv"))
        return _sorted(_concatenate(self._read_pair(path) for path in files))

    def write_comparison(self, suite: str, comparison: pd.DataFrame) -> Path:
        """Write a suite's comparison with what others published to `SUITE/comparison.published.csv`; return the file.

        Raises:
            StoreError: the folder cannot be written.
        """
        # No criterion's name has a dot, so no table of a criterion has this name.
        path = self.folder / suite / "comparison.published.csv"
        with atomic_file(path) as temporary:
            comparison.to_csv(temporary, index=False, lineterminator="\n", float_format="%.6f")
        return path

    def _updated(self, rows: pd.DataFrame, jobs_path: Path) -> pd.DataFrame:
        """Add the published rows of other cells of the same version of the suite, on the same data."""
        if not jobs_path.exists():
            return rows
        before = self._read_pair(jobs_path)
        cells = pd.MultiIndex.from_frame(before[_CELL])
        kept = ~cells.isin(pd.MultiIndex.from_frame(rows[_CELL]))
        kept &= before["suite_digest"].isin(rows["suite_digest"]).to_numpy()
        for name in ("model", "dataset"):
            others = ~before[name].isin(rows[name])
            kept &= (others | before["data_digest"].isin(rows["data_digest"])).to_numpy()
        return _sorted(_concatenate([before[kept], rows]))

    def _read_pair(self, jobs_path: Path) -> pd.DataFrame:
        points_path = jobs_path.with_name(jobs_path.name.removesuffix(".jobs.csv") + ".csv")
        jobs, points = (_read_csv(path) for path in (jobs_path, points_path))
        _check_version(jobs_path, jobs.get("schema_version"))
        for table, path in ((jobs, jobs_path), (points, points_path)):
            if "key" not in table:
                raise StoreError(
                    f"a published table must have a column `key`, but `{path}` has none; publish it again."
                )
        jobs["short_key"] = jobs["key"].astype(str).str[:_KEY_DIGITS]
        unknown = sorted(set(points["key"].astype(str)) - set(jobs["short_key"]))
        if unknown:
            raise StoreError(
                f"every point must belong to a job, but `{points_path}` names `{unknown[0]}`, which `{jobs_path}` "
                "lacks; write both again with `pruneboard table --publish`."
            )
        joined = jobs.merge(points.rename(columns={"key": "short_key"}), on="short_key", how="left", validate="1:m")
        return _typed(joined, jobs_path)


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        table = pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"a job file must be a complete Parquet file, but `{path}` is damaged ({type(error).__name__}); "
            "delete it and run the suite again, which repeats only that job."
        ) from error
    version = (table.schema.metadata or {}).get(b"pruneboard_schema", b"").decode()
    _check_version(path, pd.Series([version]))
    return _typed(table.to_pandas(), path)


def _read_csv(path: Path) -> pd.DataFrame:
    kinds = {c.name: _PANDAS[c.kind] for c in COLUMNS}
    text = [c.name for c in COLUMNS if c.kind is str]
    try:
        return pd.read_csv(
            path, dtype=kinds, keep_default_na=False, na_values=dict.fromkeys(set(kinds) - set(text), "")
        )
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise StoreError(
            f"a published table must be a CSV file of known columns, but `{path}` is not: {error}."
        ) from error


def _check_version(path: Path, versions: "pd.Series[str] | None") -> None:
    found = set() if versions is None else set(versions.astype(str))
    if found != {str(SCHEMA_VERSION)}:
        raise StoreError(
            f"tables must have schema version {SCHEMA_VERSION}, but `{path}` has {', '.join(sorted(found)) or 'none'}; "
            "use the release that wrote it, or run the suite again."
        )


def _typed(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    missing = [c.name for c in COLUMNS if c.name not in table]
    if missing:
        raise StoreError(f"a result table must have every column of the schema, but `{path}` lacks {missing}.")
    try:
        return table[[c.name for c in COLUMNS]].astype({c.name: _PANDAS[c.kind] for c in COLUMNS})
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"a result table must have values of the schema's types, but `{path}` has not: {error}."
        ) from error


def _concatenate(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    found = list(tables)
    if not found:
        return pd.DataFrame({c.name: pd.Series(dtype=_PANDAS[c.kind]) for c in COLUMNS})
    return pd.concat(found, ignore_index=True)


def _sorted(rows: pd.DataFrame) -> pd.DataFrame:
    """Sort rows, and drop those of a copied file."""
    return rows.drop_duplicates(["key", "shots", "rate"]).sort_values(_SORT, ignore_index=True)


def _cell_name(job: Job) -> str:
    return f"{job.model}.{job.granularity}.{job.criterion}.{job.seed}"


def _move(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
    # Another run on the same folder may have moved it first.
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"`{source}` must be movable to `{target}`, but {error.strerror}; mend its folder.") from error
