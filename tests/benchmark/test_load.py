"""A run of a hundred thousand jobs costs its parent as much for each as a run of a thousand."""

import json
import subprocess
import sys

import pytest

from commands import ROOT


def cost(n_jobs):
    script = ROOT / "tests" / "support" / "load.py"
    done = subprocess.run([sys.executable, script, str(n_jobs)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


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
