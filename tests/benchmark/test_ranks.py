import itertools
import math
import statistics

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import statsmodels.stats.multitest
import statsmodels.stats.proportion
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneboard.benchmark.errors import TableError
from pruneboard.benchmark.stats import (
    compare_criteria,
    critical_difference,
    holm,
    overall,
    standings,
    summarise,
    wilson,
)

BY = ("suite", "granularity", "criterion")

# Area under the ROC curve of C4.5 and three variants on 14 data sets: Demsar 2006, table 6. On the last but one the
# paper ranks 0.975 before 0.975, by digits that it does not print; one stands for them here.
DEMSAR = {
    "c45": (0.763, 0.599, 0.954, 0.628, 0.882, 0.936, 0.661, 0.583, 0.775, 1.000, 0.940, 0.619, 0.972, 0.957),
    "c45_m": (0.768, 0.591, 0.971, 0.661, 0.888, 0.931, 0.668, 0.583, 0.838, 1.000, 0.962, 0.666, 0.981, 0.978),
    "c45_cf": (0.771, 0.590, 0.968, 0.654, 0.886, 0.916, 0.609, 0.563, 0.866, 1.000, 0.965, 0.614, 0.9751, 0.946),
    "c45_m_cf": (0.798, 0.569, 0.967, 0.657, 0.898, 0.931, 0.685, 0.625, 0.875, 1.000, 0.962, 0.669, 0.975, 0.970),
}


def areas_of(a_pr, *, suite="digits", granularity="filters"):
    """Make a table of areas from {criterion: {(model, seed, shots): A_PR}}."""
    lines = [
        (suite, model, granularity, criterion, seed, shots, value, value, 0.5, 1.0)
        for criterion, cells in a_pr.items()
        for (model, seed, shots), value in cells.items()
    ]
    columns = ["suite", "model", "granularity", "criterion", "seed", "shots", "a_pr", "auc_trapz", "top_pr", "unpruned"]
    return pd.DataFrame(lines, columns=columns)


def by_seed(**values):
    """Make areas of one network and one number of shots from a list of A_PR by seed for each criterion."""
    return areas_of({name: {("vgg", seed, 1): v for seed, v in enumerate(list_)} for name, list_ in values.items()})


def drawn(generator, criteria="abcd", models=("vgg", "resnet"), seeds=range(4), shots=(1, 5)):
    cells = list(itertools.product(models, seeds, shots))
    return areas_of({name: {cell: float(generator.uniform(0.2, 0.9)) for cell in cells} for name in criteria})


def pair(table, first, second):
    (line,) = table.loc[(table["first"] == first) & (table["second"] == second)].to_dict("records")
    return line


@pytest.mark.parametrize("n_tests", [1, 2, 7, 12])
def test_corrected_p_values_are_those_of_statsmodels(n_tests):
    p_values = np.random.default_rng(n_tests).beta(0.3, 1, n_tests).round(2)
    expected = statsmodels.stats.multitest.multipletests(p_values, method="holm")[1]

    np.testing.assert_allclose(holm(p_values), expected, rtol=0, atol=1e-15)


def test_correction_worked_out_by_hand():
    """3 x 0.01, then 2 x 0.04 and 1 x 0.03, which may not fall below the one before."""
    np.testing.assert_allclose(holm([0.04, 0.01, 0.03]), [0.06, 0.03, 0.06], atol=1e-15)
    np.testing.assert_allclose(holm([0.04, math.nan, 0.01]), [0.04, math.nan, 0.02], atol=1e-15)
    assert holm([]).shape == (0,)


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 1), st.integers(1, 50))
def test_intervals_of_rates_are_those_of_statsmodels(rate, n):
    low, high = statsmodels.stats.proportion.proportion_confint(rate * n, n, alpha=0.05, method="wilson")

    np.testing.assert_allclose(wilson(rate, n), (max(low, 0), min(high, 1)), rtol=0, atol=1e-12)


