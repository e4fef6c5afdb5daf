import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from pruneboard.benchmark import provenance
from pruneboard.benchmark.errors import ModelError

N_BYTES = 50_000_000


def git(folder, *command):
    """Run git in a folder, whatever the environment and the user's settings say, and return what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    settings = ("-c", "user.name=x", "-c", "user.email=x@localhost", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", "-C", str(folder), *settings, *command], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def make_repository(folder, content):
    """Make a repository with one committed file of code."""
    (folder / "criteria").mkdir(parents=True)
    (folder / "criteria" / "one.py").write_text(content)
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "First")
    return folder


def commit():
    """Ask again, not the cache."""
    provenance.commit.cache_clear()
    return provenance.commit()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A throw-away checkout that pruneboard takes for its own."""
    folder = make_repository(tmp_path / "checkout", "x = 1\n")
    monkeypatch.setattr(provenance, "_ROOT", folder)
    yield folder
    provenance.commit.cache_clear()


def test_commit_is_that_of_the_code_and_whether_it_was_changed(checkout):
    head = git(checkout, "rev-parse", "HEAD")
    assert commit() == (head, True)
    (checkout / "criteria" / "one.py").write_text("x = 2\n")
    assert commit() == (head, False)
    git(checkout, "commit", "--quiet", "-a", "-m", "Second")
    assert commit() == (git(checkout, "rev-parse", "HEAD"), True)
    (checkout / "criteria" / "two.py").touch()
    assert commit()[1] is False


def test_what_a_run_writes_into_the_checkout_is_no_change_of_the_code(checkout):
    for folder in ("runs", "results", "_site"):
        (checkout / folder).mkdir()
        (checkout / folder / "rows.csv").touch()

    assert commit() == (git(checkout, "rev-parse", "HEAD"), True)


def test_commit_does_not_follow_the_variables_of_git(checkout, tmp_path, monkeypatch):
    other = make_repository(tmp_path / "other", "y = 1\n")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))

    assert commit() == (git(checkout, "rev-parse", "HEAD"), True)


def test_commit_outside_a_whole_repository_is_unknown(checkout, tmp_path, monkeypatch):
    (checkout / ".git" / "HEAD").unlink()
    assert commit() == ("", False)
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    assert commit() == ("", False)


def test_resolve_device_knows_the_devices_that_results_are_measured_on(monkeypatch):
    assert provenance.resolve_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert provenance.resolve_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("name", ["meta", "xpu", "cpu:0", "cuda:", "cuda:-1", "cuda:x", "Cuda", "CPU", "", "cpu\n"])
def test_resolve_device_refuses_other_devices(name):
    message = (
        f"^`--device` must be a usable device such as cpu or cuda:0, got `{name}`; choose auto, cpu, cuda, cuda:N or"
    )
    with pytest.raises(ModelError, match=message):
        provenance.resolve_device(name)


@pytest.mark.parametrize("name", ["cuda:99", f"cuda:{'9' * 30}"])
def test_resolve_device_refuses_a_device_that_is_not_there(name):
    with pytest.raises(ModelError, match=f"must be a usable device such as cpu or cuda:0, got `{name}`: "):
        provenance.resolve_device(name)


def test_device_name_begins_with_the_kind():
    assert provenance.device_name(torch.device("cpu")).startswith("cpu ")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak resident size of a process")
def test_peak_memory_sees_what_a_block_touched_and_gave_back():
    with provenance.peak_memory(torch.device("cpu")) as memory:
        np.ones(N_BYTES, dtype=np.uint8)

    if memory.n_bytes is None:
        pytest.skip("this system does not let a process reset its peak resident size")
    assert memory.n_bytes == pytest.approx(N_BYTES, rel=0.2)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak resident size of a process")
def test_peak_memory_sees_what_a_block_takes_of_memory_that_was_free_before():
    """Pieces that the allocator keeps for later: what one job gave back would else hide what the next one needs."""
    pieces = [np.ones(100_000, dtype=np.uint8) for _ in range(N_BYTES // 100_000)]
    end = np.ones(100_000, dtype=np.uint8)
    del pieces
    with provenance.peak_memory(torch.device("cpu")) as memory:
        again = [np.ones(100_000, dtype=np.uint8) for _ in range(N_BYTES // 100_000)]

    assert len(again) + len(end) > 0
    assert memory.n_bytes is None or memory.n_bytes == pytest.approx(N_BYTES, rel=0.2)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak resident size of a process")
def test_peak_memory_leaves_out_what_was_there_before():
    kept = np.ones(N_BYTES, dtype=np.uint8)
    np.ones(4 * N_BYTES, dtype=np.uint8)
    with provenance.peak_memory(torch.device("cpu")) as memory:
        kept.sum()

    assert memory.n_bytes is None or memory.n_bytes < 0.2 * N_BYTES
