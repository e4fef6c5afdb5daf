"""What `site build` is built from: published tables wherever it is called, suites given as files, and own rows."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

import synthetic
from commands import ROOT, pruneboard_here
from pruneboard.benchmark.catalogue import Catalogue
from pruneboard.benchmark.cli import _sources, cataloguing, tables
from pruneboard.benchmark.cli.tables import build, published_in
from pruneboard.benchmark.errors import StoreError
from pruneboard.benchmark.store import ResultsStore

SUITE = synthetic.make_suite(
    seeds=(0, 1, 2), shots=(1,), rates=(0.0, 0.3, 0.6), criteria=("random", "magnitude", "taylor", "mine")
)
ROWS = synthetic.make_rows(SUITE)


def test_published_tables_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert published_in(Path("results")) == ROOT / "results"
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "of_something_else.csv").touch()
    assert published_in(Path("results")) == ROOT / "results"
    (tmp_path / "results" / "digits").mkdir()
    (tmp_path / "results" / "digits" / "taylor.jobs.csv").touch()

    assert str(published_in(Path("results"))) == "results"


def test_without_published_tables_no_site_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_PROJECT", tmp_path / "installed")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="but `results` holds none; name their folder by `--results`"):
        published_in(Path("results"))
    (tmp_path / "empty").mkdir()
    for options, message in (
        (
            ["--results", "none"],
            "a site needs published tables, but `none` holds none; name their folder by `--results`",
        ),
        (["--results", "empty"], "a site needs rows, but there are none of any suite in `empty`"),
        (["--local"], "a site needs rows, but there are none of any suite in no folder"),
    ):
        done = pruneboard_here("site", "build", *options, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {message}")
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "_site").exists()


def front_page(site):
    """What the finder is given, and the section of the ranking across networks."""
    text = (site / "index.html").read_text()
    finder = re.search(r'id="finder-data">(.*?)</script>', text, re.DOTALL)[1]
    return json.loads(finder), re.search(r'<section[^>]*aria-labelledby="overall".*?</section>', text, re.DOTALL)[0]


def test_own_rows_change_no_advice(tmp_path, monkeypatch):
    """Neither repeated jobs, nor a criterion that was changed, nor one of one's own, nor own networks and suites."""
    monkeypatch.setattr(tables, "_suite_files", lambda _: {SUITE: tmp_path / "digits.toml"})
    # What matters here is which rows are where, not how run folders keep them.
    monkeypatch.setattr(_sources, "RunStore", ResultsStore)
    monkeypatch.setattr(cataloguing, "make_catalogue", Catalogue)
    published = ROWS[ROWS["criterion"] != "mine"]
    ResultsStore(tmp_path / "results").write(published)
    repeated = ROWS[ROWS["criterion"] == "taylor"].assign(top1=lambda rows: rows["top1"].where(rows["rate"] == 0, 0.97))
    changed = published[published["criterion"] == "random"]
    changed = changed.assign(
        criterion_digest="f" * 64, key=changed["key"].map(lambda key: synthetic.digest([key, "changed"])), top1=0.97
    )
    ResultsStore(tmp_path / "runs").write(
        pd.concat([repeated, changed, ROWS[ROWS["criterion"] == "mine"].assign(top1=0.97)])
    )
    alone, beside = tmp_path / "alone", tmp_path / "beside"
    build(None, tmp_path / "results", alone)
    build(tmp_path / "runs", tmp_path / "results", beside)

    assert front_page(beside) == front_page(alone)
    assert "random (here)" in (beside / "suites" / "digits.html").read_text()