def test_pairs_match_an_independent_implementation():
    """Means by seed in plain Python, tests of scipy, correction of statsmodels."""
    areas = drawn(np.random.default_rng(0))
    table = compare_criteria(areas, BY)
    cells = {}
    for line in areas.to_dict("records"):
        cells.setdefault(line["criterion"], {})[line["model"], line["seed"], line["shots"]] = line["a_pr"]
    pairs = list(itertools.combinations("abcd", 2))
    p_values = []
    for first, second in pairs:
        means = [
            [statistics.fmean(v for (_, s, _), v in cells[name].items() if s == seed) for seed in range(4)]
            for name in (first, second)
        ]
        test = scipy.stats.ttest_rel(*means)
        p_values.append(test.pvalue)
        interval = test.confidence_interval(0.95)
        wins = [
            statistics.fmean(cells[first][cell] > cells[second][cell] for cell in cells[first] if cell[1] == seed)
            for seed in range(4)
        ]
        line, mirrored = pair(table, first, second), pair(table, second, first)
        assert line["difference"] == pytest.approx(statistics.fmean(means[0]) - statistics.fmean(means[1]), abs=1e-12)
        assert (line["difference_low"], line["difference_high"]) == pytest.approx((interval.low, interval.high))
        assert line["p_value"] == pytest.approx(test.pvalue)
        assert line["win_rate"] == pytest.approx(statistics.fmean(wins))
        assert (line["n_cells"], line["n_seeds"]) == (16, 4)
        assert line["n_wins"] == sum(cells[first][cell] > cells[second][cell] for cell in cells[first])
        assert line["n_wins"] + line["n_ties"] + line["n_losses"] == 16
        assert mirrored["difference"] == pytest.approx(-line["difference"], abs=1e-15)
        assert mirrored["win_rate"] == pytest.approx(1 - line["win_rate"])
        assert mirrored["p_corrected"] == line["p_corrected"]
    corrected = statsmodels.stats.multitest.multipletests(p_values, method="holm")[1]
    assert [pair(table, *names)["p_corrected"] for names in pairs] == pytest.approx(list(corrected))
    assert len(table) == 2 * len(pairs)


def test_criteria_that_do_not_depend_on_the_draw_differ_exactly():
    areas = by_seed(a=[0.5] * 3, b=[0.4] * 3, c=[0.4 + 1e-15] * 3)
    table = compare_criteria(areas, BY)

    assert pair(table, "a", "b")["p_value"] == 0
    assert pair(table, "a", "b")["told_apart"]
    assert pair(table, "a", "b")["difference_low"] == pytest.approx(0.1)
    assert pair(table, "b", "c")["p_value"] == 1
    assert not pair(table, "b", "c")["told_apart"]
    assert (pair(table, "b", "c")["n_ties"], pair(table, "b", "c")["win_rate"]) == (3, 0.5)
    ranks = standings(areas, BY).set_index("criterion")[["rank_low", "rank_high"]]
    assert ranks.loc["a"].tolist() == [1, 1]
    assert ranks.loc["b"].tolist() == ranks.loc["c"].tolist() == [2, 3]


def test_one_seed_tells_nothing_apart():
    areas = by_seed(a=[0.9], b=[0.1])
    line = pair(compare_criteria(areas, BY), "a", "b")

    assert line["difference"] == pytest.approx(0.8)
    assert np.isnan([line["p_value"], line["p_corrected"], line["difference_low"]]).all()
    assert not line["told_apart"]
    assert standings(areas, BY)[["rank_low", "rank_high"]].to_numpy().tolist() == [[1, 2], [1, 2]]


def test_one_criterion_has_rank_one_and_no_rivals():
    areas = by_seed(a=[0.9, 0.8])
    line = standings(areas, BY).iloc[0]

    assert len(compare_criteria(areas, BY)) == 0
    assert (line["rank_low"], line["rank_high"]) == (1, 1)
    assert np.isnan(line["win_rate"])


