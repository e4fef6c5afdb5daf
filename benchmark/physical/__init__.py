"""Physically smaller networks: units cut out, compared with the masked network, and written to be used without us."""

from pruneboard.benchmark.physical._build import Pruned, prune_coupled, prune_exactly
from pruneboard.benchmark.physical._files import Targets, check_targets, read_facts, targets_of, write
from pruneboard.benchmark.physical._jobs import Scored, build, facts_of, score
from pruneboard.benchmark.physical._records import Facts, Form
from pruneboard.benchmark.physical._speed import Latency, Timing, time_in_turns
from pruneboard.benchmark.physical._surgery import Removal

__all__ = [
    "Facts",
    "Form",
    "Latency",
    "Pruned",
    "Removal",
    "Scored",
    "Targets",
    "Timing",
    "build",
    "check_targets",
    "facts_of",
    "prune_coupled",
    "prune_exactly",
    "read_facts",
    "score",
    "targets_of",
    "time_in_turns",
    "write",
]
