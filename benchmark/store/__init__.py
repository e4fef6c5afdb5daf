"""Rows on disk: finished jobs in a run folder, tidy CSV tables in a results folder."""

from pruneboard.benchmark.store._files import atomic_file
from pruneboard.benchmark.store._folding import FOLD_AT
from pruneboard.benchmark.store._results import ResultsStore, points_and_jobs
from pruneboard.benchmark.store._runs import RunStore
from pruneboard.benchmark.store._tables import concatenate

__all__ = ["FOLD_AT", "ResultsStore", "RunStore", "atomic_file", "concatenate", "points_and_jobs"]
