"""Reading many files at once, while others fold, replace and remove them."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pruneboard.benchmark.errors import StoreError, UnreadableFileError
from pruneboard.benchmark.store._files import shown
from pruneboard.benchmark.store._folder import Place, StoredFile
from pruneboard.benchmark.store._format import READ_SCHEMA, read_table

T = TypeVar("T")
Indices = npt.NDArray[np.intp]

_MOST_LOOKS = 100
_MOST_THREADS = 8
_BATCH = 256


@dataclass(frozen=True)
class Collected(Generic[T]):
    """What was read from files.

    Attributes:
        found: files with what was read, in the order of the files.
        unreadable: files that could not be used, in the order of the files.
    """

    found: Sequence[tuple[StoredFile, T]]
    unreadable: Sequence[tuple[StoredFile, UnreadableFileError]]

    def check(self, folder: Path) -> None:
        """Check that every file could be used.

        Raises:
            StoreError: not so; the message names all that could not.
        """
        if len(self.unreadable) == 1:
            raise self.unreadable[0][1]
        if self.unreadable:
            named = ", ".join(f"`{shown(file.path)}` is damaged ({error.why})" for file, error in self.unreadable)
            raise StoreError(
                f"job files must be whole, but in `{shown(folder)}` {len(self.unreadable)} are not: {named}; run the "
                "suite again, which repeats only the jobs that are lost, and remove what stays damaged with "
                "`pruneboard runs prune`."
            )


@dataclass(frozen=True, slots=True)
class Slice:
    """The rows of one file, in a table with those of others.

    Attributes:
        table: rows of several files, because a table of its own for each would take more memory than what is in it.
        start: first row of the file.
        n_rows: number of its rows.
        version: version of the schema that the file was written in.
    """

    table: pa.Table
    start: int
    n_rows: int
    version: int


@dataclass(frozen=True)
class Stack:
    """Rows of many files.

    Attributes:
        table: all rows, in no order.
        rows: places in `table` of the rows that count, (n_rows,), those of the oldest file first.
        file: number of the file of each of these, (n_rows,), never falling.
    """

    table: pa.Table
    rows: Indices
    file: Indices


def collect(
    list_files: Callable[[], list[StoredFile]],
    read: Callable[[Sequence[StoredFile]], Sequence[T | UnreadableFileError | None]],
) -> Collected[T]:
    """Read files that others may fold, replace or remove meanwhile.

    A file that is gone has moved, so its folder is listed again; what was read before is kept.

    Args:
        list_files: lists the files.
        read: reads some, None for one that is gone; called from several threads.

    Raises:
        StoreError: a file or folder cannot be read, or files keep moving.
    """
    known: dict[StoredFile, T | UnreadableFileError] = {}
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as threads:
        for _ in range(_MOST_LOOKS):
            files = list_files()
            batches = list(_batches([file for file in files if file not in known]))
            gone = False
            for batch, values in zip(batches, threads.map(read, batches), strict=True):
                known.update((file, value) for file, value in zip(batch, values, strict=True) if value is not None)
                gone |= any(value is None for value in values)
            if not gone:
                break
        else:
            folder = shown(files[0].folder)
            raise StoreError(f"files of `{folder}` keep moving; stop what folds or prunes them, and try again.")
    answers = [(file, known[file]) for file in files]
    return Collected(
        [(file, value) for file, value in answers if not isinstance(value, UnreadableFileError)],
        [(file, value) for file, value in answers if isinstance(value, UnreadableFileError)],
    )


def read_slices(files: Sequence[StoredFile]) -> Sequence[Slice | UnreadableFileError | None]:
    """Read the rows of some files into one table, for `collect`."""
    read = [read_or_error(file, read_table) for file in files]
    tables = [value[0] for value in read if isinstance(value, tuple)]
    merged = tables[0] if len(tables) == 1 else pa.concat_tables(tables or [READ_SCHEMA.empty_table()])
    if len(tables) > 1:
        merged = merged.unify_dictionaries().combine_chunks()
    slices: list[Slice | UnreadableFileError | None] = []
    start = 0
    for value in read:
        if isinstance(value, tuple):
            table, version = value
            slices.append(Slice(merged, start, len(table), version))
            start += len(table)
        else:
            slices.append(value)
    return slices


def read_or_error(file: StoredFile, read: Callable[[Path], T]) -> T | UnreadableFileError | None:
    """Return what is read from a file, the error when it cannot be used, or None when it is gone."""
    try:
        return read(file.path)
    except FileNotFoundError:
        return None
    except UnreadableFileError as error:
        return error


def stack(slices: Sequence[Slice]) -> Stack:
    """Return rows of files as one stack; the oldest file comes first."""
    tables = {id(part.table): part.table for part in slices}
    offsets = dict(zip(tables, np.cumsum([0, *(len(table) for table in tables.values())]).tolist(), strict=False))
    starts = np.array([offsets[id(part.table)] + part.start for part in slices], dtype=np.intp)
    n_rows = np.array([part.n_rows for part in slices], dtype=np.intp)
    file = np.repeat(np.arange(len(slices)), n_rows)
    within = np.arange(len(file)) - np.repeat(np.cumsum(n_rows) - n_rows, n_rows)
    table = pa.concat_tables(tables.values()) if tables else READ_SCHEMA.empty_table()
    return Stack(table, starts[file] + within, file)


def _batches(files: Sequence[StoredFile]) -> Iterator[Sequence[StoredFile]]:
    # Segments are large: one each.
    start = 0
    while start < len(files):
        n_files = 1 if files[start].place is Place.SEGMENT else _BATCH
        yield files[start : start + n_files]
        start += n_files
