import math
from decimal import ROUND_FLOOR, Decimal
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneboard.benchmark.ranking import masks_at, n_removed, rank

GRID = [float(Decimal(5 * k) / 100) for k in range(20)]


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _scores(seed=0, sizes=(5, 1, 12, 7), distinct=None):
    generator = _generator(seed)
    scores = {f"layer{i}": torch.rand(size, generator=generator) for i, size in enumerate(sizes)}
    if distinct:
        scores = {name: (values * distinct).floor() for name, values in scores.items()}
    return scores


def _removed(scores, scope, rate, seed=0):
    masks = masks_at(rank(scores, scope, _generator(seed)), rate)
    return {(name, unit) for name, mask in masks.items() for unit, kept in enumerate(mask.tolist()) if not kept}


@pytest.mark.parametrize(
    ("rate", "n_units", "expected"),
    [(0.29, 100, 29), (0.57, 100, 57), (0.58, 100, 58), (0.07, 100, 7), (0.95, 4224, 4012), (0.95, 20, 19), (0, 7, 0)],
)
def test_the_rate_is_the_decimal_number_that_was_written(rate, n_units, expected):
    assert n_removed(rate, n_units) == expected


def test_floating_point_would_have_removed_another_number():
    assert math.floor(0.29 * 100) == 28


@settings(max_examples=200, deadline=None)
@given(st.decimals(min_value=0, max_value=1, places=4).filter(lambda rate: rate < 1), st.integers(0, 10**6))
def test_floor_of_the_decimal_product(rate, n_units):
    expected = int((rate * n_units).to_integral_value(rounding=ROUND_FLOOR))

    assert n_removed(float(rate), n_units) == expected
    assert 0 <= n_removed(float(rate), n_units) <= n_units


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=9), min_size=1, max_size=4),
    st.sampled_from(["global", "layer"]),
    st.sampled_from([*GRID, 0.001, 0.333, 0.999]),
    st.integers(0, 5),
)
def test_a_slow_selection_by_pairwise_comparison_agrees(values, scope, rate, seed):
    """With ties the choice is free, so what must hold is that no kept unit is below a removed one of its group."""
    scores = {f"layer{i}": torch.tensor(layer, dtype=torch.float32) for i, layer in enumerate(values)}
    removed = _removed(scores, scope, rate, seed)
    units = [(name, unit) for name, layer in scores.items() for unit in range(len(layer))]
    groups = [units] if scope == "global" else [[u for u in units if u[0] == name] for name in scores]
    for group in groups:
        gone = [u for u in group if u in removed]
        assert len(gone) == int((Decimal(str(rate)) * len(group)).to_integral_value(rounding=ROUND_FLOOR))
        for name, unit in gone:
            for other, index in group:
                assert (other, index) in removed or scores[name][unit] <= scores[other][index]


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_without_ties_the_lowest_scores_go(scope):
    scores = _scores()
    for rate in GRID:
        everything = sorted((float(v), name, unit) for name, layer in scores.items() for unit, v in enumerate(layer))
        expected = set()
        for names in [set(scores)] if scope == "global" else [{name} for name in scores]:
            group = [(name, unit) for _, name, unit in everything if name in names]
            expected |= set(group[: math.floor(Decimal(str(rate)) * len(group))])
        assert _removed(scores, scope, rate) == expected


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_masks_have_the_layers_shapes_and_rate_zero_keeps_everything(scope):
    scores = _scores(distinct=3)
    ranking = rank(scores, scope, _generator())
    masks = masks_at(ranking, 0.0)

    assert ranking.n_units == 25
    assert list(masks) == list(scores)
    assert all(m.dtype == torch.bool and m.shape == scores[name].shape and m.all() for name, m in masks.items())


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("distinct", [None, 2])
def test_masks_nest(scope, distinct):
    removed = [_removed(_scores(distinct=distinct), scope, rate) for rate in [*GRID, 0.999]]
    assert all(smaller <= larger for smaller, larger in pairwise(removed))
    # floor(0.999 * 25), or floor(0.999 * size) of the sizes 5, 1, 12 and 7.
    assert len(removed[-1]) == (24 if scope == "global" else 4 + 0 + 11 + 6)


def test_a_layer_scope_takes_the_same_share_of_every_layer_and_the_global_one_does_not():
    scores = {"low": torch.arange(10.0), "high": torch.arange(100.0, 110.0)}

    assert _removed(scores, "layer", 0.3) == {(name, unit) for name in scores for unit in range(3)}
    assert _removed(scores, "global", 0.3) == {("low", unit) for unit in range(6)}


def test_ties_come_in_seeded_random_order():
    scores = {"a": torch.tensor([1.0, 0.0, 1.0]), "b": torch.tensor([1.0, 2.0, 1.0])}
    orders = [rank(scores, "global", _generator(seed)).groups[0].tolist() for seed in range(2400)]
    assert orders[7] == rank(scores, "global", _generator(7)).groups[0].tolist()
    counts = {}
    for order in orders:
        assert (order[0], order[-1]) == (1, 4)
        counts[tuple(order[1:5])] = counts.get(tuple(order[1:5]), 0) + 1
    # 24 orders of the four tied units, 100 of each expected; five standard deviations are about 49.
    assert len(counts) == 24
    assert all(abs(count - 100) < 50 for count in counts.values())


def test_equal_scores_everywhere_remove_from_a_layer_by_its_size():
    scores = {"small": torch.zeros(4), "large": torch.zeros(36)}
    n_seeds = 500
    small = sum(sum(name == "small" for name, _ in _removed(scores, "global", 0.5, seed)) for seed in range(n_seeds))

    # Hypergeometric: 20 of 40 drawn, 4 of interest; standard deviation 0.96 per draw.
    assert abs(small / n_seeds - 2) < 5 * 0.96 / math.sqrt(n_seeds)


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("distinct", [None, 4])
@pytest.mark.parametrize("factor", [0.25, 8.0])
def test_a_positive_factor_changes_nothing(scope, distinct, factor):
    scores = _scores(distinct=distinct)
    scaled = {name: values * factor for name, values in scores.items()}
    for rate in GRID:
        assert _removed(scores, scope, rate) == _removed(scaled, scope, rate)


def test_another_factor_per_layer_changes_the_global_ranking_only():
    scores = _scores()
    scaled = {name: values * 4.0**index for index, (name, values) in enumerate(scores.items())}

    assert _removed(scores, "layer", 0.5) == _removed(scaled, "layer", 0.5)
    assert _removed(scores, "global", 0.5) != _removed(scaled, "global", 0.5)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_permuting_units_permutes_what_is_removed(scope):
    scores = _scores()
    order = torch.randperm(12, generator=_generator(3))
    permuted = {**scores, "layer2": scores["layer2"][order]}
    for rate in GRID:
        back = {(n, int(order[u]) if n == "layer2" else u) for n, u in _removed(permuted, scope, rate)}
        assert back == _removed(scores, scope, rate)


def test_the_scores_and_the_global_generator_are_left_alone():
    scores = _scores()
    before = {name: values.clone() for name, values in scores.items()}
    state = torch.random.get_rng_state()
    masks_at(rank(scores, "global", _generator()), 0.5)

    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(values, before[name]) for name, values in scores.items())
