import dataclasses
import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from commands import pruneboard_here
from pruneboard.benchmark.errors import DamagedFileError
from pruneboard.benchmark.store import RunStore
from pruneboard.benchmark.store._format import read_table, table_of, write_job
from pruneboard.benchmark.suites import load_suite, suite_path
from rows import job_of, job_rows, save

DIGITS = load_suite(suite_path("digits"))
CURRENT = {"suite_digest": DIGITS.digest}


def key(character):
    return character * 64


def fill(folder, *changes, **common):
    """Save a job for each mapping of changes; keys are 1111..., 2222..., unless given."""
    store = RunStore(folder)
    store.prepare()
    for number, change in enumerate(changes, start=1):
        save(store, job_rows(**({"key": key(str(number))} | CURRENT | common | change)))
    return store


@pytest.fixture
def folder(tmp_path):
    fill(
        tmp_path / "runs",
        {"seed": 0},
        {"seed": 1, "device": "cuda H100", "time_utc": "2026-03-01T10:20:30+00:00"},
        {"seed": 2, "status": "failed", "reason": "ValueError: [red] not today"},
        {"seed": 3, "criterion": "bn_scale", "status": "unsupported", "reason": "needs a batch norm"},
    )
    return tmp_path


def runs(*arguments, cwd, code=0):
    done = pruneboard_here("runs", *arguments, cwd=cwd)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_list_counts_jobs_and_names_what_is_wrong(folder):
    store = RunStore(folder / "runs")
    printed = runs("list", cwd=folder)
    (line,) = [line for line in printed.splitlines() if line.startswith(" digits")]
    assert line.split()[:6] == ["digits", "4", "2", "1", "1", "14"]
    assert "measured from 2026-01-01 00:00 to 2026-03-01 10:20 UTC on cpu, cuda H100; code aaaaaaaaaa" in printed
    save(store, job_rows(key=key("9"), seed=0, **CURRENT))
    path = store.path(job_of(job_rows(key=key("2"), seed=1)), key("2"))
    path.write_bytes(path.read_bytes()[:-9])
    left = path.with_name(".tmp-left.parquet")
    left.touch()
    os.utime(left, (1e9, 1e9))
    printed = runs("list", cwd=folder)
    assert "digits: 1 superseded jobs; `pruneboard runs prune` removes them" in printed
    assert "22222222.parquet` is damaged or newer (cut off" in printed
    assert "digits: 1 leftovers of killed writers" in printed


def test_show_lists_jobs_with_their_reasons(folder):
    printed = runs("show", "digits", cwd=folder)
    assert "digits_vgg.filters.taylor.2" in printed
    assert "ValueError: [red] not today" in printed
    assert "4 of 4 jobs" in printed
    failed = runs("show", "digits", "--status", "failed", cwd=folder)
    assert "taylor.2" in failed
    assert "taylor.1" not in failed
    both = runs(
        "show", "digits", "--status", "failed", "--status", "unsupported", "--criterion", "bn_scale", cwd=folder
    )
    assert "needs a batch norm" in both
    assert "1 of 4 jobs" in both
    assert "0 of 4 jobs" in runs("show", "digits", "--model", "nothing", cwd=folder)


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("job", ["digits_vgg.filters.taylor.1", "2", "2222", key("2")])
def test_show_tells_everything_about_one_job(folder, job, folded):
    if folded:
        runs("fold", cwd=folder)
    printed = runs("show", "digits", job, cwd=folder)

    for word in (
        key("2"),
        "cuda H100",
        "https://arxiv.org/abs/1611.06440",
        "1.5 s",
        "Tables show this job.",
        ".parquet",
    ):
        assert word in printed
    row = job_rows(key=key("2"))[0]
    level = {field.name: field.metadata["level"] for field in dataclasses.fields(row)}
    for name, value in dataclasses.asdict(row).items():
        assert (f"{name} " in printed) == (level[name] == "job" and value is not None), name


