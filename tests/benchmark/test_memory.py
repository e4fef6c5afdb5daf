"""The most memory that a process of a run takes, measured from outside, on whole data sets."""

import os
import subprocess
import sys

import pytest

from commands import write_suite
from pruneboard.benchmark.store import RunStore

# The largest child that was waited for, in a process of its own, so that no earlier child counts.
_RUN = """
import resource, subprocess, sys
code = subprocess.run([sys.executable, "-m", "pruneboard.benchmark.cli", *sys.argv[1:]], stdout=sys.stderr).returncode
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "splits", "model", "n_images", "most"),
    [
        ("cifar10-lossless", ("train", "test"), "cifar_resnet56", 1000, 1.5e9),
        ("cifar10-jpeg", ("train", "test"), "cifar_resnet20", 10_000, 1.5e9),
        ("imagenette", ("train", "validation"), "mobilenetv2", 3925, 4e9),
    ],
)
@pytest.mark.parametrize("criterion", ["lrp_epsilon", "taylor", "activation"])
def test_no_process_of_a_run_takes_more_than_it_may(
    dataset, splits, model, n_images, most, criterion, shared_data, shared_weights, tmp_path
):
    suite = write_suite(
        tmp_path,
        models={model: ["filters"]},
        criteria=[criterion],
        shots=[1, 10],
        rates=[0.0, 0.5],
        datasets=[dataset],
        splits=splits,
    )
    places = {"PRUNEBOARD_DATA": str(shared_data), "PRUNEBOARD_WEIGHTS": str(shared_weights)}
    command = [sys.executable, "-c", _RUN, "run", str(suite), "--workers", "1", "--out", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | places, check=True, timeout=3000)
    code, n_bytes = map(int, done.stdout.split())

    assert code == 0, done.stderr
    assert set(RunStore(tmp_path / "runs").read("small")["n_images"]) == {n_images}
    assert 3e8 < n_bytes < most
