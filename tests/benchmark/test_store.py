import dataclasses
import errno
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pruneboard.benchmark.errors import StoreError
from pruneboard.benchmark.schema import COLUMNS, SCHEMA_VERSION
from pruneboard.benchmark.store import ResultsStore, RunStore, atomic_file
from rows import job_of, job_rows, save

KEY, OTHER = "1" * 64, "2" * 64


def as_records(rows) -> list[dict]:
    """Compare tables by value: missing values become None."""
    if isinstance(rows, pd.DataFrame):
        table = rows.astype(object).where(rows.notna(), None)
        return table.to_dict("records")
    return [dataclasses.asdict(row) for row in rows]


def test_rows_come_back_exactly_from_parquet_and_from_csv(tmp_path):
    rows = job_rows(key=KEY) + job_rows(
        key=OTHER, criterion="lrp", status="unsupported", reason='no "rule", sorry\n; <b>'
    )
    runs = RunStore(tmp_path / "runs")
    save(runs, rows[:-1])
    save(runs, rows[-1:])
    expected = sorted(as_records(rows), key=lambda r: (r["criterion"], r["shots"] or 0, r["rate"] or 0))

    read = runs.read("digits")
    assert as_records(read) == expected
    assert list(read.columns) == [column.name for column in COLUMNS]
    results = ResultsStore(tmp_path / "results")
    paths = results.write(read)
    assert [path.name for path in paths] == ["lrp.csv", "lrp.jobs.csv", "taylor.csv", "taylor.jobs.csv"]
    pd.testing.assert_frame_equal(results.read("digits"), read)


def test_publishing_one_network_keeps_the_others_that_have_data_of_their_own(tmp_path):
    runs, results = RunStore(tmp_path / "runs"), ResultsStore(tmp_path / "results")
    own = {"model": "digits_resnet", "dataset": "others"}
    save(runs, job_rows(key="1" * 64, data_digest="1" * 64))
    save(runs, job_rows(key="2" * 64, data_digest="2" * 64, **own))
    rows = runs.read("digits")
    results.write(rows[rows["dataset"] == "others"])
    results.write(rows[rows["dataset"] == "digits"])
    assert set(results.read("digits")["model"]) == {"digits_vgg", "digits_resnet"}

    newer = rows[rows["dataset"] == "others"].assign(data_digest="3" * 64, key="3" * 64, seed=1)
    results.write(newer)
    left = results.read("digits")
    assert set(left.loc[left["model"] == "digits_resnet", "data_digest"]) == {"3" * 64}


def test_published_tables_are_the_same_bytes_each_time(tmp_path):
    runs = RunStore(tmp_path / "runs")
    save(runs, job_rows(key=KEY))
    first = [path.read_bytes() for path in ResultsStore(tmp_path / "a").write(runs.read("digits"))]
    second = [path.read_bytes() for path in ResultsStore(tmp_path / "b").write(runs.read("digits"))]

    assert first == second


def test_status_knows_what_is_done(tmp_path):
    runs, rows = RunStore(tmp_path), job_rows(key=KEY)
    job = job_of(rows)
    assert runs.status(job, KEY) is None
    path = save(runs, rows)
    assert path.name == "digits_vgg.filters.taylor.0.1111111111111111.parquet"
    assert runs.status(job, KEY) == "ok"
    # Another key that shares the file name's digits is not this job.
    assert runs.status(job, KEY[:16] + "9" * 48) is None
    path.write_bytes(path.read_bytes()[:-20])
    assert runs.status(job, KEY) is None
    save(runs, job_rows(key=OTHER, status="failed", reason="NaN"))
    assert runs.status(job, OTHER) == "failed"