def test_ranks_that_are_possible_leave_room_for_what_cannot_be_told_apart():
    """a is surely above b and d; c varies so much that it may have any rank."""
    areas = by_seed(
        a=[0.90, 0.91, 0.90, 0.91, 0.90],
        b=[0.50, 0.50, 0.51, 0.50, 0.51],
        c=[0.95, 0.20, 0.99, 0.30, 0.90],
        d=[0.10, 0.11, 0.10, 0.11, 0.11],
    )
    table = standings(areas, BY).set_index("criterion")

    assert table["rank_low"].to_dict() == {"a": 1, "b": 2, "c": 1, "d": 3}
    assert table["rank_high"].to_dict() == {"a": 2, "b": 3, "c": 4, "d": 4}


def test_ranks_hold_true_ones_as_often_as_they_say():
    """Criteria a and b are equal, c and d worse by a little: any limit that leaves out a true rank is an error."""
    generator = np.random.default_rng(1)
    true_ranks = {"a": (1, 2), "b": (1, 2), "c": (3, 3), "d": (4, 4)}
    n_wrong, n_trials = 0, 100
    for _ in range(n_trials):
        values = {name: generator.normal(-place, 2.0, size=6) for name, place in zip("abcd", (0, 0, 1, 2), strict=True)}
        table = standings(by_seed(**values), BY).set_index("criterion")
        n_wrong += any(
            table.loc[name, "rank_low"] > low or table.loc[name, "rank_high"] < high
            for name, (low, high) in true_ranks.items()
        )
    assert n_wrong <= scipy.stats.binom.ppf(0.999, n_trials, 0.05)


def test_criteria_without_all_cells_are_not_compared():
    areas = drawn(np.random.default_rng(2))
    lacking = (areas["criterion"] == "b") & (areas["model"] == "vgg") & (areas["seed"] == 3) & (areas["shots"] == 5)
    table = standings(areas.loc[~lacking], BY)

    assert table["criterion"].tolist() == ["a", "c", "d"]
    assert "b" not in compare_criteria(areas.loc[~lacking], BY)["first"].tolist()
    assert critical_difference(areas.loc[~lacking]).left_out == ("b",)
    complete = summarise(areas.loc[~lacking], BY)
    assert set(table["criterion"]) == set(complete.loc[complete["complete"], "criterion"])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_comparisons_do_not_depend_on_the_order_of_lines(seed):
    areas = drawn(np.random.default_rng(3), seeds=range(3))
    mixed = areas.sample(frac=1, random_state=seed)

    pd.testing.assert_frame_equal(compare_criteria(areas, BY), compare_criteria(mixed, BY), check_exact=True)
    pd.testing.assert_frame_equal(standings(areas, BY), standings(mixed, BY), check_exact=True)
    assert critical_difference(areas) == critical_difference(mixed)


def test_comparisons_are_made_within_the_other_columns():
    areas = drawn(np.random.default_rng(4))
    table = standings(areas, (*BY, "model"))

    assert table.groupby("model").size().to_dict() == {"resnet": 4, "vgg": 4}
    own = standings(areas.loc[areas["model"] == "vgg"], BY)["win_rate"]
    assert table.loc[table["model"] == "vgg", "win_rate"].tolist() == own.tolist()


def test_no_areas_give_empty_answers():
    empty = by_seed(a=[0.5]).iloc[:0]

    assert standings(empty, BY).empty
    assert list(compare_criteria(empty, BY).columns)[:4] == ["suite", "granularity", "first", "second"]
    assert overall(empty).standings.empty
    assert critical_difference(empty).criteria == ()


def demsar_areas():
    return areas_of({name: {(f"d{i:02}", 0, 1): v for i, v in enumerate(values)} for name, values in DEMSAR.items()})


