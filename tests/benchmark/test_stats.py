import itertools
import math
import random
import statistics

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

import synthetic
from pruneboard.benchmark.errors import TableError
from pruneboard.benchmark.stats import METRICS, area_under_curve, compare, curves, summarise

SUITE = synthetic.make_suite()
BY = ("suite", "granularity", "criterion")


def curve_rows(accuracies, *, rates=(0.0, 0.25, 0.5, 0.75), model="digits_vgg", criterion="taylor", seed=0, shots=1):
    job = synthetic.job_values(SUITE, model, "filters", criterion, seed)
    return [job | {"shots": shots, "rate": r, "top1": a} for r, a in zip(rates, accuracies, strict=True)]


def one_curve(*accuracies, **where):
    return area_under_curve(synthetic.table(curve_rows(accuracies, **where))).iloc[0]


def test_areas_match_numbers_worked_out_by_hand():
    curve = one_curve(1.0, 0.8, 0.4, 0.2)

    assert curve["a_pr"] == pytest.approx(0.6, abs=1e-15)
    # 0.25 * (1.0 / 2 + 0.8 + 0.4 + 0.2 / 2)
    assert curve["auc_trapz"] == pytest.approx(0.45, abs=1e-15)
    assert curve["top_pr"] == 0.0
    assert curve["unpruned"] == 1.0


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ((0.9, 0.9, 0.86, 0.1), 0.5),
        ((0.9, 0.855, 0.8, 0.8), 0.25),  # 0.855 is 95 % of 0.9: equality is kept
        ((0.9, 0.2, 0.9, 0.9), 0.0),  # a recovery does not count
        ((0.9, 0.95, 1.0, 0.9), 0.75),
        ((0.0, 0.0, 0.1, 0.0), 0.75),
    ],
)
def test_top_pr_is_the_last_rate_before_the_first_fall(accuracies, expected):
    assert one_curve(*accuracies)["top_pr"] == expected


def test_auc_of_a_perfect_curve_is_the_last_rate():
    assert one_curve(1, 1, 1, 1)["auc_trapz"] == 0.75


def slow_areas(rows):
    """Recompute the areas row by row, without numpy."""
    cells = {}
    for row in rows.to_dict("records"):
        if row["status"] == "ok":
            key = (row["suite"], row["model"], row["granularity"], row["criterion"], row["seed"], row["shots"])
            cells.setdefault(key, []).append((row["rate"], row["top1"]))
    answer = {}
    for key, points in cells.items():
        points.sort()
        accuracies = [a for _, a in points]
        area, top = 0.0, None
        for (r0, a0), (r1, a1) in itertools.pairwise(points):
            area += (r1 - r0) * (a0 + a1) / 2
        for rate, accuracy in points:
            if accuracy < 0.95 * accuracies[0] - 1e-9:
                break
            top = rate
        answer[key] = (math.fsum(accuracies) / len(accuracies), area, top, accuracies[0])
    return answer


@pytest.fixture(scope="module")
def rows():
    return synthetic.make_rows(synthetic.make_suite(seeds=(0, 1, 2), shots=(1, 5)))


def test_areas_match_an_independent_implementation(rows):
    areas = area_under_curve(rows)
    expected = slow_areas(rows)

    assert len(areas) == len(expected)
    for line in areas.itertuples(index=False):
        key = (line.suite, line.model, line.granularity, line.criterion, line.seed, line.shots)
        assert (line.a_pr, line.auc_trapz, line.top_pr, line.unpruned) == pytest.approx(expected[key], abs=1e-12)


def test_summary_matches_an_independent_implementation(rows):
    areas = area_under_curve(rows)
    groups = {}
    for key, values in slow_areas(rows).items():
        suite, _, granularity, criterion, seed, _ = key
        groups.setdefault((suite, granularity, criterion), {}).setdefault(seed, []).append(values)

    summary = summarise(areas, BY).set_index(list(BY))
    assert len(summary) == len(groups)
    for key, seeds in groups.items():
        for i, metric in enumerate(METRICS):
            means = [statistics.fmean(values[i] for values in cells) for cells in seeds.values()]
            mean, sd = statistics.fmean(means), statistics.stdev(means)
            line = summary.loc[key]
            assert line[f"{metric}_mean"] == pytest.approx(mean, abs=1e-12)
            assert line[f"{metric}_sd"] == pytest.approx(sd, abs=1e-12)
            if sd > 1e-12:
                low, high = scipy.stats.t.interval(0.95, len(means) - 1, loc=mean, scale=sd / math.sqrt(len(means)))
                assert line[f"{metric}_low"] == pytest.approx(low, abs=1e-12)
                assert line[f"{metric}_high"] == pytest.approx(high, abs=1e-12)


