"""Running on a Ray cluster: the same rows as on one machine, whatever happens to the nodes."""

import contextlib
import hashlib
import http.server
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from clusters import RayCluster, free_port
from commands import EXTRA, press_ctrl_c, pruneboard, pruneboard_here, start_pruneboard, wait_until, write_suite
from pruneboard.benchmark import plugins, provenance
from pruneboard.benchmark.errors import AssetError, PruneboardError
from pruneboard.benchmark.executors._ray import _code
from pruneboard.benchmark.executors._ray._code import stage_code
from pruneboard.benchmark.executors._ray._files import NeededFile, NodeFiles, needed_files
from pruneboard.benchmark.provenance import origin
from pruneboard.benchmark.runner import Workbench
from pruneboard.benchmark.store import RunStore, digest_of, table_of
from pruneboard.benchmark.suites import expand, load_suite
from rows import job_of, job_rows

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'pruneboard[ray]'"
)

SMALL = {"digits_vgg": ["filters"]}
# Forty jobs of some seconds.
RATES = [rate / 20 for rate in range(20)]
LONG = {"criteria": ["integrated_gradients"], "seeds": list(range(40)), "shots": [1, 2, 5, 10, 20], "rates": RATES}
TIMES = ["score_seconds", "score_peak_bytes", "job_seconds", "time_utc"]


@pytest.fixture(scope="module")
def cluster():
    running = RayCluster()
    try:
        running.add_node()
        yield running
    finally:
        running.stop()


@pytest.fixture
def second_node(cluster):
    """The node beside the head; a new one when a test has ended it."""
    return cluster.nodes[-1] if cluster.nodes[-1].processes() else cluster.add_node()


@contextlib.contextmanager
def started(*arguments, cwd):
    """Start the command line, and end it however the block is left."""
    process = start_pruneboard(*arguments, cwd=cwd)
    try:
        yield process
    finally:
        process.kill()
        if not process.stdout.closed:
            process.communicate()


def rows_in(folder, suite="small"):
    return RunStore(folder).read(suite)


def finished_in(folder):
    return set(folder.glob("runs/small/[!.]*.parquet"))


def on(cluster):
    return ("--executor", "ray", "--address", cluster.address)


def write_images(folder):
    """Write some of the digits as a data set of image files."""
    pixels, labels = load_digits(return_X_y=True)
    for split in ("train", "test"):
        for label in range(10):
            (folder / split / f"class{label}").mkdir(parents=True)
            for number, row in enumerate((labels == label).nonzero()[0][:12]):
                if (number % 3 == 0) == (split == "test"):
                    image = Image.fromarray((pixels[row] * 255 / 16).astype("uint8").reshape(8, 8))
                    image.save(folder / split / f"class{label}" / f"{number}.png")


# --- the cluster as it should be


@needs_ray
def test_a_run_on_two_nodes_has_the_rows_of_a_local_one(cluster, second_node, tmp_path):
    # The plugin, the data set and the weights are on this machine alone.
    write_images(tmp_path / "data" / "drawn")
    write_suite(
        tmp_path,
        models={"digits_vgg": ["filters"], "digits_vit": ["heads"]},
        criteria=["random", "taylor", "bn_scale", "tunable", "bad_raises"],
        datasets=["drawn"],
    )
    extra = {**EXTRA, "PRUNEBOARD_DATA": str(tmp_path / "data")}
    done = pruneboard("run", "small.toml", *on(cluster), cwd=tmp_path, env=extra)
    alone = pruneboard("run", "small.toml", "--workers", 0, "--out", "alone", cwd=tmp_path, env=extra)
    assert done.returncode == alone.returncode == 1, done.stdout + done.stderr
    together, expected = (rows_in(tmp_path / f).drop(columns=TIMES) for f in ("runs", "alone"))

    assert together.equals(expected)
    assert set(expected["status"]) == {"ok", "unsupported", "failed"}
    assert expected["top1"].max() > 0.9
    assert (together["commit"].iloc[0], together["clean"].iloc[0]) == (origin().commit, origin().clean)
    assert "10 jobs on drawn, 0 done before, 10 to run" in done.stdout
    files = {len(list((node.cache / "ray" / "files").glob("[!.]*"))) for node in (cluster.head, second_node)}
    assert files == {len({p.read_bytes() for p in (tmp_path / "data").rglob("*.png")}) + 2}
    again = pruneboard_here("run", "small.toml", *on(cluster), "--criterion", "taylor", cwd=tmp_path, env=extra)
    assert "2 done before, 0 to run" in again.stdout