def test_average_ranks_and_critical_distance_are_those_of_demsar():
    """Pages 12 to 16 of the paper: average ranks, F of 9.28 without correction for ties, and a distance of 1.25."""
    diagram = critical_difference(demsar_areas(), ("model",), "nemenyi")
    ranks = dict(zip(diagram.criteria, diagram.average_ranks, strict=True))

    assert {name: round(rank, 3) for name, rank in ranks.items()} == {
        "c45": 3.143,
        "c45_m": 2.000,
        "c45_cf": 2.893,
        "c45_m_cf": 1.964,
    }
    untied = 12 * 14 / (4 * 5) * (sum(rank**2 for rank in ranks.values()) - 4 * 5**2 / 4)
    assert untied == pytest.approx(9.28, abs=0.005)
    assert diagram.statistic == pytest.approx(scipy.stats.friedmanchisquare(*DEMSAR.values()).statistic)
    assert diagram.statistic > untied
    assert diagram.critical_distance == pytest.approx(1.25, abs=0.005)
    assert diagram.differs
    assert diagram.cliques == (("c45_m_cf", "c45_m", "c45_cf", "c45"),)


def test_p_values_of_nemenyi_follow_from_the_studentised_range():
    diagram = critical_difference(demsar_areas(), ("model",), "nemenyi")
    step = math.sqrt(4 * 5 / (6 * 14))

    for i, j in itertools.combinations(range(4), 2):
        distance = abs(diagram.average_ranks[i] - diagram.average_ranks[j])
        expected = scipy.stats.studentized_range.sf(distance / step * math.sqrt(2), 4, np.inf)
        assert diagram.p_values[i][j] == diagram.p_values[j][i] == pytest.approx(expected, abs=1e-9)
        assert (diagram.p_values[i][j] <= 0.05) == (distance >= diagram.critical_distance)


def test_wilcoxon_tests_are_those_of_scipy_corrected_by_statsmodels():
    areas = drawn(np.random.default_rng(5), criteria="abcd", models=[f"m{i}" for i in range(9)], seeds=[0], shots=[1])
    areas.loc[areas["criterion"] == "a", "a_pr"] += 0.6
    diagram = critical_difference(areas, ("model",), "wilcoxon_holm")
    values = areas.pivot(index="model", columns="criterion", values="a_pr")
    pairs = list(itertools.combinations(range(4), 2))
    plain = [
        scipy.stats.wilcoxon(values[diagram.criteria[i]], values[diagram.criteria[j]], zero_method="zsplit").pvalue
        for i, j in pairs
    ]
    corrected = statsmodels.stats.multitest.multipletests(plain, method="holm")[1]

    assert [diagram.p_values[i][j] for i, j in pairs] == pytest.approx(list(corrected))
    assert diagram.critical_distance is None
    assert diagram.told_apart(0, 1)
    assert diagram.cliques == (diagram.criteria[1:],)


@pytest.mark.parametrize(("n_blocks", "expected"), [(7, "nemenyi"), (8, "wilcoxon_holm")])
def test_the_test_between_pairs_is_the_one_that_can_reject(n_blocks, expected):
    """Four criteria have 6 pairs, and 6 / 2^(n - 1) passes 0.05 from 8 blocks on."""
    areas = drawn(np.random.default_rng(6), models=[f"m{i}" for i in range(n_blocks)], seeds=[0], shots=[1])

    assert critical_difference(areas, ("model",)).posthoc == expected


def test_blocks_without_differences_are_no_error():
    same = by_seed(a=[0.5] * 9, b=[0.5] * 9, c=[0.5] * 9)

    for posthoc in ("nemenyi", "wilcoxon_holm"):
        diagram = critical_difference(same, ("seed",), posthoc)
        assert (diagram.p_value, diagram.statistic) == (1.0, 0.0)
        assert diagram.average_ranks == (2.0, 2.0, 2.0)
        assert diagram.cliques == (("a", "b", "c"),)
        assert {p for line in diagram.p_values for p in line} == {1.0}


