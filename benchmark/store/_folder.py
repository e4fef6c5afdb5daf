"""What lies in a suite's part of a run folder, and which of several versions of a cell is its latest.

    SUITE/CELL.KEY.parquet             one finished job
    SUITE/folding/NUMBER-TOKEN/        job files that a process is folding into a segment, or was when it was killed
    SUITE/segments/NUMBER-PART-TOKEN.parquet   many jobs; never changed, only replaced as a whole
    SUITE/superseded/                  job files of cells that were measured again under another key
    SUITE/conflicts/                   job files that disagree with one of the same key from another machine

A cell's latest version is told by places and numbers, never by a clock: a job file is newer than one that is being
folded, and that is newer than any segment. Other folders in `SUITE/` belong to others.
"""

import enum
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pruneboard.benchmark.schema import Job
from pruneboard.benchmark.store._files import entries

KEY_DIGITS = 16
SUFFIX = ".parquet"
FOLDING, SEGMENTS, SUPERSEDED, CONFLICTS = "folding", "segments", "superseded", "conflicts"

_MOST_LOOKS = 100


class Place(enum.IntEnum):
    """Where a file lies; of two versions of a cell, the one in the greater place is newer."""

    SUPERSEDED = 0
    SEGMENT = 1
    FOLDING = 2
    JOB = 3


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A result file of a suite.

    Attributes:
        place: where it lies.
        number: number of the segment or folding it belongs to, 0 otherwise.
        folder: folder.
        name: name in it.
    """

    place: Place
    number: int
    folder: str
    name: str

    @property
    def path(self) -> Path:
        """Path of the file."""
        return Path(self.folder, self.name)

    @property
    def cell(self) -> str:
        """Cell that its name tells, empty when its name is not that of a job file."""
        return _split(self.name)[0]

    @property
    def digits(self) -> str:
        """First digits of the key that its name tells."""
        return _split(self.name)[1]


def cell_of(job: Job) -> str:
    """Return the name of a job's cell in names of files."""
    return cell_name(job.model, job.granularity, job.criterion, job.seed)


def cell_name(model: str, granularity: str, criterion: str, seed: int) -> str:
    """Return the name of a cell in names of files."""
    return f"{model}.{granularity}.{criterion}.{seed}"


def file_name(cell: str, key: str) -> str:
    """Return the name of a job's file."""
    return f"{cell}.{key[:KEY_DIGITS]}{SUFFIX}"


def _split(name: str) -> tuple[str, str]:
    cell, _, digits = name.removesuffix(SUFFIX).rpartition(".")
    return (cell, digits) if len(digits) == KEY_DIGITS and cell.count(".") == 3 else ("", "")


def _token() -> str:
    return secrets.token_hex(4)


class SuiteFolder:
    """The part of a run folder that belongs to one suite.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def has_files(self) -> bool:
        """Return whether there is any file of a job."""
        return bool(self.files() or self.superseded_files() or self.conflict_files())

    def stamp(self) -> tuple[int, ...]:
        """Return what changes when a file comes or goes, up to the resolution of the file system's clock."""
        stamps = []
        for folder in (self.path, *(self.path / name for name in (FOLDING, SEGMENTS, SUPERSEDED))):
            try:
                stamps.append(folder.stat().st_mtime_ns)
            except OSError:
                stamps.append(0)
        return tuple(stamps)

    def job_files(self) -> list[StoredFile]:
        """List job files and those that are being folded, from the oldest version of a cell to the newest."""
        # In the order in which a file moves, so that one that moves meanwhile is met at least once.
        jobs = _parquet_files(self.path, Place.JOB)
        folding = [
            file
            for folder in entries(self.path / FOLDING)
            if folder.is_dir()
            for file in _parquet_files(Path(folder.path), Place.FOLDING, _number(folder.name))
        ]
        folding.sort(key=lambda file: (file.number, file.folder, file.name))
        return folding + _in_order(jobs)

    def segment_files(self) -> list[StoredFile]:
        """List segments, from the oldest to the newest."""
        folder = self.path / SEGMENTS
        found: list[StoredFile] = []
        # A segment that replaces others may be missed together with them by one look, but not by two that agree.
        for _ in range(_MOST_LOOKS):
            before = found
            found = sorted(
                (
                    StoredFile(Place.SEGMENT, _number(file.name), file.folder, file.name)
                    for file in _parquet_files(folder, Place.SEGMENT)
                ),
                key=lambda file: (file.number, file.name),
            )
            if found == before:
                break
        return found

    def files(self) -> list[StoredFile]:
        """List all files that rows are read from, from the oldest version of a cell to the newest."""
        jobs = self.job_files()
        return self.segment_files() + jobs

    def superseded_files(self) -> list[StoredFile]:
        """List the job files that were set aside."""
        return sorted(_parquet_files(self.path / SUPERSEDED, Place.SUPERSEDED), key=lambda file: file.name)

    def conflict_files(self) -> list[StoredFile]:
        """List the job files that disagree with others of the same key."""
        return sorted(_parquet_files(self.path / CONFLICTS, Place.SUPERSEDED), key=lambda file: file.name)

    def job_path(self, cell: str, key: str) -> Path:
        """Return where the file of a finished job belongs."""
        return self.path / file_name(cell, key)

    def aside(self, file: StoredFile) -> Path:
        """Return where a file belongs that is superseded."""
        return self.path / SUPERSEDED / file.name

    def next_number(self) -> int:
        """Return a number for what is newer than every segment and folding there is."""
        folding = [_number(folder.name) for folder in entries(self.path / FOLDING)]
        segments = [file.number for file in self.segment_files()]
        return 1 + max(folding + segments, default=0)

    def new_folding(self, number: int) -> Path:
        """Return the folder of a new folding; nobody else has it."""
        return self.path / FOLDING / f"{number:08d}-{_token()}"

    def new_segment(self, number: int, part: int = 0) -> Path:
        """Return the path of a new segment; nobody else has it."""
        return self.path / SEGMENTS / f"{number:08d}-{part:04d}-{_token()}{SUFFIX}"


def _parquet_files(folder: Path, place: Place, number: int = 0) -> list[StoredFile]:
    path = str(folder)
    return [
        StoredFile(place, number, path, entry.name)
        for entry in entries(folder)
        if entry.name.endswith(SUFFIX) and not entry.name.startswith(".") and entry.is_file()
    ]


def _number(name: str) -> int:
    number = name.partition("-")[0]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 12 else 0


def _in_order(jobs: Sequence[StoredFile]) -> list[StoredFile]:
    """Sort job files by name, and several of one cell by when they were written; foreign names come first."""
    by_name = sorted(jobs, key=lambda file: file.name)
    split = [_split(file.name) for file in by_name]
    n_of_cell: dict[str, int] = {}
    for cell, _ in split:
        n_of_cell[cell] = n_of_cell.get(cell, 0) + 1
    if len(n_of_cell) == len(by_name) and "" not in n_of_cell:
        return by_name
    written = [_written(file) if n_of_cell[cell] > 1 else 0 for file, (cell, _) in zip(by_name, split, strict=True)]
    order = sorted(range(len(by_name)), key=lambda i: (bool(split[i][0]), written[i], by_name[i].name))
    return [by_name[i] for i in order]


def _written(file: StoredFile) -> int:
    try:
        return file.path.stat().st_mtime_ns
    except OSError:
        return 0
