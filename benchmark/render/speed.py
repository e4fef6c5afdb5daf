"""What a page says of measured speed."""

import dataclasses
from collections.abc import Sequence

from pruneboard.benchmark.speeds import Speed


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeedLine:
    """One physically pruned network.

    Attributes:
        network: any of its rows, for what they have in common.
        by_batch: its rows in the order of the table's batch sizes; None where one was not measured.
    """

    network: Speed
    by_batch: tuple[Speed | None, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeedTable:
    """What was measured on one machine.

    Attributes:
        hardware: device, threads and version of PyTorch.
        batch_sizes: numbers of images at once, ascending.
        lines: by network, granularity, criterion, form and rate.
    """

    hardware: str
    batch_sizes: tuple[int, ...]
    lines: tuple[SpeedLine, ...]


def view_speeds(speeds: Sequence[Speed]) -> tuple[SpeedTable, ...]:
    """Arrange the speeds of one suite as a table for each machine, sorted by its name."""
    by_machine: dict[str, list[Speed]] = {}
    for speed in speeds:
        by_machine.setdefault(speed.hardware, []).append(speed)
    return tuple(_table(hardware, found) for hardware, found in sorted(by_machine.items()))


def _table(hardware: str, speeds: Sequence[Speed]) -> SpeedTable:
    batch_sizes = tuple(sorted({speed.batch_size for speed in speeds}))
    networks: dict[tuple[str, str, str, str, float, int, int], dict[int, Speed]] = {}
    for s in speeds:
        network = (s.model, s.granularity, s.criterion, s.form, s.rate, s.seed, s.shots)
        networks.setdefault(network, {})[s.batch_size] = s
    lines = tuple(
        SpeedLine(network=next(iter(found.values())), by_batch=tuple(found.get(size) for size in batch_sizes))
        for _, found in sorted(networks.items())
    )
    return SpeedTable(hardware=hardware, batch_sizes=batch_sizes, lines=lines)