@pytest.mark.parametrize(
    ("values", "criteria"),
    [({"a": [0.5], "b": [0.4], "c": [0.3]}, ("a", "b", "c")), ({"a": [0.5, 0.6], "b": [0.4, 0.3]}, ("a", "b"))],
)
def test_without_two_blocks_and_three_criteria_there_is_no_test(values, criteria):
    diagram = critical_difference(by_seed(**values), ("seed",))

    assert diagram.criteria == criteria
    assert (diagram.p_value, diagram.critical_distance, diagram.p_values) == (None, None, ())
    assert diagram.cliques == (criteria,)


def test_runs_of_a_diagram_may_overlap_but_not_lie_in_one_another():
    """Ten blocks order a > b > c > d alike; Nemenyi's distance for 4 criteria and 10 blocks is 1.48."""
    diagram = critical_difference(by_seed(a=[0.9] * 10, b=[0.8] * 10, c=[0.7] * 10, d=[0.6] * 10), ("seed",), "nemenyi")

    assert diagram.critical_distance == pytest.approx(1.483, abs=1e-3)
    assert diagram.cliques == (("a", "b"), ("b", "c"), ("c", "d"))


def network(suite, model, granularity, **values):
    areas = areas_of(
        {name: {(model, seed, 1): value + 0.001 * seed for seed in range(2)} for name, value in values.items()},
        suite=suite,
        granularity=granularity,
    )
    return areas


def test_networks_are_the_blocks_of_the_overall_ranking():
    areas = pd.concat(
        [
            network("digits", "vgg", "filters", a=0.9, b=0.5, c=0.3, only_here=0.9),
            network("digits", "vit", "heads", a=0.8, b=0.6, c=0.7),
            network("digits", "vit", "neurons", a=0.9, b=0.7, c=0.1),
            network("cifar10", "vgg", "filters", a=0.7, b=0.6, c=0.5),
            network("mine", "vgg", "filters", a=0.1, b=0.9),
        ]
    )
    ranking = overall(areas)

    assert ranking.networks == (
        ("cifar10", "vgg", "filters"),
        ("digits", "vgg", "filters"),
        ("digits", "vit", "heads"),
        ("digits", "vit", "neurons"),
    )
    assert ranking.left_out == (("mine", "vgg", "filters"),)
    assert ranking.critical_difference.left_out == ("only_here",)
    assert ranking.critical_difference.n_blocks == 4
    table = ranking.standings.set_index("criterion")
    assert table.index.tolist() == ["a", "b", "c"]
    assert table["average_rank"].tolist() == pytest.approx([1.0, 2.25, 2.75])
    assert table["win_rate"].tolist() == pytest.approx([1.0, 3 / 8, 1 / 8])
    assert table["a_pr"].iloc[0] == pytest.approx((0.9 + 0.8 + 0.9 + 0.7) / 4 + 0.0005)
    # Friedman's chi-squared is 12 / (3 x 4 x 4) x (4^2 + 9^2 + 11^2) - 3 x 4 x 4 = 6.5, p = 0.039; the distance of
    # Nemenyi is 2.343 x sqrt(3 x 4 / (6 x 4)) = 1.657.
    assert ranking.critical_difference.statistic == pytest.approx(6.5)
    assert table["rank_low"].tolist() == [1, 1, 2]
    assert table["rank_high"].tolist() == [2, 3, 3]


def test_blocks_never_mix_suites_or_kinds_of_unit():
    areas = pd.concat(
        [network("digits", "vit", "heads", a=0.8, b=0.6), network("digits", "vit", "neurons", a=0.8, b=0.6)]
    )

    with pytest.raises(TableError, match="must not mix values of `granularity`"):
        critical_difference(areas)
    with pytest.raises(TableError, match="must not mix values of `granularity`"):
        compare_criteria(areas, ("suite", "criterion"))
