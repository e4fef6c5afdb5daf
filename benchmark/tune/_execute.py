"""Where searches run: in this process, or in worker processes of their own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from pruneboard.benchmark import plugins
from pruneboard.benchmark.discovery import Source
from pruneboard.benchmark.errors import PruneboardError
from pruneboard.benchmark.foreign import Description
from pruneboard.benchmark.studies import StudyStore
from pruneboard.benchmark.tune._images import Draws, TuningBench
from pruneboard.benchmark.tune._search import (
    Search,
    SearchReport,
    SearchStarted,
    TrialEnded,
    TrialStarted,
    add_trial,
    run_search,
)
from pruneboard.benchmark.workers import Affinity, Death, Place, PoolOptions, run_in_pool

_MOST_ATTEMPTS = 3
"""How often a search is taken up again whose worker was ended from outside between trials."""


def search_in_process(searches: Sequence[Search], store: StudyStore, bench: TuningBench) -> Iterator[SearchReport]:
    """Search one study after the other in this process.

    Raises:
        PruneboardError: it cannot go on; trials that ended before are kept.
    """
    for search in searches:
        yield SearchStarted(search=search)
        yield from run_search(search, store, bench)


def search_in_workers(
    searches: Sequence[Search], store: StudyStore, bench: TuningBench, *, devices: tuple[str, ...], n_threads: int
) -> Iterator[SearchReport]:
    """Search as many studies at a time as there are devices, in processes of `n_threads` CPU threads each.

    A worker that dies takes only its trial with it, which becomes a failed one, and another worker goes on.

    Raises:
        PruneboardError: a worker met something that no other study could mend, such as a full disk.
    """
    body = _SearchBody(store, devices, n_threads, bench.draws, plugins.descriptions())
    return run_in_pool(searches, _Searches(store, body), PoolOptions(n_workers=len(devices)))


@dataclass(frozen=True)
class _SearchBody:
    """What a worker process does with searches."""

    store: StudyStore
    devices: tuple[str, ...]
    n_threads: int
    draws: Draws
    known: Mapping[Source, Description]

    def begin(self, slot: int) -> Callable[[Search], Iterator[SearchReport]]:
        plugins.know(self.known)
        torch.set_num_threads(self.n_threads)
        bench = TuningBench(torch.device(self.devices[slot]), self.draws)
        return lambda search: run_search(search, self.store, bench)


@dataclass(frozen=True)
class _Searches:
    """What the pool asks of searches."""

    store: StudyStore
    body: _SearchBody

    def affinity(self, task: Search) -> Affinity:
        return (task.cell.model,)

    def place(self, task: Search) -> Place:
        return 0, 0.0

    def start_of(self, task: Search) -> SearchReport:
        return SearchStarted(search=task)

    def death_of(self, task: Search, last: SearchReport | None, death: Death) -> SearchReport:
        study = self.store.begin(task.study)
        if not isinstance(last, TrialStarted):
            if death.cause == "outside" and death.n_outside < _MOST_ATTEMPTS:
                return SearchReport(search=task, again=True)
            raise PruneboardError(
                f"a worker must not end between trials, but one did with {death.how}; run again to continue."
            )
        trial = last.trial
        # It may have died after saving the trial and before reporting it.
        if len(study.trials) > trial.number:
            trial = study.trials[trial.number]
        else:
            trial = replace(trial, reason=f"the worker process died with {death.how} during this trial")
            add_trial(study, trial, self.store)
        return TrialEnded(search=task, trial=trial, ends=True, again=True)
