"""What `pruneboard run` is told, foretells and reports."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import pandas as pd
import pytest
import torch
from torch import nn

from commands import pruneboard_here, write_suite
from pruneboard.benchmark.api import Model
from pruneboard.benchmark.cli import _signals, running
from pruneboard.benchmark.cli._estimates import Forecast, past_seconds, read_past_seconds
from pruneboard.benchmark.cli._quantities import format_seconds, parse_bytes, parse_seconds
from pruneboard.benchmark.errors import PruneboardError, StoreError
from pruneboard.benchmark.executors import Agenda, _local, devices_for
from pruneboard.benchmark.runner import Workbench
from pruneboard.benchmark.schema import Job
from pruneboard.benchmark.store import RunStore
from pruneboard.benchmark.suites import load_suite

SMALL = {"digits_vgg": ["filters"]}


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400), (" 10 M ", 600)]
)
def test_times_are_read(text, seconds):
    assert parse_seconds("--time-limit", text) == seconds


@pytest.mark.parametrize(
    ("text", "n_bytes"), [("4GB", 4 * 10**9), ("500 mb", 5 * 10**8), ("8GiB", 2**33), ("0.5TB", 5 * 10**11)]
)
def test_amounts_of_memory_are_read(text, n_bytes):
    assert parse_bytes("--memory-limit", text) == n_bytes


@pytest.mark.parametrize("text", ["", "soon", "0", "-3", "10x", "1e3", "nan", "inf", "10 m s", "3 GB"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(PruneboardError, match=r"`--time-limit` must be a time such as 90, 90s, 10m, 2h or 1d, got"):
        parse_seconds("--time-limit", text)


@pytest.mark.parametrize("text", ["", "4", "0GB", "GB", "4Gb/s", "-1GB", "4 B", "10m"])
def test_what_is_no_amount_of_memory_is_refused(text):
    with pytest.raises(PruneboardError, match=r"`--memory-limit` must be an amount of memory such as 500MB, 4GB or"):
        parse_bytes("--memory-limit", text)


def test_times_are_written_as_people_read_them():
    written = [format_seconds(s) for s in (None, 0.123, 8.31, 42.4, 89, 100, 5300, 12_000, 200_000)]

    assert written == ["?", "0.12 s", "8.3 s", "42 s", "89 s", "2 min", "88 min", "3 h 20 min", "2 d 7 h"]


@pytest.mark.parametrize(
    ("device", "n_workers", "n_gpus", "devices"),
    [
        ("cpu", None, 0, ("cpu",) * 4),
        ("cpu", 2, 3, ("cpu", "cpu")),
        ("cpu", 0, 0, ()),
        ("cuda", None, 3, ("cuda:0", "cuda:1", "cuda:2")),
        ("cuda", 2, 3, ("cuda:0", "cuda:1")),
        ("cuda", 4, 3, ("cuda:0", "cuda:1", "cuda:2", "cuda:0")),
        ("cuda:1", None, 3, ("cuda:1",)),
        ("cuda:1", 2, 3, ("cuda:1", "cuda:1")),
        ("mps", None, 0, ("mps",)),
    ],
)
def test_each_gpu_gets_a_worker_and_a_cpu_one_for_each_core(device, n_workers, n_gpus, devices):
    assert devices_for(torch.device(device), n_workers, n_cores=4, n_gpus=n_gpus) == devices


@pytest.mark.parametrize("option", [("--time-limit", "10s"), ("--memory-limit", "4GB")])
def test_limits_need_workers_that_can_be_ended(tmp_path, option):
    write_suite(tmp_path, models=SMALL, criteria=["magnitude"])
    done = pruneboard_here("run", "small.toml", "--workers", 0, *option, cwd=tmp_path)

    assert done.returncode == 2
    assert "`--workers 0` has none; choose 1 or more." in done.stderr


def test_a_limit_that_cannot_be_read_is_said_before_anything_runs(tmp_path):
    write_suite(tmp_path, models=SMALL, criteria=["magnitude"])
    done = pruneboard_here("run", "small.toml", "--time-limit", "soon", cwd=tmp_path)

    assert done.returncode == 2
    assert done.stderr == (
        "error: `--time-limit` must be a time such as 90, 90s, 10m, 2h or 1d, got 'soon'; give one.\n"
    )
    assert not (tmp_path / "runs").exists()


def test_help_says_what_the_exit_status_means(tmp_path):
    done = pruneboard_here("run", "--help", cwd=tmp_path)
    text = " ".join(done.stdout.split())

    for words in ("0 all jobs are done", "1 some failed", "2 bad input", "130 interrupted by Ctrl-C", "143 ended by"):
        assert words in text


def test_the_first_ctrl_c_finishes_the_second_and_other_signals_drop():
    for numbers, finishes, terminated in (
        ([signal.SIGINT], True, False),
        ([signal.SIGINT, signal.SIGINT], True, False),
        ([signal.SIGTERM], False, True),
        ([signal.SIGHUP], False, True),
        ([signal.SIGINT, signal.SIGTERM], True, True),
        ([signal.SIGTERM, signal.SIGTERM, signal.SIGINT], False, True),
    ):
        interruption = _signals.Interruption(in_workers=True)
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        with interruption.heard():
            for number in numbers:
                os.kill(os.getpid(), number)
        assert interruption.stop.finishes == finishes
        assert interruption.stop.drops == (numbers != [signal.SIGINT])
        assert interruption.terminated == terminated
        assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


def test_in_this_process_the_first_signal_drops_the_job():
    for number, kind in ((signal.SIGINT, KeyboardInterrupt), (signal.SIGHUP, _signals.Terminated)):
        interruption = _signals.Interruption()
        with interruption.heard(), pytest.raises(kind):
            os.kill(os.getpid(), number)
        assert interruption.stop.drops


STUCK = {
    "swallows": "while True:\n    try:\n        time.sleep(600)\n    except BaseException:\n        pass",
    "blocked": "while True:\n    os.write(1, bytes(10**6))",
}


@pytest.mark.parametrize("how", STUCK)
@pytest.mark.parametrize("in_workers", [False, True])
def test_a_run_that_is_stuck_ends_all_the_same(how, in_workers):
    """What swallows every exception, or writes to a pipe that nobody reads, outlives no SIGTERM."""
    code = f"""
