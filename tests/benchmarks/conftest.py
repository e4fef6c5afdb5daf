"""Measures speed as a ratio: the reference and ours take turns in one run, because machines are noisy."""

import csv
import functools
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pruneboard.benchmark import provenance
from pruneboard.benchmark.evaluate import computing_in
from subjects import DEVICE, PRECISION

_ROWS = pytest.StashKey[list[dict[str, Any]]]()
_COLUMNS = (
    "what",
    "on",
    "reference",
    "reference_s",
    "ours_s",
    "ratio",
    "mac_bound",
    "share_of_bound",
    "gflops_per_s",
    "matmul_gflops_per_s",
    "precision",
    "rounds",
    "device",
    "threads",
    "torch",
    "commit",
    "clean",
    "date",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--ratios", type=Path, help="Also write the table of ratios to this CSV file.")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ROWS] = []


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As a worker has it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def compare(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Time `ours` with pytest-benchmark, and `reference` before each of its rounds.

    The ratio of a round is how many times as long the reference took; the table shows the median over rounds. Without
    `--benchmark-enable` each is called once, as a test that it works.
    """

    def run(
        what: str,
        on: str,
        *,
        reference: Callable[[], object],
        reference_name: str,
        ours: Callable[[], object],
        rounds: int = 5,
        mac_bound: float | None = None,
        n_macs: float | None = None,
    ) -> None:
        if not benchmark.enabled:
            reference()
            benchmark(ours)
            return
        taken: list[float] = []

        def before_each_round() -> None:
            taken.append(_seconds(reference))

        # The first calls of both pay for memory and for code that torch makes on demand.
        reference()
        ours()
        benchmark.group = what
        benchmark.pedantic(lambda: _finished(ours), setup=before_each_round, rounds=rounds)
        own = benchmark.stats.stats.data
        ratios = [theirs / mine for theirs, mine in zip(taken, own, strict=True)]
        ratio = statistics.median(ratios)
        commit, clean = provenance.commit()
        row = {
            "what": what,
            "on": on,
            "reference": reference_name,
            "reference_s": statistics.median(taken),
            "ours_s": statistics.median(own),
            "ratio": ratio,
            "mac_bound": mac_bound,
            "share_of_bound": None if mac_bound is None else ratio / mac_bound,
            "gflops_per_s": None if n_macs is None else 2e-9 * n_macs / statistics.median(own),
            "matmul_gflops_per_s": None if n_macs is None else matmul_speed(),
            "precision": PRECISION,
            "rounds": rounds,
            "device": provenance.device_name(DEVICE),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "commit": commit,
            "clean": clean,
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
        }
        benchmark.extra_info.update({key: row[key] for key in ("reference", "reference_s", "ratio", "mac_bound")})
        request.config.stash[_ROWS].append(row)

    return run


@functools.cache
def matmul_speed() -> float:
    """Measure how fast this device multiplies large matrices at best, in 10^9 floating-point operations per second."""
    size = 8192 if DEVICE.type == "cuda" else 1536
    with torch.no_grad(), computing_in(PRECISION, DEVICE.type):
        left, right = torch.randn(size, size, device=DEVICE), torch.randn(size, size, device=DEVICE)
        if PRECISION == "bf16":
            left, right = left.bfloat16(), right.bfloat16()
        best = min(_seconds(lambda: left @ right) for _ in range(10))
    return 2e-9 * size**3 / best


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    _finished(call)
    return time.perf_counter() - started


def _finished(call: Callable[[], object]) -> None:
    call()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize(DEVICE)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = config.stash[_ROWS]
    if not rows:
        return
    written = [_shown(row) for row in rows]
    widths = [max(len(line[i]) for line in [_HEAD, *written]) for i in range(len(_HEAD))]
    terminalreporter.section(
        f"ratios on {rows[0]['device']}, {rows[0]['threads']} thread, {PRECISION}, Python {platform.python_version()}"
    )
    for line in [_HEAD, *written]:
        terminalreporter.write_line("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    if path := config.getoption("--ratios"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
            table.writeheader()
            table.writerows({key: _short(value) for key, value in row.items()} for row in rows)


_HEAD = (
    *("what", "on", "reference", "reference s", "ours s", "times as fast", "MAC bound", "share"),
    *("GFLOP/s", "of matmul"),
)


def _shown(row: dict[str, Any]) -> tuple[str, ...]:
    bound, share, speed = row["mac_bound"], row["share_of_bound"], row["gflops_per_s"]
    return (
        row["what"],
        row["on"],
        row["reference"],
        f"{row['reference_s']:.3g}",
        f"{row['ours_s']:.3g}",
        f"{row['ratio']:.2f}",
        "" if bound is None else f"{bound:.2f}",
        "" if share is None else f"{share:.0%}",
        "" if speed is None else f"{speed:.3g}",
        "" if speed is None else f"{speed / row['matmul_gflops_per_s']:.0%}",
    )


def _short(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value
