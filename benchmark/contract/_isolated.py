"""The checks in worker processes, so that a criterion that hangs or ends its process is told as well."""

import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pruneboard.benchmark import plugins
from pruneboard.benchmark.contract._check import Outcome, check_criterion
from pruneboard.benchmark.contract._cost import Cost, measure_cost
from pruneboard.benchmark.contract._networks import NETWORKS
from pruneboard.benchmark.process import ProcessState
from pruneboard.benchmark.workers import Affinity, Death, Limits, Place, PoolOptions, Report, run_in_pool

COST = "cost"
"""What stands in the place of a network where the cost is measured."""

_SECONDS = 30.0
_BYTES = 4 * 2**30


@dataclass(frozen=True)
class _Task:
    """Checks of one criterion on one network, or the measurement of its cost."""

    criterion: str
    network: str


@dataclass(frozen=True, kw_only=True)
class Checked(Report):
    """What came of a criterion on one network.

    Attributes:
        criterion: its registered name.
        network: kind of network, or `COST`.
        outcomes: of the checks.
        cost: what it costs, where that was measured.
    """

    criterion: str
    network: str
    outcomes: tuple[Outcome, ...] = ()
    cost: Cost | None = None


def check_isolated(names: Sequence[str], *, n_workers: int = 1, seconds: float = _SECONDS) -> Iterator[Checked]:
    """Check criteria in worker processes, network by network, and measure what each costs.

    Args:
        names: registered names.
        n_workers: processes at a time.
        seconds: time that the checks on one network may take, in s.
    """
    tasks = [_Task(name, network) for name in names for network in (*NETWORKS, COST)]
    with tempfile.TemporaryDirectory(prefix="pruneboard-") as folder:

        def log_of(task: _Task) -> Path:
            return Path(folder) / f"{task.criterion}.{task.network}.log"

        options = PoolOptions(n_workers=n_workers, limits=Limits(seconds=seconds, n_bytes=_BYTES), log_of=log_of)
        for report in run_in_pool(tasks, _Checks(seconds), options):
            if report.ends:
                yield report


class _Body:
    """What a worker does."""

    def begin(self, slot: int) -> Callable[[_Task], Iterator[Checked]]:
        torch.set_num_threads(1)
        return _check


def _check(task: _Task) -> Iterator[Checked]:
    criterion, state = plugins.own_criterion(task.criterion), ProcessState()
    report = functools.partial(Checked, criterion=task.criterion, network=task.network)
    try:
        if task.network == COST:
            yield report(cost=measure_cost(criterion))
        else:
            yield report(outcomes=tuple(check_criterion(criterion, [task.network])))
    # What the checks on networks say already.
    except Exception:
        if task.network != COST:
            raise
        yield report()
    finally:
        state.restore()


class _Checks:
    """What the pool asks of tasks."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.body = _Body()

    def affinity(self, task: _Task) -> Affinity:
        return (task.criterion,)

    def place(self, task: _Task) -> Place:
        return [*NETWORKS, COST].index(task.network), 0.0

    def start_of(self, task: _Task) -> Checked | None:
        return Checked(ends=False, criterion=task.criterion, network=task.network)

    def death_of(self, task: _Task, last: Checked | None, death: Death) -> Checked:
        outcomes = () if task.network == COST else (Outcome("scores", task.network, "failed", self._why(death)),)
        return Checked(criterion=task.criterion, network=task.network, outcomes=outcomes)

    def _why(self, death: Death) -> str:
        if death.cause == "time":
            return (
                f"the checks on a tiny network must end within {self._seconds:g} s, but they had not; look for a "
                "loop that does not end."
            )
        if death.cause == "memory":
            return (
                f"the checks on a tiny network must hold less than {_BYTES / 1e9:.1f} GB, but held "
                f"{death.n_bytes / 1e9:.1f} GB; look for tensors that grow with something else than images and units."
            )
        return f"scoring must not end its process, but it died with {death.how}; raise an exception with the reason."
