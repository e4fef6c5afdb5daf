"""The command that measures how fast physically pruned networks are."""

import datetime
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from pruneboard.benchmark import provenance
from pruneboard.benchmark.cli._console import make_console, print_whole
from pruneboard.benchmark.cli.running import make_plugins_ready
from pruneboard.benchmark.cli.suite_listing import make_table
from pruneboard.benchmark.errors import ModelError, SuiteError, Unsupported
from pruneboard.benchmark.physical import Form, Latency, Pruned, Scored, Timing, build, score, time_in_turns
from pruneboard.benchmark.runner import Workbench
from pruneboard.benchmark.schema import Job, Suite
from pruneboard.benchmark.speeds import VERSION, Speed, SpeedStore, current_speeds
from pruneboard.benchmark.suites import expand

RATES = (0.0, 0.25, 0.5, 0.75, 0.9)
"""Rates that are measured by default, as far as the suite has them."""


@dataclass(frozen=True, kw_only=True)
class SpeedOptions:
    """Choices of `pruneboard speed`, as its options name them.

    Attributes:
        models: only these networks; empty for all of the suite.
        criteria: only these criteria; empty for all of the suite.
        rates: rates to measure; empty for `RATES` as far as the suite has them.
        form: how units that share a channel are removed.
        batch_size: images at once, measured beside one image.
        device: name of the device, or `auto`.
        threads: CPU threads; None for as many as torch uses.
        out: run folder.
        results: results folder.
        publish: whether the table is written to the results folder as well.
        fresh: whether finished rows are measured again.
    """

    models: Sequence[str]
    criteria: Sequence[str]
    rates: Sequence[float]
    form: Form
    batch_size: int
    device: str
    threads: int | None
    out: Path
    results: Path
    publish: bool
    fresh: bool


@dataclass(frozen=True)
class SpeedSummary:
    """How the measurements went.

    Attributes:
        n_failed: networks that could not be measured.
        interrupted: whether Ctrl-C ended it.
    """

    n_failed: int
    interrupted: bool


def measure_speed(suite: Suite, options: SpeedOptions) -> SpeedSummary:
    """Measure the speeds that are not measured yet, and print the table of this machine.

    A network that cannot be pruned physically is reported, and the others are measured.

    Raises:
        PruneboardError: bad input, found before any work, or a criterion that fails.
    """
    console = make_console()
    rates = _rates(suite, options.rates)
    jobs = [
        job for job in expand(suite, models=options.models, criteria=options.criteria) if job.seed == suite.seeds[0]
    ]
    bench = Workbench(provenance.resolve_device(options.device))
    timing = Timing(threads=options.threads or torch.get_num_threads())
    store = SpeedStore(options.out)
    known = store.read(suite.name)
    meters = [_Meter(job, rates, options, timing, bench) for job in jobs]
    n_failed = 0
    try:
        make_plugins_ready(jobs, bench, console)
        for number, (job, meter) in enumerate(zip(jobs, meters, strict=True), start=1):
            if not options.fresh and meter.is_done(known):
                continue
            console.print(f"[{number}/{len(jobs)}] {job}")
            try:
                store.add(suite.name, meter.measure())
            except Unsupported as refusal:
                console.print(f"left out: {refusal}")
            except ModelError as error:
                n_failed += 1
                console.print(f"failed: `{job.model}` by {job.granularity}: {error}")
    except KeyboardInterrupt:
        console.print("Stopped; what was measured is kept, and the same command continues.")
        return SpeedSummary(n_failed, interrupted=True)
    rows = [
        row for row in current_speeds(store.read(suite.name), suite) if any(meter.has_measured(row) for meter in meters)
    ]
    if rows:
        _print_table(rows, options.form, store.path(suite.name), console)
        if options.publish:
            _publish(suite, options, store, console)
    else:
        console.print(f"Nothing was measured: every criterion declined{' or network failed' if n_failed else ''}.")
    if n_failed:
        console.print(f"{n_failed} of {len(jobs)} failed; the same command tries them again.")
    return SpeedSummary(n_failed, interrupted=False)


def _rates(suite: Suite, given: Sequence[float]) -> tuple[float, ...]:
    for rate in given:
        if not 0 <= rate < 1:
            raise ModelError(f"`--rate` must be in [0, 1), got {rate:g}; give the fraction of units to remove.")
    found = tuple(sorted(set(given))) or tuple(rate for rate in RATES if rate in suite.rates)
    if not found:
        raise SuiteError(f"suite `{suite.name}` has none of the rates {RATES}; name some with `--rate`.")
    return found


