import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from commands import ROOT, pruneboard_here, write_suite
from pruneboard.benchmark.cli import pruning
from pruneboard.benchmark.physical import _files, build, facts_of, read_facts, score
from pruneboard.benchmark.runner import Workbench, run_job
from pruneboard.benchmark.suites import expand, load_suite


@pytest.fixture(autouse=True)
def _without_fresh_interpreters(monkeypatch, request):
    """Spare the seconds in which a fresh interpreter imports torch, where a test is not about that."""
    if "fresh" not in request.node.name:
        monkeypatch.setattr(_files, "_load_again", lambda *_: None)


def _published(suite, criterion, model, granularity, shots, rate):
    """Return the published point of the suite's first seed."""
    folder = ROOT / "results" / suite
    with (folder / f"{criterion}.jobs.csv").open(newline="") as file:
        keys = [
            row["key"][:16]
            for row in csv.DictReader(file)
            if (row["model"], row["granularity"], row["seed"]) == (model, granularity, "0")
        ]
    with (folder / f"{criterion}.csv").open(newline="") as file:
        (found,) = [
            row
            for row in csv.DictReader(file)
            if row["key"][:16] in keys and row["shots"] == str(shots) and float(row["rate"]) == rate
        ]
    return found


def _assert_equals_row(facts, row):
    assert facts["top1"] == float(row["top1"])
    assert facts["params"] == int(row["params_left"])
    assert facts["macs"] == int(row["macs_left"])
    assert facts["n_units_removed"] == int(row["n_units_removed"])
    assert facts["n_images"] == int(row["n_images"])


