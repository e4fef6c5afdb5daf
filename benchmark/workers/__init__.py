"""A pool of worker processes that outlives the death of any of them."""

from pruneboard.benchmark.workers._log import TaskLog
from pruneboard.benchmark.workers._pool import POSTPONED_SECONDS, PoolOptions, Stop, run_in_pool
from pruneboard.benchmark.workers._queue import TaskQueue
from pruneboard.benchmark.workers._tree import adopt_orphans, kill_descendants
from pruneboard.benchmark.workers._work import Affinity, Body, Cause, Death, Limits, Place, Report, Work

__all__ = [
    "POSTPONED_SECONDS",
    "Affinity",
    "Body",
    "Cause",
    "Death",
    "Limits",
    "Place",
    "PoolOptions",
    "Report",
    "Stop",
    "TaskLog",
    "TaskQueue",
    "Work",
    "adopt_orphans",
    "kill_descendants",
    "run_in_pool",
]