import os, time
from pruneboard.benchmark.cli import _signals
_signals._MOST_SECONDS = 0.5
with _signals.Interruption(in_workers={in_workers}).heard():
    os.write(2, b"ready")
{textwrap.indent(STUCK[how], "    ")}
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr.read(5) == b"ready"
        process.terminate()
        # Where the signal raises, a write that nothing catches ends by the exception before.
        assert process.wait(timeout=60) in (-signal.SIGALRM, 1)


STAGES = {
    "looks_for_what_it_needs": (running, "_make_ready"),
    "reads_earlier_times": (running, "read_past_seconds"),
    "plans": (running, "plan"),
    "claims_jobs": (Agenda, "admit"),
    "measures": (_local, "run_job"),
    "saves": (RunStore, "save"),
    "folds": (RunStore, "fold"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_sigterm_ends_a_run_at_every_stage(tmp_path, monkeypatch, stage):
    write_suite(tmp_path, models=SMALL, criteria=["random"], seeds=[0])
    place, name = STAGES[stage]

    def hang(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    with monkeypatch.context() as changed:
        changed.setattr(place, name, hang)
        before = time.monotonic()
        done = pruneboard_here("run", "small.toml", "--workers", 0, cwd=tmp_path)
        assert time.monotonic() - before < 50
    assert done.returncode == 143, done.stdout + done.stderr
    assert "the same command continues" in done.stdout
    assert not list(tmp_path.glob("runs/small/claims/*"))
    again = pruneboard_here("run", "small.toml", "--workers", 0, cwd=tmp_path)
    assert again.returncode == 0
    assert RunStore(tmp_path / "runs").read("small")["key"].nunique() == 1


def test_a_signal_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _signals.Interruption().heard():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def job_of(suite, criterion, seed=0):
    return Job(suite=suite, model="digits_vgg", granularity="filters", criterion=criterion, seed=seed)


def kind(criterion):
    return "digits_vgg", "filters", criterion


def test_past_times_are_means_over_jobs_not_over_rows():
    columns = ["key", "model", "granularity", "criterion", "job_seconds"]
    rows = pd.DataFrame(
        [
            *[("a", *kind("taylor"), 1.0)] * 10,
            ("b", *kind("taylor"), 4.0),
            ("c", *kind("random"), 3.0),
            ("d", *kind("killed"), None),
        ],
        columns=columns,
    )

    assert past_seconds(rows) == {kind("taylor"): 2.5, kind("random"): 3.0}
    assert past_seconds(rows.iloc[:0]) == {}


def test_times_come_from_the_first_folder_that_knows_them():
    class Store:
        def __init__(self, rows):
            self.rows = pd.DataFrame(rows, columns=["key", "model", "granularity", "criterion", "job_seconds"])

        def read(self, suite):
            if self.rows.empty:
                raise StoreError("damaged")
            return self.rows

    ours, theirs = Store([("a", *kind("taylor"), 1.0)]), Store([("b", *kind("taylor"), 9.0), ("c", *kind("lrp"), 5.0)])

    assert read_past_seconds("small", [Store([]), ours, theirs]) == {kind("taylor"): 1.0, kind("lrp"): 5.0}


def test_the_time_left_is_weighed_by_what_each_job_takes(tmp_path):
    suite = load_suite(write_suite(tmp_path, models=SMALL, criteria=["random", "taylor"]))
    forecast = Forecast({kind("random"): 1.0, kind("taylor"): 10.0}, 2)
    forecast.add([job_of(suite, name, seed) for name in ("random", "taylor") for seed in range(4)])
    assert forecast.seconds_left == 44 / 2
    forecast.finish(job_of(suite, "random"), 2.0)
    assert forecast.seconds_left == pytest.approx((3 * 2 + 4 * 20) / 2), "twice as slow as before"
    for seed in range(3):
        forecast.finish(job_of(suite, "random", seed), 2.0)
    for seed in range(3):
        forecast.finish(job_of(suite, "taylor", seed), 5.0)
    assert forecast.seconds_left == pytest.approx(5.0), "the last job is not shared"
    forecast.finish(job_of(suite, "taylor"), None)
    assert forecast.seconds_left == 0.0


def test_nothing_is_foretold_of_what_is_not_known(tmp_path):
    suite = load_suite(write_suite(tmp_path, models=SMALL, criteria=["random", "taylor"]))
    forecast = Forecast({}, 1)
    forecast.add([job_of(suite, "random"), job_of(suite, "taylor")])
    assert forecast.seconds_left is None
    forecast.finish(job_of(suite, "random"), 3.0)

    assert forecast.seconds_left == 3.0


def test_what_is_missing_most_comes_first(tmp_path):
    """Cells with fewer finished seeds come before others, within them the short jobs."""
    suite = load_suite(write_suite(tmp_path, models=SMALL, criteria=["random", "taylor"], seeds=[0, 1, 2]))
    jobs = [job_of(suite, criterion, seed) for criterion in ("random", "taylor") for seed in range(3)]

    class Store(RunStore):
        def statuses(self, asked, *, touch=True):
            known = {("random", 0): "ok", ("random", 1): "unsupported", ("taylor", 1): "failed"}
            return [known.get((job.criterion, job.seed)) for job, _ in asked]

    bench, past = Workbench(torch.device("cpu")), {kind("taylor"): 7.0}
    tasks = running.plan(jobs, Store(tmp_path), bench, past, fresh=False)
    assert [(task.job.criterion, task.job.seed, task.place) for task in tasks] == [
        ("random", 2, (2, 0.0)),
        ("taylor", 0, (0, 7.0)),
        ("taylor", 1, (1, 7.0)),
        ("taylor", 2, (2, 7.0)),
    ]
    assert len(running.plan(jobs, Store(tmp_path), bench, past, fresh=True)) == 6


def test_a_dry_run_tells_what_would_run_and_touches_nothing(tmp_path):
    write_suite(tmp_path, models=SMALL, criteria=["magnitude", "random", "taylor"], seeds=[0, 1, 2])
    alone = ("--workers", 0, "--criterion", "magnitude", "--criterion", "random")
    before = pruneboard_here("run", "small.toml", "--dry-run", "--workers", 2, cwd=tmp_path)
    assert "Small: 9 jobs, 0 done, 9 to run; no earlier row tells how long 9 of them take." in before.stdout
    assert not (tmp_path / "runs").exists()
    write_suite(tmp_path, models=SMALL, criteria=["magnitude", "random", "taylor"], seeds=[0])
    assert pruneboard_here("run", "small.toml", *alone, cwd=tmp_path).returncode == 0
    write_suite(tmp_path, models=SMALL, criteria=["magnitude", "random", "taylor"], seeds=[0, 1, 2])
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    done = pruneboard_here("run", "small.toml", "--dry-run", "--workers", 2, cwd=tmp_path)
    lines = {line.split()[2]: line.split()[3:5] for line in done.stdout.splitlines() if line.startswith("digits_vgg")}

    assert done.returncode == 0, done.stderr
    assert lines == {"magnitude": ["1", "2"], "random": ["1", "2"], "taylor": ["0", "3"]}
    assert "Small: 9 jobs, 2 done, 7 to run; about " in done.stdout
    assert "on 2 workers at a time; no earlier row tells how long 3 of them take." in " ".join(done.stdout.split())
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    fresh = pruneboard_here("run", "small.toml", "--dry-run", "--fresh", cwd=tmp_path)
    assert "0 done, 9 to run" in fresh.stdout


def test_a_network_whose_output_is_no_table_of_logits_is_named_before_any_job(tmp_path, monkeypatch):
    class Answers(nn.Module):
        def forward(self, images):
            return {"logits": images.flatten(1)[:, :10]}

    monkeypatch.setattr(Model, "load", lambda _: Answers())
    write_suite(tmp_path, models=SMALL, criteria=["magnitude"])
    done = pruneboard_here("run", "small.toml", "--workers", 2, cwd=tmp_path)
    assert done.returncode == 2
    assert "must return its logits, float32 (1, n_classes) for 1 images, but `digits_vgg` returns a dict" in done.stderr


def test_a_dry_run_looks_for_data_and_weights(tmp_path):
    nowhere = {
        "PRUNEBOARD_DATA": str(tmp_path),
        "PRUNEBOARD_WEIGHTS": str(tmp_path),
        "HF_ENDPOINT": "http://127.0.0.1:9",
    }
    write_suite(tmp_path, models={"toy_moons": ["neurons"]}, criteria=["magnitude"], datasets=["cifar10"])
    fetched = pruneboard_here("run", "small.toml", "--dry-run", cwd=tmp_path, env=nowhere)
    assert fetched.returncode == 0, fetched.stderr
    assert "Nothing was run." in fetched.stdout
    assert "The data set cifar10 is not at hand; a run fetches it." in fetched.stdout
    assert "The weights of toy_moons are not at hand; a run trains them." in fetched.stdout

    write_suite(tmp_path, models=SMALL, criteria=["magnitude"], datasets=["photos"])
    data = pruneboard_here("run", "small.toml", "--dry-run", cwd=tmp_path, env=nowhere)
    assert data.returncode == 2
    assert "0 done" in data.stdout
    assert "a data set must be at hand, but there is no folder `photos`" in data.stderr

    write_suite(tmp_path, models={"mobilenetv2": ["filters"]}, criteria=["magnitude"])
    weights = pruneboard_here("run", "small.toml", "--dry-run", cwd=tmp_path, env=nowhere)
    assert weights.returncode == 2
    assert "must be at hand, but there is no `" in weights.stderr
    assert "put the file into a folder and name that folder in `PRUNEBOARD_WEIGHTS`" in weights.stderr
    write_suite(tmp_path, models={"imagenette_vit": ["heads"]}, criteria=["magnitude"])
    made = pruneboard_here("run", "small.toml", "--dry-run", cwd=tmp_path, env=nowhere)
    assert made.returncode == 2
    assert "the weights of `imagenette_vit` must be made before they are used" in made.stderr


def test_the_status_file_says_how_a_run_stands(tmp_path):
    write_suite(tmp_path, models=SMALL, criteria=["magnitude", "random"])
    done = pruneboard_here("run", "small.toml", "--workers", 0, cwd=tmp_path)
    (path,) = (tmp_path / "runs" / "small" / "status").iterdir()
    status = json.loads(path.read_text())

    assert done.returncode == 0
    (last,) = (line for line in done.stdout.splitlines() if line.startswith("[2/2] "))
    assert re.search(r": ok; all done in \d.*$", last)
    assert " left" not in last
    assert status["run"] == path.stem
    fixed = {name: status[name] for name in ("format", "suite", "state", "n_jobs", "n_before", "n_elsewhere", "counts")}
    assert fixed == {
        "format": 1,
        "suite": "small",
        "state": "done",
        "n_jobs": 2,
        "n_before": 0,
        "n_elsewhere": 0,
        "counts": {"ok": 2},
    }
    assert (status["running"], status["seconds_left"], status["pid"]) == ([], 0.0, os.getpid())
    assert status["options"]["n_workers"] == 0
    assert status["jobs_per_hour"] > 0
    assert status["started_utc"] <= status["updated_utc"]
    again = pruneboard_here("run", "small.toml", "--workers", 0, cwd=tmp_path)
    assert "0 to run" in again.stdout
    assert len(list(path.parent.iterdir())) == 1, "where nothing is to be done there is no run to tell of"


def test_in_this_process_tracebacks_are_logged_as_well(tmp_path, extra_criteria):
    write_suite(tmp_path, models=SMALL, criteria=["bad_raises", "magnitude"])
    done = pruneboard_here("run", "small.toml", "--workers", 0, cwd=tmp_path)
    (log,) = (tmp_path / "runs" / "small" / "logs").iterdir()

    assert done.returncode == 1
    assert f"(log: {log.relative_to(tmp_path)})" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert "ValueError: not today" in log.read_text()
    assert 'raise ValueError("not today")' in log.read_text()
