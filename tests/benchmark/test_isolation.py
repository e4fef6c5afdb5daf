"""A criterion cannot change another job's model, rows or random state, whatever it does in the same process."""

import os
import random

import numpy as np
import pytest
import torch

from commands import PLUGINS, pruneboard, pruneboard_here, write_suite
from pruneboard.benchmark.process import CodeState, ProcessState
from pruneboard.benchmark.store import RunStore

TIMES = ["score_seconds", "score_peak_bytes", "job_seconds", "time_utc"]
OTHERS = ["magnitude", "random", "taylor"]
EXTRA = {"PYTHONPATH": str(PLUGINS)}
WAYS = ("settings", "wanders", "engine", "floods", "patches", "changes_model")


def suite_of(folder, ways):
    """The misbehaving criteria come before the others, in the same worker."""
    criteria = [name for way in ways for name in (f"bad_{way}", *OTHERS)]
    write_suite(folder, models={"digits_vgg": ["filters"]}, criteria=list(dict.fromkeys(criteria)), seeds=[0])


def rows_of(folder):
    rows = RunStore(folder / "runs").read("small").drop(columns=TIMES)
    rows = rows[rows["criterion"].isin(OTHERS)].reset_index(drop=True)
    return rows.astype({name: "str" for name, kind in rows.dtypes.items() if kind == "category"})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    write_suite(folder, models={"digits_vgg": ["filters"]}, criteria=OTHERS, seeds=[0])
    done = pruneboard_here("run", "small.toml", "--workers", 0, cwd=folder)
    assert done.returncode == 0, done.stderr
    return rows_of(folder)


@pytest.mark.slow
def test_other_jobs_of_the_same_worker_give_the_same_rows(tmp_path, undisturbed):
    """Random states, settings, folder, environment, the engine's own functions, torch's, the network, megabytes."""
    suite_of(tmp_path, WAYS)
    done = pruneboard("run", "small.toml", "--workers", 1, "--threads", 1, cwd=tmp_path, env=EXTRA)
    rows = RunStore(tmp_path / "runs").read("small").drop_duplicates("key").set_index("criterion")
    reasons = rows.loc[rows["seed"] == 0, "reason"]
    log = tmp_path / "runs" / "small" / "logs" / "digits_vgg.filters.bad_floods.0.log"

    assert done.returncode == 1, done.stdout + done.stderr
    assert rows_of(tmp_path).equals(undisturbed)
    assert reasons["bad_engine"].startswith("CriterionError: a criterion must leave the code of others as it was, but")
    assert "pruneboard.benchmark.protocols.accuracy_curve` was replaced (1 in all)" in reasons["bad_engine"]
    assert {way for way in WAYS if not reasons[f"bad_{way}"]} == {"settings", "wanders", "floods"}
    assert not log.exists() or log.stat().st_size < 1.1 * 2**20
    assert sum(path.stat().st_size for path in (tmp_path / "runs" / "small" / "logs").iterdir()) < 5 * 2**20
    assert len(done.stdout) < 20_000


@pytest.mark.slow
def test_rows_of_others_that_a_plugin_damages_are_found_and_measured_again(tmp_path, undisturbed):
    """It runs with its user's rights, so it can write there; it cannot make that pass for a result."""
    write_suite(tmp_path, models={"digits_vgg": ["filters"]}, criteria=[*OTHERS, "bad_wrecks"], seeds=[0])
    options = ("run", "small.toml", "--workers", 1, "--threads", 1)
    pruneboard(*options, "--criterion", "magnitude", "--criterion", "random", cwd=tmp_path, env=EXTRA)
    wrecked = pruneboard(*options, "--criterion", "bad_wrecks", cwd=tmp_path, env=EXTRA)
    table = pruneboard_here("table", "small.toml", cwd=tmp_path)
    again = pruneboard(*options, "--criterion", "magnitude", "--criterion", "random", cwd=tmp_path)
    pruneboard(*options, "--criterion", "taylor", cwd=tmp_path)

    assert "Traceback" not in wrecked.stderr + table.stderr + again.stderr
    assert table.returncode == 2
    assert "is damaged (altered: its checksum is another)" in table.stderr or "are not:" in table.stderr
    assert "0 done before, 2 to run" in again.stdout
    damaged = pruneboard_here("runs", "prune", "small.toml", "--yes", cwd=tmp_path)
    assert damaged.returncode == 0, damaged.stderr
    assert rows_of(tmp_path).equals(undisturbed)


def test_the_state_of_the_process_is_told_and_put_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = ProcessState()
    drawn = torch.rand(1), random.random(), np.random.rand()
    os.chdir("/")
    monkeypatch.setenv("MINE", "1")
    torch.set_float32_matmul_precision("medium")
    changes = state.changes()
    state.restore()

    assert changes == [
        "the random state of torch",
        "the random state of NumPy",
        "the random state of Python",
        "the precision of matrix products",
        "the present folder",
        "the environment",
    ]
    assert state.changes() == []
    assert (torch.rand(1), random.random(), np.random.rand()) == drawn
    state.restore()


def test_functions_that_were_replaced_are_told_and_put_back(monkeypatch):
    from pruneboard.benchmark import protocols, ranking

    state, rank, masks_at = CodeState(), ranking.rank, ranking.masks_at
    code = masks_at.__code__
    monkeypatch.setattr(ranking, "rank", lambda *_: None)
    monkeypatch.setattr(torch, "argsort", lambda *_: None)
    monkeypatch.setattr(protocols.Experiment, "__init__", lambda *_: None)
    monkeypatch.setattr(masks_at, "__code__", (lambda *_: None).__code__)
    names = state.restore()

    assert set(names) >= {
        "pruneboard.benchmark.ranking.rank",
        "torch.argsort",
        "Experiment.__init__",
        "pruneboard.benchmark.ranking.masks_at",
    }
    assert ranking.rank is rank
    assert masks_at.__code__ is code
    assert state.restore() == []
