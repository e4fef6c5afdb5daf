import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

import synthetic
from commands import pruneboard_here
from pruneboard.benchmark.claims import Claim, claim_table, evaluate_claims, load_claims, network_table
from pruneboard.benchmark.errors import ClaimError, UnknownNameError
from pruneboard.benchmark.plugins import models
from pruneboard.benchmark.schema import TUNED_SUFFIX
from pruneboard.benchmark.store import ResultsStore
from pruneboard.benchmark.suites import load_suite, suite_names, suite_path

ROOT = Path(__file__).resolve().parents[2]

CLAIM = Claim(
    name="mine",
    text="Mine is better.",
    paper="A paper",
    source="https://example.org",
    note="As it says.",
    kind="criteria",
    criterion="taylor",
    rivals=("random",),
    protocol="one_shot",
    above=0.0,
)


def suite_of(name="digits", **changes):
    return synthetic.make_suite(name, rates=(0.0, 0.5), **changes)


def job(suite, criterion, seed, a_pr, *, model="digits_vgg", granularity="filters", shots=1):
    """Return the two rows of a curve whose accuracy is `a_pr` percent, pruned or not."""
    values = synthetic.job_values(suite, model, granularity, criterion, seed)
    return [values | {"shots": shots, "rate": rate, "top1": a_pr / 100} for rate in (0.0, 0.5)]


def jobs(suite, criterion, by_seed, **where):
    return [row for seed, a_pr in enumerate(by_seed) for row in job(suite, criterion, seed, a_pr, **where)]


def outcome_of(rows, claim=CLAIM, suites=None):
    (outcome,) = evaluate_claims(synthetic.table(rows), suites or [suite_of()], [claim])
    return outcome


def test_an_effect_is_the_paired_mean_with_the_interval_of_scipy():
    suite = suite_of()
    ours, theirs = [80.0, 83.0, 81.0], [70.0, 74.0, 75.0]
    outcome = outcome_of(jobs(suite, "taylor", ours) + jobs(suite, "random", theirs))
    (contrast,) = outcome.contrasts
    test = scipy.stats.ttest_rel(ours, theirs)
    interval = test.confidence_interval(0.95)

    assert contrast.effect.mean == pytest.approx(25 / 3)
    assert (contrast.effect.low, contrast.effect.high) == pytest.approx((interval.low, interval.high))
    (network,) = contrast.networks
    assert network.p_value == pytest.approx(test.pvalue)
    assert (network.suite, network.model, network.granularity, network.n_seeds) == (
        "digits",
        "digits_vgg",
        "filters",
        3,
    )
    assert contrast.other_networks is None
    assert outcome.verdict == contrast.verdict == network.verdict == "supported"
    assert outcome.hardest is contrast


def test_networks_of_a_suite_share_their_seeds():
    """The interval is that of the seeds' means over networks, so that what all networks owe to one draw counts once."""
    suite = suite_of()
    rows, means = [], np.zeros(4)
    for model, lead in (("digits_vgg", (9.0, 4.0, 7.0, 5.0)), ("digits_resnet", (2.0, 1.0, 4.0, 3.0))):
        rows += jobs(suite, "random", [60.0] * 4, model=model)
        rows += jobs(suite, "taylor", [60 + gap for gap in lead], model=model)
        means += np.array(lead) / 2
    effect = outcome_of(rows).contrasts[0].effect

    low, high = scipy.stats.t.interval(0.95, 3, loc=means.mean(), scale=scipy.stats.sem(means))
    assert effect.mean == pytest.approx(means.mean())
    assert (effect.low, effect.high) == pytest.approx((low, high))


def test_suites_are_pooled_as_by_welch():
    """The mean of two suites' effects a and b is half of the difference of a and -b, whose interval is Welch's."""
    one, two = suite_of(), suite_of("other")
    a, b = (9.0, 4.0, 7.0, 5.0), (2.0, 1.0, 9.0)
    rows = []
    for suite, lead in ((one, a), (two, b)):
        rows += jobs(suite, "random", [60.0] * len(lead)) + jobs(suite, "taylor", [60 + gap for gap in lead])
    contrast = outcome_of(rows, suites=[one, two]).contrasts[0]
    interval = scipy.stats.ttest_ind(a, [-gap for gap in b], equal_var=False).confidence_interval(0.95)

    assert contrast.effect.mean == pytest.approx((6.25 + 4) / 2)
    assert (contrast.effect.low, contrast.effect.high) == pytest.approx((interval.low / 2, interval.high / 2))
    spread = 2.25 / 2
    half = scipy.stats.t.ppf(0.975, 1) * spread
    assert contrast.other_networks == pytest.approx((5.125 - half, 5.125 + half))