def test_interval_of_two_seeds_worked_out_by_hand():
    table = synthetic.table(curve_rows((0.4,) * 4, seed=0) + curve_rows((0.6,) * 4, seed=1))
    line = summarise(area_under_curve(table), BY).iloc[0]

    assert line["a_pr_mean"] == pytest.approx(0.5)
    assert line["a_pr_sd"] == pytest.approx(math.sqrt(0.02))
    # t(0.975, 1) = 12.7062047 and sd / sqrt(2) = 0.1
    assert line["a_pr_high"] - line["a_pr_mean"] == pytest.approx(1.27062047, abs=1e-8)


def test_one_seed_has_no_interval_rather_than_an_empty_one():
    line = summarise(area_under_curve(synthetic.table(curve_rows((0.9, 0.5, 0.2, 0.1)))), BY).iloc[0]

    assert line["n_seeds"] == 1
    assert line[["a_pr_sd", "a_pr_low", "a_pr_high"]].isna().all()
    assert line["rank"] == 1


def test_each_seed_counts_once_however_many_cells_it_has():
    table = synthetic.table(
        curve_rows((1.0,) * 4, seed=0, model="digits_vgg")
        + curve_rows((0.0,) * 4, seed=0, model="digits_resnet")
        + curve_rows((0.8,) * 4, seed=1, model="digits_vgg")
    )

    assert summarise(area_under_curve(table), BY)["a_pr_mean"].iloc[0] == pytest.approx((0.5 + 0.8) / 2)


def test_equal_means_share_the_smallest_rank():
    table = synthetic.table(
        curve_rows((0.9, 0.8, 0.1, 0.1), criterion="a")
        + curve_rows((0.9, 0.1, 0.8, 0.1), criterion="b")
        + curve_rows((0.9, 0.9, 0.9, 0.9), criterion="c")
        + curve_rows((0.9, 0.1, 0.1, 0.1), criterion="d")
    )
    summary = summarise(area_under_curve(table), BY)

    assert summary["criterion"].tolist() == ["c", "a", "b", "d"]
    assert summary["rank"].tolist() == [1, 2, 2, 4]


def test_a_criterion_that_lacks_cells_is_marked_and_not_ranked(rows):
    lacking = (rows["criterion"] == "lrp_epsilon_plus") & (rows["model"] == "digits_vgg") & (rows["seed"] == 1)
    before = summarise(area_under_curve(rows), BY)
    after = summarise(area_under_curve(rows.loc[~lacking]), BY)
    line = after.loc[after["criterion"] == "lrp_epsilon_plus"].iloc[0]

    assert before["complete"].all()
    assert not line["complete"]
    assert (line["n_cells"], line["n_cells_grid"]) == (10, 12)
    assert pd.isna(line["rank"])
    ranked = after.loc[(after["granularity"] == "filters") & after["complete"], "rank"]
    assert ranked.tolist() == list(range(1, 11))
    assert after.loc[after["granularity"] == "filters", "criterion"].iloc[-1] == "lrp_epsilon_plus"


def test_ranks_are_made_within_the_other_columns(rows):
    summary = summarise(area_under_curve(rows), (*BY, "model", "shots"))

    for _, part in summary.groupby(["granularity", "model", "shots"]):
        assert part["rank"].tolist() == list(range(1, len(part) + 1))
        assert part["a_pr_mean"].is_monotonic_decreasing


def test_mean_of_a_curve_over_rates_is_a_pr(rows):
    line = curves(rows, BY)
    along_shots = curves(rows, BY, axis="shots").groupby(list(BY))["mean"].mean()
    summary = summarise(area_under_curve(rows), BY).set_index(list(BY))["a_pr_mean"]

    pd.testing.assert_series_equal(line.groupby(list(BY))["mean"].mean(), summary.sort_index(), check_names=False)
    pd.testing.assert_series_equal(along_shots, summary.sort_index(), check_names=False)


