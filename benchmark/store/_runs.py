"""The finished jobs of a run folder."""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pruneboard.benchmark.errors import DamagedFileError, StoreError, UnreadableFileError
from pruneboard.benchmark.schema import SCHEMA_VERSION, Job, Row
from pruneboard.benchmark.store._files import atomic_file, entries, move, remove_leftovers, shown
from pruneboard.benchmark.store._folder import (
    KEY_DIGITS,
    Place,
    StoredFile,
    SuiteFolder,
    cell_name,
    cell_of,
)
from pruneboard.benchmark.store._folding import FOLD_AT, compact, fold
from pruneboard.benchmark.store._format import digest_of, read_seal, read_table, table_of, write_job
from pruneboard.benchmark.store._reading import collect, read_or_error, read_slices, stack
from pruneboard.benchmark.store._tables import frame_of

MARKER = ".pruneboard-run"
"""File that tells a run folder from any other."""

_SETTLED_SECONDS = 0.05
_MOST_LOOKS = 100


@dataclass(frozen=True, slots=True)
class _Version:
    """One key of a cell; `status` is None while only its file knows it."""

    digits: str
    file: StoredFile
    key: str = ""
    status: str | None = None


class RunStore:
    """The finished jobs of a run folder; a file appears only when its job is complete.

    A job's file is named after its cell and key. When a cell was measured under several keys, because its criterion,
    data or suite changed, the files of the others are set aside in `superseded/` and come back when their key does.
    Any number of processes may save, read and fold at once. One that is sent to another process looks afresh there.

    Args:
        folder: run folder; made when the first job is saved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._beside: dict[str, dict[str, list[StoredFile]]] = {}
        self._looks: dict[str, _Look] = {}
        self._segments: dict[StoredFile, list[tuple[str, _Version]]] = {}

    def __reduce__(self) -> tuple[type["RunStore"], tuple[Path]]:
        return RunStore, (self.folder,)

    def path(self, job: Job, key: str) -> Path:
        """Return the file of a job, before it is folded."""
        return self.suite_folder(job.suite.name).job_path(cell_of(job), key)

    def suite_folder(self, suite: str) -> SuiteFolder:
        """Return the part of the folder that belongs to a suite."""
        return SuiteFolder(self.folder / suite)

    def suites(self) -> list[str]:
        """Return the names of the suites that have files of jobs, sorted.

        Raises:
            StoreError: the folder cannot be read.
        """
        folders = [entry.name for entry in entries(self.folder) if entry.is_dir() and not entry.name.startswith(".")]
        return sorted(name for name in folders if self.suite_folder(name).has_files())

    def prepare(self) -> None:
        """Check before any work that the folder can be written, and remove what killed writers left long ago.

        Raises:
            StoreError: it cannot.
        """
        with atomic_file(self.folder / MARKER) as temporary:
            temporary.write_text(f"schema {SCHEMA_VERSION}\n", encoding="utf-8")
        for folder in (self.folder, *(self.folder / name for name in self.suites())):
            remove_leftovers(folder)

    def save(self, job: Job, rows: Sequence[Row]) -> Path:
        """Write the rows of one job at once; it becomes the one that tables show for its cell.

        Raises:
            StoreError: the folder cannot be written.
        """
        return self.put(job.suite.name, cell_of(job), table_of(rows))

    def put(self, suite: str, cell: str, rows: pa.Table) -> Path:
        """Write the rows of one job as `save` does.

        Raises:
            StoreError: the folder cannot be written.
        """
        key, status = (rows[name][0].as_py() for name in ("key", "status"))
        path = self.suite_folder(suite).job_path(cell, key)
        write_job(rows, path, key=key, status=status)
        beside = self._files_beside(suite)
        own = StoredFile(Place.JOB, 0, str(path.parent), path.name)
        self._set_aside(suite, [file for file in beside.get(cell, ()) if file.digits != own.digits])
        beside[cell] = [own]
        return path

    def status(self, job: Job, key: str) -> str | None:
        """Return the status of a finished job, or None when it has not run or its file is damaged.

        A finished job becomes the one that tables show for its cell. To ask for many, ask for all `statuses` at once.

        Raises:
            StoreError: the folder cannot be read or written, or a newer version of pruneboard wrote the file.
        """
        return self.statuses([(job, key)])[0]

    def status_of_file(self, job: Job, key: str) -> str | None:
        """Return the status that a job's own file holds, None where it has none, or a damaged one; nothing is moved.

        Raises:
            StoreError: the file cannot be read, or a newer version of pruneboard wrote it.
        """
        try:
            known, status = _key_and_status(self.path(job, key))
        except (FileNotFoundError, DamagedFileError):
            return None
        return status if known == key else None

    def statuses(self, asked: Sequence[tuple[Job, str]], *, touch: bool = True) -> list[str | None]:
        """Return what `status` returns of each job and key, from one look at the folder.

        Args:
            asked: jobs with their keys.
            touch: whether finished jobs become those that tables show; False moves nothing.

        Raises:
            StoreError: the folder cannot be read or written, or a newer version of pruneboard wrote a file.
        """
        answers: dict[int, str | None] = {}
        for _ in range(_MOST_LOOKS):
            todo = [number for number in range(len(asked)) if number not in answers]
            if not todo:
                return [answers[number] for number in range(len(asked))]
            looks = {name: self._versions(name) for name in {asked[number][0].suite.name for number in todo}}
            wanted: dict[StoredFile, dict[str, tuple[int, Path]]] = {}
            changed: set[tuple[str, str]] = set()
            for number in todo:
                job, key = asked[number]
                cell = cell_of(job)
                # What other files are there of a cell that was changed just now is to be looked up again.
                if (job.suite.name, cell) in changed:
                    continue
                # A file that is gone was moved by another process, and is looked for again.
                with contextlib.suppress(FileNotFoundError):
                    versions = looks[job.suite.name].get(cell, ())
                    version = _finished(versions, key)
                    if version and touch and self._make_latest(job, version, versions):
                        changed.add((job.suite.name, cell))
                    if version and touch and _is_outdone(version, versions):
                        wanted.setdefault(version.file, {})[key] = (number, self.path(job, key))
                    answers[number] = version.status if version else None
            for number in self._bring_back(wanted):
                del answers[number]
            if changed or wanted or len(answers) < len(asked):
                self._looks.clear()
                self._beside.clear()
        raise StoreError(f"files of `{shown(self.folder)}` keep moving; stop what folds or prunes them, and try again.")

    def read(self, suite: str) -> pd.DataFrame:
        """Read all rows of a suite but the superseded ones, sorted.

        Texts of provenance are categories, because a million rows would not fit otherwise.

        Raises:
            StoreError: files are damaged, foreign, or of a newer version; the message names all of them.
        """
        folder = self.suite_folder(suite)
        read = collect(folder.files, read_slices)
        read.check(folder.path)
        return frame_of(stack([part for _, part in read.found]))

    def unclean(self, suite: str) -> set[str]:
        """Return the keys of jobs whose rows were measured with code that no commit holds.

        Raises:
            StoreError: the folder cannot be read.
        """
        found = collect(self.suite_folder(suite).files, lambda files: [read_or_error(f, _cleanness) for f in files])
        latest = {key: clean for _, jobs in found.found for key, clean in jobs.items()}
        return {key for key, clean in latest.items() if not clean}

    def digests(self, suite: str, keys: Iterable[str]) -> dict[str, str]:
        """Return `digest_of` the rows of those of the jobs that are there and not superseded, by key.

        Raises:
            StoreError: the folder cannot be read.
        """
        wanted = pa.array(list(keys), pa.string())
        found = collect(
            self.suite_folder(suite).files,
            lambda files: [read_or_error(file, lambda path: _digests(path, wanted)) for file in files],
        )
        return {key: digest for _, jobs in found.found for key, digest in jobs.items()}

    def fold(self, suite: str, *, at_least: int = FOLD_AT) -> int:
        """Fold job files into segments when there are many, and return how many that were.

        Listing the folder is all it costs while there are few. It may be called at any time and by several at once.

        Raises:
            StoreError: the folder cannot be read or written.
        """
        self._looks.pop(suite, None)
        self._beside.pop(suite, None)
        return fold(self.suite_folder(suite), at_least=at_least)

    def compact(self, suite: str) -> int:
        """Fold all job files, and all segments into few large ones; return how many segments there are then.

        Raises:
            StoreError: a segment is damaged, or the folder cannot be read or written.
        """
        self.fold(suite, at_least=1)
        return compact(self.suite_folder(suite))

    def _make_latest(self, job: Job, version: _Version, versions: Sequence[_Version]) -> bool:
        """Set the files of a cell's other keys aside, and return whether anything changed."""
        aside = [v.file for v in versions if v.digits != version.digits and v.file.place >= Place.FOLDING]
        if version.file.place is Place.SUPERSEDED and not move(version.file.path, self.path(job, version.key)):
            raise FileNotFoundError
        self._set_aside(job.suite.name, aside)
        return bool(aside) or version.file.place is Place.SUPERSEDED

    def _bring_back(self, wanted: Mapping[StoredFile, Mapping[str, tuple[int, Path]]]) -> Iterator[int]:
        """Write jobs of segments as job files, which are newer than any segment; yield those that are gone."""
        for file, jobs in wanted.items():
            try:
                table, _ = read_table(file.path)
            except FileNotFoundError:
                yield from (number for number, _ in jobs.values())
                continue
            rows = table.filter(pc.is_in(table["key"], pa.array(list(jobs))))
            firsts = _first_rows(rows)
            for first, end in zip(firsts, [*firsts[1:], len(rows)], strict=True):
                key, status = (rows[name][first].as_py() for name in ("key", "status"))
                write_job(rows.slice(first, end - first), jobs[key][1], key=key, status=status)

    def _set_aside(self, suite: str, files: Iterable[StoredFile]) -> None:
        folder = self.suite_folder(suite)
        for file in files:
            move(file.path, folder.aside(file))

    def _files_beside(self, suite: str) -> dict[str, list[StoredFile]]:
        """Return the job files of each cell, as they were when this was asked first."""
        if suite not in self._beside:
            found: dict[str, list[StoredFile]] = {}
            for file in self.suite_folder(suite).job_files():
                found.setdefault(file.cell, []).append(file)
            self._beside[suite] = found
        return self._beside[suite]

    def _versions(self, suite: str) -> dict[str, list[_Version]]:
        """Return the versions of each cell, oldest first."""
        folder = self.suite_folder(suite)
        look = self._looks.get(suite)
        stamp = folder.stamp()
        if look is None or look.stamp != stamp or not look.settled:
            seen = look.seen if look is not None and look.stamp == stamp else time.monotonic()
            # A file that comes right after may leave the same stamp, so such a look is not relied on.
            settled = time.monotonic() - seen > _SETTLED_SECONDS
            look = _Look(stamp, seen, settled, self._look(folder))
            self._looks[suite] = look
        return look.versions

    def _look(self, folder: SuiteFolder) -> dict[str, list[_Version]]:
        versions: dict[str, list[_Version]] = {}
        for file in folder.superseded_files():
            versions.setdefault(file.cell, []).append(_Version(file.digits, file))
        jobs = folder.job_files()
        for cell, version in self._versions_in_segments(folder):
            versions.setdefault(cell, []).append(version)
        for file in jobs:
            versions.setdefault(file.cell, []).append(_Version(file.digits, file))
        return versions

    def _versions_in_segments(self, folder: SuiteFolder) -> Iterator[tuple[str, _Version]]:
        todo = folder.segment_files
        unknown = collect(lambda: [file for file in todo() if file not in self._segments], _read_jobs)
        for file, jobs in unknown.found:
            self._segments[file] = [(cell, _Version(key[:KEY_DIGITS], file, key, status)) for cell, key, status in jobs]
        for file, error in unknown.unreadable:
            if not isinstance(error, DamagedFileError):
                raise error
            # Its jobs have to run again; whoever reads rows is told.
            self._segments[file] = []
        for file in todo():
            yield from self._segments.get(file, ())


