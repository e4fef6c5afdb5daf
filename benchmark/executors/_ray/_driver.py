"""The driver of a run on a Ray cluster: it gives jobs to workers, stores their rows, and outlives the loss of nodes."""

import contextlib
import dataclasses
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
import ray.exceptions

from pruneboard.benchmark import plugins, provenance
from pruneboard.benchmark.errors import PruneboardError
from pruneboard.benchmark.executors._agenda import Agenda, Task
from pruneboard.benchmark.executors._events import Event, Finished, Returned
from pruneboard.benchmark.executors._local import MOST_ATTEMPTS, affinity_of, finished, too_long
from pruneboard.benchmark.executors._ray import RayOptions
from pruneboard.benchmark.executors._ray._cluster import Cluster, connected
from pruneboard.benchmark.executors._ray._code import stage_code
from pruneboard.benchmark.executors._ray._files import needed_files
from pruneboard.benchmark.executors._ray._parcels import Outbox
from pruneboard.benchmark.executors._ray._worker import Greeting, Worker
from pruneboard.benchmark.runner import Workbench, make_row
from pruneboard.benchmark.schema import Row
from pruneboard.benchmark.workers import POSTPONED_SECONDS, TaskQueue

_MOST_STARTS = 3
"""Workers that may be lost on a node, one after the other, before any of them came up."""

_MOST_SKIPPED = 100
"""Tasks in a row that turn out to need no worker before the other workers are looked after."""

_WAIT_SECONDS = 1.0
_LOOK_SECONDS = 2.0
_READY_SECONDS = 30.0
"""How long the first job waits for all workers to come up."""

# The libraries whose versions are in every row, but for Python's: Ray itself refuses nodes of another one.
_LIBRARIES = ("torch", "timm", "zennit")

State = Literal["greeting", "preparing", "idle", "working"]


class _LostError(PruneboardError):
    """A worker is gone; its message says how."""


def run(agenda: Agenda, bench: Workbench, options: RayOptions) -> Iterator[Event]:
    """Run jobs on a cluster; see `run_on_ray`."""
    with tempfile.TemporaryDirectory(prefix="pruneboard-") as folder:
        package, code = stage_code(Path(folder))
        with connected(options.address, package) as cluster:
            yield from _Run(agenda, bench, options, cluster, code).events()


@dataclass(eq=False)
class _Slot:
    """A worker of the run.

    Attributes:
        node: Ray's name of its node.
        actor: its handle.
        state: what it does.
        reply: what it will answer; None when it is idle.
        greeting: what it said of itself, once it did.
        task: what it works on, while it does.
        since: when it was given the task, by the monotonic clock.
    """

    node: str
    actor: Any
    state: State
    reply: "ray.ObjectRef[Any] | None"
    greeting: Greeting | None = None
    task: Task | None = None
    since: float = 0.0