def test_show_finds_superseded_jobs_by_their_key(folder):
    save(RunStore(folder / "runs"), job_rows(key=key("9"), seed=0, **CURRENT))
    assert "Superseded: tables do not show this job." in runs("show", "digits", "1111", cwd=folder)
    assert key("9") in runs("show", "digits", "digits_vgg.filters.taylor.0", cwd=folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "--out", "nowhere"], "`--out` must be a run folder, but `nowhere` does not exist"),
        (["list", "--out", "file"], "must be a run folder, but `file` is a file"),
        (
            ["list", "--out", "other"],
            "must be a run folder, but `other` has neither `.pruneboard-run` nor files of jobs",
        ),
        (["prune", "--out", "other", "--yes"], "must be a run folder"),
        (["fold", "--out", "other"], "must be a run folder"),
        (["migrate", "--out", "nowhere"], "must be a run folder"),
        (["merge", "runs", "other", "--out", "new"], "a source must be a run folder, but `other`"),
        (["merge", "runs", "--out", "runs"], "a source must be another folder than `--out`, got `runs` for both"),
        (["show", "digit"], "no suite in run folder `runs`: `digit`. Did you mean `digits`?"),
        (["prune", "cifar10"], "no suite in run folder `runs`: `cifar10`"),
        (["show", "digits", "8"], "`JOB` must be a cell such as"),
        (["show", "digits", ""], "`JOB` must be a cell such as"),
        (["show", "digits", "--status", "fine"], "`--status` must be one of ok, unsupported, failed, got `fine`"),
    ],
)
def test_bad_input_is_one_message_and_status_two(folder, arguments, message):
    (folder / "other").mkdir()
    (folder / "file").write_text("")
    done = pruneboard_here("runs", *arguments, cwd=folder)

    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not (folder / "new").exists()


def test_a_prefix_of_several_keys_names_none(folder):
    save(RunStore(folder / "runs"), job_rows(key="1" * 63 + "2", seed=7, **CURRENT))
    assert "begins 2 keys" in runs("show", "digits", "111", cwd=folder, code=2)


