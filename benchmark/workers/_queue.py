"""Which task a worker had best do next, at a cost that does not grow with the number of tasks that wait."""

import heapq
import itertools
from collections import Counter, OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pruneboard.benchmark.workers._work import Affinity, Place

T = TypeVar("T")

_Rank = tuple[bool, float, int]
"""What decides within a round: those put first, then the shortest, then the order in which they came."""


class TaskQueue(Generic[T]):
    """Tasks that wait, by round and by what they share.

    A holder, which is a worker, goes on with the rest of the group that it is at: the tasks of one affinity of two
    levels, such as the seeds of a criterion whose masks are measured once. Else it takes from the lowest round, there
    what shares the first level with its previous task, else what no other holder is at, else what most is left of; of
    those the shortest. A group that a holder is at is left to it while there is anything else.

    A call costs O(log n + number of holders), amortised.
    """

    def __init__(self) -> None:
        self._n_waiting = 0
        self._numbers = itertools.count()
        # What is no longer there when its turn comes is skipped then, which is cheaper than to look for it before.
        self._rounds: dict[int, _Round[T]] = {}
        self._order: list[int] = []
        self._groups: dict[Affinity, _Group[T]] = {}
        self._held: dict[Hashable, Affinity] = {}
        self._n_at: Counter[Affinity] = Counter()

    def __len__(self) -> int:
        return self._n_waiting

    def add(self, task: T, affinity: Affinity, place: Place, *, first: bool = False) -> None:
        """Put a task in line.

        Args:
            task: the task.
            affinity: what it shares with others.
            place: its round and expected time.
            first: whether it goes before all others of its round and network.
        """
        self._n_waiting += 1
        turn, seconds = place
        number = next(self._numbers)
        rank = (not first, seconds, -number if first else number)
        if len(affinity) < 2:
            self._push(turn, affinity[:1], rank, task)
            return
        group = self._groups.setdefault(affinity, _Group(affinity))
        heapq.heappush(group.tasks, (turn, rank, task))
        if not group.holders:
            self._push(turn, affinity[:1], rank, group)

    def take(self, holder: Hashable) -> T:
        """Remove and return the task that a holder had best do next.

        Raises:
            IndexError: none waits.
        """
        own = self._held.get(holder, ())
        if (group := self._groups.get(own)) is not None and group.tasks:
            return self._from(group)
        self.leave(holder)
        while self._order:
            turn = self._order[0]
            networks = self._rounds[turn]
            while networks:
                network = self._choose(networks, own[:1])
                found = self._pop(networks, network)
                if isinstance(found, _Group):
                    return self._hold_group(holder, found)
                if found is not None:
                    self._n_waiting -= 1
                    self._hold(holder, network)
                    return found
            heapq.heappop(self._order)
            del self._rounds[turn]
        # All that is left belongs to groups that others are at.
        left = [group for group in map(self._groups.get, set(self._held.values())) if group is not None and group.tasks]
        if not left:
            raise IndexError("no task waits")
        return self._hold_group(holder, max(left, key=lambda group: len(group.tasks)))

    def leave(self, holder: Hashable) -> None:
        """Forget what a holder was at, because its process has ended: others may take the rest."""
        affinity = self._held.pop(holder, None)
        if affinity is None:
            return
        self._n_at[affinity[:1]] -= 1
        group = self._groups.get(affinity)
        if group is None:
            return
        group.holders.discard(holder)
        if not group.holders and group.tasks:
            for turn, rank, _ in group.tasks:
                self._push(turn, affinity[:1], rank, group)
        elif not group.tasks:
            del self._groups[affinity]

    def _push(self, turn: int, network: Affinity, rank: _Rank, item: "T | _Group[T]") -> None:
        if turn not in self._rounds:
            self._rounds[turn] = OrderedDict()
            heapq.heappush(self._order, turn)
        heapq.heappush(self._rounds[turn].setdefault(network, []), (rank, next(self._numbers), item))

    def _choose(self, networks: "_Round[T]", own: Affinity) -> Affinity:
        if own in networks:
            return own
        # At most as many steps as there are holders.
        free = next((network for network in networks if self._n_at[network] <= 0), None)
        return max(networks, key=lambda network: len(networks[network])) if free is None else free

    def _pop(self, networks: "_Round[T]", network: Affinity) -> "T | _Group[T] | None":
        """Remove the first thing of a network that is still there; None when there was none."""
        waiting = networks[network]
        while waiting:
            _, _, item = heapq.heappop(waiting)
            if not waiting:
                del networks[network]
            if not isinstance(item, _Group) or (item.tasks and not item.holders):
                return item
        return None

    def _from(self, group: "_Group[T]") -> T:
        self._n_waiting -= 1
        return heapq.heappop(group.tasks)[2]

    def _hold_group(self, holder: Hashable, group: "_Group[T]") -> T:
        group.holders.add(holder)
        self._hold(holder, group.affinity)
        return self._from(group)

    def _hold(self, holder: Hashable, affinity: Affinity) -> None:
        self._held[holder] = affinity
        self._n_at[affinity[:1]] += 1


@dataclass(eq=False)
class _Group(Generic[T]):
    """Tasks of one affinity of two levels, and who is at them."""

    affinity: Affinity
    tasks: list[tuple[int, _Rank, T]] = field(default_factory=list)
    holders: set[Hashable] = field(default_factory=set)


_Round = OrderedDict[Affinity, list[tuple[_Rank, int, T | _Group[T]]]]
"""What waits in a round: network, as an affinity of one level, to a heap; a group is in it once for each of its tasks.

It is ordered by hand because the first key of a plain dict from which many were removed is slow to find.
"""
