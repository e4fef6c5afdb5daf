"""A whole job, and the start of the command line."""

import os
import subprocess
import sys

import pytest
import torch

from pruneboard.benchmark import runner
from pruneboard.benchmark.evaluate import Pruning
from pruneboard.benchmark.runner import Workbench, run_job
from pruneboard.benchmark.suites import expand, load_suite, suite_path


@pytest.mark.parametrize("model", ["digits_vgg", "digits_resnet", "digits_vit"])
def test_a_whole_job(compare, model, monkeypatch):
    """LRP-epsilon at all shots and rates, with its accuracies from masks and from what is left."""
    (job, *_) = expand(load_suite(suite_path("digits")), models=[model], criteria=["lrp_epsilon"])

    def masked():
        with monkeypatch.context() as patch:
            patch.setattr(runner, "prepare_pruning", lambda network, layers, _images: Pruning(network, layers))
            assert run_job(job, Workbench(torch.device("cpu")))[0].evaluation.startswith("masked")

    compare(
        "a job of LRP-epsilon",
        model,
        reference=masked,
        reference_name="the same with masks",
        ours=lambda: run_job(job, Workbench(torch.device("cpu"))),
        rounds=3,
    )


def start(*command):
    subprocess.run([sys.executable, *command], check=True, capture_output=True, env=os.environ | {"COLUMNS": "80"})


@pytest.mark.parametrize("command", ["--help", "list suites"])
def test_the_start_of_the_command_line(compare, command):
    compare(
        "start",
        f"pruneboard {command}",
        reference=lambda: start("-c", "import torch"),
        reference_name="import torch",
        ours=lambda: start("-m", "pruneboard.benchmark.cli", *command.split()),
        rounds=7,
    )
