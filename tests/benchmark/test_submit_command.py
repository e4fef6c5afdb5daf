"""Handing in a criterion: what is written, what is refused, and how the pull request is opened."""

import json
import os
import subprocess

import pytest

from commands import pruneboard_here, write_suite
from elsewhere import MODULE
from pruneboard.benchmark import discovery, provenance
from pruneboard.benchmark.cli import submitting
from pruneboard.benchmark.cli.submitting import _check_commit
from pruneboard.benchmark.errors import PruneboardError
from pruneboard.benchmark.suites import _load

SAID = ("--author", "A. Uthor", "--licence", "MIT", "--url", "https://git.sr.ht/~author/elsewhere")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A place to hand in from, with a small suite; the contract has tests of its own."""
    write_suite(tmp_path, models={"digits_vgg": ["filters"]}, criteria=["random"], seeds=[0, 1])
    (tmp_path / "elsewhere.py").write_text(MODULE)
    monkeypatch.setattr(_load, "_FOLDER", tmp_path)
    monkeypatch.setattr(provenance, "commit", lambda: ("a" * 40, True))
    monkeypatch.setattr(submitting, "check_names", lambda *_: True)
    monkeypatch.setenv(discovery.FILES_VARIABLE, "")
    return tmp_path


def submit(folder, *options, criterion="./elsewhere.py", env=None):
    return pruneboard_here("submit", criterion, "--suite", "small", "--workers", 0, *options, cwd=folder, env=env)


@pytest.fixture
def repository(folder):
    """The folder as a checkout with another one for its branches; and a `gh` that writes down what it is asked."""
    for step in (
        ["init", "--quiet", "--bare", "origin.git"],
        ["init", "--quiet", "."],
        ["remote", "add", "origin", "origin.git"],
        ["config", "user.name", "A"],
        ["config", "user.email", "a@b.c"],
    ):
        subprocess.run(["git", *step], cwd=folder, check=True)
    gh = folder / "bin" / "gh"
    gh.parent.mkdir()
    gh.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\necho https://example.org/pull/1\n')
    gh.chmod(0o755)
    return {"PATH": f"{gh.parent}{os.pathsep}{os.environ['PATH']}"}


def pushed(folder, branch):
    listed = ["git", "--git-dir", "origin.git", "ls-tree", "-r", "--name-only", branch]
    return sorted(subprocess.run(listed, cwd=folder, capture_output=True, text=True, check=True).stdout.split())


def test_tables_and_card_are_written_and_valid_and_the_pull_request_is_opened(folder, repository):
    """Also from the folder of one's own repository; with nothing else in it that happens to be staged."""
    mine = folder / "mine"
    mine.mkdir()
    subprocess.run(["git", "init", "--quiet"], cwd=mine, check=True)
    (folder / "staged.txt").write_text("of something else")
    subprocess.run(["git", "add", "staged.txt"], cwd=folder, check=True)
    places = ("--results", "../results", "--out", "../runs")
    done = submit(mine, *SAID, *places, "--pull-request", criterion="../elsewhere.py", env=repository)
    again = submit(folder, *SAID)
    there = submit(mine, *SAID, *places, criterion="../elsewhere.py")
    card = json.loads((folder / "results" / "small" / "elsewhere.card.json").read_text())

    assert done.returncode == 0, done.stdout + done.stderr
    assert "https://example.org/pull/1" in done.stdout
    assert pushed(folder, "submit-elsewhere-small") == [
        *(f"results/small/elsewhere{end}" for end in (".card.json", ".csv", ".jobs.csv")),
        *(f"results/small/elsewhere_l2{end}" for end in (".card.json", ".csv", ".jobs.csv")),
    ]
    assert (
        (folder / "asked").read_text().startswith("auth status\npr create --title Results of elsewhere, elsewhere_l2")
    )
    assert (card["author"], card["licence"], card["code"]) == ("A. Uthor", "MIT", "file elsewhere.py")
    assert card["n_jobs"] == {"ok": 2}
    assert pruneboard_here("validate", "results", cwd=folder).returncode == 0
    assert again.returncode == 0, again.stderr
    assert "4 done before, 0 to run" in again.stdout
    assert "git switch --create submit-elsewhere-small" in again.stdout
    assert f"   cd {folder}\n   git switch --create" in there.stdout
    assert "git add -- results/small/elsewhere.csv" in there.stdout