class _Run:
    """The state of a run.

    Args:
        agenda: what is to be run.
        bench: where this process looks up data sets and keys.
        options: how to run.
        cluster: where to.
        code: digest of the code that workers must run.
    """

    def __init__(
        self,
        agenda: Agenda,
        bench: Workbench,
        options: RayOptions,
        cluster: Cluster,
        code: str,
    ) -> None:
        self._agenda, self._bench, self._options, self._cluster, self._code = agenda, bench, options, cluster, code
        self._queue: TaskQueue[Task] = TaskQueue()
        for task in agenda.tasks:
            self._enqueue(task)
        # Other runs on the same folder are at these.
        self._postponed: list[Task] = []
        self._asked = time.monotonic()
        self._files = needed_files([task.job for task in agenda.tasks], bench)
        self._criteria = sorted({task.job.criterion for task in agenda.tasks})
        self._installed = plugins.installed_digests(self._criteria)
        self._outbox = Outbox()
        self._slots: list[_Slot] = []
        self._ended: list[Any] = []
        self._losses: Counter[Task] = Counter()
        self._start_losses: Counter[str] = Counter()
        self._unusable: dict[str, str] = {}
        self._device = options.device
        if self._device == "auto":
            self._device = "cuda" if cluster.offers_gpus else "cpu"
        self._needs = {"CPU": options.n_threads, **({"GPU": 1} if self._device == "cuda" else {})}
        self._looked = -_LOOK_SECONDS
        self._ready_by = time.monotonic() + _READY_SECONDS
        self._is_begun = False
        self._told_idle = False

    def events(self) -> Iterator[Event]:
        """Run the jobs."""
        if not self._cluster.slots(self._needs):
            wanted = " and ".join(f"{amount} {name}" for name, amount in self._needs.items())
            raise PruneboardError(
                f"the Ray cluster must have a node with {wanted} for a job, but it has none; add one, or choose "
                "another `--device`."
            )
        try:
            while self._is_anything_left():
                if self._options.stop.drops:
                    raise KeyboardInterrupt
                self._look_for_nodes()
                if not self._options.stop.finishes:
                    self._ask_again()
                    yield from self._give()
                yield from self._take()
        finally:
            for slot in list(self._slots):
                self._end(slot)
            # Workers of a cluster that cannot be reached any more are ended by Ray, as those of a driver that dies.
            with contextlib.suppress(PruneboardError):
                if self._cluster.is_reachable():
                    self._kill_ended()

    def _is_anything_left(self) -> bool:
        waits = bool(self._queue or self._postponed) and not self._options.stop.finishes
        return waits or any(slot.task for slot in self._slots)

    def _enqueue(self, task: Task, *, first: bool = False) -> None:
        self._queue.add(task, affinity_of(task), task.place, first=first)

    def _ask_again(self) -> None:
        now = time.monotonic()
        if self._postponed and not self._queue and now - self._asked >= POSTPONED_SECONDS:
            self._asked = now
            for task in self._postponed:
                self._enqueue(task)
            self._postponed.clear()

    def _kill_ended(self) -> None:
        while self._ended:
            ray.kill(self._ended.pop())

    def _look_for_nodes(self) -> None:
        """Start workers where there is room, as far as there are jobs for them."""
        if self._options.stop.finishes or time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        if not self._cluster.is_reachable():
            return
        self._kill_ended()
        room = {n: k for n, k in self._cluster.slots(self._needs).items() if n not in self._unusable}
        if not room and not self._slots and self._unusable:
            raise PruneboardError(next(iter(self._unusable.values())))
        if not room and not self._told_idle:
            self._options.tell("No node is left that jobs can run on; the run goes on when one joins the cluster.")
        self._told_idle = not room
        for slot in self._slots:
            if slot.node in room:
                room[slot.node] -= 1
        # An idle worker takes a job before any other would come up.
        n_jobs = len(self._queue) + sum(slot.task is not None for slot in self._slots)
        most = min(n_jobs, self._options.n_workers or n_jobs)
        arguments = self._device, self._options.n_threads, self._bench.precision, self._files
        while len(self._slots) < most and room and max(room.values()) > 0:
            node = max(room, key=room.__getitem__)
            room[node] -= 1
            actor = self._cluster.start(Worker, arguments, self._needs, node)
            self._slots.append(_Slot(node, actor, "greeting", actor.greet.remote(self._criteria)))

    def _give(self) -> Iterator[Event]:
        """Give jobs to idle workers."""
        if not self._is_begun:
            # A node that cannot be used is named before anything was run.
            waited_for = any(slot.state in ("greeting", "preparing") for slot in self._slots)
            if waited_for and time.monotonic() < self._ready_by:
                return
            self._is_begun = any(slot.state == "idle" for slot in self._slots)
        for slot in [slot for slot in self._slots if slot.state == "idle"]:
            for _ in range(_MOST_SKIPPED):
                if slot.task is not None or not self._queue or self._options.stop.finishes or self._options.stop.drops:
                    break
                task = self._queue.take(slot)
                event = self._agenda.admit(task)
                if event is None:
                    self._postponed.append(task)
                    continue
                if not event.ends:
                    slot.task, slot.state, slot.since = task, "working", time.monotonic()
                    slot.reply = slot.actor.run.remote(task.job)
                yield event
            if slot.task is None and not self._queue and not self._postponed:
                # Others may use its CPUs; a job that is lost meanwhile gets a new worker.
                self._end(slot)

    def _take(self) -> Iterator[Event]:
        """Take what workers answer, and end those that take too long."""
        replies = {slot.reply: slot for slot in self._slots if slot.reply is not None}
        if not replies:
            time.sleep(_WAIT_SECONDS)
            return
        ready, _ = ray.wait(list(replies), num_returns=1, timeout=_WAIT_SECONDS)
        if ready:
            ready, _ = ray.wait(list(replies), num_returns=len(replies), timeout=0)
        for reply in ready:
            slot = replies[reply]
            try:
                answer = _value_of(reply)
                if isinstance(answer, Greeting):
                    check_greeting(answer, self._code, self._installed)
            except _LostError as loss:
                yield from self._lost(slot, str(loss))
            except PruneboardError as error:
                if slot.task is not None:
                    raise
                self._end(slot)
                self._leave_out(slot, str(error))
            else:
                yield from self._answered(slot, answer)
        limit = self._options.limits.seconds
        for slot in list(self._slots):
            if limit is not None and slot.state == "working" and time.monotonic() - slot.since > limit:
                task = self._end(slot)
                if task is not None:
                    yield self._failed(task, slot, too_long(limit))

    def _answered(self, slot: _Slot, answer: Any) -> Iterator[Event]:
        """Go on with a worker that has done what it was asked to."""
        slot.reply = None
        if slot.state == "greeting":
            slot.greeting = answer
            slot.state = "preparing"
            slot.reply = slot.actor.prepare.remote(self._outbox.put(answer.lacking))
        elif slot.state == "preparing":
            slot.state = "idle"
            self._start_losses[slot.node] = 0
            if answer:
                size = sum(file.n_bytes for file in answer)
                host = self._cluster.host(slot.node)
                self._options.tell(f"{host} ({slot.node[:8]}) received {len(answer)} files, {size / 1e6:.1f} MB.")
        elif slot.task is not None:
            yield self._store_rows(slot, slot.task, answer)

    def _store_rows(self, slot: _Slot, task: Task, rows: list[Row]) -> Finished:
        slot.task, slot.state = None, "idle"
        self._agenda.store.save(task.job, rows)
        # Of an earlier run on this machine; on the nodes there are none.
        self._bench.checkpoints(task.job).forget(task.job.suite.shots)
        self._agenda.release(task)
        return finished(task.job, rows)

    def _lost(self, slot: _Slot, how: str) -> Iterator[Event]:
        """Replace a worker that is gone, and give its job out again, unless that was its last attempt."""
        task = self._end(slot)
        if task is None:
            self._start_losses[slot.node] += 1
            if self._start_losses[slot.node] >= _MOST_STARTS:
                self._leave_out(slot, f"{_MOST_STARTS} workers were lost before they came up, the last one so: {how}")
            return
        self._losses[task] += 1
        if self._losses[task] < MOST_ATTEMPTS:
            self._agenda.release(task)
            self._enqueue(task, first=True)
            yield Returned(job=task.job, reason=how)
        else:
            reason = f"its worker process or node was lost {MOST_ATTEMPTS} times while it ran; at last: {how}"
            yield self._failed(task, slot, reason)

    def _leave_out(self, slot: _Slot, why: str) -> None:
        """Start no further worker on the node of one that did not come up.

        Raises:
            PruneboardError: no job has been given out yet.
        """
        problem = f"every node must be able to run jobs, but {self._cluster.host(slot.node)} is not: {why}"
        if not self._is_begun:
            raise PruneboardError(problem)
        if slot.node not in self._unusable:
            self._options.tell(f"A node is left out: {problem}")
        self._unusable[slot.node] = problem

    def _end(self, slot: _Slot) -> Task | None:
        """End a worker, and return the task that it leaves."""
        self._slots.remove(slot)
        self._queue.leave(slot)
        self._ended.append(slot.actor)
        self._looked = -_LOOK_SECONDS
        task, slot.task = slot.task, None
        return task

    def _failed(self, task: Task, slot: _Slot, reason: str) -> Finished:
        device = slot.greeting.device if slot.greeting else self._device
        row: Row = dataclasses.replace(
            make_row(task.job, self._bench, status="failed", reason=reason, seconds=None),
            device=device,
            threads=self._options.n_threads,
        )
        self._agenda.store.save(task.job, [row])
        self._agenda.release(task)
        return finished(task.job, [row])


