"""Runs that are disturbed in every way lose no finished row, double none, and end with the undisturbed table."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from commands import (
    EXTRA,
    environment_of,
    press_ctrl_c,
    pruneboard,
    pruneboard_here,
    start_pruneboard,
    wait_until,
    write_suite,
)
from pruneboard.benchmark.store import RunStore

TIMES = ["score_seconds", "score_peak_bytes", "job_seconds", "time_utc"]
MODELS = {"digits_vgg": ["filters"], "digits_vit": ["heads"]}


def write(folder, **options):
    defaults = {"models": MODELS, "criteria": ["random", "magnitude", "taylor", "activation"], "seeds": [0, 1, 2]}
    return write_suite(folder, **defaults | options)


def table(folder):
    """All rows of a run folder, without what no two runs share."""
    return RunStore(folder / "runs").read("small").drop(columns=TIMES)


def statuses(folder):
    """What the status files of a folder say, in the order of the runs' beginnings."""
    return [json.loads(path.read_text()) for path in sorted((folder / "runs" / "small" / "status").glob("*.json"))]


def job_files(folder):
    return list((folder / "runs" / "small").glob("[!.]*.parquet"))


def workers_of(process):
    """The worker processes of a run; its other child only tracks resources."""
    try:
        children = psutil.Process(process.pid).children()
        return [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]
    except psutil.NoSuchProcess:
        return []


def is_alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def check_finished_rows_are_kept(folder, kept):
    """Check that files which were there are as they were: a finished job is not run again."""
    assert {path: path.read_bytes() for path in kept} == kept


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    write(folder)
    done = pruneboard_here("run", "small.toml", "--workers", 0, cwd=folder)
    assert done.returncode == 0, done.stderr
    return table(folder)