def test_what_an_unclean_checkout_measured_is_measured_again_by_a_clean_one(folder, monkeypatch):
    """The documented order: a criterion is run before it is committed, and handed in afterwards."""
    with monkeypatch.context() as unclean:
        unclean.setattr(provenance, "commit", lambda: ("a" * 40, False))
        options = ("--criterion", "./elsewhere.py", "--workers", 0)
        assert pruneboard_here("run", "small", *options, cwd=folder).returncode == 0
        again = pruneboard_here("run", "small", *options, cwd=folder)
    done = submit(folder, *SAID)
    card = json.loads((folder / "results" / "small" / "elsewhere.card.json").read_text())

    assert "4 done before, 0 to run" in again.stdout, "nothing is gained by measuring it like that once more"
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 done before, 4 to run" in done.stdout
    assert card["clean"] is True


def test_a_pull_request_that_cannot_be_opened_leaves_valid_results_and_says_what_is_left(folder, repository):
    """A branch that is there already, as after the second time."""
    subprocess.run(["git", "commit", "--quiet", "--allow-empty", "--message", "a"], cwd=folder, check=True)
    subprocess.run(["git", "branch", "submit-elsewhere-small"], cwd=folder, check=True)
    done = submit(folder, *SAID, "--pull-request", env=repository)

    assert done.returncode == 2
    assert "the results are written and valid, but `git switch --create` failed: " in done.stderr
    assert done.stderr.strip().endswith("go on by hand from there.")
    assert (folder / "results" / "small" / "elsewhere.card.json").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--author", "A"), "give `--licence` and `--url`"),
        ((*SAID, "--url", "javascript:alert(1)"), "`url` must be an address that begins with https:// or http://"),
        (
            (*SAID, "--author", "=1+1"),
            "cannot stand on its card: texts of a card must be plain, but it begins with `=`",
        ),
        ((*SAID, "--pull-request"), "`--pull-request` needs a checkout of the project around `results`"),
    ],
)
def test_what_is_missing_is_said_before_anything_runs(folder, options, message):
    done = submit(folder, *options)

    assert done.returncode == 2
    assert message in done.stderr
    assert not (folder / "runs").exists()


def test_a_criterion_that_breaks_its_contract_is_not_run(folder, monkeypatch):
    monkeypatch.setattr(submitting, "check_names", lambda *_: False)
    done = submit(folder, *SAID)

    assert done.returncode == 1
    assert "Nothing was run or written" in done.stdout
    assert not (folder / "runs").exists()


def test_a_job_that_fails_is_not_handed_in_and_nothing_is_written(folder):
    (folder / "elsewhere.py").write_text(
        MODULE.replace("        return {", "        raise ValueError('no')\n        return {")
    )
    done = submit(folder, *SAID)

    assert done.returncode == 2
    assert (
        "every job must succeed or be declined, but 4 failed, such as digits_vgg / filters / seed 0: ValueError: no"
        in (done.stderr)
    )
    assert not (folder / "results").exists()


def test_results_must_come_from_exactly_one_commit(monkeypatch):
    monkeypatch.setattr(provenance, "commit", lambda: ("b" * 40, False))
    with pytest.raises(PruneboardError, match="but its code differs from bbbbbbbbbbbb; commit your changes"):
        _check_commit()
    monkeypatch.setattr(provenance, "commit", lambda: ("", False))
    with pytest.raises(PruneboardError, match="this one is no git checkout"):
        _check_commit()