def leads(*networks):
    """Make rows of some networks, each with the lead of taylor over random by seed."""
    suite = suite_of()
    rows = []
    for model, lead in zip(("digits_resnet", "digits_vgg", "third", "fourth"), networks, strict=False):
        rows += jobs(suite, "random", [60.0] * len(lead), model=model)
        rows += jobs(suite, "taylor", [60.0 + gap for gap in lead], model=model)
    return rows


UP, DOWN, UNSURE = (5.0, 5.1, 4.9, 5.0), (-5.0, -5.1, -4.9, -5.0), (3.0, -3.0, 2.0, -1.0)


@pytest.mark.parametrize(
    ("networks", "verdict"),
    [
        ((UP, UP), "supported"),
        ((DOWN, DOWN), "contradicted"),
        ((UP, DOWN), "mixed"),
        ((UP, UNSURE), "supported"),
        ((UNSURE,), "undecided"),
        (((5.0,),), "undecided"),
        (((5.0, 5.0),), "supported"),
        (((0.0, 0.0),), "undecided"),
        ((UP, (40.0, -30.0, -28.0, 5.0)), "undecided"),
    ],
)
def test_verdicts_follow_the_rules(networks, verdict):
    assert outcome_of(leads(*networks)).verdict == verdict


def test_what_depends_on_no_draw_is_decided_without_spread():
    (network,) = outcome_of(leads((5.0, 5.0))).contrasts[0].networks

    assert (network.p_value, network.effect.low, network.effect.high) == (0.0, pytest.approx(5.0), pytest.approx(5.0))


def test_p_values_are_corrected_for_the_networks():
    """Each alone is at p = 0.035, which no longer counts among three."""
    lead = (1.0, 2.0, 3.0, 1.0)
    assert scipy.stats.ttest_1samp(lead, 0).pvalue == pytest.approx(0.035, abs=5e-4)
    (alone,) = outcome_of(leads(lead)).contrasts[0].networks
    assert alone.verdict == "supported"
    networks = outcome_of(leads(lead, lead, lead)).contrasts[0].networks

    for network in networks:
        assert network.p_corrected == pytest.approx(min(1, 3 * network.p_value))
        assert network.verdict == "undecided"


@pytest.mark.parametrize(
    ("by_rival", "verdict", "hardest"),
    [
        ({"random": UP, "gradient": UP}, "supported", "gradient"),
        ({"random": UP, "gradient": DOWN}, "mixed", "gradient"),
        ({"random": DOWN, "gradient": UNSURE}, "contradicted", "random"),
        ({"random": UP, "gradient": UNSURE}, "undecided", "gradient"),
        ({"random": UP}, "undecided", "random"),
        ({}, "no data", None),
    ],
)
def test_a_claim_about_several_rivals_is_about_each(by_rival, verdict, hardest):
    suite = suite_of()
    rows = jobs(suite, "taylor", [60.0] * 4)
    for rival, lead in by_rival.items():
        rows += jobs(suite, rival, [60.0 - gap for gap in lead])
    outcome = outcome_of(rows, dataclasses.replace(CLAIM, rivals=("random", "gradient")))

    assert outcome.verdict == verdict
    assert (outcome.hardest and outcome.hardest.name) == hardest
    assert outcome.missing == tuple(name for name in ("random", "gradient") if name not in by_rival)


def test_only_cells_that_both_have_are_compared():
    """Shots that the claim leaves out, a seed that the rival lacks and another kind of unit do not count."""
    suite = suite_of()
    rows = jobs(suite, "taylor", [70.0, 72.0, 99.0]) + jobs(suite, "random", [60.0, 61.0])
    rows += jobs(suite, "taylor", [90.0] * 3, shots=5) + jobs(suite, "random", [50.0] * 3, shots=5)
    rows += jobs(suite, "taylor", [90.0] * 3, model="digits_vit", granularity="heads")
    rows += jobs(suite, "random", [50.0] * 3, model="digits_vit", granularity="heads")
    claim = dataclasses.replace(CLAIM, shots=(1,), granularities=("filters",))
    (network,) = outcome_of(rows, claim).contrasts[0].networks

    assert network.n_seeds == 2
    assert network.effect.mean == pytest.approx(10.5)


def test_suites_that_measure_on_images_that_were_trained_on_do_not_count():
    rows = leads(UP)
    seen = [dataclasses.replace(suite_of(), evaluation_split="train")]

    assert outcome_of(rows).verdict == "supported"
    assert outcome_of(rows, suites=seen).verdict == "no data"


def test_suites_of_another_protocol_do_not_count():
    assert outcome_of(leads(UP), dataclasses.replace(CLAIM, protocol="iterative")).verdict == "no data"


def test_jobs_that_failed_are_no_data():
    rows = leads(UP)
    failed = [row | {"status": "failed"} if row["criterion"] == "random" else row for row in rows]

    assert outcome_of(failed).verdict == "no data"


