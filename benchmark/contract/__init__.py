"""Whether a criterion keeps its contract: checks on tiny networks of every family, for authors and their tests."""

from pruneboard.benchmark.contract._check import Outcome, check_criterion, failures
from pruneboard.benchmark.contract._cost import Cost, measure_cost
from pruneboard.benchmark.contract._isolated import check_isolated
from pruneboard.benchmark.contract._networks import NETWORKS, draw_norm, images, tiny_network
from pruneboard.benchmark.contract._permutation import permuted

__all__ = [
    "NETWORKS",
    "Cost",
    "Outcome",
    "check_criterion",
    "check_isolated",
    "draw_norm",
    "failures",
    "images",
    "measure_cost",
    "permuted",
    "tiny_network",
]
