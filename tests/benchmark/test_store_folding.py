"""Segments: what folding keeps, which version of a cell is shown, and that asking costs one look."""

import os
import pickle

import pandas as pd
import pytest

from pruneboard.benchmark.cli import running
from pruneboard.benchmark.executors import Finished
from pruneboard.benchmark.store import RunStore, _folding
from pruneboard.benchmark.store._folder import Place, SuiteFolder
from rows import job_of, job_rows, save
from store_processes import SUITE, key_of, rows_of

N = 12


@pytest.fixture
def store(tmp_path):
    store = RunStore(tmp_path)
    for number in range(N):
        save(store, rows_of(number))
    return store


def ask(store, version=0, numbers=range(N)):
    return store.statuses([(job_of(rows_of(n, version)), key_of(n, version)) for n in numbers])


def versions_shown(store):
    return set(store.read(SUITE)["criterion_version"])


def names(store):
    return sorted(path.relative_to(store.folder / SUITE).parts[0] for path in (store.folder / SUITE).rglob("*.parquet"))


def test_folding_changes_where_rows_are_and_nothing_else(store):
    before, statuses = store.read(SUITE), ask(store)
    assert store.fold(SUITE) == 0
    assert store.fold(SUITE, at_least=N + 1) == 0
    assert store.fold(SUITE, at_least=N) == N

    assert names(store) == ["segments"]
    pd.testing.assert_frame_equal(store.read(SUITE), before)
    assert ask(store) == ask(RunStore(store.folder)) == statuses
    assert store.fold(SUITE, at_least=1) == 0


def test_segments_hold_at_most_so_many_jobs_and_compacting_makes_few_of_many(store, monkeypatch):
    before = store.read(SUITE)
    monkeypatch.setattr(_folding, "JOBS_PER_SEGMENT", 5)
    assert store.fold(SUITE, at_least=1) == N
    assert len(names(store)) == 3
    save(store, rows_of(0, version=1))
    assert store.fold(SUITE, at_least=1) == 1
    # Thirteen versions of twelve cells.
    assert store.compact(SUITE) == 3
    assert versions_shown(store) == {1, 2}
    assert ask(store, 0, [0]) == ["ok"]
    pd.testing.assert_frame_equal(store.read(SUITE), before)


@pytest.mark.parametrize("fold_old", [False, True])
@pytest.mark.parametrize("fold_new", [False, True])
@pytest.mark.parametrize("compacted", [False, True])
def test_a_change_replaces_rows_and_its_reversal_brings_them_back(store, fold_old, fold_new, compacted):
    if fold_old:
        store.fold(SUITE, at_least=1)
    for number in range(N):
        save(store, rows_of(number, 1))
    if fold_new:
        store.fold(SUITE, at_least=1)
    if compacted:
        store.compact(SUITE)
    expected = [rows_of(number)[0].status for number in range(N)]
    assert versions_shown(RunStore(store.folder)) == {2}
    for version in (0, 1, 0):
        assert ask(store, version) == expected
        assert versions_shown(store) == {1 + version}
        assert ask(RunStore(store.folder), version) == expected
        assert len(store.read(SUITE).drop_duplicates("key")) == N


def test_a_job_that_is_repeated_takes_the_place_of_its_folded_self(store):
    store.fold(SUITE, at_least=1)
    again = job_rows(key=key_of(3), seed=3)
    assert ask(store)[3] == "failed"
    save(store, again)
    assert ask(store)[3] == "ok"
    for _ in range(2):
        rows = store.read(SUITE)
        assert set(rows.loc[rows["seed"] == 3, "status"]) == {"ok"}
        assert len(rows) == N * 6
        store.compact(SUITE)
    assert names(store) == ["segments"]


