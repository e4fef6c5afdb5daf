"""What counts as done by somebody else while a run is going."""

import dataclasses

import pytest

from pruneboard.benchmark.cli import running
from pruneboard.benchmark.errors import PruneboardError
from pruneboard.benchmark.executors import Agenda, Claims, Finished, Started, Task, mark_of
from pruneboard.benchmark.store import RunStore, digest_of, table_of
from rows import job_of, job_rows, save

KEYS = [str(number) * 64 for number in range(1, 7)]


def rows(number, status="ok"):
    return job_rows(key=KEYS[number], status=status, seed=number)


def agenda_of(store, claims, numbers, *, fresh=False):
    tasks = []
    for number in numbers:
        job = job_of(rows(number))
        mark = mark_of(store, job, KEYS[number])
        tasks.append(Task(job=job, key=KEYS[number], place=(0, 0.0), before=mark, repeats=fresh))
    return Agenda(store, claims, tasks)


@pytest.fixture
def claims(tmp_path):
    with Claims(tmp_path / "digits" / "claims", "me") as claims:
        yield claims


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("fresh", [False, True])
def test_what_was_there_before_the_run_is_not_done_by_another_wherever_it_was_moved(tmp_path, claims, folded, fresh):
    """Folding moves files of failed jobs and, in a run from nothing, of finished ones."""
    store = RunStore(tmp_path)
    for number in range(3):
        save(store, rows(number, "ok" if fresh else "failed"))
    agenda = agenda_of(store, claims, range(3), fresh=fresh)
    if folded:
        assert RunStore(tmp_path).fold("digits", at_least=1) == 3

    assert [type(agenda.admit(task)) for task in agenda.tasks] == [Started] * 3
    assert [agenda.saved(task) for task in agenda.tasks] == [None] * 3


@pytest.mark.parametrize("folded", [False, True])
def test_what_another_run_did_meanwhile_is_done(tmp_path, claims, folded):
    store, other = RunStore(tmp_path), RunStore(tmp_path)
    agenda = agenda_of(store, claims, range(4))
    for number in range(2):
        save(other, rows(number))
    if folded:
        other.fold("digits", at_least=1)
    events = [agenda.admit(task) for task in agenda.tasks]

    assert [type(event) for event in events] == [Finished, Finished, Started, Started]
    assert all(event.elsewhere and event.status == "ok" for event in events[:2])


def test_a_new_failure_of_another_run_is_told(tmp_path, claims):
    store = RunStore(tmp_path)
    save(store, rows(0, "failed"))
    agenda = agenda_of(store, claims, range(1))
    save(RunStore(tmp_path), rows(0, "failed"))
    (task,) = agenda.tasks

    assert agenda.admit(task).status == "failed"


def test_asking_costs_one_look_however_many_tasks_there_are(tmp_path, claims, monkeypatch):
    store = RunStore(tmp_path)
    agenda = agenda_of(store, claims, range(6))
    looks = []
    statuses = store.statuses
    monkeypatch.setattr(store, "statuses", lambda asked: looks.append(len(asked)) or statuses(asked))
    for number, task in enumerate(agenda.tasks):
        assert isinstance(agenda.admit(task), Started)
        save(store, rows(number))
        agenda.release(task)
        if number == 2:
            store.fold("digits", at_least=1)

    assert looks == [3]


@pytest.mark.parametrize("folded", [False, True])
def test_rows_that_are_removed_or_rewritten_before_the_end_of_a_run_are_named(tmp_path, folded):
    """A criterion's process has its user's rights, and so may write to the folder."""
    store = RunStore(tmp_path)
    saved = {}
    for number in range(3):
        save(store, rows(number))
        digest = digest_of(table_of(rows(number)))
        saved[KEYS[number]] = Finished(job=job_of(rows(number)), status="ok", reason="", digest=digest)
    # Of an earlier run, in a file of its own or one that is shared.
    save(store, rows(3))
    if folded:
        store.fold("digits", at_least=1)
    running._check_kept(saved, store, "digits")
    save(RunStore(tmp_path), [dataclasses.replace(row, top1=1.0) for row in rows(0)])
    with pytest.raises(PruneboardError, match=r"1 changed \(digits_vgg\S*0\) before it ended"):
        running._check_kept(saved, store, "digits")
    for path in tmp_path.rglob("*.parquet"):
        path.unlink()

    with pytest.raises(PruneboardError, match=r"3 removed"):
        running._check_kept(saved, RunStore(tmp_path), "digits")


@pytest.mark.parametrize("folded", [False, True])
def test_the_latest_rows_of_a_key_tell_whether_its_code_was_a_commit(tmp_path, folded):
    store = RunStore(tmp_path)
    for number in range(2):
        save(store, [dataclasses.replace(row, clean=False) for row in rows(number)])
    if folded:
        store.fold("digits", at_least=1)
    save(store, [dataclasses.replace(row, clean=True) for row in rows(0)])

    assert store.unclean("digits") == {KEYS[1]}
