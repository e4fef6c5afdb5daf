import dataclasses
import io
import json
import statistics

import pandas as pd
import pytest
import scipy.stats
from rich.console import Console

import synthetic
from pruneboard.benchmark.errors import TableError
from pruneboard.benchmark.render import Extras, build_site, current_studies, terminal_table, view_tuning
from pruneboard.benchmark.schema import display_name
from pruneboard.benchmark.stats import area_under_curve, compare_tuned
from pruneboard.benchmark.studies import Outcome, Study, Trial

SUITE = synthetic.make_suite(
    seeds=(0, 1, 2),
    shots=(1, 2),
    criteria=("random", "taylor"),
    models=(
        synthetic.SuiteModel(name="digits_vgg", granularities=("filters",)),
        synthetic.SuiteModel(name="digits_resnet", granularities=("filters",)),
    ),
)
HOSTILE = '<img src=x onerror="alert(1)">'


def rows_of(criterion, accuracies, *, model="digits_vgg", **changes):
    """Rows whose accuracy is the same at both rates but the first, from seed and shots to accuracy."""
    return [
        synthetic.job_values(SUITE, model, "filters", criterion, seed)
        | {"shots": shots, "rate": rate, "top1": accuracy, "n_images": 450, "model_family": "VGG"}
        | changes
        for (seed, shots), accuracy in accuracies.items()
        for rate in (0.0, 0.5)
    ]


def study(criterion="taylor", model="digits_vgg", **changes):
    trials = tuple(
        Trial(
            number=number,
            proposed_by="gp",
            parameters=json.dumps({"target": target}),
            status="ok",
            value=value,
            reason="",
            seconds=1.0,
        )
        for number, (target, value) in enumerate({"loss": 0.4, "logit": 0.5}.items())
    )
    outcome = Outcome(
        status="ok",
        reason="",
        study=f"{model[-3:]}".ljust(64, "0"),
        n_trials=2,
        winner=1,
        searched={"target": "logit"},
        parameters={"target": "logit", "absolute": "total"},
        value=0.5,
        default_value=0.4,
        importances={"target": 0.75, "absolute": 0.25},
        versions={},
        commit="",
        clean=True,
        device="cpu",
        seconds=2.0,
        time_utc="2026-05-01T00:00:00+00:00",
    )
    made = Study(
        suite=SUITE.name,
        model=model,
        granularity="filters",
        criterion=criterion,
        untuned=criterion,
        settings={"suite": SUITE.digest, "space": {"target": ["loss", "logit"]}},
        space_size=2,
        n_reference=20,
        n_validation=300,
        outcome=dataclasses.replace(outcome, **changes),
        trials=trials,
    )
    return made


UNTUNED = {(0, 1): 0.30, (0, 2): 0.40, (1, 1): 0.50, (1, 2): 0.60, (2, 1): 0.35, (2, 2): 0.40}
TUNED = {(0, 1): 0.50, (0, 2): 0.50, (1, 1): 0.55, (1, 2): 0.65, (2, 1): 0.70, (2, 2): 0.60}


def both(model="digits_vgg"):
    digest = study(model=model).outcome.study
    tuned = {"tuning": digest, "tuned_trials": 2, "tuned_images": 320, "parameters": f'{{"for": "{model}"}}'}
    return [*rows_of("taylor", UNTUNED, model=model), *rows_of("taylor_tuned", TUNED, model=model, **tuned)]


def test_differences_are_paired_by_seed_and_have_a_t_interval():
    """By hand: mean over shots within a seed, then Student's t over three seeds."""
    (line,) = compare_tuned(area_under_curve(synthetic.table(both())), {"taylor_tuned": "taylor"}).to_dict("records")
    differences = [(0.50 + 0.50 - 0.30 - 0.40) / 2, (0.55 + 0.65 - 0.50 - 0.60) / 2, (0.70 + 0.60 - 0.35 - 0.40) / 2]
    mean, sd = statistics.mean(differences), statistics.stdev(differences)
    half = scipy.stats.t.ppf(0.975, 2) * sd / 3**0.5

    assert (line["model"], line["criterion"], line["untuned"], line["n_seeds"]) == (
        "digits_vgg",
        "taylor_tuned",
        "taylor",
        3,
    )
    assert line["difference_mean"] == pytest.approx(mean)
    assert line["difference_sd"] == pytest.approx(sd)
    assert (line["difference_low"], line["difference_high"]) == pytest.approx((mean - half, mean + half))
    assert line["untuned_mean"] == pytest.approx(statistics.mean(UNTUNED.values()))
    assert line["tuned_mean"] == pytest.approx(statistics.mean(TUNED.values()))