@needs_ray
@pytest.mark.slow
def test_the_whole_suite_of_digits_gives_the_table_of_a_local_run(cluster, second_node, tmp_path):
    for options in (on(cluster), ("--workers", 2, "--out", "alone")):
        with started("run", "digits", *options, cwd=tmp_path) as process:
            printed, errors = process.communicate(timeout=1800)
        assert process.returncode == 0, printed + errors
    together, expected = (rows_in(tmp_path / folder, "digits") for folder in ("runs", "alone"))
    assert together.drop(columns=TIMES).equals(expected.drop(columns=TIMES))
    tables = [pruneboard_here("table", "digits", "--runs", folder, cwd=tmp_path).stdout for folder in ("runs", "alone")]
    assert len(tables[0]) > 1000
    assert tables[0].replace("runs", "alone") == tables[1].replace("runs", "alone")


# --- losses


@needs_ray
def test_the_job_of_a_killed_worker_is_run_again(cluster, second_node, tmp_path):
    write_suite(tmp_path, models=SMALL, **(LONG | {"seeds": list(range(8))}))
    with started("run", "small.toml", *on(cluster), cwd=tmp_path) as process:
        wait_until(lambda: finished_in(tmp_path))
        (victim,) = second_node.workers()
        os.kill(victim, signal.SIGKILL)
        printed, errors = process.communicate(timeout=120)

    assert process.returncode == 0, printed + errors
    assert re.search(r"again: small / .*: The actor is dead because its worker process has died", printed)
    assert rows_in(tmp_path / "runs").drop_duplicates("key")["status"].tolist() == ["ok"] * 8


@needs_ray
@pytest.mark.slow
def test_a_job_that_ends_its_own_process_or_takes_too_long_is_a_row_with_the_reason(cluster, second_node, tmp_path):
    write_suite(tmp_path, models=SMALL, criteria=["bad_killed", "bad_forks", "bad_slow", "bad_patches", "magnitude"])
    # On a busy machine Ray takes seconds to tell that a process is gone.
    limited = ("--time-limit", 20, *on(cluster))
    done = pruneboard("run", "small.toml", *limited, cwd=tmp_path, env=EXTRA)
    assert done.returncode == 1, done.stdout + done.stderr
    rows = rows_in(tmp_path / "runs").drop_duplicates("key").set_index("criterion")
    died = "a plugin must return what it is asked for, but its process died with {} before it did."
    assert rows.loc["bad_killed", "reason"] == died.format("signal SIGKILL")
    assert rows.loc["bad_forks", "reason"] == died.format("exit code 3")
    assert rows.loc["bad_slow", "reason"].startswith("a job must end within the time limit of 20 s")
    assert "now gives other logits" in rows.loc["bad_patches", "reason"]
    assert rows.loc["magnitude", "top1"] == rows["top1"].max() >= 0.97
    # Neither the time limit nor the death of its parent leaves a process that a plugin started.
    wait_until(lambda: not [*cluster.head.workers(), *second_node.workers()], seconds=20)


@needs_ray
@pytest.mark.slow
def test_the_jobs_of_a_lost_node_run_on_the_others_and_a_node_that_joins_is_used(cluster, second_node, tmp_path):
    write_suite(tmp_path, models=SMALL, **LONG)
    with started("run", "small.toml", *on(cluster), cwd=tmp_path) as process:
        wait_until(lambda: len(finished_in(tmp_path)) >= 3)
        assert second_node.workers()
        second_node.kill()
        n_kept = len(finished_in(tmp_path))
        wait_until(lambda: len(finished_in(tmp_path)) >= n_kept + 4)
        third_node = cluster.add_node(n_cpus=2)
        wait_until(lambda: len(third_node.workers()) == 2)
        printed, errors = process.communicate(timeout=300)

    assert process.returncode == 0, printed + errors
    assert len(re.findall(r"^again: ", printed, re.MULTILINE)) == 1
    rows = rows_in(tmp_path / "runs")
    assert rows["key"].nunique() == 40
    assert set(rows["status"]) == {"ok"}
    # Two workers of one node came up at the same time, and one of them received the weights for both. The other nodes
    # may have them from an earlier test.
    received = re.findall(r"\((\w+)\) received (\d+) files?", printed)
    assert 1 <= len(received) == len(dict(received)) <= 3
    alone = pruneboard("run", "small.toml", "--workers", 2, "--out", "alone", cwd=tmp_path)
    assert alone.returncode == 0
    assert rows.drop(columns=TIMES).equals(rows_in(tmp_path / "alone").drop(columns=TIMES))


