"""Rows on disk: finished jobs in a run folder, tidy CSV tables in a results folder."""

from pruneboard.benchmark.store._files import atomic_file, shown
from pruneboard.benchmark.store._folder import SEGMENTS
from pruneboard.benchmark.store._folding import FOLD_AT
from pruneboard.benchmark.store._format import digest_of, table_of
from pruneboard.benchmark.store._merge import Merged, merge_suite
from pruneboard.benchmark.store._results import JOB_FILE_COLUMNS, POINT_FILE_COLUMNS, ResultsStore, points_and_jobs
from pruneboard.benchmark.store._runs import MARKER, RunStore
from pruneboard.benchmark.store._survey import Stale, Survey, migrate_files, prune, stale, survey
from pruneboard.benchmark.store._tables import concatenate, in_grid

__all__ = [
    "FOLD_AT",
    "JOB_FILE_COLUMNS",
    "MARKER",
    "POINT_FILE_COLUMNS",
    "SEGMENTS",
    "Merged",
    "ResultsStore",
    "RunStore",
    "Stale",
    "Survey",
    "atomic_file",
    "concatenate",
    "digest_of",
    "in_grid",
    "merge_suite",
    "migrate_files",
    "points_and_jobs",
    "prune",
    "shown",
    "stale",
    "survey",
    "table_of",
]