def test_curve_along_the_shots_equals_the_summary_by_shots(rows):
    keys = [*BY, "shots"]
    curve = curves(rows, BY, axis="shots").set_index(keys)
    summary = summarise(area_under_curve(rows), keys).set_index(keys).sort_index()

    for part in ("mean", "sd", "low", "high"):
        np.testing.assert_allclose(curve[part], summary[f"a_pr_{part}"], rtol=0, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 100), min_size=4, max_size=4), min_size=2, max_size=5), st.randoms())
def test_statistics_do_not_depend_on_the_order_of_the_rows(accuracies, shuffler: random.Random):
    records = [r for seed, values in enumerate(accuracies) for r in curve_rows([v / 100 for v in values], seed=seed)]
    mixed = records.copy()
    shuffler.shuffle(mixed)
    summary = summarise(area_under_curve(synthetic.table(records)), BY)

    pd.testing.assert_frame_equal(summary, summarise(area_under_curve(synthetic.table(mixed)), BY), check_exact=True)
    line = summary.iloc[0]
    assert 0 <= line["a_pr_mean"] <= 1
    assert 0 <= line["auc_trapz_mean"] <= 0.75
    assert line["a_pr_low"] <= line["a_pr_mean"] <= line["a_pr_high"]


def test_jobs_without_a_result_are_left_out(rows):
    only_ok = rows.loc[rows["status"] == "ok"]

    pd.testing.assert_frame_equal(area_under_curve(rows), area_under_curve(only_ok))
    assert len(area_under_curve(rows.loc[rows["status"] != "ok"])) == 0


def test_an_empty_table_gives_empty_answers(rows):
    areas = area_under_curve(rows.iloc[:0])

    assert list(areas.columns) == list(area_under_curve(rows).columns)
    assert list(summarise(areas, BY).columns) == list(summarise(area_under_curve(rows), BY).columns)
    assert len(curves(rows.iloc[:0], BY)) == 0


CELL = "suite digits / model digits_vgg / granularity filters / criterion taylor / seed 0 / shots 1"


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (curve_rows((0.9, 0.5, 0.2, 0.1)) * 2, f"must occur once, got {CELL} / rate 0.0 twice"),
        (curve_rows((0.9, 0.5), rates=(0.1, 0.2)), f"must have rate 0, .* missing for {CELL}"),
        (
            curve_rows((0.9, 0.5, 0.2), rates=(0.0, 0.1, 0.2))
            + curve_rows((0.9, 0.5, 0.2, 0.1), seed=1)
            + curve_rows((0.9, 0.5, 0.2, 0.1), seed=2),
            rf"must share their rates, but {CELL} has \[0.0, 0.1, 0.2\] and others have \[0.0, 0.25, 0.5, 0.75\]",
        ),
        (
            curve_rows((0.9, 0.5, 0.2, 0.1), criterion="a")
            + curve_rows((0.9, 0.5, 0.2, 0.1), rates=(0.0, 0.1, 0.2, 0.3)),
            f"must share their rates, but {CELL} has",
        ),
        (curve_rows((0.9, 1.5, 0.2, 0.1)), "must name its cell and a `top1` in .0, 1., got 1.5"),
        (curve_rows((0.9, math.nan, 0.2, 0.1)), "must name its cell and a `top1`"),
    ],
)
def test_tables_that_cannot_be_compared_are_refused_by_name(records, message):
    with pytest.raises(TableError, match=message):
        area_under_curve(synthetic.table(records))


@pytest.mark.parametrize("column", ["data_digest", "suite_digest", "weights_digest"])
def test_what_was_measured_differently_is_refused(column):
    table = synthetic.table(curve_rows((0.9, 0.5, 0.2, 0.1)) + curve_rows((0.9, 0.5, 0.2, 0.1), seed=1))
    table.loc[table["seed"] == 1, column] = "another"

    with pytest.raises(TableError, match=f"must share one `{column}`, got .*another"):
        area_under_curve(table)
    with pytest.raises(TableError, match=f"must share one `{column}`"):
        curves(table, BY)