@needs_ray
@pytest.mark.slow
def test_a_killed_driver_loses_nothing_and_leaves_nothing(cluster, second_node, tmp_path):
    write_suite(tmp_path, models=SMALL, **LONG)
    with started("run", "small.toml", *on(cluster), cwd=tmp_path) as process:
        wait_until(lambda: len(finished_in(tmp_path)) >= 3)
        process.kill()
        process.communicate()
    kept = {path: path.read_bytes() for path in finished_in(tmp_path)}
    wait_until(lambda: not [*cluster.head.workers(), *second_node.workers()], seconds=60)
    done = pruneboard("run", "small.toml", *on(cluster), cwd=tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(kept)} done before, {40 - len(kept)} to run" in done.stdout
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert rows_in(tmp_path / "runs")["key"].nunique() == 40


@needs_ray
@pytest.mark.slow
def test_ctrl_c_finishes_what_runs_ends_the_workers_and_the_same_command_continues(cluster, second_node, tmp_path):
    write_suite(tmp_path, models=SMALL, **LONG)
    with started("run", "small.toml", *on(cluster), cwd=tmp_path) as process:
        wait_until(lambda: len(finished_in(tmp_path)) >= 2)
        press_ctrl_c(process)
        printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130, printed + errors
    assert f"Stopped: {len(finished_in(tmp_path))} ok." in printed
    assert "Finished jobs are kept; the same command continues." in printed
    assert "Traceback" not in printed + errors
    wait_until(lambda: not [*cluster.head.workers(), *second_node.workers()], seconds=60)


@needs_ray
@pytest.mark.slow
def test_a_cluster_that_is_lost_is_an_error_and_what_is_finished_is_kept(tmp_path):
    own = RayCluster()
    try:
        write_suite(tmp_path, models=SMALL, **LONG)
        with started("run", "small.toml", *on(own), cwd=tmp_path) as process:
            wait_until(lambda: len(finished_in(tmp_path)) >= 2)
            own.head.kill()
            n_kept = len(finished_in(tmp_path))
            printed, errors = process.communicate(timeout=90)
    finally:
        own.stop()
    assert process.returncode == 2, printed + errors
    assert "error: the Ray cluster must stay reachable, but nothing has answered at" in errors
    assert len(finished_in(tmp_path)) >= n_kept
    assert set(rows_in(tmp_path / "runs")["status"]) == {"ok"}


# --- bad input


@needs_ray
def test_an_address_where_nothing_answers_is_an_error_at_once(tmp_path):
    write_suite(tmp_path, models=SMALL, criteria=["random"])
    address = f"127.0.0.1:{free_port()}"
    done = pruneboard_here("run", "small.toml", "--executor", "ray", "--address", address, cwd=tmp_path)
    assert done.returncode == 2
    assert f"must be that of a running Ray cluster, got `{address}`: nothing listens there; start" in done.stderr


@needs_ray
@pytest.mark.slow
def test_an_address_where_something_else_answers_is_an_error_after_a_while(tmp_path):
    write_suite(tmp_path, models=SMALL, criteria=["random"])
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        done = pruneboard("run", "small.toml", "--executor", "ray", "--address", address, cwd=tmp_path)
        server.shutdown()
    assert done.returncode == 2
    assert f"must be that of a running Ray cluster, got `{address}`: none answered within 30 s" in done.stderr


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--address", "auto"], "`--address` must come with `--executor ray`, got `auto` alone"),
        (["--executor", "ray", "--workers", "0"], "`--workers` must be at least 1 on a Ray cluster, got 0"),
        (["--executor", "ray", "--device", "cuda:1"], "`--device` must be auto, cpu or cuda on a Ray cluster"),
        (
            ["--executor", "ray", "--address", "here"],
            "`--address` must be auto, HOST:PORT or ray://HOST:PORT, got `here`",
        ),
    ],
)
@needs_ray
def test_options_that_make_no_sense_are_refused(tmp_path, options, error):
    write_suite(tmp_path, models=SMALL, criteria=["random"])
    done = pruneboard_here("run", "small.toml", *options, cwd=tmp_path)
    assert (done.returncode, error in done.stderr) == (2, True), done.stderr


