import re

import pandas as pd
import pytest

from commands import EXTRA, press_ctrl_c, pruneboard, pruneboard_here, start_pruneboard, wait_until, write_suite
from pruneboard.benchmark.cli import running
from pruneboard.benchmark.render.tuning import view_tuning
from pruneboard.benchmark.store import ResultsStore, RunStore
from pruneboard.benchmark.studies import StudyStore

QUICK = ("--suite", "small.toml", "--images", 5)


def trials(folder, name):
    """The table of a study's trials as text, without times."""
    table = pd.read_csv(folder / "runs" / "small" / "tuning" / f"{name}.trials.csv", dtype=str, keep_default_na=False)
    return table.drop(columns="seconds").to_dict("records")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A folder where two criteria were tuned on one of two networks and what the command printed."""
    folder = tmp_path_factory.mktemp("tuned")
    models = {"digits_vgg": ["filters"], "digits_vit": ["neurons", "heads"]}
    write_suite(folder, models=models, criteria=["random", "magnitude_l2", "taylor"], seeds=[0, 1])
    limits = ("--trials", 5, "--granularity", "filters", "--workers", 0)
    done = pruneboard_here("tune", "magnitude", "taylor", *QUICK, *limits, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_tuning_measures_tuned_and_untuned_and_compares_them(tuned):
    folder, printed = tuned
    rows = RunStore(folder / "runs").read("small")
    jobs = rows.drop_duplicates("key")
    assert "2 studies of at most 5 trials each, 0 done before, 2 to search; A_PR on 50 images of `train`" in printed
    # The suite has no `magnitude`, so it is measured beside its tuned form; `taylor` is there already.
    assert dict(jobs["criterion"].value_counts()) == dict.fromkeys(
        ("magnitude", "magnitude_tuned", "taylor", "taylor_tuned"), 2
    )
    assert set(rows["model"]) == {"digits_vgg"}
    compared = re.search(r"taylor +digits_vgg +filters +([\d.]+) +([\d.]+) +([+-][\d.]+) +[\d.]+", printed)
    means = rows.groupby("criterion")["top1"].mean() * 100
    untuned, best, difference = map(float, compared.groups())
    assert (untuned, best) == pytest.approx((means["taylor"], means["taylor_tuned"]), abs=0.006)
    assert difference == pytest.approx(means["taylor_tuned"] - means["taylor"], abs=0.006)
    studies = {study.criterion: study for study in StudyStore(folder / "runs").read("small")}
    assert [len(studies[name].trials) for name in ("magnitude", "taylor")] == [4, 5]
    tuned_rows = rows[rows["criterion"] == "taylor_tuned"]

    assert set(tuned_rows["tuning"]) == {studies["taylor"].outcome.study}
    assert set(tuned_rows["tuned_trials"]) == {5}
    assert set(tuned_rows["tuned_images"]) == {20 + 50}
    assert set(rows.loc[rows["criterion"] == "taylor", "tuning"]) == {""}


def test_the_same_command_finds_everything_done(tuned):
    folder, _ = tuned
    before = {path: path.read_bytes() for path in (folder / "runs").rglob("*") if path.is_file()}
    again = pruneboard_here(
        "tune", "magnitude", "taylor", *QUICK, "--trials", 5, "--model", "digits_vgg", "--workers", 0, cwd=folder
    )

    assert again.returncode == 0, again.stderr
    assert "2 studies of at most 5 trials each, 2 done before, 0 to search" in again.stdout
    assert "8 jobs on digits, 8 done before, 0 to run" in again.stdout
    assert {path: path.read_bytes() for path in before} == before


def test_table_publish_site_and_run_show_tuned_rows(tuned, tmp_path):
    folder, _ = tuned
    table = pruneboard_here("table", "small.toml", "--publish", cwd=folder)
    assert table.returncode == 0, table.stderr
    for name in ("taylor (tuned)", "magnitude (tuned)", "magnitude "):
        assert re.search(rf"\d +{re.escape(name)}", table.stdout), table.stdout
    assert "left out" not in table.stderr
    published = folder / "results" / "small"
    assert (published / "taylor_tuned.csv").is_file()
    assert (published / "tuning" / "taylor.digits_vgg.filters.json").is_file()
    (study,) = [s for s in StudyStore(folder / "results").read("small") if s.criterion == "taylor"]
    rows = ResultsStore(folder / "results").read("small")
    (line,) = view_tuning([study], rows)
    means = rows.groupby("criterion")["top1"].mean()
    assert line.difference.mean == pytest.approx(means["taylor_tuned"] - means["taylor"])
    assert (study.untuned, len(study.trials), study.space_size) == ("taylor", 5, 16)
    run = pruneboard_here(
        *("run", folder / "small.toml", "--tuned", "--out", "elsewhere", "--workers", 0, "--criterion", "taylor"),
        cwd=folder,
    )
    assert run.returncode == 0, run.stderr
    assert "2 jobs on digits, 0 done before, 2 to run" in run.stdout
    again = RunStore(folder / "elsewhere").read("small")

    assert set(again["criterion"]) == {"taylor_tuned"}
    assert again["top1"].tolist() == rows.loc[rows["criterion"] == "taylor_tuned", "top1"].tolist()


def test_a_suite_takes_tuned_parameters_from_another_that_drew_other_validation_images(tmp_path):
    cells = {"models": {"digits_vgg": ["filters"]}, "criteria": ["taylor"]}
    write_suite(tmp_path, **cells)
    write_suite(tmp_path, name="steps", **cells)
    steps = (tmp_path / "steps.toml").read_text().replace("one_shot", "iterative")
    (tmp_path / "steps.toml").write_text(steps.replace("seeds =", 'tuned_on = "small"\nseeds ='))
    run = ("run", "steps.toml", "--tuned", "--workers", 0)
    refused = pruneboard_here(*run, cwd=tmp_path)
    searched = pruneboard_here("tune", "taylor", *QUICK, "--trials", 2, "--search-only", "--workers", 0, cwd=tmp_path)
    assert searched.returncode == 0, searched.stderr
    done = pruneboard_here(*run, cwd=tmp_path)
    (study,) = StudyStore(tmp_path / "runs").read("small")
    rows = RunStore(tmp_path / "runs").read("steps")

    assert refused.returncode == 2
    assert "make them with `pruneboard tune CRITERION --suite small`" in refused.stderr
    assert done.returncode == 0, done.stderr
    assert set(rows["protocol"]) == {"iterative"}
    assert set(rows["criterion"]) == {"taylor_tuned"}
    assert set(rows["tuning"]) == {study.tuned.study}
    tuned_on_steps = pruneboard_here("tune", "taylor", "--suite", "steps.toml", cwd=tmp_path)
    assert tuned_on_steps.returncode == 2
    assert "`steps` takes its tuned parameters from `small`; tune on that" in tuned_on_steps.stderr


@pytest.mark.parametrize(
    "change", [("shots = [1, 2]", "shots = [1, 3]"), ("seeds = [0]", "seeds = [0, 7]"), ("['digits']", "['others']")]
)
def test_tuned_parameters_that_may_have_seen_reference_images_are_refused(tmp_path, change):
    cells = {"models": {"digits_vgg": ["filters"]}, "criteria": ["taylor"]}
    write_suite(tmp_path, **cells)
    write_suite(tmp_path, name="steps", **cells)
    steps = (tmp_path / "steps.toml").read_text().replace("seeds =", 'tuned_on = "small"\nseeds =')
    (tmp_path / "steps.toml").write_text(steps.replace(*change))
    done = pruneboard_here("run", "steps.toml", "--tuned", cwd=tmp_path)

    assert done.returncode == 2
    assert "at least the same seeds and as many shots, got `small` in suite `steps`" in done.stderr


def test_show_says_what_can_be_tuned(tmp_path):
    shown = pruneboard_here("show", "taylor_logit", cwd=tmp_path).stdout
    assert "`pruneboard tune taylor --suite SUITE` searches over its parameters" in shown
    assert "no parameter to tune" in pruneboard_here("show", "random", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tailor", *QUICK], "there is no criterion `tailor`. Did you mean `taylor`"),
        (["taylor_logit", *QUICK], "`taylor_logit` is a preset of `taylor`; tune `taylor`"),
        (["random", *QUICK], "there is nothing to tune of `random` on `digits_vgg` (filters); leave it out"),
        (["taylor", *QUICK, "--trials", "0"], "`--trials` must be at least 1, got 0"),
        (["taylor", *QUICK, "--trials", "-3"], "`--trials` must be at least 1, got -3"),
        (["taylor", *QUICK, "--draws", "0"], "`--draws` must be at least 1, got 0"),
        (["taylor", "--suite", "small.toml", "--images", "0"], "`--images` must be at least 1, got 0"),
        (["taylor", "--suite", "small.toml", "--images", "900"], "must find 900 validation images per class"),
        (["taylor", "--suite", "digit"], "there is no suite `digit`. Did you mean `digits`?"),
        (["taylor", *QUICK, "--model", "digits_vg"], "no model in suite `small`: `digits_vg`"),
        (["taylor", *QUICK, "--granularity", "layers"], "`--granularity` must be one of filters, neurons, heads"),
        (["taylor", *QUICK, "--granularity", "heads"], "one by which suite `small` prunes a network, got heads"),
        (
            ["taylor", *QUICK, "--model", "digits_vgg", "--granularity", "heads"],
            "one by which suite `small` prunes `digits_vgg`, filters, got heads",
        ),
        (["taylor", *QUICK, "--out", "small.toml/runs"], "must be writable"),
    ],
)
def test_bad_input_is_one_message_and_status_two(tmp_path, arguments, message):
    write_suite(tmp_path, models={"digits_vgg": ["filters"]}, criteria=["taylor"])
    done = pruneboard_here("tune", *arguments, cwd=tmp_path)

    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("runs/small/tuning/*"))


def test_a_network_without_weights_is_trained_before_it_is_tuned(tmp_path, monkeypatch):
    """And Ctrl-C during the training is one as well."""

    def interrupted(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "train_with_progress", interrupted)
    done = pruneboard_here("tune", "magnitude", "--suite", "toy", "--workers", 0, cwd=tmp_path)

    assert done.returncode == 130, done.stderr
    assert "has no weights on this machine yet" in done.stdout
    assert "Stopped before the first trial; the same command continues." in done.stdout


def test_tuned_rows_that_nobody_tuned_are_refused_with_the_remedy(tmp_path):
    write_suite(tmp_path, models={"digits_vgg": ["filters"]}, criteria=["taylor"])
    done = pruneboard_here("run", "small.toml", "--tuned", cwd=tmp_path)

    assert done.returncode == 2
    assert "there are none for suite `small` in `runs` or `results`; make them with `pruneboard tune" in done.stderr


def test_a_killed_search_goes_on_as_if_it_had_not_been(tmp_path, extra_criteria):
    """Killed in the middle of a trial; the trials that ended are kept, and the rest is what it would have been."""
    command = ("tune", "slow_one", *QUICK, "--trials", 12, "--search-only", "--workers", 0)
    folders = [tmp_path / name for name in ("killed", "whole")]
    for folder in folders:
        folder.mkdir()
        write_suite(folder, models={"digits_vgg": ["filters"]}, criteria=["taylor"], seeds=[0])
    process = start_pruneboard(*command, cwd=folders[0], env=EXTRA)
    name = "slow_one.digits_vgg.filters"
    path = folders[0] / "runs" / "small" / "tuning" / f"{name}.trials.csv"
    wait_until(lambda: path.exists() and len(path.read_text().splitlines()) >= 4)
    process.kill()
    process.communicate()
    kept = trials(folders[0], name)
    assert 3 <= len(kept) < 12
    resumed, whole = (pruneboard_here(*command, cwd=folder) for folder in folders)
    assert (resumed.returncode, whole.returncode) == (0, 0), resumed.stderr + whole.stderr
    again = trials(folders[0], name)

    assert again[: len(kept)] == kept
    assert again == trials(folders[1], name)
    assert "1 studies of at most 12 trials each, 0 done before, 1 to search" in resumed.stdout


def test_ctrl_c_keeps_the_trials(tmp_path):
    write_suite(tmp_path, models={"digits_vgg": ["filters"]}, criteria=["taylor"], seeds=[0])
    process = start_pruneboard("tune", "slow_one", *QUICK, "--workers", 0, cwd=tmp_path, env=EXTRA)
    path = tmp_path / "runs" / "small" / "tuning" / "slow_one.digits_vgg.filters.trials.csv"
    wait_until(lambda: path.exists() and len(path.read_text().splitlines()) >= 3)
    press_ctrl_c(process)
    printed, errors = process.communicate(timeout=30)

    assert process.returncode == 130, errors
    assert "Stopped. Finished trials are kept; the same command continues." in printed
    assert "Traceback" not in printed + errors
    assert len(trials(tmp_path, "slow_one.digits_vgg.filters")) >= 2


def test_a_trial_that_kills_its_worker_costs_itself_only(tmp_path):
    """The study goes on in another worker, and other studies do as well."""
    write_suite(tmp_path, models={"digits_vgg": ["filters"]}, criteria=["taylor"], seeds=[0])
    alone = ("--workers", 1, "--search-only")
    done = pruneboard("tune", "lethal", "declining", *QUICK, *alone, cwd=tmp_path, env=EXTRA)
    lethal = {t["parameters"]: (t["status"], t["reason"]) for t in trials(tmp_path, "lethal.digits_vgg.filters")}
    died = "a plugin must return what it is asked for, but its process died with signal SIGKILL before it did."
    assert done.returncode == 0, done.stdout + done.stderr
    assert lethal == {'{"way": "fine"}': ("ok", ""), '{"way": "killed"}': ("failed", died)}
    assert f'failed: small / digits_vgg / filters / lethal trial 1 {{"way": "killed"}}: {died}' in done.stdout
    assert "small / digits_vgg / filters / declining: unsupported in all of 2 trials: not on this" in done.stdout
    assert not list(tmp_path.glob("runs/small/*.parquet"))