def test_only_cells_that_both_have_are_compared_and_one_seed_has_no_interval():
    rows = [*rows_of("taylor", UNTUNED), *rows_of("taylor_tuned", {(1, 2): 0.9, (7, 1): 0.1}, tuning="1" * 64)]
    (line,) = compare_tuned(area_under_curve(synthetic.table(rows)), {"taylor_tuned": "taylor"}).to_dict("records")

    assert line["difference_mean"] == pytest.approx(0.3)
    assert pd.isna(line["difference_low"])
    assert line["n_seeds"] == 1
    assert compare_tuned(area_under_curve(synthetic.table(rows)), {}).empty
    assert compare_tuned(area_under_curve(synthetic.table(rows)), {"lrp_tuned": "lrp"}).empty


def test_tuned_rows_have_parameters_of_their_own_for_each_network_and_untuned_ones_have_not():
    rows = synthetic.table([*both(), *both("digits_resnet")])
    assert len(area_under_curve(rows)) == 24
    untuned = rows.assign(tuning="")
    with pytest.raises(TableError, match=r"the rows of `digits / taylor_tuned` must share one `parameters`"):
        area_under_curve(untuned)
    mixed = rows.copy()
    mixed.loc[(mixed["criterion"] == "taylor_tuned") & (mixed["seed"] == 1), "tuning"] = "9" * 64
    with pytest.raises(TableError, match="taylor_tuned / digits_resnet / filters` must share one `tuning`"):
        area_under_curve(mixed)


def test_studies_stand_beside_the_rows_that_were_measured_with_what_they_chose():
    studies = [study(), study(model="digits_resnet"), study(criterion="random", value=None, winner=None)]
    rows = synthetic.table([*both(), *both("digits_resnet")])
    # The second network was tuned again since: its rows are of an earlier study.
    rows.loc[(rows["model"] == "digits_resnet") & (rows["tuning"] != ""), "tuning"] = "e" * 64
    resnet, random, vgg = view_tuning(studies, rows)

    assert [line.study.model for line in (resnet, random, vgg)] == ["digits_resnet", "digits_vgg", "digits_vgg"]
    assert resnet.difference is None
    assert random.difference is None
    assert vgg.difference.mean == pytest.approx(0.1583333333)
    assert (vgg.parameters, vgg.important) == ("target=logit", "target 75 %, absolute 25 %")


def test_studies_of_another_version_of_the_suite_are_left_out():
    old = dataclasses.replace(study(), settings={"suite": "0" * 64})
    unfinished = dataclasses.replace(study(), outcome=None)
    elsewhere = study(model="digits_vit")

    assert current_studies([old, unfinished, elsewhere, study()], SUITE) == [study()]


def test_the_site_shows_tuning_and_its_downloads(tmp_path):
    studies = [study(importances={HOSTILE: 1.0}), study(model="digits_resnet", value=None, reason=HOSTILE)]
    rows = synthetic.table(both())
    sources = {SUITE.name: "measured by this run"}
    build_site(rows, [SUITE], tmp_path / "site", sources=sources, extras=Extras(studies={SUITE.name: studies}))
    page = (tmp_path / "site" / "suites" / "digits.html").read_text()
    download = tmp_path / "site" / "data" / "digits.tuning.taylor.digits_vgg.filters.csv"
    assert '<h2 id="tuning">Tuning</h2>' in page
    assert "taylor (tuned)" in page
    assert "taylor_tuned" not in page
    assert "15.83" in page
    assert "tuned for each network and kind of unit" in page
    assert f"../data/{download.name}" in page
    assert HOSTILE not in page
    assert download.read_text().splitlines()[0] == "number,proposed_by,parameters,status,value,reason,seconds"
    assert "taylor_tuned" in (tmp_path / "site" / "data" / "digits.jobs.csv").read_text()
    build_site(rows, [SUITE], tmp_path / "plain", sources=sources)

    assert 'id="tuning"' not in (tmp_path / "plain" / "suites" / "digits.html").read_text()


def test_the_terminal_says_which_criteria_were_tuned():
    console, wide = (Console(width=width, file=io.StringIO()) for width in (100, 160))
    for each in (console, wide):
        each.print(terminal_table(synthetic.table(both()), SUITE))

    assert "taylor (tuned)" in console.file.getvalue()
    assert "labels + tuning" in wide.file.getvalue()
    assert "taylor_tuned" not in console.file.getvalue()
    assert display_name("lrp") == "lrp"
