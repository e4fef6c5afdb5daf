"""Merging run folders of several machines into one; the sources are only read."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from pruneboard.benchmark.schema import COLUMNS
from pruneboard.benchmark.store._folder import CONFLICTS, SUFFIX, SUPERSEDED, SuiteFolder, cell_name, file_name
from pruneboard.benchmark.store._folding import FOLD_AT, JOBS_PER_SEGMENT
from pruneboard.benchmark.store._format import write_job, write_segment
from pruneboard.benchmark.store._runs import RunStore
from pruneboard.benchmark.store._tables import CELL, arrow_of

# What has to agree between two machines; times, versions of libraries and the last bits of a mean need not, and rows of
# older schemas do not say how many units are left in each layer.
_RESULT = [
    *("status", "n_units"),
    *(c.name for c in COLUMNS if c.level == "point" and c.name not in ("cross_entropy", "units_left")),
]


@dataclass
class Merged:
    """What merging one suite of one folder did.

    Attributes:
        n_added: jobs of cells that were not there.
        n_same: jobs that were there.
        n_newer: jobs that took the place of an older version of their cell, or of a failure.
        n_older: jobs that were set aside, as a newer version of their cell was there.
        conflicts: files of jobs that were there with other results.
    """

    n_added: int = 0
    n_same: int = 0
    n_newer: int = 0
    n_older: int = 0
    conflicts: list[Path] = field(default_factory=list)


def merge_suite(source: RunStore, target: RunStore, suite: str) -> Merged:
    """Merge the current jobs of a suite into another run folder. Doing so again changes nothing.

    One key with equal results is one job. One key with other results is a conflict: what was there stays, the other is
    kept in `conflicts/`. A failed job gives way to one of the same key that did not fail. Of two keys for one cell the
    one measured last is shown, and the other set aside; a run brings back the one that the present code asks for.

    Raises:
        StoreError: a file of either cannot be used, or the target cannot be written.
    """
    theirs, ours = source.read(suite), target.read(suite)
    folder, merged = target.suite_folder(suite), Merged()
    jobs = _jobs(theirs).merge(_jobs(ours), on=CELL, how="left", suffixes=("", "_ours"))
    new = jobs["key_ours"].isna()
    same_key = jobs["key"] == jobs["key_ours"]
    failed, ours_failed = jobs["status"] == "failed", jobs["status_ours"] == "failed"
    same = same_key & ((jobs["result"] == jobs["result_ours"]) | failed)
    mended = same_key & ours_failed & ~failed
    conflict = same_key & ~same & ~mended
    newer = ~new & ~same_key & (jobs["time_utc"] > jobs["time_utc_ours"])
    older = ~new & ~same_key & ~newer
    merged.n_same, merged.n_added = int(same.sum()), int(new.sum())
    merged.n_newer, merged.n_older = int((newer | mended).sum()), int(older.sum())
    _add(folder, theirs, jobs[new])
    for job, rows in _each(theirs, jobs[newer | mended]):
        target.put(suite, job.cell, rows)
    for job, rows in _each(theirs, jobs[older]):
        _write_once(rows, folder.path / SUPERSEDED / file_name(job.cell, job.key), job)
    for job, rows in _each(theirs, jobs[conflict]):
        name = file_name(job.cell, job.key).removesuffix(SUFFIX)
        path = folder.path / CONFLICTS / f"{name}.{job.result:016x}{SUFFIX}"
        _write_once(rows, path, job)
        merged.conflicts.append(path)
    return merged


def _write_once(rows: pa.Table, path: Path, job: "_Line") -> None:
    if not path.exists():
        write_job(rows, path, key=job.key, status=job.status)


@dataclass(frozen=True)
class _Line:
    """A job as `_jobs` lists it."""

    key: str
    cell: str
    status: str
    result: int


def _jobs(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line per job: cell, key, status, time, and a number that is equal for equal results."""
    hashed = pd.util.hash_pandas_object(rows[_RESULT], index=False).to_numpy(dtype=np.uint64)
    result = pd.Series(hashed, index=rows["key"].to_numpy(dtype=object), dtype="uint64").groupby(level=0).sum()
    jobs = rows.drop_duplicates("key")[[*CELL, "key", "status", "time_utc"]]
    return jobs.assign(time_utc=jobs["time_utc"].astype("str"), result=result.reindex(jobs["key"]).to_numpy())


def _each(rows: pd.DataFrame, jobs: pd.DataFrame) -> Iterator[tuple[_Line, pa.Table]]:
    """Yield the lines of jobs with their rows as they are written."""
    lines = {line.key: line for line in map(_line, jobs.to_dict("records"))}
    for start in range(0, len(jobs), JOBS_PER_SEGMENT):
        keys = jobs["key"].iloc[start : start + JOBS_PER_SEGMENT]
        part = rows[rows["key"].isin(keys)].sort_values([*CELL, "key"], kind="stable")
        table = arrow_of(part)
        starts = np.flatnonzero((part["key"] != part["key"].shift()).to_numpy(dtype=bool))
        for first, end in zip(starts, [*starts[1:], len(part)], strict=True):
            yield lines[str(part["key"].iloc[first])], table.slice(first, end - first)


def _line(record: dict[Hashable, Any]) -> _Line:
    cell = cell_name(*(record[name] for name in CELL))
    return _Line(str(record["key"]), cell, str(record["status"]), int(record["result"]))


def _add(folder: SuiteFolder, rows: pd.DataFrame, jobs: pd.DataFrame) -> None:
    """Write jobs of cells that are not there: as files of their own, or as segments when they are many."""
    if len(jobs) < FOLD_AT:
        for job, table in _each(rows, jobs):
            write_job(table, folder.job_path(job.cell, job.key), key=job.key, status=job.status)
        return
    for start in range(0, len(jobs), JOBS_PER_SEGMENT):
        part = rows[rows["key"].isin(jobs["key"].iloc[start : start + JOBS_PER_SEGMENT])]
        write_segment(arrow_of(part), folder.new_segment(folder.next_number()))
