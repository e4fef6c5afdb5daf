"""What the front page's finder is given, against slow derivations from the rows."""

import pandas as pd
import pytest

import synthetic
from pruneboard.benchmark.data import datasets
from pruneboard.benchmark.render.finder import EMBEDDED_DATASETS, finder_data

RATES = (0.0, 0.3, 0.6)
SUITE = synthetic.make_suite(seeds=(0, 1, 2), shots=(1, 5), rates=RATES, criteria=("random", "taylor", "bn_scale"))
TAGS = {name: needs for name, (_, needs, *_) in synthetic.CRITERIA.items()}


@pytest.fixture(scope="module")
def rows():
    return synthetic.make_rows(SUITE)


def filters(rows, suites=(SUITE,)):
    """Return the answers for filters of convolutional networks, by their networks."""
    group = next(group for group in finder_data(rows, suites, TAGS) if group["granularity"] == "filters")
    return {tuple(network["model"] for network in answer["networks"]): answer for answer in group["answers"]}


def names(answer):
    return [criterion["name"] for criterion in answer["criteria"]]


def without(rows, **cell):
    chosen = pd.Series(True, index=rows.index)
    for column, value in cell.items():
        chosen &= rows[column] == value
    return rows.loc[~chosen]


def test_networks_are_answered_for_together_and_one_by_one(rows):
    assert list(filters(rows)) == [("digits_resnet", "digits_vgg"), ("digits_resnet",), ("digits_vgg",)]


def test_the_loss_on_each_network_is_the_mean_over_its_seeds(rows):
    answer = filters(rows)["digits_resnet", "digits_vgg"]
    for i, name in enumerate(names(answer)):
        for s, shots in enumerate(answer["shots"]):
            for r, rate in enumerate(answer["rates"]):
                losses = []
                for model in ("digits_resnet", "digits_vgg"):
                    cell = rows.loc[
                        (rows["model"] == model) & (rows["criterion"] == name) & (rows["shots"].astype(float) == shots)
                    ]
                    losses.append(
                        10_000
                        * (cell.loc[cell["rate"] == 0, "top1"].mean() - cell.loc[cell["rate"] == rate, "top1"].mean())
                    )
                assert answer["loss_by_network"][i][s][r] == pytest.approx(losses, abs=0.51)
                assert answer["loss"][i][s][r] == pytest.approx(sum(losses) / 2, abs=0.51)
    unpruned = rows.loc[rows["rate"] == 0].groupby("model")["top1"].mean()
    assert answer["unpruned_by_network"] == [
        round(10_000 * unpruned[model]) for model in ("digits_resnet", "digits_vgg")
    ]


def test_a_network_alone_has_the_losses_that_it_has_among_others(rows):
    answers = filters(rows)
    together = answers["digits_resnet", "digits_vgg"]
    for n, network in enumerate(("digits_resnet", "digits_vgg")):
        alone = answers[network,]
        assert [[[value[n] for value in line] for line in block] for block in together["loss_by_network"]] == alone[
            "loss"
        ]


def test_what_one_network_lacks_is_left_out_together_and_compared_on_the_other(rows):
    answers = filters(without(rows, model="digits_vgg", criterion="taylor"))

    assert names(answers["digits_resnet", "digits_vgg"]) == ["bn_scale", "random"]
    assert answers["digits_resnet", "digits_vgg"]["left_out"] == [
        {"name": "taylor", "slug": "taylor", "lacks": [[1, "not measured"]]}
    ]
    assert names(answers["digits_resnet",]) == ["bn_scale", "random", "taylor"]
    assert answers["digits_resnet",]["left_out"] == []


@pytest.mark.parametrize("status", ["failed", "unsupported"])
def test_the_reason_for_leaving_out_is_what_happened_there(rows, status):
    there = (rows["model"] == "digits_resnet") & (rows["criterion"] == "taylor")
    jobs = rows.loc[there].drop_duplicates("key").assign(status=status, rate=None, top1=None, shots=None)
    answer = filters(pd.concat([rows.loc[~there], jobs]))["digits_resnet", "digits_vgg"]

    assert answer["left_out"][0]["lacks"] == [[0, {"failed": "failed", "unsupported": "declined"}[status]]]


def test_a_criterion_that_lacks_a_seed_is_incomplete(rows):
    answers = filters(without(rows, model="digits_vgg", criterion="taylor", seed=2))

    assert answers["digits_resnet", "digits_vgg"]["left_out"][0]["lacks"] == [[1, "incomplete"]]
    assert names(answers["digits_vgg",]) == ["bn_scale", "random"]
    assert answers["digits_vgg",]["left_out"] == [{"name": "taylor", "slug": "taylor", "lacks": [[0, "incomplete"]]}]


def test_numbers_of_images_that_one_network_lacks_are_named(rows):
    answers = filters(without(rows, model="digits_vgg", shots=5))

    assert answers["digits_resnet", "digits_vgg"]["shots"] == [1]
    assert answers["digits_resnet", "digits_vgg"]["shots_left_out"] == [5]
    assert answers["digits_resnet",]["shots"] == [1, 5]


def test_networks_without_a_criterion_in_common_are_only_answered_for_one_by_one(rows):
    apart = without(rows, model="digits_vgg", criterion="taylor")
    apart = without(apart, model="digits_vgg", criterion="bn_scale")
    apart = without(apart, model="digits_resnet", criterion="random")

    assert list(filters(apart)) == [("digits_resnet",), ("digits_vgg",)]


def test_networks_without_a_rate_in_common_are_only_answered_for_one_by_one(rows):
    apart = without(without(rows, model="digits_vgg", rate=0.3), model="digits_resnet", rate=0.6)

    assert list(filters(apart)) == [("digits_resnet",), ("digits_vgg",)]


def test_a_network_of_several_suites_is_pooled_once_from_the_one_with_most_criteria(rows):
    again = synthetic.make_suite("again", seeds=(0, 1, 2), shots=(1, 5), rates=RATES)
    few = synthetic.make_rows(again, criteria=("taylor",))
    groups = finder_data(pd.concat([few.loc[few["model"] == "digits_vgg"], rows]), [again, SUITE], TAGS)
    answers = next(group["answers"] for group in groups if group["granularity"] == "filters")

    assert [[(n["suite"], n["model"]) for n in answer["networks"]] for answer in answers] == [
        [("digits", "digits_resnet"), ("digits", "digits_vgg")],
        [("again", "digits_vgg")],
        [("digits", "digits_resnet")],
        [("digits", "digits_vgg")],
    ]
    assert names(answers[0]) == ["bn_scale", "random", "taylor"]


def test_one_seed_has_no_interval_and_nothing_is_behind(rows):
    answer = filters(rows.loc[rows["seed"] == 0])["digits_resnet", "digits_vgg"]

    assert answer["half_width"] is None
    assert {line for block in answer["behind"]["any"] for line in block} == {"000"}


def test_tuned_criteria_are_named_as_commands_take_them(rows):
    tuned = rows.loc[rows["criterion"] == "taylor"].assign(criterion="taylor (tuned) (here)")
    group = finder_data(tuned, [SUITE], {"taylor (tuned) (here)": "labels + tuning"})[0]

    criterion = group["answers"][0]["criteria"][0]
    assert (criterion["registered"], criterion["tuned"]) == ("taylor", True)


def test_data_sets_that_need_no_download_are_the_embedded_ones():
    assert {info.name for info in datasets() if info.where.startswith("embedded")} == EMBEDDED_DATASETS
