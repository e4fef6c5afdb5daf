"""Run folders of any number of jobs, for measurements of the store.

    python tests/support/many_jobs.py N_JOBS N_ROWS FOLDER

makes one of N_JOBS jobs of N_ROWS rows and prints how long it takes to save, fold, ask for and read them.
"""

import dataclasses
import hashlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from pruneboard.benchmark.schema import Job, Row
from pruneboard.benchmark.store import FOLD_AT, RunStore
from rows import job_of, job_rows

SUITE = "digits"
# The peak that getrusage tells is at least that of the process which started it.
_PROGRAM = """
import sys, time
from pathlib import Path
from pruneboard.benchmark.store import RunStore
def peak():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1])
before = peak()
started, cpu = time.perf_counter(), time.process_time()
n_rows = len(RunStore(Path(sys.argv[1])).read(sys.argv[2]))
print(n_rows, time.perf_counter() - started, time.process_time() - cpu)
print(before, peak())
"""


def jobs_and_keys(n_jobs: int) -> list[tuple[Job, str]]:
    """Return jobs of ten models, twenty criteria and as many seeds as it takes, with their keys."""
    job = job_of(job_rows(key=""))
    return [
        (
            dataclasses.replace(job, model=f"model{i % 10}", criterion=f"criterion{i // 10 % 20}", seed=i // 200),
            hashlib.sha256(str(i).encode()).hexdigest(),
        )
        for i in range(n_jobs)
    ]


def make_jobs(n_jobs: int, n_rows: int) -> Iterator[tuple[Job, list[Row]]]:
    """Make jobs with their rows, which differ from job to job."""
    base = job_rows(key="", rates=[i / n_rows for i in range(n_rows // 2)])
    for number, (job, key) in enumerate(jobs_and_keys(n_jobs)):
        own = {"key": key, "model": job.model, "criterion": job.criterion, "seed": job.seed, "job_seconds": number / 7}
        yield job, [dataclasses.replace(row, **own, top1=row.top1 * (0.5 + number % 997 / 2000)) for row in base]


def fill(folder: Path, n_jobs: int, n_rows: int, *, fold: bool) -> tuple[float, float]:
    """Save jobs, folding them as a run does or not at all; return the seconds that saving and folding took."""
    store, saving, folding = RunStore(folder), 0.0, 0.0
    # Waiting for the disk is not what is measured.
    with mock.patch.object(os, "fsync"):
        for number, (job, rows) in enumerate(make_jobs(n_jobs, n_rows), start=1):
            saving += seconds(lambda job=job, rows=rows: store.save(job, rows))
            if fold and number % FOLD_AT == 0:
                folding += seconds(lambda: store.fold(SUITE))
    return saving, folding


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a process of its own read a suite.

    Attributes:
        n_rows: rows.
        seconds: time, in s.
        cpu_seconds: time on all cores, in s.
        peak_bytes: peak resident memory of the process, libraries included.
        peak_bytes_before: the same right before reading.
    """

    n_rows: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    peak_bytes_before: int


def read_alone(folder: Path) -> Reading:
    """Read a suite in a fresh process."""
    command = [sys.executable, "-c", _PROGRAM, str(folder), SUITE]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return Reading(
        n_rows=int(printed[0]),
        seconds=float(printed[1]),
        cpu_seconds=float(printed[2]),
        peak_bytes_before=1024 * int(printed[3]),
        peak_bytes=1024 * int(printed[4]),
    )


def report(n_jobs: int, n_rows: int, folder: Path) -> Reading:
    """Make a run folder, measure everything, and print it."""
    saving, folding = fill(folder, n_jobs, n_rows, fold=True)
    jobs = jobs_and_keys(n_jobs)
    asking = seconds(lambda: RunStore(folder).statuses(jobs))
    reading = read_alone(folder)
    print(f"{n_jobs} jobs of {n_rows} rows, load {os.getloadavg()[0]:.1f}")
    print(f"  saving {1e3 * saving / n_jobs:.2f} ms a job, folding {1e3 * folding / n_jobs:.2f} ms a job")
    print(f"  memory of the process that did so {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    print(f"  asking for all {asking:.2f} s")
    print(f"  reading {reading.n_rows} rows {reading.seconds:.2f} s ({reading.cpu_seconds:.2f} s of CPU), ", end="")
    print(f"peak {reading.peak_bytes / 2**30:.2f} GiB, {reading.peak_bytes_before / 2**30:.2f} GiB before")
    return reading


if __name__ == "__main__":
    report(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
