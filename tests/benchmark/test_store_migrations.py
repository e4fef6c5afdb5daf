import io
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from commands import pruneboard_here
from pruneboard.benchmark.errors import StoreError
from pruneboard.benchmark.schema import SCHEMA_VERSION
from pruneboard.benchmark.store import ResultsStore, RunStore, migrate_files, points_and_jobs
from pruneboard.benchmark.store._format import read_seal, read_table
from pruneboard.benchmark.store._migrations import OLDEST, migrate
from rows import job_of, job_rows, save

DATA = Path(__file__).parents[1] / "data"
VERSIONS = [1, 2, 3, 4, 5]


def run_folder(version):
    return DATA / f"schema{version}" / "run_folder"


def results_folder(version):
    return DATA / f"schema{version}" / "results"


def raw(version, name):
    """Read what an old file holds without any of our code."""
    (path,) = run_folder(version).glob(f"digits/{name}.*.parquet")
    return pq.ParquetFile(path).read().to_pandas()


def test_version_2_says_that_nothing_was_tuned_before():
    after = migrate(raw(1, "digits_resnet.filters.taylor.0"), 1)

    assert after["tuned_trials"].isna().all()
    assert after["tuned_images"].isna().all()
    assert set(after["tuning"]) == {""}


def test_version_2_keeps_what_was_tuned():
    before = raw(2, "digits_resnet.filters.taylor_tuned.0")
    after = migrate(before, 2)

    assert len(set(before["tuning"])) == 1
    assert after["tuning"].equals(before["tuning"])
    assert after["tuned_trials"].equals(before["tuned_trials"])


@pytest.mark.parametrize("version", [1, 2])
def test_version_3_says_that_accuracies_were_measured_under_masks(version):
    assert set(migrate(raw(version, "digits_resnet.filters.bn_scale.0"), version)["evaluation"]) == {"masked"}
    assert set(migrate(raw(version, "digits_vit.heads.bn_scale.0"), version)["evaluation"]) == {""}


@pytest.mark.parametrize("version", VERSIONS[:3])
def test_version_4_says_that_units_were_removed_at_once(version):
    after = migrate(raw(version, "digits_resnet.filters.bn_scale.0"), version)

    assert set(after["protocol"]) == {"one_shot"}
    assert set(after["finetuning"]) == {""}


@pytest.mark.parametrize("version", VERSIONS[:4])
def test_version_5_says_that_layers_are_not_known(version):
    after = migrate(raw(version, "digits_resnet.filters.bn_scale.0"), version)

    assert set(after["layers"]) == {""}
    assert set(after["units_left"]) == {""}


def test_version_6_keeps_the_layers():
    before = raw(5, "digits_resnet.filters.bn_scale.0")
    after = migrate(before, 5)

    assert before["units_left"].iloc[0].count(" ") == 8
    assert after["units_left"].equals(before["units_left"])


@pytest.mark.parametrize("version", VERSIONS)
def test_version_6_says_that_all_classes_were_taken(version):
    assert set(migrate(raw(version, "digits_resnet.filters.bn_scale.0"), version)["task"]) == {""}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_migration_changes_no_other_value_and_not_its_input(version):
    before = raw(version, "digits_resnet.filters.bn_scale.0")
    copy = before.copy(deep=True)
    after = migrate(before, version)
    old = [name for name in before if name != "schema_version"]

    pd.testing.assert_frame_equal(after[old], copy[old])
    pd.testing.assert_frame_equal(before, copy)
    assert set(after["schema_version"]) == {SCHEMA_VERSION}


@pytest.mark.parametrize("version", VERSIONS)
def test_old_run_folders_and_old_published_tables_give_the_same_rows(version):
    runs = RunStore(run_folder(version)).read("digits")

    assert sorted(set(runs["status"])) == ["ok", "unsupported"]
    assert len(runs) == 10
    pd.testing.assert_frame_equal(ResultsStore(results_folder(version)).read("digits"), runs)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_old_job_is_a_finished_job(version):
    store = RunStore(run_folder(version))
    rows = store.read("digits").drop_duplicates("key")
    for row in rows.itertuples():
        job = job_of([row])
        assert store.status(job, row.key) == row.status


