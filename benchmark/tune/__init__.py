"""Tuning: searching over a criterion's parameters on images that no leaderboard is measured on."""

from pruneboard.benchmark.tune._execute import search_in_process, search_in_workers
from pruneboard.benchmark.tune._images import MOST_IMAGES, Draws, TuningBench
from pruneboard.benchmark.tune._objective import Cell
from pruneboard.benchmark.tune._propose import SAMPLERS, Sampler
from pruneboard.benchmark.tune._search import (
    Budget,
    Search,
    SearchEnded,
    SearchReport,
    SearchStarted,
    TrialEnded,
    TrialStarted,
    is_done,
    prepare,
)

__all__ = [
    "MOST_IMAGES",
    "SAMPLERS",
    "Budget",
    "Cell",
    "Draws",
    "Sampler",
    "Search",
    "SearchEnded",
    "SearchReport",
    "SearchStarted",
    "TrialEnded",
    "TrialStarted",
    "TuningBench",
    "is_done",
    "prepare",
    "search_in_process",
    "search_in_workers",
]