def test_a_cell_shows_the_job_that_was_asked_for_last(tmp_path):
    """A changed criterion replaces its rows, and a change that is reverted brings them back."""
    runs, before, after = RunStore(tmp_path), job_rows(key=KEY), job_rows(key=OTHER, criterion_version=2)
    other_seed = job_rows(key="3" * 64, seed=1)
    for rows in (before, other_seed, after):
        save(runs, rows)
    assert set(runs.read("digits")["key"]) == {OTHER, "3" * 64}
    assert runs.status(job_of(before), KEY) == "ok"
    assert set(runs.read("digits")["key"]) == {KEY, "3" * 64}
    assert runs.status(job_of(after), OTHER) == "ok"

    assert set(runs.read("digits")["key"]) == {OTHER, "3" * 64}
    assert as_records(runs.read("digits"))[0]["criterion_version"] == 2


def test_a_copied_file_counts_once(tmp_path):
    runs = RunStore(tmp_path)
    path = save(runs, job_rows(key=KEY))
    path.with_name("copy.parquet").write_bytes(path.read_bytes())

    assert len(runs.read("digits")) == 6


def test_publishing_a_part_keeps_the_rest(tmp_path):
    results, first, second = ResultsStore(tmp_path / "results"), RunStore(tmp_path / "a"), RunStore(tmp_path / "b")
    save(first, job_rows(key=KEY))
    save(first, job_rows(key="3" * 64, model="digits_resnet"))
    results.write(first.read("digits"))
    save(second, job_rows(key=OTHER, time_utc="2026-02-01T00:00:00+00:00"))
    results.write(second.read("digits"))

    assert set(results.read("digits")["key"]) == {OTHER, "3" * 64}
    save(second, job_rows(key="4" * 64, suite_digest="6" * 64))
    results.write(second.read("digits"))
    assert set(results.read("digits")["key"]) == {"4" * 64}


def test_an_empty_folder_is_an_empty_table(tmp_path):
    for store in (RunStore(tmp_path / "none"), ResultsStore(tmp_path / "none")):
        rows = store.read("digits")
        assert rows.empty
        assert list(rows.columns) == [column.name for column in COLUMNS]


