import pandas as pd
import pytest

import synthetic
from pruneboard.benchmark.cli import _sources
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