STALE = {
    "superseded jobs": {"key": key("a"), "seed": 0},
    "jobs of another version of the suite": {"key": key("b"), "seed": 4, "suite_digest": "0" * 64},
    "jobs of cells that the suite no longer has": {"key": key("c"), "seed": 999},
    "jobs of another version of their criterion": {"key": key("d"), "seed": 4, "criterion_version": 99},
}


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("why", STALE)
def test_prune_removes_each_kind_of_stale_job(tmp_path, why, folded):
    version = registered_version("taylor")
    kept = [{"seed": 0}, {"seed": 1}]
    store = fill(
        tmp_path / "runs", STALE[why], *kept, **({"criterion_version": version} if why[-9:] != "criterion" else {})
    )
    if why.endswith("criterion"):
        for number in (0, 1):
            save(store, job_rows(key=key("23"[number]), seed=number, criterion_version=version, **CURRENT))
    if folded:
        runs("fold", cwd=tmp_path)
    before = store.read("digits")
    said = runs("prune", "digits", "--dry-run", cwd=tmp_path)
    assert f"digits: 1 {why}" in said
    assert "Nothing was removed." in said
    pd.testing.assert_frame_equal(store.read("digits"), before)
    assert "`--yes` must be given where nobody can be asked" in runs("prune", "digits", cwd=tmp_path, code=2)
    done = runs("prune", "--yes", cwd=tmp_path)
    assert "Removed 1 jobs and files." in done
    assert "Nothing to remove." in runs("prune", "digits", "--yes", cwd=tmp_path)

    left = RunStore(tmp_path / "runs").read("digits")
    assert set(left["key"]) == {key("2"), key("3")}
    expected = before[before["key"].isin(left["key"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(left, expected, check_categorical=False)


def registered_version(name):
    from pruneboard.benchmark import plugins

    return plugins.criteria().get(name).version


def test_prune_removes_damaged_files_and_leftovers_and_says_what_it_keeps(tmp_path):
    store = fill(tmp_path / "runs", {"seed": 0}, {"seed": 1}, criterion_version=registered_version("taylor"))
    path = store.path(job_of(job_rows(key=key("1"))), key("1"))
    path.write_bytes(b"")
    left = path.with_name(".tmp-left.parquet")
    left.touch()
    os.utime(left, (1e9, 1e9))
    shutil.copytree(path.parent, tmp_path / "runs" / "unknown")
    printed = runs("prune", "--yes", cwd=tmp_path)

    assert "digits: 1 damaged files" in printed
    assert "11111111.parquet` is empty" in printed
    assert "digits: 1 leftovers of killed writers" in printed
    assert "unknown: no suite file is known, so jobs of other versions are not looked for." in printed
    assert not path.exists()
    assert not left.exists()
    assert set(store.read("digits")["key"]) == {key("2")}


def test_prune_takes_a_suite_file(tmp_path):
    path = tmp_path / "digits.toml"
    path.write_text(suite_path("digits").read_text().replace("version = 1", "version = 2"))
    fill(tmp_path / "runs", {"seed": 0})

    assert "1 jobs of another version of the suite" in runs("prune", "digits.toml", "--dry-run", cwd=tmp_path)


@pytest.mark.parametrize("many", [False, True])
def test_merging_the_halves_of_a_run_gives_the_whole(tmp_path, many, monkeypatch):
    if many:
        monkeypatch.setattr("pruneboard.benchmark.store._merge.FOLD_AT", 2)
    jobs = [{"key": key(str(n)), "seed": n} for n in range(6)]
    whole = fill(tmp_path / "whole", *jobs).read("digits")
    fill(tmp_path / "a", *jobs[:4])
    fill(tmp_path / "b", *jobs[3:])
    before = {path: path.read_bytes() for name in "ab" for path in (tmp_path / name).rglob("*") if path.is_file()}
    printed = runs("merge", "a", "b", "--out", "all", cwd=tmp_path)
    assert "a: digits: 4 added, 0 there before, 0 newer, 0 older and set aside, 0 in conflict" in printed
    assert "b: digits: 2 added, 1 there before" in printed
    assert (tmp_path / "all" / "digits" / "segments").exists() == many
    pd.testing.assert_frame_equal(RunStore(tmp_path / "all").read("digits"), whole)
    content = {path: path.read_bytes() for path in (tmp_path / "all").rglob("*.parquet")}
    again = runs("merge", "a", "b", "--out", "all", cwd=tmp_path)
    assert "a: digits: 0 added, 4 there before" in again

    assert {path: path.read_bytes() for path in (tmp_path / "all").rglob("*.parquet")} == content
    assert before == {path: path.read_bytes() for path in before}


def test_results_that_differ_under_one_key_are_kept_apart_and_loud(tmp_path):
    fill(tmp_path / "a", {"seed": 0})
    other = fill(tmp_path / "b", {"seed": 1, "key": key("2")})
    rows = job_rows(key=key("1"), seed=0, **CURRENT)
    save(other, [*rows[:-1], dataclasses.replace(rows[-1], top1=rows[-1].top1 + 1e-9)])
    ours = RunStore(tmp_path / "a").read("digits")
    for _ in range(2):
        printed = runs("merge", "b", "--out", "a", cwd=tmp_path, code=1)
        assert "1 in conflict" in printed
        assert "has other results under the same key" in printed
        (kept,) = (tmp_path / "a" / "digits" / "conflicts").iterdir()
        assert kept.name in printed.replace("\n", "")
    merged = RunStore(tmp_path / "a").read("digits")
    pd.testing.assert_frame_equal(merged[merged["seed"] == 0].reset_index(drop=True), ours, check_categorical=False)
    assert len(merged) == 12
    assert "disagrees with the job of the same key" in runs("list", "--out", "a", cwd=tmp_path)


@pytest.mark.parametrize("folded", [False, True])
def test_a_failure_gives_way_and_the_later_of_two_keys_is_shown(tmp_path, folded):
    late, early = "2026-05-01T00:00:00+00:00", "2026-04-01T00:00:00+00:00"
    failed = {"status": "failed", "reason": "killed"}
    a = fill(
        tmp_path / "a",
        {"seed": 0, **failed},
        {"seed": 1},
        {"seed": 2, "time_utc": early},
        {"seed": 3, "time_utc": late},
        {"seed": 4, **failed},
    )
    b = fill(
        tmp_path / "b",
        {"seed": 0},
        {"seed": 1, **failed},
        {"seed": 2, "time_utc": late, "key": key("a")},
        {"seed": 3, "time_utc": early, "key": key("b")},
        {"seed": 4, "status": "failed", "reason": "killed elsewhere"},
    )
    if folded:
        runs("fold", "--out", "a", cwd=tmp_path)
        runs("fold", "--out", "b", cwd=tmp_path)
    printed = runs("merge", "b", "--out", "a", cwd=tmp_path)
    assert "0 added, 2 there before, 2 newer, 1 older and set aside, 0 in conflict" in printed
    jobs = a.read("digits").drop_duplicates("key").set_index("seed")
    assert jobs["status"].tolist() == ["ok", "ok", "ok", "ok", "failed"]
    assert jobs["key"].tolist() == [key("1"), key("2"), key("a"), key("4"), key("5")]
    runs("merge", "b", "--out", "a", cwd=tmp_path)
    assert a.read("digits").drop_duplicates("key")["key"].tolist() == jobs["key"].tolist()
    # What was set aside is at hand for the code that asks for it.
    row = b.read("digits").query("seed == 3").iloc[0]
    assert RunStore(tmp_path / "a").status(job_of([row]), key("b")) == "ok"
    assert key("b") in set(RunStore(tmp_path / "a").read("digits")["key"])


def test_merge_stops_at_a_damaged_source_and_goes_on_when_it_is_mended(tmp_path):
    fill(tmp_path / "a", {"seed": 0})
    b = fill(tmp_path / "b", {"seed": 1, "key": key("2")}, {"seed": 2, "key": key("3")})
    path = b.path(job_of(job_rows(key=key("2"), seed=1)), key("2"))
    path.write_bytes(path.read_bytes()[:-1])
    printed = runs("merge", "a", "b", "--out", "all", cwd=tmp_path, code=2)
    assert "is damaged" in printed
    assert path.name in printed
    path.unlink()
    assert "b: digits: 1 added" in runs("merge", "a", "b", "--out", "all", cwd=tmp_path)


def test_merge_says_what_it_does_not_merge(tmp_path):
    fill(tmp_path / "a", {"seed": 0})
    (tmp_path / "a" / "digits" / "tuning").mkdir()
    assert "note: only jobs are merged, without tuning of digits." in runs("merge", "a", "--out", "b", cwd=tmp_path)


def test_fold_and_table_and_site_agree(folder):
    def shown():
        table = pruneboard_here("table", "digits", cwd=folder)
        site = pruneboard_here("site", "build", "--runs", "runs", "--out", "site", cwd=folder)
        assert table.returncode == site.returncode == 0, table.stderr + site.stderr
        return table.stdout, (folder / "site" / "index.html").read_bytes()

    before = shown()
    printed = runs("fold", cwd=folder)
    assert "digits: 4 job files folded, 1 segments" in printed
    assert [path.name for path in (folder / "runs" / "digits").iterdir()] == ["segments"]
    assert shown() == before
    assert "0 job files folded, 1 segments" in runs("fold", cwd=folder)


def test_an_empty_run_folder_is_said_to_be_empty(tmp_path):
    RunStore(tmp_path / "runs").prepare()
    assert "is a run folder without any finished job" in runs("list", cwd=tmp_path)


def test_the_commands_start_without_torch(tmp_path):
    code = "import sys, pruneboard.benchmark.cli.run_folders; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"


@pytest.mark.parametrize("column", ["model", "criterion", "granularity", "suite", "key"])
@pytest.mark.parametrize(
    "name", ["../../x", "/tmp/x", "a/b", "..", "", "x\0y", "x\ny", "x" * 300, "Vgg", "vgg.cifar", "ﬁlter", "x (here)"]
)
def test_rows_whose_names_are_no_names_are_not_read(tmp_path, column, name):
    """Merging would write the file of `../../x` outside its folder, or `Vgg` over `vgg` where cases are one."""
    path = tmp_path / "job.parquet"
    write_job(table_of(job_rows(**({"key": key("1")} | {column: name}))), path, key=key("1"), status="ok")

    with pytest.raises(DamagedFileError, match=f"foreign: its {column} is .*, which is no name"):
        read_table(path)


def test_merge_writes_nothing_outside_its_folder(tmp_path):
    fill(tmp_path / "there" / "a", {"seed": 0})
    store = RunStore(tmp_path / "there" / "a")
    rows = table_of(job_rows(key=key("2"), model="../../../x", **CURRENT))
    write_job(
        rows,
        store.suite_folder("digits").path / f"x.filters.taylor.0.{key('2')[:16]}.parquet",
        key=key("2"),
        status="ok",
    )
    printed = runs("merge", "there/a", "--out", "there/all", cwd=tmp_path, code=2)

    assert "foreign: its model is '../../../x', which is no name" in " ".join(printed.split())
    assert "Traceback" not in printed
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert not list((tmp_path / "there" / "all").rglob("*.parquet"))