def test_damaged_and_foreign_files_are_refused_by_name(tmp_path):
    runs = RunStore(tmp_path)
    path = save(runs, job_rows(key=KEY))
    whole = path.read_bytes()
    for damage in (whole[:-20], whole[: len(whole) // 2], b"", b"not parquet at all"):
        path.write_bytes(damage)
        with pytest.raises(StoreError, match=r"must be whole, but `.*1111\.parquet` is damaged"):
            runs.read("digits")
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(StoreError, match=r"is damaged \(foreign: its schema version is none"):
        runs.read("digits")
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({"pruneboard_schema": "3"}), path)
    with pytest.raises(StoreError, match=r"is damaged \(foreign: it lacks the columns key, suite, suite_version"):
        runs.read("digits")
    newer = pq.read_table(pa.BufferReader(whole)).replace_schema_metadata({"pruneboard_schema": "99"})
    pq.write_table(newer, path)
    with pytest.raises(
        StoreError, match=f"must have a schema version from 1 to {SCHEMA_VERSION}, but .* has 99; use a newer release"
    ):
        runs.read("digits")


def test_broken_published_tables_are_refused_by_name(tmp_path):
    runs, results = RunStore(tmp_path / "runs"), ResultsStore(tmp_path / "results")
    save(runs, job_rows(key=KEY))
    points, jobs = results.write(runs.read("digits"))
    good = {path: path.read_text() for path in (points, jobs)}

    def refused(path, text, message):
        path.write_text(text)
        with pytest.raises(StoreError, match=message) as caught:
            results.read("digits")
        assert path.name in str(caught.value)
        path.write_text(good[path])

    refused(points, good[points].replace("1111", "9999"), "every point must belong to a job")
    refused(points, good[points].replace("599", "many"), "must be a CSV file of known columns")
    refused(
        jobs,
        good[jobs].replace(f"\n{SCHEMA_VERSION},", f"\n{SCHEMA_VERSION + 1},"),
        f"one schema version from 1 to {SCHEMA_VERSION}, but .* has {SCHEMA_VERSION + 1}; use a newer release",
    )
    refused(jobs, "", "must be a CSV file of known columns")
    refused(jobs, good[jobs].replace(",key,", ",kex,"), "must have a column `key`")
    refused(points, good[points].replace("key,", "kex,", 1), "must have a column `key`")
    points.unlink()
    with pytest.raises(StoreError, match="must be a CSV file of known columns"):
        results.read("digits")


def test_columns_that_the_schema_lacks_change_nothing(tmp_path):
    runs, results = RunStore(tmp_path / "runs"), ResultsStore(tmp_path / "results")
    save(runs, job_rows(key=KEY))
    paths = results.write(runs.read("digits"))
    before = results.read("digits")
    for path in paths:
        pd.read_csv(path, dtype=str, keep_default_na=False).assign(short_key="x", file=7).to_csv(path, index=False)

    pd.testing.assert_frame_equal(results.read("digits"), before)


def test_of_many_tables_the_broken_one_is_named(tmp_path):
    runs, results = RunStore(tmp_path / "runs"), ResultsStore(tmp_path / "results")
    for i, criterion in enumerate(("activation", "lrp", "taylor")):
        save(runs, job_rows(key=f"{i + 1}" * 64, criterion=criterion))
    results.write(runs.read("digits"))
    jobs = tmp_path / "results" / "digits" / "lrp.jobs.csv"
    table = pd.read_csv(jobs, dtype=str, keep_default_na=False)
    for column, message in (("threads", "`threads` is empty in `.*lrp.jobs.csv`"), (None, "`.*lrp.jobs.csv` lacks")):
        broken = table.drop(columns="threads") if column is None else table.assign(**{column: ""})
        broken.to_csv(jobs, index=False)
        with pytest.raises(StoreError, match=message):
            results.read("digits")


def test_an_interrupted_write_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_message_and_keeps_the_finished_files(tmp_path):
    """The kernel refuses to grow the file, as it does on a full disk; SIGXFSZ is ignored so that write() fails."""
    program = textwrap.dedent(
        f"""
        import resource, signal, sys
        sys.path.insert(0, {str(Path(__file__).parents[1] / "support")!r})
        from rows import job_rows, save
        from pruneboard.benchmark.errors import StoreError
        from pruneboard.benchmark.store import RunStore
        store = RunStore(__import__("pathlib").Path({str(tmp_path)!r}))
        save(store, job_rows(key="1" * 64))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        try:
            save(store, job_rows(key="2" * 64))
        except StoreError as error:
            print(error)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "must be writable, but" in done.stdout
    assert "free space or choose another folder" in done.stdout
    assert [path.name.split(".")[-2] for path in (tmp_path / "digits").iterdir()] == ["1" * 16]
    assert len(RunStore(tmp_path).read("digits")) == 6


def test_a_folder_that_cannot_be_written_is_found_before_any_work(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(
        StoreError, match=r"`.*file/runs/.pruneboard-run` must be writable, but .*choose another folder"
    ):
        RunStore(blocker / "runs").prepare()
    RunStore(tmp_path / "fine").prepare()


def test_a_file_is_on_the_disk_with_its_name(tmp_path, monkeypatch):
    """A power cut right after takes the new name of a file whose folder was not synced."""
    synced = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda n: (synced.append((os.fstat(n).st_ino, path.exists())), sync(n)))
    path = tmp_path / "table.csv"
    with atomic_file(path) as temporary:
        temporary.write_text("whole")

    assert synced == [(path.stat().st_ino, False), (tmp_path.stat().st_ino, True)]


def test_a_folder_that_cannot_be_synced_is_no_error(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(errno.EINVAL, "Invalid argument")

    with atomic_file(tmp_path / "table.csv") as temporary:
        temporary.write_text("whole")
        sync = os.fsync
        monkeypatch.setattr(os, "fsync", lambda n: refuse(n) if stat.S_ISDIR(os.fstat(n).st_mode) else sync(n))

    assert (tmp_path / "table.csv").read_text() == "whole"
