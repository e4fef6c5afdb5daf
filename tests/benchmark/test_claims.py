"""Claims of jobs by several runs on one folder."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from commands import ROOT
from pruneboard.benchmark.errors import StoreError
from pruneboard.benchmark.executors import Claims
from pruneboard.benchmark.executors import _claims as claims_module

OLD = claims_module.STALE_SECONDS + 60


def on_another_machine(claims):
    """Make a run's claims those of another machine, whose processes cannot be seen."""
    claims.owner = replace(claims.owner, host="elsewhere", pid=1)
    return claims


def age(path, seconds):
    """Let a file look as if it was modified so long ago."""
    now = path.stat().st_mtime
    os.utime(path, (now - seconds, now - seconds))


@pytest.fixture
def two(tmp_path):
    with on_another_machine(Claims(tmp_path, "theirs")) as theirs, Claims(tmp_path, "ours") as ours:
        yield theirs, ours


def test_a_job_is_one_runs_until_it_gives_it_back(two, tmp_path):
    theirs, ours = two
    assert theirs.take("job")
    assert not ours.take("job")
    assert ours.take("another")
    assert theirs.take("job"), "what one has, one may take again"
    theirs.release("job")
    theirs.release("another")

    assert ours.take("job")
    assert not theirs.take("another"), "nobody gives back what is another's"


def test_a_claim_is_stale_when_its_run_shows_no_sign_of_life(two, tmp_path):
    theirs, ours = two
    theirs.take("job")
    age(tmp_path / "theirs.alive", OLD)
    assert ours.take("job")
    theirs.release("job")

    assert (tmp_path / "job").exists(), "who was taken for dead does not remove the claim of who came after"
    assert not theirs.take("job")


def test_a_run_that_ended_or_whose_sign_is_gone_claims_nothing(two, tmp_path):
    theirs, ours = two
    theirs.take("job")
    (tmp_path / "theirs.alive").unlink()

    assert ours.take("job")


@pytest.mark.parametrize("jump", [-10 * 365 * 86400.0, 10 * 365 * 86400.0])
def test_clocks_that_jump_do_no_harm(two, tmp_path, monkeypatch, jump):
    """Neither a clock of this machine, nor that of a file system which is years from it."""
    theirs, ours = two
    theirs.take("job")
    now = claims_module.time.time()
    monkeypatch.setattr(claims_module.time, "time", lambda: now + jump)
    assert not ours.take("job")
    monkeypatch.undo()

    touch = claims_module.Path.touch

    def touch_on_a_server(path, *arguments, **options):
        touch(path, *arguments, **options)
        os.utime(path, (now + jump, now + jump))

    monkeypatch.setattr(claims_module.Path, "touch", touch_on_a_server)
    touch_on_a_server(tmp_path / "theirs.alive")
    assert not ours.take("job")
    os.utime(tmp_path / "theirs.alive", (now + jump - OLD, now + jump - OLD))
    assert ours.take("job")


def test_a_dead_process_of_this_machine_claims_nothing_however_fresh(tmp_path):
    code = (
        "import os, sys; from pathlib import Path\n"
        "from pruneboard.benchmark.executors._claims import Claims\n"
        "claims = Claims(Path(sys.argv[1]), 'dead').__enter__(); claims.take('job'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=ROOT)
    assert json.loads((tmp_path / "job").read_text())["run"] == "dead"
    with Claims(tmp_path, "ours") as ours:
        assert not (tmp_path / "job").exists(), "it is swept away"
        assert ours.take("job")


def test_a_claim_that_names_nobody_is_stale_when_it_is_old(tmp_path):
    with Claims(tmp_path, "ours") as ours:
        (tmp_path / "job").touch()
        assert not ours.take("job"), "its owner may just be writing it"
        age(tmp_path / "job", OLD)
        assert ours.take("job")


def test_of_many_runs_that_see_a_stale_claim_one_gets_it(tmp_path):
    with on_another_machine(Claims(tmp_path, "dead")) as dead:
        for turn in range(20):
            dead.take(f"job{turn}")
        age(tmp_path / "dead.alive", OLD)
        runs = [on_another_machine(Claims(tmp_path, f"run{number}")) for number in range(8)]
        for run in runs:
            run._sweep = lambda: None
            run.__enter__()
        got = {number: [] for number in range(8)}
        barrier = threading.Barrier(8)

        def grab(number):
            for turn in range(20):
                barrier.wait()
                if runs[number].take(f"job{turn}"):
                    got[number].append(turn)

        threads = [threading.Thread(target=grab, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(turn for turns in got.values() for turn in turns) == list(range(20))
        for run in runs:
            run.__exit__(None, None, None)
    assert not [path.name for path in tmp_path.iterdir()], "nothing is left"


def test_a_run_that_died_in_the_middle_of_taking_over_blocks_nobody(two, tmp_path):
    theirs, ours = two
    theirs.take("job")
    age(tmp_path / "theirs.alive", OLD)
    lock = tmp_path / ".job.after-theirs"
    lock.write_text('{"run": "gone", "host": "elsewhere", "pid": 1}')

    assert not ours.take("job"), "the lock of a dead run is removed first"
    assert ours.take("job")
    assert not lock.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "claims").touch()
    with pytest.raises(StoreError, match=r"claims` must be writable"), Claims(tmp_path / "claims", "ours"):
        pass
    with Claims(tmp_path, "ours") as ours, pytest.raises(StoreError, match="must be writable"):
        ours.take("no/such/folder")


def test_a_run_shows_that_it_is_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(claims_module, "BEAT_SECONDS", 0.02)
    with Claims(tmp_path, "ours"):
        sign = tmp_path / "ours.alive"
        age(sign, OLD)
        old = sign.stat().st_mtime
        end = claims_module.time.monotonic() + 10
        while sign.stat().st_mtime == old and claims_module.time.monotonic() < end:
            claims_module.time.sleep(0.01)
        assert sign.stat().st_mtime > old


def test_a_sign_that_lies_ahead_has_to_change(two, tmp_path, monkeypatch):
    """Left by a run that died while its clock was a year ahead, it would be fresh for a year."""
    theirs, ours = two
    theirs.take("job")
    age(tmp_path / "theirs.alive", -365 * 86400.0)
    assert not ours.take("job"), "it may just be another machine's clock"
    began, passed = time.monotonic(), [0.0]
    monkeypatch.setattr(claims_module.time, "monotonic", lambda: began + passed[0])
    passed[0] = OLD
    age(tmp_path / "theirs.alive", -5.0)
    assert not ours.take("job"), "it changed"
    passed[0] = 2 * OLD

    assert ours.take("job")


@pytest.mark.parametrize(
    "owner",
    [
        {"run": "../../x", "host": "elsewhere", "pid": 1},
        {"run": "x\0", "host": "elsewhere", "pid": 1},
        {"run": "x" * 300, "host": "elsewhere", "pid": 1},
        {"run": 7, "host": "elsewhere", "pid": 1},
        {"run": "x", "host": "elsewhere", "pid": "1"},
        {"run": "x", "host": "elsewhere", "pid": 1e400},
        {"run": "x", "host": "elsewhere", "pid": -1},
    ],
)
def test_a_claim_that_names_no_run_is_as_one_that_names_nobody(tmp_path, owner):
    with Claims(tmp_path, "ours") as ours:
        (tmp_path / "job").write_text(json.dumps(owner))
        assert not ours.take("job")
        age(tmp_path / "job", OLD)

        assert ours.take("job")