@dataclass(frozen=True)
class _Look:
    """What one look at a suite's folder found."""

    stamp: tuple[int, ...]
    seen: float
    settled: bool
    versions: dict[str, list[_Version]]


def _finished(versions: Sequence[_Version], key: str) -> _Version | None:
    """Return the newest version of a key with its status, None when there is none or its file is damaged.

    Raises:
        FileNotFoundError: its file is gone.
        NewerFileError: a newer version of pruneboard wrote it.
    """
    own = [version for version in versions if version.digits == key[:KEY_DIGITS]]
    if not own:
        return None
    latest = own[-1]
    if latest.status is None:
        try:
            known, status = _key_and_status(latest.file.path)
        except DamagedFileError:
            return None
        latest = replace(latest, key=known, status=status)
    return latest if latest.key == key else None


def _key_and_status(path: Path) -> tuple[str, str]:
    seal = read_seal(path)
    if seal is not None and seal.status:
        return seal.key, seal.status
    rows, _ = read_table(path, ["key", "status"])
    return (str(rows["key"][0].as_py()), str(rows["status"][0].as_py())) if len(rows) else ("", "")


def _is_outdone(version: _Version, versions: Sequence[_Version]) -> bool:
    """Return whether a version is in a segment, and a newer segment has another key of the cell."""
    if version.file.place is not Place.SEGMENT:
        return False
    segments = [other for other in versions if other.file.place is Place.SEGMENT]
    return segments[-1].digits != version.digits