def kill_workers_at_random(folder, *, n_kills, n_workers, generator):
    """Run the suite while half of its workers are killed again and again, each time at some moment after progress."""
    process = start_pruneboard("run", "small.toml", "--workers", n_workers, cwd=folder)
    n_killed = n_done = 0
    while n_killed < n_kills and process.poll() is None:
        wait_until(lambda n=n_done: len(job_files(folder)) > n or process.poll() is not None)
        time.sleep(generator.uniform(0.0, 1.5))
        n_done = len(job_files(folder))
        kept = {path: path.read_bytes() for path in job_files(folder)}
        for worker in generator.sample(found := workers_of(process), (len(found) + 1) // 2):
            worker.kill()
            n_killed += 1
        check_finished_rows_are_kept(folder, kept)
    printed, errors = process.communicate(timeout=300)
    assert "Traceback" not in errors, errors
    return process.returncode, printed, n_killed


def test_workers_that_are_killed_cost_nothing(tmp_path, undisturbed):
    write(tmp_path)
    process = start_pruneboard("run", "small.toml", "--workers", 2, cwd=tmp_path)
    for n_done in (1, 4, 8):
        wait_until(lambda n=n_done: len(job_files(tmp_path)) >= n)
        workers_of(process)[0].kill()
    printed, errors = process.communicate(timeout=120)

    assert process.returncode == 0, printed + errors
    assert table(tmp_path).equals(undisturbed)
    assert statuses(tmp_path)[-1]["counts"] == {"ok": 24}
    assert not list((tmp_path / "runs" / "small" / "claims").iterdir())


def test_a_killed_run_is_continued_at_once_by_another(tmp_path, undisturbed):
    """The claims of the killed run are no obstacle, and its workers and their children end with it."""
    write(tmp_path)
    process = start_pruneboard("run", "small.toml", "--workers", 1, "--threads", 1, cwd=tmp_path)
    wait_until(lambda: len(job_files(tmp_path)) >= 5)
    workers = workers_of(process)
    process.kill()
    process.communicate()
    wait_until(lambda: not any(is_alive(worker.pid) for worker in workers), seconds=20)
    kept = {path: path.read_bytes() for path in job_files(tmp_path)}
    claims = list((tmp_path / "runs" / "small" / "claims").iterdir())
    before = time.monotonic()
    done = pruneboard_here("run", "small.toml", "--workers", 0, cwd=tmp_path)

    assert claims
    assert done.returncode == 0, done.stderr
    assert f"{len(kept)} done before" in done.stdout
    check_finished_rows_are_kept(tmp_path, kept)
    assert table(tmp_path).equals(undisturbed)
    assert time.monotonic() - before < 100, "a dead process on this machine is not waited for"
    assert [status["state"] for status in statuses(tmp_path)] == ["running", "done"]


def test_two_runs_at_once_share_the_jobs_and_do_none_twice(tmp_path, undisturbed):
    write(tmp_path)
    both = [start_pruneboard("run", "small.toml", "--workers", 1, "--threads", 1, cwd=tmp_path) for _ in range(2)]
    printed = [process.communicate(timeout=200) for process in both]
    first, second = statuses(tmp_path)

    assert [process.returncode for process in both] == [0, 0], printed
    assert sum(sum(one["counts"].values()) - one["n_elsewhere"] for one in (first, second)) == 24
    assert all(sum(one["counts"].values()) + one["n_before"] == 24 for one in (first, second))
    assert any(one["n_elsewhere"] for one in (first, second))
    assert table(tmp_path).equals(undisturbed)
    assert not list((tmp_path / "runs" / "small" / "claims").iterdir())


@pytest.mark.slow
def test_what_misbehaves_costs_itself_only(tmp_path):
    """A hang, a daemon that outlives its job, megabytes of output, a crash, much memory, and what cannot be caught."""
    ways = ["hangs", "killed", "forks", "patches", "daemon", "prints", "segfaults", "eats", "base", "exits"]
    criteria = ["magnitude", *(f"bad_{way}" for way in ways), "random"]
    write(tmp_path, models={"digits_vgg": ["filters"]}, criteria=criteria, seeds=[0])
    options = ("--workers", 2, "--time-limit", "40s", "--memory-limit", "2GB")
    done = pruneboard("run", "small.toml", *options, cwd=tmp_path, env=EXTRA)
    rows = RunStore(tmp_path / "runs").read("small").drop_duplicates("key").set_index("criterion")
    reasons = {way: rows.loc[f"bad_{way}", "reason"] for way in ways}
    logs = {path.name.split(".")[2]: path for path in (tmp_path / "runs" / "small" / "logs").iterdir()}

    assert done.returncode == 1, done.stdout + done.stderr
    assert {name for name, status in rows["status"].items() if status == "ok"} == {"magnitude", "random", "bad_daemon"}
    assert reasons["hangs"] == (
        "a job must end within the time limit of 40 s, but this one had not; raise `--time-limit` if it only needs "
        "longer."
    )
    assert reasons["eats"].startswith("a worker must hold less than the memory limit of 2 GB, but in this job it held ")
    died = "a plugin must return what it is asked for, but its process died with {} before it did."
    assert reasons["killed"] == died.format("signal SIGKILL")
    assert reasons["forks"] == died.format("exit code 3")
    assert "now gives other logits" in reasons["patches"]
    assert rows.loc["magnitude", "top1"] == rows["top1"].max() >= 0.97
    assert reasons["segfaults"] == died.format("signal SIGSEGV")
    assert reasons["base"].startswith("Unstoppable: whatever you catch")
    assert reasons["exits"].startswith("SystemExit: 7")
    for name in ("hangs", "daemon", "segfaults"):
        assert not is_alive(int((tmp_path / f"{name}.pid").read_text())), name
    assert set(logs) == {f"bad_{way}" for way in ways} - {"bad_daemon", "bad_killed", "bad_forks"}
    for name, path in logs.items():
        assert f"(log: {path.relative_to(tmp_path)})" in done.stdout, name
    assert logs["bad_prints"].stat().st_size < 1.1 * 2**20
    assert "ValueError: said too much" in logs["bad_prints"].read_text()[-300:]
    assert "Traceback (most recent call last)" in logs["bad_base"].read_text()
    assert "misbehaving.py" in logs["bad_hangs"].read_text(), "it says where it hung"


def test_a_disk_that_fills_up_loses_nothing_that_was_finished(tmp_path, undisturbed):
    """Files may not grow beyond a few kB, so that no further table can be written."""
    write(tmp_path)
    first = pruneboard_here("run", "small.toml", "--workers", 0, "--criterion", "magnitude", cwd=tmp_path)
    kept = {path: path.read_bytes() for path in job_files(tmp_path)}
    assert (first.returncode, len(kept)) == (0, 6)
    command = f"{sys.executable} -m pruneboard.benchmark.cli run small.toml --workers 1 --threads 1"
    limited = subprocess.run(
        ["bash", "-c", f"ulimit -f 4; trap '' XFSZ; exec {command}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=environment_of(),
    )
    assert limited.returncode == 2, limited.stdout + limited.stderr
    assert limited.stderr.startswith("error: ")
    assert "must be writable, but" in limited.stderr
    assert "file too large" in limited.stderr
    assert statuses(tmp_path)[-1]["state"] == "failed"
    assert not list((tmp_path / "runs" / "small").glob(".tmp*"))
    check_finished_rows_are_kept(tmp_path, kept)
    done = pruneboard_here("run", "small.toml", "--workers", 0, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "6 done before, 18 to run" in done.stdout
    check_finished_rows_are_kept(tmp_path, kept)
    assert table(tmp_path).equals(undisturbed)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs a mount of its own")
def test_a_store_that_is_read_only_is_said_before_anything_is_computed(tmp_path):
    write(tmp_path, models={"digits_vgg": ["filters"]}, criteria=["magnitude"], seeds=[0])
    (tmp_path / "runs").mkdir()
    command = f"{sys.executable} -m pruneboard.benchmark.cli run small.toml --workers 1 --threads 1"
    mounted = f"mount --bind runs runs && mount -o remount,ro,bind runs && exec {command}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mounted],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=environment_of(),
    )
    if "mount" in done.stderr.partition("error:")[0]:
        pytest.skip("this machine allows no mounts")

    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: `runs/.pruneboard-run` must be writable, but read-only file system;")
    assert not list((tmp_path / "runs").iterdir())


def test_the_signal_of_a_batch_system_drops_the_running_jobs_cleanly(tmp_path):
    write(tmp_path, models={"digits_vgg": ["filters"]}, criteria=["magnitude", "bad_hangs"], seeds=[0])
    process = start_pruneboard("run", "small.toml", "--workers", 1, "--threads", 1, cwd=tmp_path, env=EXTRA)
    wait_until((tmp_path / "hangs.pid").exists)
    pids = [worker.pid for worker in workers_of(process)] + [int((tmp_path / "hangs.pid").read_text())]
    os.kill(process.pid, signal.SIGTERM)
    printed, errors = process.communicate(timeout=30)

    assert process.returncode == 143, errors
    assert "Stopped: 1 ok." in printed
    assert errors == ""
    assert not any(map(is_alive, pids))
    assert statuses(tmp_path)[-1]["state"] == "interrupted"
    assert not list((tmp_path / "runs" / "small" / "claims").iterdir())
    assert len(job_files(tmp_path)) == 1


def test_ctrl_c_finishes_the_running_jobs_and_a_second_one_drops_them(tmp_path):
    write(tmp_path, models={"digits_vgg": ["filters"]}, criteria=["bad_hangs", "bad_lingers"], seeds=[0, 1])
    process = start_pruneboard("run", "small.toml", "--workers", 2, cwd=tmp_path, env=EXTRA)
    wait_until(lambda: (tmp_path / "hangs.pid").exists() and len(statuses(tmp_path)[-1]["running"]) == 2)
    press_ctrl_c(process)
    wait_until(lambda: statuses(tmp_path)[-1]["state"] == "finishing")
    wait_until(lambda: statuses(tmp_path)[-1]["counts"] == {"ok": 1})
    (left,) = statuses(tmp_path)[-1]["running"]
    press_ctrl_c(process)
    printed, errors = process.communicate(timeout=60)

    assert process.returncode == 130, errors
    assert "Finishing 2 running jobs; Ctrl-C again drops them." in printed
    assert "Stopped: 1 ok." in printed
    assert left["job"] == "digits_vgg.filters.bad_hangs.0"
    assert statuses(tmp_path)[-1]["state"] == "interrupted"
    assert [path.name.split(".")[2] for path in job_files(tmp_path)] == ["bad_lingers"]
    assert not is_alive(int((tmp_path / "hangs.pid").read_text()))


@pytest.mark.slow
def test_half_of_the_workers_killed_at_fifty_random_moments_cost_nothing(tmp_path):
    """A job that is hit three times is a failed row, which the same command tries again."""
    seeds = list(range(40))
    whole = tmp_path / "whole"
    whole.mkdir()
    for folder in (whole, tmp_path):
        write(folder, seeds=seeds)
    assert pruneboard_here("run", "small.toml", "--workers", 0, cwd=whole).returncode == 0
    generator, n_killed = random.Random(0), 0
    for _ in range(20):
        code, printed, n = kill_workers_at_random(tmp_path, n_kills=50 - n_killed, n_workers=4, generator=generator)
        n_killed += n
        assert code in (0, 1), printed
        if code == 0 and n_killed >= 50:
            break
        if code == 0:
            shutil.rmtree(tmp_path / "runs")

    assert n_killed >= 50
    assert code == 0
    assert table(tmp_path).equals(table(whole))


@pytest.mark.slow
def test_a_run_killed_at_many_random_moments_loses_nothing(tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    for folder in (whole, tmp_path):
        write(folder, seeds=list(range(40)))
    assert pruneboard_here("run", "small.toml", "--workers", 0, cwd=whole).returncode == 0
    generator, n_done = random.Random(1), 0
    for _ in range(15):
        process = start_pruneboard("run", "small.toml", "--workers", 2, cwd=tmp_path)
        wait_until(lambda n=n_done, run=process: len(job_files(tmp_path)) > n or run.poll() is not None)
        time.sleep(generator.uniform(0.0, 1.0))
        kept = {path: path.read_bytes() for path in job_files(tmp_path)}
        n_done = len(kept)
        process.kill()
        process.communicate()
        check_finished_rows_are_kept(tmp_path, kept)
    done = pruneboard("run", "small.toml", "--workers", 2, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert table(tmp_path).equals(table(whole))


@pytest.mark.slow
def test_four_runs_at_once_of_which_one_is_killed_share_the_jobs(tmp_path):
    seeds = list(range(10))
    whole = tmp_path / "whole"
    whole.mkdir()
    for folder in (whole, tmp_path):
        write(folder, seeds=seeds)
    assert pruneboard_here("run", "small.toml", "--workers", 0, cwd=whole).returncode == 0
    runs = [start_pruneboard("run", "small.toml", "--workers", 1, "--threads", 1, cwd=tmp_path) for _ in range(4)]
    wait_until(lambda: len(job_files(tmp_path)) >= 10)
    runs[0].kill()
    printed = [run.communicate(timeout=500) for run in runs]

    assert [run.returncode for run in runs[1:]] == [0, 0, 0], printed
    assert table(tmp_path).equals(table(whole))