def test_what_a_killed_folding_left_is_read_and_taken_over(store, monkeypatch):
    before = store.read(SUITE)
    with monkeypatch.context() as patch:
        patch.setattr(_folding, "write_segment", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            store.fold(SUITE, at_least=1)
    assert names(store) == ["folding"] * N
    pd.testing.assert_frame_equal(RunStore(store.folder).read(SUITE), before)
    again = job_rows(key=key_of(3), seed=3)
    save(store, again)
    assert ask(store)[3] == "ok"
    assert store.fold(SUITE, at_least=1) == N
    assert not (store.folder / SUITE / "folding").exists()
    rows = store.read(SUITE)
    assert set(rows.loc[rows["seed"] == 3, "status"]) == {"ok"}
    assert rows["key"].nunique() == N


def test_a_folding_that_dies_before_it_removes_files_doubles_nothing(store, monkeypatch):
    before = store.read(SUITE)
    with monkeypatch.context() as patch:
        patch.setattr(_folding, "remove_all", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            store.fold(SUITE, at_least=1)
    assert names(store) == ["folding"] * N + ["segments"]
    pd.testing.assert_frame_equal(store.read(SUITE), before)
    store.fold(SUITE, at_least=1)
    assert names(store) == ["segments"] * 2
    pd.testing.assert_frame_equal(store.read(SUITE), before)
    assert store.compact(SUITE) == 1
    pd.testing.assert_frame_equal(store.read(SUITE), before)


def test_a_file_that_moves_while_it_is_read_is_found_where_it_went(store, monkeypatch):
    before, real = store.read(SUITE), SuiteFolder.files
    looks = []

    def files(folder):
        found = real(folder)
        if not looks:
            RunStore(store.folder).fold(SUITE, at_least=1)
        looks.append(len(found))
        return found

    monkeypatch.setattr(SuiteFolder, "files", files)
    pd.testing.assert_frame_equal(store.read(SUITE), before)
    assert looks == [N, 1]


def test_of_two_files_for_one_cell_the_one_written_last_counts(store):
    """Two runs of different code that started together do not know of each other's files."""
    other = RunStore(store.folder)
    other._files_beside(SUITE)
    save(store, rows_of(0, 1))
    late = save(other, rows_of(0, 2))
    os.utime(late, ns=(late.stat().st_mtime_ns + 10**9,) * 2)
    rows = store.read(SUITE)
    assert set(rows.loc[rows["seed"] == 0, "criterion_version"]) == {3}
    store.fold(SUITE, at_least=1)
    rows = store.read(SUITE)

    assert set(rows.loc[rows["seed"] == 0, "criterion_version"]) == {3}
    assert ask(store, 1, [0]) == ["ok"]


def test_many_are_asked_with_one_look(store, monkeypatch):
    store.fold(SUITE, at_least=6)
    for number in range(N, N + 4):
        save(store, rows_of(number))
    fresh, looks, real = RunStore(store.folder), [], SuiteFolder.job_files
    monkeypatch.setattr(SuiteFolder, "job_files", lambda folder: looks.append(1) or real(folder))
    assert ask(fresh, numbers=range(N + 4)) == [rows_of(n)[0].status for n in range(N + 4)]

    assert len(looks) == 1


def test_saving_looks_at_the_folder_once(store, monkeypatch):
    fresh, looks, real = RunStore(store.folder), [], SuiteFolder.job_files
    monkeypatch.setattr(SuiteFolder, "job_files", lambda folder: looks.append(1) or real(folder))
    for number in range(N):
        save(fresh, rows_of(number, 1))

    assert len(looks) == 1
    assert versions_shown(fresh) == {2}


def test_a_store_that_is_sent_to_another_process_takes_nothing_along(store):
    ask(store)
    copy = pickle.loads(pickle.dumps(store))

    assert copy.folder == store.folder
    assert len(pickle.dumps(store)) < 500


def test_files_come_from_the_oldest_version_to_the_newest(store):
    store.fold(SUITE, at_least=1)
    save(store, rows_of(0, 1))
    store.fold(SUITE, at_least=1)
    save(store, rows_of(0, 2))
    files = store.suite_folder(SUITE).files()

    assert [(file.place, file.number) for file in files] == [(Place.SEGMENT, 1), (Place.SEGMENT, 2), (Place.JOB, 0)]


def test_a_run_folds_what_it_finishes(tmp_path, monkeypatch):
    store, when = RunStore(tmp_path), []
    monkeypatch.setattr(running, "FOLD_AT", 4)
    monkeypatch.setattr(store, "fold", when.append)
    event = Finished(job=job_of(rows_of(0)), status="ok", reason="")
    seen = [len(when) for _ in running._folding(iter([event] * 10), store, SUITE)]

    assert seen == [0] * 4 + [1] * 4 + [2] * 2
    assert when == [SUITE] * 3
