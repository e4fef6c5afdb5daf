"""A run of a hundred thousand jobs costs its parent as much for each as a run of a thousand."""

import json
import re
import subprocess
import sys

import pytest

from commands import ROOT, pruneboard
from pruneboard.benchmark.store import FOLD_AT, RunStore
from pruneboard.benchmark.store._folding import JOBS_PER_SEGMENT

A_PR = {"random": "36.67", "magnitude": "63.33", "taylor": "63.33", "activation": "90.00", "gradient": "90.00"}
"""Of rates 0, 0.3 and 0.6, of which a criterion keeps 90 % at one, two or three, and 10 % at the others."""


def cost(n_jobs, *folder):
    script = ROOT / "tests" / "support" / "load.py"
    done = subprocess.run([sys.executable, script, str(n_jobs), *folder], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [2000, 100_000])
def test_many_jobs_are_scheduled_stored_collected_and_shown(tmp_path, n_jobs):
    one = cost(n_jobs, tmp_path)
    shown = pruneboard("table", "small.toml", cwd=tmp_path)
    again = pruneboard("run", "small.toml", "--dry-run", cwd=tmp_path)
    rows = RunStore(tmp_path / "runs").read("small")
    files = [path for path in (tmp_path / "runs" / "small").iterdir() if path.suffix == ".parquet"]
    print(one, shown.stdout, sep="\n")

    assert len(rows) == 6 * n_jobs
    assert rows.groupby("criterion")["key"].nunique().tolist() == [n_jobs // 5] * 5
    assert len(files) < FOLD_AT + n_jobs / JOBS_PER_SEGMENT + 10
    assert shown.returncode == 0, shown.stderr
    for criterion, a_pr in A_PR.items():
        assert len(re.findall(rf"\b{criterion} .* {a_pr} ", shown.stdout)) == 3, shown.stdout
    assert f"{n_jobs} jobs, {n_jobs} done, 0 to run" in again.stdout


@pytest.mark.slow
def test_scheduling_is_linear_and_takes_less_than_five_milliseconds_a_job():
    costs = {n: cost(n) for n in (1000, 10_000, 100_000)}
    each = {n: 1000 * one["run_seconds"] / n for n, one in costs.items()}
    planned = (costs[100_000]["plan_seconds"] - costs[10_000]["plan_seconds"]) / 90_000
    added = (costs[100_000]["n_bytes"] - costs[1000]["n_bytes"]) / 99_000
    print(costs)

    assert max(each.values()) < 5.0
    assert each[100_000] < 2 * each[10_000]
    assert planned < 0.001
    assert added < 10_000, "the parent holds less than 10 kB for each job"
