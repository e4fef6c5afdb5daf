"""What a pool and those who use it tell each other."""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar


@dataclass(frozen=True, kw_only=True)
class Report:
    """What is said of a task.

    Attributes:
        ends: whether the worker is done with the task.
        again: whether the task then has to be given to a worker once more.
    """

    ends: bool = True
    again: bool = False


Affinity = tuple[Hashable, ...]
"""What a task leaves in its worker that others can use, from the coarsest to the finest: one or two levels."""

Place = tuple[int, float]
"""Where a task stands in line: its round, and within the round how long it is expected to take, in seconds."""

Cause = Literal["itself", "outside", "time", "memory"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a worker may use at most.

    Attributes:
        seconds: time of one task, in s; None for no limit.
        n_bytes: memory of a worker process and all its descendants, in byte; None for no limit.
    """

    seconds: float | None = None
    n_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Death:
    """How a worker ended in the middle of a task.

    Attributes:
        how: how the process ended, such as `signal SIGKILL`.
        cause: who ended it: `itself`, somebody `outside`, or the pool because of its limit of `time` or `memory`.
        n_outside: how often workers died from outside at this task so far, this time included.
        n_bytes: memory that was found when it was more than the limit, in byte.
    """

    how: str
    cause: Cause
    n_outside: int
    n_bytes: int = 0


T_contra = TypeVar("T_contra", contravariant=True)
R = TypeVar("R", bound=Report)


R_co = TypeVar("R_co", bound=Report, covariant=True)


class Body(Protocol[T_contra, R_co]):
    """What a worker process does with tasks; it is sent to each."""

    def begin(self, slot: int) -> Callable[[T_contra], Iterator[R_co]]:
        """Prepare a worker process, and return what runs one task and reports; its last report `ends`.

        Args:
            slot: number of the worker among those of the pool, from 0; one that takes another's place has its number.
        """


class Work(Protocol[T_contra, R]):
    """What a pool asks of tasks, in its own process.

    Attributes:
        body: what the workers do with tasks.
    """

    @property
    def body(self) -> Body[T_contra, R]: ...

    def affinity(self, task: T_contra) -> Affinity:
        """Return what the task shares with others; it decides their order and nothing else."""

    def place(self, task: T_contra) -> Place:
        """Return where the task stands in line."""

    def start_of(self, task: T_contra) -> R | None:
        """Return the report that a task is given to a worker.

        A report that `ends` says that the task needs no worker any more; None that it cannot be given now, and has to
        be asked for again when all others are.
        """

    def death_of(self, task: T_contra, last: R | None, death: Death) -> R:
        """Record that a worker died, and return a report that `ends` its task.

        Args:
            task: what it worked on.
            last: what it reported last of this task.
            death: how it died.

        Raises:
            PruneboardError: there is nothing to go on with.
        """