def check_greeting(greeting: Greeting, code: str, installed: Mapping[str, str]) -> None:
    """Raise unless a worker will compute what this process would.

    Args:
        greeting: what it said.
        code: digest of the code that was sent to it.
        installed: digests of the criteria that are not sent, because they come from installed packages.

    Raises:
        PruneboardError: it has another release of a library or of a criterion, or runs other code.
    """
    own = provenance.versions()
    for library in _LIBRARIES:
        # What follows the plus names how a release was built, such as for which GPUs.
        have, must = (versions[library].partition("+")[0] for versions in (greeting.versions, own))
        if have != must:
            raise PruneboardError(f"it has {library} {have}, and this machine {must}; install the same release there.")
    if greeting.code != code:
        raise PruneboardError(
            "it imports another `pruneboard` than the one that was sent to it; remove that from its `PYTHONPATH`."
        )
    for name, must in installed.items():
        if greeting.installed.get(name) != must:
            state = "has another source of" if name in greeting.installed else "lacks"
            raise PruneboardError(f"it {state} criterion `{name}`; install the very package there that is here.")


def _value_of(reply: "ray.ObjectRef[Any]") -> Any:
    """Return what a worker answered.

    Raises:
        _LostError: it is gone.
        PruneboardError: it could not come up, or met something that no other job could mend.
    """
    try:
        return ray.get(reply)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, PruneboardError):
            raise error.cause from error
        raise PruneboardError(f"a worker met an error that it should not: {_last_line(error)}") from error
    except ray.exceptions.RuntimeEnvSetupError as error:
        raise PruneboardError(f"it could not receive the code: {_last_line(error)}") from error
    except ray.exceptions.RayActorError as error:
        if error.actor_init_failed:
            raise PruneboardError(f"no worker could be made there: {_last_line(error)}") from error
        raise _LostError(_how_it_died(str(error))) from error
    except ray.exceptions.RayError as error:
        raise _LostError(_how_it_died(str(error))) from error


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:500] if lines else type(error).__name__


def _how_it_died(text: str) -> str:
    """Return what Ray says of a loss, without the names of its objects and its advice."""
    said = next((line for line in text.splitlines()[1:] if line.startswith("The actor")), text)
    return " ".join(said.split()).partition(" Some common causes")[0][:300]