def _read_jobs(
    files: Sequence[StoredFile],
) -> Sequence[list[tuple[str, str, str]] | UnreadableFileError | None]:
    return [read_or_error(file, _jobs_of) for file in files]


def _jobs_of(path: Path) -> list[tuple[str, str, str]]:
    """Read cell, key and status of the jobs of a segment, in their order."""
    rows, _ = read_table(path, ["key", "status", "model", "granularity", "criterion", "seed"])
    jobs = rows.take(pa.array(_first_rows(rows))).to_pydict()
    cells = map(cell_name, *(jobs[name] for name in ("model", "granularity", "criterion", "seed")))
    return list(zip(cells, jobs["key"], jobs["status"], strict=True))


def _cleanness(path: Path) -> dict[str, bool]:
    rows, _ = read_table(path, ["key", "clean"])
    return dict(zip(rows["key"].to_pylist(), rows["clean"].to_pylist(), strict=True))


def _digests(path: Path, keys: pa.Array) -> dict[str, str]:
    rows, _ = read_table(path)
    rows = rows.filter(pc.is_in(rows["key"].cast(pa.string()), keys))
    firsts = _first_rows(rows)
    parts = [rows.slice(first, end - first) for first, end in zip(firsts, [*firsts, len(rows)][1:], strict=True)]
    return {part["key"][0].as_py(): digest_of(part) for part in parts}


def _first_rows(rows: pa.Table) -> list[int]:
    """Return the first row of each job of rows that are in the order of their jobs."""
    key = rows["key"].combine_chunks()
    codes = (key.chunk(0) if isinstance(key, pa.ChunkedArray) else key).indices.to_numpy()
    return np.flatnonzero(np.diff(codes, prepend=-1)).tolist() if len(rows) else []
