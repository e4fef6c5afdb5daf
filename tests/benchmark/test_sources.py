import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

import synthetic
from commands import ROOT, pruneboard_here
from pruneboard.benchmark.cli import _sources, tables
from pruneboard.benchmark.cli._sources import read_sources
from pruneboard.benchmark.schema import display_name
from pruneboard.benchmark.stats import area_under_curve, summarise
from pruneboard.benchmark.store import ResultsStore

RATES = (0.0, 0.5)
SUITE = synthetic.make_suite(seeds=(0, 1), shots=(1,), rates=RATES, criteria=("taylor", "random", "magnitude", "mine"))
ROWS = synthetic.make_rows(SUITE)


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Give what reads rows that lie in a run folder and in the published tables."""
    # What matters here is which rows are where, not how run folders keep them.
    monkeypatch.setattr(_sources, "RunStore", ResultsStore)

    def read(here, published, suite=SUITE):
        for name, rows in (("runs", here), ("results", published)):
            if len(rows):
                ResultsStore(tmp_path / name).write(rows)
        return read_sources(suite, tmp_path / "runs", tmp_path / "results")

    return read


def of(criteria, rows=ROWS):
    return rows[rows["criterion"].isin(criteria)]


def rekeyed(rows, **changes):
    changed = rows.assign(**changes)
    return changed.assign(key=changed["key"].map(lambda key: synthetic.digest([key, sorted(changes)])))


def origins(found):
    return found.rows.groupby("criterion")["origin"].agg(set).to_dict()


def test_one_job_here_hides_no_published_row(sources):
    one = of(["mine"])[lambda rows: rows["key"] == of(["mine"])["key"].iloc[0]]
    found = sources(one, of(["taylor", "random"]))

    assert origins(found) == {"mine": {"here"}, "taylor": {"published"}, "random": {"published"}}
    assert found.source == "16 of them published in results/, 1 measured here"
    summary = summarise(area_under_curve(found.rows), ("suite", "granularity", "criterion"))
    assert summary.loc[summary["granularity"] == "filters", "rank"].notna().sum() == 2


def test_a_job_that_was_repeated_here_takes_the_place_of_the_published_one(sources):
    found = sources(of(["taylor"]).assign(score_seconds=9.0), of(["taylor", "random"]))

    assert origins(found) == {"taylor": {"here"}, "random": {"published"}}
    assert set(of(["taylor"], found.rows)["score_seconds"]) == {9.0}
    assert found.rows["key"].nunique() == 16


@pytest.mark.parametrize("changes", [{"criterion_digest": "f" * 64}, {"parameters": '{"a": 1}'}])
def test_a_criterion_that_was_measured_differently_here_gets_a_line_of_its_own(sources, changes):
    found = sources(rekeyed(of(["taylor"]), **changes), of(["taylor", "random"]))

    assert origins(found) == {"taylor": {"published"}, "taylor (here)": {"here"}, "random": {"published"}}
    area_under_curve(found.rows)


def test_a_new_network_of_a_changed_criterion_does_not_join_the_published_line(sources):
    vgg, others = ROWS["model"] == "digits_vgg", ROWS["model"] != "digits_vgg"
    published = of(["taylor"], ROWS[others])
    here = rekeyed(of(["taylor"], ROWS[vgg]), criterion_digest="f" * 64)
    found = sources(here, pd.concat([of(["random"]), published]))

    assert origins(found)["taylor (here)"] == {"here"}
    area_under_curve(found.rows)


def test_published_rows_on_other_data_are_left_out_and_said_to_be(sources):
    found = sources(rekeyed(of(["mine"]), data_digest="f" * 64), of(["taylor"]))

    assert origins(found) == {"mine": {"here"}}
    assert "published rows of digits_resnet, digits_vgg, digits_vit are left out" in found.notes[0]
    assert found.source == "measured here"


def test_a_network_that_was_measured_here_only_takes_no_rank_from_published_criteria(sources):
    published = ROWS[ROWS["model"] != "digits_vgg"]
    found = sources(of(["mine"]), of(["taylor"], published))

    assert set(found.rows["model"]) == {"digits_resnet", "digits_vit"}
    assert found.notes == ("digits_vgg was measured here only and is left out; `--local` shows it.",)


def test_rows_of_another_version_of_the_suite_are_stale(sources):
    newer = synthetic.make_suite(version=2, seeds=SUITE.seeds, shots=SUITE.shots, rates=RATES, criteria=SUITE.criteria)
    found = sources(of([]), of(["taylor"]), suite=newer)

    assert found.rows.empty
    assert found.stale["key"].nunique() == 8
    assert found.notes == ("8 jobs of another version of suite `digits` are out of date.",)


def test_names_of_lines_are_readable():
    assert display_name("lrp_tuned (here)") == "lrp (tuned) (here)"
    assert display_name("taylor (here)") == "taylor (here)"
    assert display_name("lrp_tuned") == "lrp (tuned)"


def test_outside_a_clone_the_site_shows_the_results_of_this_pruneboard_or_fails(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tables.published_in(Path("results")) == ROOT / "results"
    misspelt = pruneboard_here("site", "build", "--results", "reslts", cwd=tmp_path)
    monkeypatch.setattr(tables, "_PROJECT", tmp_path)
    without = pruneboard_here("site", "build", cwd=tmp_path)

    for done, name in ((misspelt, "reslts"), (without, "results")):
        assert done.returncode == 2
        assert " ".join(done.stderr.split()).startswith(
            f"error: a site needs published tables, but `{name}` holds none; name their folder by `--results`"
        )
    assert list(tmp_path.iterdir()) == []


def test_rows_from_here_change_nothing_of_what_the_front_page_advises(tmp_path, monkeypatch):
    monkeypatch.setattr(_sources, "RunStore", ResultsStore)
    monkeypatch.setattr(tables, "suite_names", lambda: ("digits",))
    (tmp_path / "results" / "digits").mkdir(parents=True)
    for name in ("random", "magnitude", "taylor"):
        for end in (".csv", ".jobs.csv"):
            shutil.copy(ROOT / "results" / "digits" / f"{name}{end}", tmp_path / "results" / "digits")
    published = ResultsStore(tmp_path / "results").read("digits")
    mine = of(["random", "magnitude"], published).assign(top1=1.0)
    ResultsStore(tmp_path / "runs").write(mine)
    advised, pages = [], []
    for options in ((), ("--runs", "runs"), ("--runs", "runs", "--local")):
        built = pruneboard_here("site", "build", *options, cwd=tmp_path)
        assert built.returncode == 0, built.stderr
        front = (tmp_path / "_site" / "index.html").read_text()
        advised.append(re.search(r'id="finder-data">(.*?)</script>', front, re.DOTALL)[1])
        pages.append((tmp_path / "_site" / "suites" / "digits.html").read_text())

    assert advised[1] == advised[0] != advised[2]
    assert "measured here" in pages[1]
    assert pages[1] != pages[0]
