"""What is in a suite's part of a run folder, and removing what no table needs."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from pruneboard.benchmark.errors import DamagedFileError, UnreadableFileError
from pruneboard.benchmark.schema import SCHEMA_VERSION, TUNED_SUFFIX, Suite
from pruneboard.benchmark.store._files import TEMPORARY, leftovers_below, move, read_bytes, remove, remove_all
from pruneboard.benchmark.store._folder import Place, StoredFile, SuiteFolder
from pruneboard.benchmark.store._format import check_seal, read_table, write_job, write_segment
from pruneboard.benchmark.store._reading import collect, read_slices, stack
from pruneboard.benchmark.store._tables import in_grid, jobs_of


@dataclass(frozen=True)
class Survey:
    """What was found in a suite's folder.

    Attributes:
        jobs: one line per job and file: the columns that its rows share, `n_rows`, `file` (place in `files`), `path`,
            `written_version` of the schema, and `current`: whether tables show it.
        files: files with rows.
        unreadable: files that cannot be used.
        conflicts: job files that disagree with others of the same key.
        leftovers: temporary files that killed writers left.
        n_bytes: size of all of them.
    """

    jobs: pd.DataFrame
    files: Sequence[StoredFile]
    unreadable: Sequence[tuple[StoredFile, UnreadableFileError]]
    conflicts: Sequence[StoredFile]
    leftovers: Sequence[Path]
    n_bytes: int

    @property
    def current(self) -> pd.DataFrame:
        """The jobs that tables show."""
        return self.jobs[self.jobs["current"].astype(bool)]

    @property
    def damaged(self) -> list[StoredFile]:
        """Files that are cut off, altered or foreign."""
        return [file for file, error in self.unreadable if isinstance(error, DamagedFileError)]


def survey(folder: SuiteFolder) -> Survey:
    """Look at everything in a suite's folder.

    Raises:
        StoreError: the folder cannot be read.
    """
    read = collect(lambda: folder.superseded_files() + folder.files(), read_slices)
    files = [file for file, _ in read.found]
    slices = [part for _, part in read.found]
    jobs = jobs_of(stack(slices))
    number = jobs["file"].to_numpy(dtype=np.intp)
    aside = np.array([file.place is Place.SUPERSEDED for file in files], dtype=bool)
    jobs = jobs.assign(
        path=[str(files[i].path) for i in number],
        written_version=np.array([part.version for part in slices], dtype=int)[number],
        current=jobs["latest"].to_numpy(dtype=bool) & ~aside[number],
    )
    conflicts, left = folder.conflict_files(), leftovers_below(folder.path)
    everything = [file.path for file in (*files, *(file for file, _ in read.unreadable), *conflicts)]
    return Survey(jobs.drop(columns="latest"), files, read.unreadable, conflicts, left, size_of([*everything, *left]))


def size_of(paths: Iterable[Path]) -> int:
    """Return the size of files that are there, in bytes."""
    total = 0
    for path in paths:
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total


@dataclass(frozen=True)
class Stale:
    """What no table needs, for one reason.

    Attributes:
        why: the reason, in the plural.
        files: files to remove as a whole.
        jobs: keys of jobs to take out of segments, by the segment.
    """

    why: str
    files: Sequence[StoredFile | Path]
    jobs: Mapping[StoredFile, Sequence[str]]

    @property
    def n(self) -> int:
        """Number of jobs or files."""
        return len(self.files) + sum(map(len, self.jobs.values()))

    @property
    def n_bytes(self) -> int:
        """Size of the files that are removed as a whole, in bytes."""
        return size_of(file if isinstance(file, Path) else file.path for file in self.files)


def stale(found: Survey, suite: Suite | None, versions: Mapping[str, int]) -> list[Stale]:
    """List what no table needs: each job and file once, under the first reason that holds.

    Args:
        found: the survey.
        suite: the suite as it is now; None leaves its jobs alone.
        versions: present version of each registered criterion; those of others are left alone.
    """
    jobs = found.jobs
    reasons: list[tuple[str, pd.Series[bool]]] = [("superseded jobs", ~jobs["current"].astype(bool))]
    if suite is not None and len(jobs):
        other = jobs["suite_digest"] != suite.digest
        present = jobs["criterion"].str.removesuffix(TUNED_SUFFIX).map(versions)
        old = present.notna() & (present.astype("Int64") != jobs["criterion_version"]).fillna(False)
        reasons += [
            ("jobs of another version of the suite", other),
            ("jobs of cells that the suite no longer has", ~in_grid(jobs, suite)),
            ("jobs of another version of their criterion", old.astype(bool)),
        ]
    answer, seen = [], np.zeros(len(jobs), dtype=bool)
    for why, holds in reasons:
        answer.append(_stale_jobs(why, jobs[holds.to_numpy(dtype=bool) & ~seen], found.files))
        seen |= holds.to_numpy(dtype=bool)
    answer += [Stale("damaged files", found.damaged, {}), Stale("leftovers of killed writers", found.leftovers, {})]
    return [part for part in answer if part.n]


def _stale_jobs(why: str, jobs: pd.DataFrame, files: Sequence[StoredFile]) -> Stale:
    of_segments: dict[StoredFile, list[str]] = {}
    whole = []
    for number, key in zip(jobs["file"].astype(int), jobs["key"], strict=True):
        if files[number].place is Place.SEGMENT:
            of_segments.setdefault(files[number], []).append(key)
        else:
            whole.append(files[number])
    return Stale(why, whole, of_segments)


def prune(folder: SuiteFolder, parts: Iterable[Stale]) -> int:
    """Remove what is stale, and return how many jobs and files that were.

    A damaged file whose job has run again meanwhile is kept.

    Raises:
        StoreError: the folder cannot be read or written.
    """
    n_removed = 0
    of_segments: dict[StoredFile, set[str]] = {}
    for part in parts:
        paths = [file if isinstance(file, Path) else file.path for file in part.files]
        if part.why == "damaged files":
            paths = [path for path in paths if _is_damaged(path)]
        n_removed += remove_all(paths)
        for file, keys in part.jobs.items():
            of_segments.setdefault(file, set()).update(keys)
    for file, gone in of_segments.items():
        n_removed += len(gone) if _without(folder, file, gone) else 0
    return n_removed


def _is_damaged(path: Path) -> bool:
    try:
        read_table(path)
    except DamagedFileError:
        return True
    except (FileNotFoundError, UnreadableFileError):
        pass
    return False


def _without(folder: SuiteFolder, file: StoredFile, keys: set[str]) -> bool:
    """Replace a segment by one without some jobs; return whether it was still there."""
    try:
        table, _ = read_table(file.path)
    except FileNotFoundError:
        return False
    kept = table.filter(pa.array(~np.isin(table["key"].to_numpy(), list(keys))))
    if len(kept):
        write_segment(kept, folder.new_segment(file.number, _part(file)))
    return remove(file.path)


def migrate_files(folder: SuiteFolder) -> int:
    """Write files of older versions again at the present one, with a seal; return how many that were.

    Raises:
        StoreError: a file is damaged or of a newer version, or the folder cannot be read or written.
    """
    n_written = 0
    read = collect(lambda: folder.superseded_files() + folder.files(), lambda files: [_is_old(file) for file in files])
    read.check(folder.path)
    for file in (file for file, old in read.found if old):
        with contextlib.suppress(FileNotFoundError):
            before = read_bytes(file.path)
            table, _ = read_table(file.path)
            if file.place is Place.SEGMENT:
                write_segment(table, folder.new_segment(file.number, _part(file)))
                remove(file.path)
            else:
                n_written += _rewrite(file, table, before)
                continue
            n_written += 1
    return n_written


def _rewrite(file: StoredFile, table: pa.Table, before: bytes) -> bool:
    """Write a job file again unless it has changed, and return whether it had not."""
    new = file.path.with_name(f"{TEMPORARY}{file.name}")
    key, status = (table[name][0].as_py() if len(table) else "" for name in ("key", "status"))
    if file.cell and len(table["key"].unique()) == 1:
        write_job(table, new, key=key, status=status)
    else:
        write_segment(table, new)
    if read_bytes(file.path) != before:
        remove(new)
        return False
    return move(new, file.path)


def _is_old(file: StoredFile) -> bool | UnreadableFileError | None:
    try:
        data = read_bytes(file.path)
        return check_seal(data, file.path) is None or read_table(file.path, ["key"])[1] < SCHEMA_VERSION
    except FileNotFoundError:
        return None
    except UnreadableFileError as error:
        return error


def _part(file: StoredFile) -> int:
    part = file.name.split("-")[1:2]
    return int(part[0]) if part and part[0].isdigit() else 0