def test_without_ray_the_command_says_how_to_install_it(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else found(name))
    write_suite(tmp_path, models=SMALL, criteria=["random"])
    done = pruneboard_here("run", "small.toml", "--executor", "ray", cwd=tmp_path)
    assert done.returncode == 2
    assert "install it with `pip install 'pruneboard[ray]'`" in done.stderr


# --- the files and the code that are sent


def needed(path, place="weights/some.safetensors"):
    content = path.read_bytes()
    return NeededFile(place=place, path=path, n_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


@pytest.fixture
def sent_file(tmp_path):
    path = tmp_path / "some.safetensors"
    path.write_bytes(bytes(range(256)) * 100)
    return path


def test_two_workers_of_a_node_receive_a_file_once(tmp_path, monkeypatch, sent_file):
    monkeypatch.setenv("PRUNEBOARD_CACHE", str(tmp_path / "node"))
    file, began, taken = needed(sent_file), threading.Barrier(2), []

    def chunks():
        taken.append(None)
        time.sleep(0.2)
        yield sent_file.read_bytes()[:1000]
        yield sent_file.read_bytes()[1000:]

    received = []

    def worker():
        files = NodeFiles([file])
        lacking = files.link()
        began.wait()
        received.append((lacking == [file], files.receive(file, chunks())))

    threads = [threading.Thread(target=worker) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(received) == [(True, False), (True, True)]
    assert len(taken) == 1
    files = NodeFiles([file])
    assert files.link() == []
    assert (files.folder / file.place).read_bytes() == sent_file.read_bytes()


def test_what_a_node_has_is_linked_to_and_what_is_damaged_is_received_again(tmp_path, monkeypatch, sent_file):
    monkeypatch.setenv("PRUNEBOARD_CACHE", str(tmp_path / "node"))
    monkeypatch.setenv("PRUNEBOARD_WEIGHTS", str(tmp_path / "weights"))
    (tmp_path / "weights").mkdir()
    own = tmp_path / "weights" / "some.safetensors"
    file = needed(sent_file)
    own.write_bytes(b"another file of this name")
    assert NodeFiles([file]).link() == [file]
    own.write_bytes(sent_file.read_bytes())
    files = NodeFiles([file])
    assert files.link() == []
    assert (files.folder / file.place).readlink() == own
    own.unlink()
    assert files.link() == [file]
    assert files.receive(file, [sent_file.read_bytes()])
    (received,) = (tmp_path / "node" / "ray" / "files").glob("[!.]*")
    received.write_bytes(b"damaged")
    assert NodeFiles([file]).link() == [file]
    assert NodeFiles([file]).receive(file, [sent_file.read_bytes()])
    assert NodeFiles([file]).link() == []


def test_a_file_that_arrives_as_another_is_not_kept(tmp_path, monkeypatch, sent_file):
    monkeypatch.setenv("PRUNEBOARD_CACHE", str(tmp_path / "node"))
    file = needed(sent_file)
    with pytest.raises(AssetError, match=f"must arrive with the sha256 {file.sha256}"):
        NodeFiles([file]).receive(file, [b"something else"])
    assert NodeFiles([file]).link() == [file]
    assert not list((tmp_path / "node" / "ray" / "files").glob("[!.]*"))


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch, sent_file):
    (tmp_path / "node").write_text("no folder")
    monkeypatch.setenv("PRUNEBOARD_CACHE", str(tmp_path / "node"))
    with pytest.raises(AssetError, match="must be writable, but Not a directory; name another folder"):
        NodeFiles([needed(sent_file)]).receive(needed(sent_file), [])


def test_a_copy_of_the_needed_files_is_the_same_data_and_nothing_else_is_found(tmp_path, monkeypatch):
    write_images(tmp_path / "data" / "drawn")
    for split in ("train", "test"):
        (tmp_path / "data" / "drawn" / split / "class4a_without_images").mkdir()
    monkeypatch.setenv("PRUNEBOARD_DATA", str(tmp_path / "data"))
    suite = load_suite(write_suite(tmp_path, models=SMALL, criteria=["random"], datasets=["drawn", "digits"]))
    jobs, bench = expand(suite), Workbench(torch.device("cpu"))
    files, classes = needed_files(jobs, bench), bench.dataset(jobs[0]).classes
    assert {file.place for file in files if not file.sha256} >= {"datasets/drawn/train/class4a_without_images"}
    monkeypatch.setenv("PRUNEBOARD_CACHE", str(tmp_path / "node"))
    monkeypatch.delenv("PRUNEBOARD_DATA")
    node = NodeFiles(files)
    for file in node.link():
        node.receive(file, [file.path.read_bytes()])
    node.use()
    there = Workbench(torch.device("cpu"))
    assert there.key(jobs[0]) == bench.key(jobs[0])
    assert there.dataset(jobs[0]).name == "drawn"
    assert there.dataset(jobs[0]).classes == classes
    assert len(classes) == 11


def test_the_sent_code_is_the_one_that_runs_wherever_another_is_installed(tmp_path):
    package, digest = stage_code(tmp_path / "sent")
    assert not list(package.rglob("*.safetensors"))
    assert sum(path.stat().st_size for path in package.rglob("*") if path.is_file()) < 4e6
    other = tmp_path / "other" / "pruneboard" / "criteria"
    other.mkdir(parents=True)
    (other / "stray.py").write_text("raise ValueError('not to be imported')")
    code = """
import json
from pruneboard import criteria as criteria_package
from pruneboard.benchmark import plugins, provenance
from pruneboard.benchmark.executors._ray._code import running_digest
names = plugins.criteria().names()
digests = [plugins.criterion_digest(plugins.criteria().get(name)) for name in names]
print(json.dumps([running_digest(), provenance.__file__, provenance.commit(), provenance.versions(), digests]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        # As a node has it: another pruneboard before the sent one on its path, or installed.
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "other"), str(package.parent)])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ran, where, commit, versions, digests = json.loads(done.stdout)
    assert ran == digest
    assert Path(where).is_relative_to(package)
    assert (commit, versions) == ([origin().commit, origin().clean], provenance.versions())
    assert digests == [plugins.criterion_digest(plugins.criteria().get(n)) for n in plugins.criteria().names()]


def test_code_that_is_too_large_names_its_largest_file(tmp_path, monkeypatch, extra_criteria):
    monkeypatch.setattr(_code, "_MOST_BYTES", 2**20 // 4)
    with pytest.raises(PruneboardError, match=r"at most 0 MiB, got \d+ MiB with `benchmark/\S+`; move large files"):
        stage_code(tmp_path)


@needs_ray
def test_a_node_with_another_release_or_other_code_is_named():
    from pruneboard.benchmark.executors._ray._driver import check_greeting
    from pruneboard.benchmark.executors._ray._worker import Greeting

    def greeting(code="x", installed=None, **versions):
        own = provenance.versions() | versions
        return Greeting(code=code, versions=own, installed=installed or {}, device="cpu", lacking=())

    check_greeting(greeting(), "x", {})
    check_greeting(greeting(torch=provenance.versions()["torch"].partition("+")[0] + "+cu999"), "x", {})
    check_greeting(greeting(installed={"mine": "a", "other": "b"}), "x", {"mine": "a"})
    with pytest.raises(
        PruneboardError, match=r"it has timm 0\.1, and this machine \S+; install the same release there"
    ):
        check_greeting(greeting(timm="0.1"), "x", {})
    with pytest.raises(PruneboardError, match="it imports another `pruneboard` than the one that was sent to it"):
        check_greeting(greeting(code=""), "x", {})
    with pytest.raises(PruneboardError, match="it has another source of criterion `mine`; install the very package"):
        check_greeting(greeting(installed={"mine": "b"}), "x", {"mine": "a"})
    with pytest.raises(PruneboardError, match="it lacks criterion `mine`; install the very package"):
        check_greeting(greeting(), "x", {"mine": "a"})


@needs_ray
def test_the_driver_says_which_rows_it_saved(tmp_path):
    """So that a run compares them with what lies there at its end, as it does those of local workers."""
    from pruneboard.benchmark.executors._ray._driver import _Run, _Slot

    store = RunStore(tmp_path)
    rows = job_rows(key="1" * 64)
    job = job_of(rows)
    driver = mock.create_autospec(_Run, instance=True)
    driver._agenda = mock.Mock(store=store)
    driver._bench = mock.Mock()
    event = _Run._store_rows(driver, _Slot("node", None, "working", None), mock.Mock(job=job), rows)

    assert event.digest == digest_of(table_of(rows))
    assert store.digests("digits", [rows[0].key]) == {rows[0].key: event.digest}