@pytest.mark.parametrize(
    ("most", "verdict"),
    [((60.1, 60.2, 60.1, 60.3), "supported"), ((65.0, 65.2, 64.9, 65.3), "contradicted"), (UNSURE, "undecided")],
)
def test_more_shots_are_compared_with_few_and_a_limit(most, verdict):
    suite = suite_of()
    most = [60 + gap for gap in most] if most is UNSURE else most
    rows = jobs(suite, "taylor", [60.0] * 4, shots=10) + jobs(suite, "taylor", [99.0] * 4, shots=15)
    rows += jobs(suite, "taylor", most, shots=20) + jobs(suite, "taylor", [5.0] * 4, shots=1)
    claim = dataclasses.replace(CLAIM, kind="shots", rivals=(), few_shots=10, above=None, below=1.0)
    outcome = outcome_of(rows, claim)

    assert outcome.verdict == verdict
    assert outcome.contrasts[0].name == "10 shots"
    assert outcome.contrasts[0].effect.mean == pytest.approx(np.mean(most) - 60)


def test_families_are_compared_within_a_suite():
    suite = suite_of()
    rows = jobs(suite, "taylor", [80.0, 82.0], model="digits_vit", granularity="heads")
    rows += jobs(suite, "taylor", [70.0, 74.0], model="digits_resnet") + jobs(suite, "taylor", [60.0, 61.0])
    claim = dataclasses.replace(
        CLAIM, kind="families", rivals=(), families=("ViT",), other_families=("ResNet", "VGG"), above=1.0
    )
    outcome = outcome_of(rows, claim)
    (network,) = outcome.contrasts[0].networks

    assert (network.model, network.granularity) == ("digits_vit", "heads")
    assert network.effect.mean == pytest.approx(81 - (65 + 67.5) / 2)
    assert network.effect.mean - network.effect.low == pytest.approx(12.7062 * 0.25, rel=1e-4)


def test_a_claim_may_be_about_top_pr():
    """At half of the units the one network keeps all of its accuracy and the other loses half of it."""
    suite = suite_of()
    rows = job(suite, "taylor", 0, 80.0) + job(suite, "random", 0, 80.0)
    rows[-1]["top1"] = 0.4
    claim = dataclasses.replace(CLAIM, metric="top_pr")

    assert outcome_of(rows, claim).contrasts[0].effect.mean == pytest.approx(50.0)
    assert outcome_of(rows).contrasts[0].effect.mean == pytest.approx(20.0)


def test_leads_under_two_protocols_are_paired():
    """Without fine-tuning it leads by 10 and 12, with it by 3 and 4: it shrinks by 7 and 8."""
    suites = [suite_of("steps", protocol="iterative"), suite_of("tuned_steps", protocol="iterative_finetune")]
    rows = []
    for suite, lead in zip(suites, ((10.0, 12.0), (3.0, 4.0)), strict=True):
        rows += jobs(suite, "random", [60.0, 60.0]) + jobs(suite, "taylor", [60 + gap for gap in lead])
    claim = dataclasses.replace(CLAIM, kind="protocols", protocol="iterative", other_protocol="iterative_finetune")
    outcome = outcome_of(rows, claim, suites)
    (network,) = outcome.contrasts[0].networks

    assert (network.suite, network.n_seeds) == ("tuned_steps", 2)
    assert network.effect.mean == pytest.approx(7.5)


def test_tables_hold_every_contrast_and_every_network():
    outcomes = evaluate_claims(synthetic.table(leads(UP, DOWN)), [suite_of()], [CLAIM, load_claims()[0]])
    claims, networks = claim_table(outcomes), network_table(outcomes)

    assert claims["claim"].tolist() == ["mine", "lrp_scarce", "lrp_scarce", "lrp_scarce"]
    assert claims["verdict"].tolist() == ["mixed"] + ["no data"] * 3
    assert claims[["n_networks", "n_supported", "n_contradicted"]].iloc[0].tolist() == [2, 1, 1]
    assert claims["effect"].isna().tolist() == [False, True, True, True]
    assert networks["verdict"].tolist() == ["supported", "contradicted"]
    assert list(networks["effect"]) == pytest.approx([5.0, -5.0])


def test_the_claims_name_what_exists():
    """A name that no suite lists would be a claim that waits for data for ever."""
    suites = [load_suite(suite_path(name)) for name in suite_names()]
    claims = load_claims()

    assert len({claim.name for claim in claims}) == len(claims) >= 11
    for claim in claims:
        counted = [suite for suite in suites if suite.on_unseen_images and suite.protocol == claim.protocol]
        listed = {name for suite in counted for name in suite.criteria}
        wanted = {claim.criterion, *claim.rivals}
        assert {name for name in wanted if not name.endswith(TUNED_SUFFIX)} <= listed, claim.name
        if claim.few_shots is not None:
            assert any(max(suite.shots) > claim.few_shots for suite in counted)
        assert {*claim.families, *claim.other_families} <= {models().get(name).family for name in models().names()}
        if claim.other_protocol is not None:
            assert any(suite.protocol == claim.other_protocol for suite in suites)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("claims")
    rows = synthetic.make_rows(load_suite(suite_path("digits")))
    few = rows["criterion"].isin(["lrp_epsilon", "magnitude", "taylor"]) & (rows["seed"] < 2)
    ResultsStore(folder / "results").write(rows.loc[few])
    return folder


