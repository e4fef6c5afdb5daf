import math

import torch
from torch import nn

from pruneboard.benchmark.api import Context, Layer
from pruneboard.benchmark.plugins import criteria
from pruneboard.benchmark.ranking import masks_at, rank

SIZES = {"small": 4, "middle": 40, "large": 1000}


def _score(seed):
    layers = tuple(Layer(name, "filters", size, name, "output") for name, size in SIZES.items())
    context = Context(model=nn.Identity(), layers=layers, generator=torch.Generator().manual_seed(seed))
    return criteria().get("random").score(context)


def test_half_of_every_layer_goes_at_rate_one_half_whatever_its_size():
    n_seeds = 300
    removed = dict.fromkeys(SIZES, 0)
    for seed in range(n_seeds):
        masks = masks_at(rank(_score(seed), "global", torch.Generator().manual_seed(seed)), 0.5)
        for name, mask in masks.items():
            removed[name] += int((~mask).sum())
    for name, size in SIZES.items():
        # Five standard deviations of a share of independent coin flips.
        assert abs(removed[name] / (n_seeds * size) - 0.5) < 5 * 0.5 / math.sqrt(n_seeds * size)


def test_scores_are_uniform_and_depend_on_the_generator_only():
    drawn = torch.cat([torch.cat(list(_score(seed).values())) for seed in range(20)]).double()
    histogram = torch.histc(drawn, bins=10, min=0, max=1) / len(drawn)

    assert (histogram - 0.1).abs().max() < 5 * math.sqrt(0.09 / len(drawn))
    assert all(torch.equal(values, _score(7)[name]) for name, values in _score(7).items())
    assert not any(torch.equal(values, _score(8)[name]) for name, values in _score(7).items())
    state = torch.random.get_rng_state()
    _score(9)
    assert torch.equal(torch.random.get_rng_state(), state)