@pytest.mark.parametrize(
    ("model", "granularity", "criterion", "shots", "rate"),
    [
        ("digits_vgg", "filters", "magnitude", 20, 0.75),
        ("digits_resnet", "filters", "lrp_epsilon", 20, 0.5),
        ("digits_resnet", "filters", "random", 20, 0.35),
        ("digits_vit", "neurons", "taylor", 5, 0.25),
        ("digits_vit", "heads", "gradient", 20, 0.6),
    ],
)
def test_the_network_is_the_one_of_the_published_row(model, granularity, criterion, shots, rate, tmp_path):
    done = pruneboard_here(
        *("prune", model, "--criterion", criterion, "--rate", rate, "--granularity", granularity),
        *("--shots", shots, "--device", "cpu", "--out", "small"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    facts = read_facts(tmp_path / "small.safetensors")

    _assert_equals_row(facts, _published("digits", criterion, model, granularity, shots, rate))
    assert facts["top1_before"] == float(_published("digits", criterion, model, granularity, shots, 0.0)["top1"])


def test_the_published_row_of_a_cifar_network(shared_data, shared_weights, tmp_path):
    done = pruneboard_here(
        *("prune", "cifar_resnet20", "--criterion", "magnitude", "--rate", 0.3, "--device", "cpu", "--out", "small"),
        cwd=tmp_path,
        env={"PRUNEBOARD_DATA": str(shared_data), "PRUNEBOARD_WEIGHTS": str(shared_weights)},
    )
    assert done.returncode == 0, done.stderr
    facts = read_facts(tmp_path / "small.safetensors")

    assert facts["dataset"] == "cifar10-lossless"
    _assert_equals_row(facts, _published("cifar10", "magnitude", "cifar_resnet20", "filters", 10, 0.3))


@pytest.mark.slow
def test_a_row_of_the_largest_cifar_network(shared_data, shared_weights, tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNEBOARD_DATA", str(shared_data))
    monkeypatch.setenv("PRUNEBOARD_WEIGHTS", str(shared_weights))
    path = write_suite(
        tmp_path,
        models={"cifar_resnet56": ["filters"]},
        criteria=["taylor"],
        shots=(1,),
        rates=(0.0, 0.2),
        datasets=("cifar10-lossless",),
    )
    (job,) = expand(load_suite(path))
    bench = Workbench(torch.device("cpu"))
    (_, row) = run_job(job, bench)
    scored = score(job, 1, bench)
    facts = facts_of(scored, build(scored, 0.2, "exact"), 0.2, "exact", bench)

    assert (facts.top1, facts.params, facts.macs) == (row.top1, row.params_left, row.macs_left)
    coupled = build(scored, 0.2, "coupled")
    assert coupled.n_units_removed <= row.n_units_removed
    assert 0 <= row.n_units_removed - coupled.n_units_removed < 27


def test_the_report_and_the_files(tmp_path):
    done = pruneboard_here(
        *("prune", "digits_resnet", "--criterion", "taylor", "--rate", 0.5, "--coupled", "--out", "small"),
        *("--device", "cpu"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    facts = read_facts(tmp_path / "small.safetensors")

    assert f"digits_resnet: {facts['n_units_removed']} of 252 filters removed by taylor" in text
    assert "20 reference images per class, seed 0, global ranking, coupled form" in text
    assert "Coupled group 1: conv1, layer1.0.conv2." in text
    assert "their scores were added" in text
    assert f"{facts['params']:,}" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.py", "small.safetensors"]
    assert facts["form"] == "coupled"
    assert facts["licence"] == "BSD-3-Clause"
    assert facts["parameters"]["per_layer"] == "l2"
    assert {name: len(kept) for name, kept in facts["units_kept"].items()}["conv1"] == 10
    # The three lines that are printed do what they say.
    code = "\n".join(line.strip() for line in done.stdout.splitlines()[-3:])
    code = f"import torch\nimages = torch.zeros(3, 1, 8, 8)\n{code}\nprint(tuple(logits.shape))"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False
    )
    assert ran.stdout == "(3, 10)\n", ran.stderr


def test_what_a_fresh_interpreter_does_not_load_is_no_success(monkeypatch, tmp_path):
    whole = _files.module_source
    monkeypatch.setattr(_files, "module_source", lambda *given: f"import timm\n{whole(*given)}")
    done = pruneboard_here(
        *("prune", "digits_vgg", "--criterion", "magnitude", "--rate", 0.5, "--out", "small", "--device", "cpu"),
        cwd=tmp_path,
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: `digits_vgg` by filters: a network that is written must load")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_no_identifier_can_be_loaded_as_well(tmp_path):
    done = pruneboard_here(
        *("prune", "digits_vgg", "--criterion", "magnitude", "--rate", 0.9, "--out", "my-net.safetensors"),
        *("--device", "cpu"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    code = "\n".join(line.strip() for line in done.stdout.splitlines()[-3:])
    ran = subprocess.run(
        [sys.executable, "-c", f"import torch\nimages = torch.zeros(2, 1, 8, 8)\n{code}\nprint(len(logits))"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout == "2\n", ran.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("digits_vgq", "--criterion", "magnitude", "--rate", 0.5), "there is no model `digits_vgq`. Did you mean"),
        (("digits_vgg", "--criterion", "magnitud", "--rate", 0.5), "there is no criterion `magnitud`. Did you mean"),
        (("digits_vgg", "--criterion", "magnitude", "--rate", 1), "`--rate` must be in [0, 1), got 1"),
        (("digits_vgg", "--criterion", "magnitude", "--rate", -0.1), "`--rate` must be in [0, 1), got -0.1"),
        (("digits_vgg", "--criterion", "magnitude", "--rate", "nan"), "`--rate` must be in [0, 1), got nan"),
        (("digits_vit", "--criterion", "magnitude", "--rate", 0.5), "must be one of neurons, heads for `digits_vit`"),
        (
            ("digits_vgg", "--criterion", "magnitude", "--rate", 0.5, "--granularity", "heads"),
            "`--granularity` must be one of filters for `digits_vgg`, got `heads`",
        ),
        (("digits_vgg", "--criterion", "magnitude", "--rate", 0.5, "--suite", "cifar10"), "there is no model in suite"),
        (("digits_vgg", "--criterion", "magnitude", "--rate", 0.5, "--suite", "none"), "there is no suite `none`"),
        (("digits_vgg", "--criterion", "magnitude", "--rate", 0.5, "--shots", 3), "`--shots` must be one of"),
        (("digits_vgg", "--criterion", "magnitude", "--rate", 0.5, "--seed", -1), "`--seed` must be a whole number"),
        (("digits_vgg", "--criterion", "magnitude", "--rate", 0.5, "--device", "tpu"), "`--device` must be a usable"),
        (
            ("digits_vit", "--criterion", "bn_scale", "--rate", 0.5, "--granularity", "heads"),
            "criterion `bn_scale` declines `digits_vit` by heads",
        ),
    ],
)
def test_bad_input_is_one_message(arguments, message, tmp_path):
    done = pruneboard_here("prune", *arguments, "--out", "small", cwd=tmp_path)

    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("small.pt", "must name a file that ends in"),
        (".", "must name a file"),
        ("d/.safetensors", "must name a file"),
        ("class.safetensors", "got `class.safetensors`: `class` is a keyword of Python; choose another name, such as"),
        ("d/torch", "got `d/torch`: `torch` would hide the module of that name; choose another name, such as"),
        ("math", "`math` would hide the module of that name"),
        ("safetensors", "`safetensors` would hide the module of that name"),
    ],
)
def test_a_file_of_another_kind_is_refused(out, message, tmp_path):
    done = pruneboard_here("prune", "digits_vgg", "--criterion", "magnitude", "--rate", 0.5, "--out", out, cwd=tmp_path)

    assert (done.returncode, message in done.stderr) == (2, True)
    assert not list(tmp_path.iterdir())


def test_existing_files_are_kept_unless_they_may_be_replaced(tmp_path):
    (tmp_path / "small.py").write_text("mine")
    command = ("prune", "digits_vgg", "--criterion", "magnitude", "--rate", 0.5, "--out", "small", "--device", "cpu")
    refused = pruneboard_here(*command, cwd=tmp_path)

    assert refused.returncode == 2
    assert re.search(r"`small.py` exists; choose another name, or replace it with `--overwrite`", refused.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["small.py"]
    assert (tmp_path / "small.py").read_text() == "mine"
    assert pruneboard_here(*command, "--overwrite", cwd=tmp_path).returncode == 0
    assert "class Network" in (tmp_path / "small.py").read_text()


def test_a_missing_folder_is_made_and_one_that_cannot_be_is_an_error(tmp_path):
    command = ("prune", "digits_vgg", "--criterion", "magnitude", "--rate", 0.5, "--device", "cpu", "--out")
    assert pruneboard_here(*command, "new/deep/small", cwd=tmp_path).returncode == 0
    assert (tmp_path / "new" / "deep" / "small.safetensors").exists()
    (tmp_path / "file").write_text("")
    done = pruneboard_here(*command, Path("file") / "small", cwd=tmp_path)

    assert done.returncode == 2
    assert "must be writable" in done.stderr


def test_a_criterion_that_fails_is_an_error_with_its_reason(extra_criteria, tmp_path):
    done = pruneboard_here(
        "prune", "digits_vgg", "--criterion", "bad_raises", "--rate", 0.5, "--out", "x", cwd=tmp_path
    )

    assert done.returncode == 2
    assert done.stderr.startswith("error: criterion `bad_raises` must score every unit of `digits_vgg`, but it failed")


def test_ctrl_c_leaves_nothing(monkeypatch, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pruning, "build", interrupt)
    done = pruneboard_here(
        "prune", "digits_vgg", "--criterion", "magnitude", "--rate", 0.5, "--out", "small", cwd=tmp_path
    )

    assert (done.returncode, done.stdout) == (130, "Stopped; nothing was written.\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("n_written", "overwrite", "said"),
    [
        (1, False, "`small.safetensors` is new, `small.py` was not written. Write them again with `--overwrite`."),
        (1, True, "`small.safetensors` was replaced, `small.py` was not written. Write them again with `--overwrite`."),
        (2, True, "`small.safetensors` was replaced, `small.py` was replaced. Write them again with `--overwrite`."),
    ],
)
def test_ctrl_c_between_the_files_says_which_there_are(n_written, overwrite, said, monkeypatch, tmp_path):
    if overwrite:
        for name in ("small.safetensors", "small.py"):
            (tmp_path / name).write_text("old")
    replaced, replace = [], Path.replace

    def interrupted(path, target):
        if target.name.startswith("small"):
            if len(replaced) == n_written:
                raise KeyboardInterrupt
            replaced.append(target.name)
        found = replace(path, target)
        if len(replaced) == n_written == 2:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Path, "replace", interrupted)
    done = pruneboard_here(
        *("prune", "digits_vgg", "--criterion", "magnitude", "--rate", 0.5, "--out", "small", "--device", "cpu"),
        *(("--overwrite",) if overwrite else ()),
        cwd=tmp_path,
    )

    assert (done.returncode, done.stdout) == (130, f"Stopped while the files were put in place: {said}\n")
    assert replaced == ["small.safetensors", "small.py"][:n_written]
    assert {path.name for path in tmp_path.iterdir()} == {
        *replaced,
        *(("small.safetensors", "small.py") if overwrite else ()),
    }
