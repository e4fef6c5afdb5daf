"""Several real processes on one run folder, some of them killed: nothing is lost, and nothing is there twice."""

import contextlib
import multiprocessing
import random
import time

import pandas as pd
import pytest

from pruneboard.benchmark.store import RunStore
from rows import job_of, save
from store_processes import SUITE, begin, fold_until, key_of, read_until, rows_of, save_all, save_missing

N_JOBS = 60


@pytest.fixture(scope="module")
def processes():
    """Processes that start in milliseconds, because they have everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pruneboard.benchmark.store", "pruneboard.benchmark.suites"])
    return context


@pytest.fixture
def undisturbed(tmp_path):
    """The table of a run that nothing disturbed."""
    store = RunStore(tmp_path / "undisturbed")
    for number in range(N_JOBS):
        save(store, rows_of(number))
    return store.read(SUITE)


@contextlib.contextmanager
def running(context, *calls):
    """Run functions in a process each, and enter the block when all have begun; its end waits for nobody."""
    begun = context.Semaphore(0)
    started = [context.Process(target=begin, args=(begun, *call)) for call in calls]
    for process in started:
        process.start()
    try:
        for _ in started:
            assert begun.acquire(timeout=60)
        yield started
    finally:
        for process in started:
            process.kill()
            process.join()


def test_writers_readers_and_folders_at_once(processes, undisturbed, tmp_path):
    folder, stop = tmp_path / "runs", tmp_path / "stop"
    writers = [
        (save_all, folder, range(N_JOBS)),
        (save_all, folder, list(reversed(range(N_JOBS)))),
        (save_all, folder, [*range(1, N_JOBS, 2), *range(0, N_JOBS, 2)]),
    ]
    others = [(fold_until, folder, stop), (fold_until, folder, stop), (read_until, folder, stop)]
    with running(processes, *writers, *others) as started:
        for process in started[: len(writers)]:
            process.join(60)
        stop.touch()
        for process in started:
            process.join(60)
        codes = [process.exitcode for process in started]

    assert codes == [0] * len(started)
    pd.testing.assert_frame_equal(RunStore(folder).read(SUITE), undisturbed)
    assert RunStore(folder).compact(SUITE) == 1
    pd.testing.assert_frame_equal(RunStore(folder).read(SUITE), undisturbed)
    assert sorted(path.name for path in (folder / SUITE).rglob("*") if path.is_file()) == [
        path.name for path in (folder / SUITE / "segments").iterdir()
    ]


@pytest.mark.parametrize("n_times", [12, pytest.param(150, marks=pytest.mark.slow)])
def test_kill_9_at_any_moment_loses_nothing_and_doubles_nothing(processes, undisturbed, tmp_path, n_times):
    folder, never, seen = tmp_path / "runs", tmp_path / "never", set()
    moments = random.Random(n_times)
    for _ in range(n_times):
        with running(processes, (save_missing, folder, N_JOBS), (fold_until, folder, never)):
            time.sleep(moments.uniform(0, 0.25))
        rows = RunStore(folder).read(SUITE)
        finished = set(rows["key"])
        assert finished >= seen
        assert not rows.duplicated(["key", "shots", "rate"]).any()
        expected = undisturbed[undisturbed["key"].isin(finished)].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows, expected, check_categorical=False)
        seen = finished
    assert seen
    save_missing(folder, N_JOBS)

    pd.testing.assert_frame_equal(RunStore(folder).read(SUITE), undisturbed)
    RunStore(folder).compact(SUITE)
    pd.testing.assert_frame_equal(RunStore(folder).read(SUITE), undisturbed)


def test_two_versions_of_the_code_at_once_leave_each_cell_once_and_both_keys_at_hand(processes, tmp_path):
    folder, stop = tmp_path / "runs", tmp_path / "stop"
    writers = [(save_all, folder, range(20), version) for version in (0, 1)]
    with running(processes, *writers, (fold_until, folder, stop)) as started:
        for process in started[:2]:
            process.join(60)
        stop.touch()
        started[2].join(60)
        assert [process.exitcode for process in started] == [0, 0, 0]
    store = RunStore(folder)
    assert not store.read(SUITE).drop_duplicates("key").duplicated("seed").any()
    for version in (1, 0, 1):
        asked = [(job_of(rows_of(number, version)), key_of(number, version)) for number in range(20)]
        assert store.statuses(asked) == [rows_of(number)[0].status for number in range(20)]
        table = store.read(SUITE)
        assert set(table["key"]) == {key for _, key in asked}
        assert set(table["criterion_version"]) == {1 + version}
