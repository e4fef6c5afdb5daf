"""Run folders of many jobs: reading all rows, asking what is done, saving.

`PRUNEBOARD_BENCH_JOBS` sets how many jobs there are. The test marked `slow` is the full size: a million rows.
"""

import dataclasses
import os

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from many_jobs import SUITE, fill, jobs_and_keys, make_jobs, report
from pruneboard.benchmark.store import RunStore

N_JOBS = int(os.environ.get("PRUNEBOARD_BENCH_JOBS", "1000"))
N_ROWS = 60


@pytest.fixture(scope="module")
def folders(tmp_path_factory, request):
    """Two run folders of the same jobs: as they are saved, and folded."""
    n_jobs = N_JOBS if request.config.getoption("--benchmark-enable") else 5
    single, folded = tmp_path_factory.mktemp("single"), tmp_path_factory.mktemp("folded")
    for folder in (single, folded):
        fill(folder, n_jobs, N_ROWS, fold=False)
    RunStore(folded).compact(SUITE)
    return n_jobs, single, folded


@pytest.mark.parametrize("how", ["a file each", "folded"])
def test_collecting_rows(compare, folders, how):
    n_jobs, single, folded = folders
    files = sorted((single / SUITE).glob("*.parquet"))
    compare(
        "collecting rows",
        f"{n_jobs} jobs of {N_ROWS} rows, {how}",
        reference=lambda: pd.concat([pd.read_parquet(file) for file in files], ignore_index=True),
        reference_name="pandas reads each file",
        ours=lambda: RunStore(folded if how == "folded" else single).read(SUITE),
        rounds=3,
    )


@pytest.mark.parametrize("how", ["a file each", "folded"])
def test_asking_for_statuses(compare, folders, how):
    n_jobs, single, folded = folders
    files = sorted((single / SUITE).glob("*.parquet"))
    jobs = jobs_and_keys(n_jobs)
    compare(
        "asking what is done",
        f"{n_jobs} jobs, {how}",
        reference=lambda: [pq.read_table(file, columns=["key", "status"]) for file in files],
        reference_name="two columns of each file",
        ours=lambda: RunStore(folded if how == "folded" else single).statuses(jobs),
        rounds=3,
    )


def test_saving_a_job(compare, folders, tmp_path):
    n_jobs, single, _ = folders
    ((job, rows),) = make_jobs(1, N_ROWS)
    store = RunStore(single)

    def plainly():
        frame = pd.DataFrame([dataclasses.asdict(row) for row in rows])
        with (tmp_path / "plain.parquet").open("wb") as file:
            pq.write_table(pa.Table.from_pandas(frame), file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())

    compare(
        "saving a job",
        f"{N_ROWS} rows beside {n_jobs} jobs",
        reference=plainly,
        reference_name="pandas writes the file",
        ours=lambda: store.save(job, rows),
        rounds=20,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("n_jobs", "n_rows"), [(16_667, 60), (100_000, 10)])
def test_a_million_rows(tmp_path, capsys, n_jobs, n_rows):
    with capsys.disabled():
        print()
        reading = report(n_jobs, n_rows, tmp_path)

    assert reading.n_rows == n_jobs * n_rows
    assert reading.peak_bytes < 2 * 10**9
