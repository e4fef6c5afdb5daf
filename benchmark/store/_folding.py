"""Folding job files into segments: many jobs in one file, so that a hundred thousand are read in seconds.

Any process may be killed at any moment, and others may fold, save and read meanwhile:

1. Job files are moved, one rename each, into a folder that nobody else has. Of two processes that want one file, one
   gets it, and a job that is saved again meanwhile is a new file at the old place.
2. What is there is written as one segment, which appears whole or not at all.
3. Only then the moved files are removed.

Until the last step readers find the jobs in either place, and drop doubles. A folding that was killed is taken over by
the next, which moves its files once more.
"""

from collections.abc import Sequence

from pruneboard.benchmark.errors import UnreadableFileError
from pruneboard.benchmark.store._files import move, remove_all, remove_folder_if_empty, sync_folder
from pruneboard.benchmark.store._folder import SEGMENTS, Place, StoredFile, SuiteFolder
from pruneboard.benchmark.store._format import read_seal, read_table, write_segment
from pruneboard.benchmark.store._reading import collect, read_slices, stack
from pruneboard.benchmark.store._tables import distinct_jobs

FOLD_AT = 1000
"""Job files from which on folding them is worth it."""

JOBS_PER_SEGMENT = 5000


def fold(folder: SuiteFolder, *, at_least: int = FOLD_AT) -> int:
    """Fold job files into segments, and return how many that were.

    Files that cannot be used stay where they are, for readers to name.

    Args:
        folder: the suite's folder.
        at_least: do nothing when there are fewer.

    Raises:
        StoreError: the folder cannot be read or written.
    """
    files = folder.job_files()
    if len(files) < max(1, at_least):
        return 0
    latest = _latest_versions(folder, [file for file in files if file.cell])
    starts = range(0, len(latest), JOBS_PER_SEGMENT)
    return sum(_fold(folder, latest[start : start + JOBS_PER_SEGMENT]) for start in starts)


def compact(folder: SuiteFolder) -> int:
    """Write all segments as few large ones, without jobs that were measured again; return how many there are then.

    Where another process is compacting them already, that one does.

    Raises:
        StoreError: a segment is damaged, or the folder cannot be read or written.
    """
    before = folder.segment_files()
    if len(before) < 2:
        return len(before)
    read = collect(lambda: [file for file in before if file.path.exists()], read_slices)
    read.check(folder.path)
    # What is left of them may be older than what replaced the others, and must not come after it.
    if len(read.found) < len(before):
        return len(folder.segment_files())
    tables = distinct_jobs(stack([part for _, part in read.found]), JOBS_PER_SEGMENT)
    # They are as new as the newest of what they replace, and no newer than what is folded meanwhile. The last part goes
    # first: were it missing, an older version of a cell in another part would come after the present one.
    for part, table in reversed(list(enumerate(tables, start=1))):
        write_segment(table, folder.new_segment(before[-1].number, part))
    sync_folder(folder.path / SEGMENTS)
    remove_all([file.path for file in before])
    return len(tables)


def _latest_versions(folder: SuiteFolder, files: Sequence[StoredFile]) -> list[StoredFile]:
    """Return the files of each cell's latest key, oldest first, after those of other keys were set aside."""
    latest = {file.cell: file.digits for file in files}
    for file in files:
        if file.digits != latest[file.cell]:
            move(file.path, folder.aside(file))
    return [file for file in files if file.digits == latest[file.cell]]


def _fold(folder: SuiteFolder, files: Sequence[StoredFile]) -> int:
    number = folder.next_number()
    own = folder.new_folding(number)
    # What was saved again takes the place of what an earlier folding had moved.
    names = dict.fromkeys(file.name for file in files if _is_whole(file) and move(file.path, own / file.name))
    moved = [StoredFile(Place.FOLDING, number, str(own), name) for name in names]
    if not moved:
        return 0
    read = collect(lambda: [file for file in moved if file.path.exists()], read_slices)
    if read.found:
        # A copied file must not double its rows.
        for part, table in enumerate(distinct_jobs(stack([part for _, part in read.found]), JOBS_PER_SEGMENT)):
            write_segment(table, folder.new_segment(number, part))
        sync_folder(folder.path / SEGMENTS)
    remove_all([file.path for file, _ in read.found])
    for emptied in (own, *{file.path.parent for file in files if file.place is Place.FOLDING}, own.parent):
        remove_folder_if_empty(emptied)
    return len(read.found)


def _is_whole(file: StoredFile) -> bool:
    try:
        if read_seal(file.path) is None:
            read_table(file.path)
    except (FileNotFoundError, UnreadableFileError):
        return False
    return True