def test_networks_may_have_data_of_their_own_but_not_two_versions_of_the_same():
    table = synthetic.table(curve_rows((0.9, 0.5, 0.2, 0.1)) + curve_rows((0.9, 0.5, 0.2, 0.1), model="digits_resnet"))
    table.loc[table["model"] == "digits_resnet", ["dataset", "data_digest"]] = "others", "another"
    assert len(area_under_curve(table)) == 2
    table["dataset"] = "digits"

    with pytest.raises(TableError, match="the rows of `digits / digits` must share one `data_digest`"):
        area_under_curve(table)


def published(*lines):
    columns = ["model", "granularity", "criterion", "shots", "rate", "top1", "source"]
    return pd.DataFrame([("digits_vgg", "filters", *line, "paper") for line in lines], columns=columns)


def test_comparison_matches_numbers_worked_out_by_hand():
    """Accuracies 0.4, 0.5, 0.9 have the mean 0.6 and the sd sqrt(0.07); t(0.975, 2) = 4.302653."""
    rows = [curve_rows((1.0, a, 0.2, 0.1), seed=seed) for seed, a in enumerate((0.4, 0.5, 0.9))]
    rows += [curve_rows((1.0, 0.7, 0.2, 0.1), seed=seed, criterion="magnitude") for seed in range(3)]
    half = 4.302652729911275 * math.sqrt(0.07 / 3)
    told = [
        ("magnitude", 1, 0.25, 0.70004),
        ("magnitude", 1, 0.5, 0.2001),
        ("taylor", 1, 0.25, 0.6 - half - 0.00004),
        ("taylor", 1, 0.25 + 0.5, 0.5),
        ("taylor", 1, 0.0, 1.0),
        ("taylor", 5, 0.25, 0.5),
    ]
    table = compare(synthetic.table(list(itertools.chain(*rows))), published(*told))

    assert table[["criterion", "shots", "rate", "published"]].apply(tuple, axis=1).tolist() == told
    assert table["mean"].iloc[:5].tolist() == pytest.approx([0.7, 0.2, 0.6, 0.1, 1.0], abs=1e-12)
    assert table["low"].iloc[2] == pytest.approx(0.6 - half, abs=1e-9)
    assert table["high"].iloc[2] == pytest.approx(0.6 + half, abs=1e-9)
    assert table["difference"].iloc[1] == pytest.approx(-0.0001, abs=1e-12)
    assert table["differs"].iloc[:5].tolist() == [False, True, False, True, False]
    assert table["n_seeds"].iloc[:5].tolist() == [3] * 5
    assert table.iloc[5][["n_seeds", "mean", "low", "difference", "differs"]].isna().all()


def test_comparison_with_one_seed_has_no_interval_and_no_verdict():
    line = compare(synthetic.table(curve_rows((1.0, 0.4, 0.2, 0.1))), published(("taylor", 1, 0.25, 0.9))).iloc[0]

    assert (line["mean"], line["n_seeds"]) == (0.4, 1)
    assert line["difference"] == pytest.approx(-0.5)
    assert line[["sd", "low", "high", "differs"]].isna().all()


def test_comparison_is_of_one_suite():
    rows = curve_rows((1.0, 0.4, 0.2, 0.1)) + [row | {"suite": "other"} for row in curve_rows((1.0, 0.4, 0.2, 0.1))]
    with pytest.raises(TableError, match="a comparison must be of one suite, got rows of digits, other; leave one"):
        compare(synthetic.table(rows), published())


@pytest.mark.parametrize("by", [("suite",), ("criterion", "seed"), ("criterion", "criterion"), ("criterion", "device")])
def test_columns_to_group_by_are_checked(rows, by):
    with pytest.raises(TableError, match="`by` must hold `criterion`"):
        summarise(area_under_curve(rows), by)


def test_granularities_are_never_mixed(rows):
    with pytest.raises(TableError, match=r"must not mix values of `granularity`, got 'filters', 'heads', 'neurons'"):
        summarise(area_under_curve(rows), ("criterion",))


def test_the_axis_cannot_be_a_group_too(rows):
    with pytest.raises(TableError, match="axis of `curves` must not be in `by`, got `shots`"):
        curves(rows, (*BY, "shots"), axis="shots")