def test_old_and_new_cells_are_published_together(tmp_path):
    runs, results = RunStore(tmp_path / "runs"), ResultsStore(tmp_path / "results")
    shutil.copytree(results_folder(1), tmp_path / "results")
    before = results.read("digits")
    first = before[before["criterion"] == "taylor"].iloc[0]
    save(runs, job_rows(key="7" * 64, suite_digest=first["suite_digest"], data_digest=first["data_digest"]))
    results.write(runs.read("digits"))
    after = results.read("digits")

    assert set(after.loc[after["criterion"] == "taylor", "model"]) == {"digits_resnet", "digits_vgg"}
    assert set(pd.read_csv(tmp_path / "results" / "digits" / "taylor.jobs.csv")["schema_version"]) == {SCHEMA_VERSION}
    kept = after[after["key"].isin(before["key"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, before, check_categorical=False)


def test_tables_of_several_versions_are_read_as_one(tmp_path):
    runs, results = RunStore(tmp_path / "runs"), ResultsStore(tmp_path / "results")
    shutil.copytree(results_folder(1), tmp_path / "results")
    before = results.read("digits")
    save(runs, job_rows(key="7" * 64, criterion="lrp"))
    save(runs, job_rows(key="8" * 64, criterion="oracle", status="failed", reason="no time"))
    new = runs.read("digits")
    results.write(new)
    after = results.read("digits")

    assert set(new["criterion"]).isdisjoint(before["criterion"])
    for part in (before, new):
        found = after[after["key"].isin(part["key"])].reset_index(drop=True)
        pd.testing.assert_frame_equal(found, part, check_categorical=False)
    assert len(after) == len(before) + len(new)


@pytest.mark.parametrize("version", VERSIONS)
def test_migrating_a_folder_seals_its_files_and_keeps_its_rows(version, tmp_path):
    shutil.copytree(run_folder(version), tmp_path / "runs")
    store = RunStore(tmp_path / "runs")
    before = store.read("digits")
    done = pruneboard_here("runs", "migrate", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"digits: 4 files written at schema version {SCHEMA_VERSION}" in done.stdout
    for path in (tmp_path / "runs" / "digits").iterdir():
        assert read_seal(path).status in ("ok", "unsupported")
        assert read_table(path)[1] == SCHEMA_VERSION

    pd.testing.assert_frame_equal(store.read("digits"), before)
    assert migrate_files(store.suite_folder("digits")) == 0


def test_old_files_fold_like_new_ones(tmp_path):
    shutil.copytree(run_folder(1), tmp_path / "runs")
    store = RunStore(tmp_path / "runs")
    before = store.read("digits")

    assert store.fold("digits", at_least=1) == 4
    pd.testing.assert_frame_equal(store.read("digits"), before)


@pytest.mark.parametrize("written", [str(SCHEMA_VERSION + 1), "99", str(OLDEST - 1), "three", ""])
def test_rows_of_versions_that_are_not_known_are_refused_by_name(tmp_path, written):
    store = RunStore(tmp_path)
    path = save(store, job_rows(key="1" * 64))
    table = pq.ParquetFile(io.BytesIO(path.read_bytes())).read()
    pq.write_table(table.replace_schema_metadata({"pruneboard_schema": written}), path)
    with pytest.raises(StoreError) as caught:
        store.read("digits")

    assert path.name in str(caught.value)
    is_newer = written.isdigit() and int(written) > SCHEMA_VERSION
    assert ("use a newer release of pruneboard" in str(caught.value)) == is_newer
    if is_newer:
        # A run must not write over what a newer version measured.
        with pytest.raises(StoreError, match="newer release"):
            store.status(job_of(job_rows(key="1" * 64)), "1" * 64)


def test_a_published_table_of_a_newer_version_is_refused_by_name(tmp_path):
    runs, results = RunStore(tmp_path / "runs"), ResultsStore(tmp_path / "results")
    save(runs, job_rows(key="1" * 64))
    _, jobs = results.write(runs.read("digits"))
    jobs.write_text(jobs.read_text().replace(f"\n{SCHEMA_VERSION},", f"\n{SCHEMA_VERSION + 1},"))
    with pytest.raises(StoreError, match=rf"`.*taylor\.jobs\.csv` has {SCHEMA_VERSION + 1}; use a newer release"):
        results.read("digits")
    (tmp_path / "_site").mkdir()
    built = pruneboard_here("site", "build", cwd=tmp_path)

    assert built.returncode == 2
    assert built.stdout == ""
    assert f"taylor.jobs.csv` has {SCHEMA_VERSION + 1}; use a newer release of pruneboard" in " ".join(
        built.stderr.split()
    )
    assert "Traceback" not in built.stderr
    assert list((tmp_path / "_site").iterdir()) == []


def test_files_of_present_version_without_a_seal_are_read(tmp_path):
    """As they were written before there were seals."""
    store = RunStore(tmp_path)
    path = save(store, job_rows(key="1" * 64))
    before = store.read("digits")
    table, _ = read_table(path)
    plain = table.cast(
        pa.schema([pa.field(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type) for f in table.schema])
    )
    pq.write_table(plain.replace_schema_metadata({"pruneboard_schema": str(SCHEMA_VERSION)}), path, compression="zstd")

    assert read_seal(path) is None
    assert store.status(job_of(job_rows(key="1" * 64)), "1" * 64) == "ok"
    pd.testing.assert_frame_equal(store.read("digits"), before)


def test_points_and_jobs_of_old_rows_are_those_that_were_published():
    points, jobs = points_and_jobs(RunStore(run_folder(1)).read("digits"))
    taylor = pd.read_csv(results_folder(1) / "digits" / "taylor.csv")
    ours = points[points["key"].isin(taylor["key"])].reset_index(drop=True)

    assert len(jobs) == 4
    pd.testing.assert_frame_equal(ours[list(taylor)].astype(taylor.dtypes), taylor)