def test_one_claim_is_shown_network_by_network(results):
    done = pruneboard_here("claims", "ten_shots", cwd=results, env={"COLUMNS": "200"})

    assert done.returncode == 0, done.stderr
    for line in (
        "digits / digits_vgg / filters: ",
        "Little: less than one percentage point",
        "arxiv.org/abs/2408.12568",
    ):
        assert line in done.stdout
    assert "lrp_scarce" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ten_shot"], "there is no claim `ten_shot`. Did you mean `ten_shots`?"),
        (["--results", "nowhere"], "claims need rows, but there are none in `nowhere`"),
    ],
)
def test_bad_input_is_one_message(results, arguments, message):
    done = pruneboard_here("claims", *arguments, cwd=results)

    assert done.returncode == 2
    assert message in done.stderr


GOOD = """
format = 1
[[claims]]
name = "a"
text = "A."
paper = "P"
source = "https://example.org"
note = "N."
kind = "criteria"
criterion = "taylor"
rivals = ["random"]
protocol = "one_shot"
above = 0
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("format = 1", "format = 2"), "must hold `format = 1` and a list"),
        (("format = 1", "format = 1\nmore = 2"), "and nothing else"),
        (("above = 0", "above = "), "must be a readable TOML file"),
        (("above = 0", ""), "claim `a` must have one finite number, `above` or `below`"),
        (("above = 0", "above = 0\nbelow = 1"), "claim `a` must have one finite number, `above` or `below`"),
        (("above = 0", "above = nan"), "claim `a` must have one finite number"),
        (("above = 0", 'above = "0"'), "`above` of claim `a` must be a number, got '0'"),
        (('note = "N."', ""), "claim `a` must have `note`; add it"),
        (('note = "N."', 'note = ""'), "`note` of claim `a` must be a text, got ''"),
        (('note = "N."', 'note = "N."\nhint = "H."'), "must have known keys, got `hint`"),
        (
            ('kind = "criteria"', 'kind = "other"'),
            "`kind` of claim `a` must be of criteria, shots, families, protocols",
        ),
        (('kind = "criteria"', 'kind = "shots"'), "claim `a` of kind `shots` must"),
        (('rivals = ["random"]', ""), "claim `a` of kind `criteria` must have `rivals`"),
        (('rivals = ["random"]', 'rivals = "random"'), "`rivals` of claim `a` must be a list of texts, got 'random'"),
        (('rivals = ["random"]', 'rivals = ["random"]\nfew_shots = 3'), "kind `criteria` must not have `few_shots`"),
        (("one_shot", "two_shot"), "`protocol` of claim `a` must be of one_shot, iterative"),
        (("above = 0", 'above = 0\ngranularities = ["layers"]'), "`granularities` of claim `a` must be of"),
        (("above = 0", 'above = 0\nshots = [1, "2"]'), "`shots` of claim `a` must be a list of whole numbers"),
        (("[[claims]]", "[claims]"), "a list of"),
    ],
)
def test_lists_of_claims_that_break_a_rule_are_refused_by_name(tmp_path, change, message):
    path = tmp_path / "claims.toml"
    path.write_text(GOOD, encoding="utf-8")
    assert load_claims(path)[0].threshold == 0.0
    assert change[0] in GOOD
    path.write_text(GOOD.replace(*change), encoding="utf-8")

    with pytest.raises(ClaimError, match=message.replace("[", r"\[")):
        load_claims(path)


def test_two_claims_of_one_name_and_unknown_ones_are_refused(tmp_path):
    path = tmp_path / "claims.toml"
    path.write_text(GOOD + GOOD.replace("format = 1", ""), encoding="utf-8")

    with pytest.raises(ClaimError, match="has `a` twice"):
        load_claims(path)
    with pytest.raises(UnknownNameError, match="there is no claim `near`"):
        load_claims(name="near")
    with pytest.raises(ClaimError, match="must be a readable TOML file"):
        load_claims(tmp_path / "none.toml")


def test_margins_are_measured_on_the_side_that_is_claimed():
    assert CLAIM.margin(2.5) == 2.5
    assert dataclasses.replace(CLAIM, above=None, below=1.0).margin(0.25) == 0.75
    assert math.isclose(dataclasses.replace(CLAIM, above=-1.0).margin(-3.0), -2.0)
