"""The pool of worker processes, on tasks that need no torch."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
from pathlib import Path

import pytest

from commands import wait_until
from pruneboard.benchmark.errors import DamagedFileError, PruneboardError
from pruneboard.benchmark.workers import Limits, PoolOptions, Stop, _channel, _pool, run_in_pool
from pruneboard.benchmark.workers._channel import Channel, ChannelError
from tasks import Said, Task, Tasks


def run(names, folder, *, work=None, n_workers=1, limits=None, stop=None):
    options = PoolOptions(
        n_workers=n_workers,
        limits=limits or Limits(),
        stop=stop or Stop(),
        log_of=lambda task: folder / "logs" / f"{task.name}.log",
    )
    return run_in_pool([Task(name, folder) for name in names], work or Tasks(), options)


def ends(names, folder, **options):
    """Run tasks, and return what was said at the end of each."""
    return {said.name: said.text for said in run(names, folder, **options) if said.ends and not said.again}


def is_alive(pid):
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_all_tasks_are_done_once_and_no_process_is_left(tmp_path):
    names = [f"quick:{number}" for number in range(20)]
    said = list(run(names, tmp_path, n_workers=2))
    done = [one.name for one in said if one.ends]

    assert sorted(done) == sorted(names)
    assert [one.name for one in said if not one.ends] == list(dict.fromkeys(one.name for one in said))
    assert not any(is_alive(one.pid) for one in said if one.pid)
    assert not (tmp_path / "logs").exists(), "a task that prints nothing has no log"


def test_the_time_limit_ends_what_ignores_signals_and_what_left_its_group_and_session(tmp_path):
    before = time.monotonic()
    work = Tasks()
    said = ends(["quick:1", "hang", "quick:2"], tmp_path, work=work, limits=Limits(seconds=1.5))

    assert said == {"quick:1": "done by 0", "hang": "time: signal SIGKILL", "quick:2": "done by 0"}
    assert not is_alive(int((tmp_path / "hang.pid").read_text()))
    assert time.monotonic() - before < 60
    assert "do_hang" in (tmp_path / "logs" / "hang.log").read_text(), "the log says where it hung"
    assert [(death.cause, death.n_outside) for death in work.deaths] == [("time", 0)]


def test_the_memory_limit_counts_what_a_worker_forked(tmp_path):
    work = Tasks()
    said = ends(["eat", "quick"], tmp_path, work=work, limits=Limits(n_bytes=250 * 10**6))

    assert said == {"eat": "memory: signal SIGKILL", "quick": "done by 0"}
    assert 250 * 10**6 < work.deaths[0].n_bytes < 10**9


def test_who_dies_of_itself_is_not_tried_again_and_nothing_it_started_is_left(tmp_path):
    said = ends(["crash", "leave", "quick"], tmp_path)

    assert said == {"crash": "itself: signal SIGSEGV", "leave": "done by 0", "quick": "done by 0"}
    for name in ("crash", "leave"):
        assert not is_alive(int((tmp_path / f"{name}.pid").read_text()))
    log = (tmp_path / "logs" / "crash.log").read_text()
    assert "Segmentation fault" in log
    assert "do_crash" in log


def test_who_is_killed_from_outside_is_tried_again_but_not_for_ever(tmp_path):
    said = list(run(["killed", "killed_once", "quick"], tmp_path))
    texts = [one.text for one in said if one.name == "killed"]

    assert texts == 3 * ["started", "outside: signal SIGKILL"]
    assert [one.text for one in said if one.name == "killed_once"] == [
        "started",
        "outside: signal SIGTERM",
        "started",
        "done by 0",
    ]
    assert (tmp_path / "killed.attempts").read_text() == "xxx"


def test_a_log_holds_what_every_layer_printed_and_is_bounded(tmp_path):
    said = ends(["print", "say", "quick"], tmp_path)
    text = (tmp_path / "logs" / "print.log").read_text()

    assert set(said.values()) == {"done by 0"}
    assert len(text) < 2**20 + 100
    assert text.startswith("first\n")
    assert "bytes are left out here" in text
    for words in ("from C", "from a child", "last"):
        assert words in text[-500:]
    assert (tmp_path / "logs" / "say.log").read_text() == "I am say\n"
    assert not (tmp_path / "logs" / "quick.log").exists()


def test_asked_to_finish_it_finishes_what_runs_and_starts_nothing(tmp_path):
    stop, said = Stop(), []
    for one in run([f"sleep:{number}" for number in range(6)], tmp_path, n_workers=2, stop=stop):
        said.append(one)
        if one.ends:
            stop.finishes = True

    assert sum(one.ends for one in said) == sum(not one.ends for one in said) <= 3


def test_asked_to_drop_it_ends_at_once(tmp_path):
    stop = Stop()
    with pytest.raises(KeyboardInterrupt):
        for one in run(["leave", "hang"], tmp_path, stop=stop):
            if one.name == "hang":
                wait_until((tmp_path / "hang.pid").exists)
                stop.drops = True

    for name in ("leave", "hang"):
        assert not is_alive(int((tmp_path / f"{name}.pid").read_text()))


NO_REPORT = {
    "half_a_message": b"\x00\x00\x10\x00abc",
    "half_a_length": b"\x00\x00",
    "a_pickle_cut_off": b"\x00\x00\x00\x08" + pickle.dumps(("done", 1.5))[:8],
    "garbage": b"\x00\x00\x00\x10" + 16 * b"\xff",
    "a_huge_length": b"\x7f\xff\xff\xff" + 1000 * b"x",
    "a_length_of_64_bits": b"\xff\xff\xff\xff\x00\x00\x10\x00\x00\x00\x00\x00",
    "an_object_that_is_none": b"\x00\x00\x00\x04" + pickle.dumps(7, protocol=1).ljust(4)[:4],
    "text": b"print this",
}


@pytest.mark.parametrize("name", NO_REPORT)
def test_a_worker_that_sends_no_report_costs_its_own_task_only(tmp_path, name):
    """What can be told at once is; half a message is silence, and ends by the time limit."""
    sent, before = f"send:{NO_REPORT[name].hex()}", time.monotonic()
    said = ends([sent, "quick"], tmp_path, limits=Limits(seconds=3))

    at_once = "itself: signal SIGKILL, because it sent what is no report,"
    assert said == {sent: "time: signal SIGKILL" if "half" in name else at_once, "quick": "done by 0"}
    assert time.monotonic() - before < 60


def test_a_worker_that_closes_its_pipe_and_lives_on_is_ended_without_any_limit(tmp_path):
    said = ends(["close_all", "quick"], tmp_path)

    assert said == {
        "close_all": "itself: signal SIGKILL, because it closed the pipe to the run,",
        "quick": "done by 0",
    }


def test_reports_without_end_do_not_lift_the_time_limit(tmp_path):
    said = ends(["chatter", "quick"], tmp_path, limits=Limits(seconds=1.5))

    assert said == {"chatter": "time: signal SIGKILL", "quick": "done by 0"}


def test_half_a_message_does_not_keep_a_run_from_being_dropped(tmp_path):
    stop = Stop()
    with pytest.raises(KeyboardInterrupt):
        for _ in run([f"send:{NO_REPORT['half_a_message'].hex()}"], tmp_path, stop=stop):
            threading.Timer(3, lambda: setattr(stop, "drops", True)).start()


def test_an_error_of_two_arguments_that_ends_the_run_arrives(tmp_path):
    with pytest.raises(DamagedFileError, match="remove it") as caught:
        list(run(["refuse"], tmp_path))

    assert caught.value.why == "damaged"


class Mute:
    """Never gets ready."""

    def begin(self, slot):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)


def test_a_worker_that_never_gets_ready_ends_the_run_with_a_message(tmp_path, monkeypatch):
    monkeypatch.setattr(_pool, "_START_SECONDS", 2.0)
    with pytest.raises(PruneboardError, match="must be able to start, but 1 in a row .* not ready within 2 s"):
        list(run(["quick"], tmp_path, work=Tasks(body=Mute())))


def test_a_task_that_is_not_taken_does_not_keep_the_parent_waiting(monkeypatch):
    monkeypatch.setattr(_channel, "_SEND_SECONDS", 0.2)
    channel = Channel(multiprocessing.get_context("spawn"))
    with pytest.raises(ChannelError, match=r"did not take its task within 0\.2 s"):
        channel.send(bytes(2**24))
    channel.theirs.close()
    channel.send("nobody")
    with pytest.raises(ChannelError, match="closed the pipe"):
        channel.receive()
    channel.close()


class Postponing(Tasks):
    """Tasks of which one is somebody else's for a while, and one was done by somebody else."""

    def __init__(self, until: float) -> None:
        super().__init__()
        self.until = until

    def start_of(self, task):
        if task.name == "quick:theirs" and time.monotonic() < self.until:
            return None
        if task.name == "quick:was_done":
            return Said(name=task.name, text="done elsewhere")
        return super().start_of(task)


def test_what_cannot_be_given_now_is_asked_for_again_at_the_end(tmp_path):
    work = Postponing(time.monotonic() + 2)
    said = [one for one in run(["quick:theirs", "quick:was_done", "quick:mine"], tmp_path, work=work) if one.ends]

    assert [(one.name, one.text) for one in said] == [
        ("quick:was_done", "done elsewhere"),
        ("quick:mine", "done by 0"),
        ("quick:theirs", "done by 0"),
    ]


class Stillborn:
    """Dies where it should begin."""

    def begin(self, slot):
        os._exit(3)


def test_workers_that_cannot_start_end_the_run_with_a_message(tmp_path):
    work = Tasks(body=Stillborn())
    with pytest.raises(PruneboardError, match="must be able to start, but 1 in a row ended with exit code 3"):
        list(run(["quick"], tmp_path, work=work))


def test_a_log_that_cannot_be_written_is_an_error_and_not_a_lost_log(tmp_path):
    (tmp_path / "logs").touch()
    with pytest.raises(PruneboardError, match=r"say\.log` must be writable"):
        list(run(["say"], tmp_path))