class _Meter:
    """Measures one job's networks at all rates."""

    def __init__(
        self, job: Job, rates: Sequence[float], options: SpeedOptions, timing: Timing, bench: Workbench
    ) -> None:
        self._job, self._rates, self._options, self._timing, self._bench = job, rates, options, timing, bench
        self._shots = max(job.suite.shots)

    def is_done(self, known: Sequence[Speed]) -> bool:
        """Whether every rate and batch size is measured, by this version of everything and on this machine."""
        wanted = {(rate, size) for rate in self._rates for size in self._batch_sizes}
        return wanted <= {(speed.rate, speed.batch_size) for speed in known if self.has_measured(speed)}

    def has_measured(self, speed: Speed) -> bool:
        """Whether a speed is this job's, by this version of everything and on this machine."""
        return all(getattr(speed, name) == value for name, value in self._same.items())

    @property
    def _batch_sizes(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys((1, self._options.batch_size)))

    @functools.cached_property
    def _same(self) -> dict[str, str | int]:
        """Return what the rows of this job have in common."""
        versions = provenance.versions()
        return {
            "suite": self._job.suite.name,
            "suite_digest": self._job.suite.digest,
            "key": self._bench.key(self._job),
            "model": self._job.model,
            "granularity": self._job.granularity,
            "criterion": self._job.criterion,
            "seed": self._job.seed,
            "shots": self._shots,
            "form": self._options.form,
            "device": provenance.device_name(self._bench.device),
            "threads": self._timing.threads,
            "torch": versions["torch"],
            "pruneboard": versions["pruneboard"],
        }

    def measure(self) -> list[Speed]:
        """Build every network, time them in turns, and return the rows."""
        scored = score(self._job, self._shots, self._bench)
        # The unpruned network is the same kind of graph, so that what is gained is gained by pruning alone.
        rates = tuple(dict.fromkeys((0.0, *self._rates)))
        built = {rate: build(scored, rate, self._options.form) for rate in rates}
        return list(self._rows(scored, built))

    def _rows(self, scored: Scored, built: Mapping[float, Pruned]) -> Iterator[Speed]:
        device = self._bench.device
        networks: list[nn.Module] = [pruned.network.to(device) for pruned in built.values()]
        generator = torch.Generator().manual_seed(0)
        commit, clean = provenance.commit()
        for size in self._batch_sizes:
            images = torch.randn(size, *scored.loaded.plugin.input_size, generator=generator).to(device)
            latencies = dict(zip(built, time_in_turns(networks, images, self._timing), strict=True))
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            for rate in self._rates:
                latency, pruned = latencies[rate], built[rate]
                measured: dict[str, Any] = {
                    **self._same,
                    "version": VERSION,
                    "rate": rate,
                    "n_units_removed": pruned.n_units_removed,
                    "params": pruned.size.params,
                    "macs": pruned.size.macs,
                    "batch_size": size,
                    **_times(latency, latencies[0.0], size),
                    "commit": commit,
                    "clean": clean,
                    "time_utc": now,
                }
                yield Speed(**measured)


def _times(latency: Latency, unpruned: Latency, size: int) -> dict[str, float | int]:
    return {
        "latency_seconds": latency.median,
        "latency_iqr_seconds": latency.iqr,
        "n_runs": latency.n_runs,
        "images_per_second": size / latency.median,
        "unpruned_seconds": unpruned.median,
        "speedup": unpruned.median / latency.median,
    }


def _print_table(rows: Sequence[Speed], form: Form, path: Path, console: Console) -> None:
    table = make_table("network", "criterion", "rate", "images", "ms", "IQR", "images/s", "speed-up")
    for row in rows:
        table.add_row(
            f"{row.model} {row.granularity}",
            row.criterion,
            f"{row.rate:g}",
            str(row.batch_size),
            f"{1000 * row.latency_seconds:.3g}",
            f"{1000 * row.latency_iqr_seconds:.2g}",
            f"{row.images_per_second:,.0f}",
            f"{row.speedup:.2f}",
        )
    # One machine only: a meter takes no other rows for its own.
    console.print(f"{form.capitalize()} form, measured on {rows[0].hardware}:")
    print_whole(console, table)
    console.print(f"Rows are in {path}.", soft_wrap=True)


def _publish(suite: Suite, options: SpeedOptions, store: SpeedStore, console: Console) -> None:
    rows = current_speeds(store.read(suite.name), suite)
    console.print(f"Published: {SpeedStore(options.results).add(suite.name, rows)}", soft_wrap=True)
