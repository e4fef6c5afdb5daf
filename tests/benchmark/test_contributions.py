"""Contributions are kept once, and only those that `reduce` reads, with the same bits as when all are kept."""

import dataclasses
import itertools
import subprocess
import sys
from typing import ClassVar

import pytest
import torch

from commands import ROOT
from networks import GRANULARITIES, images, tiny_network
from pruneboard.benchmark.api import (
    ABSOLUTE_PLACES,
    Batch,
    Context,
    CriterionError,
    SumCriterion,
    Unsupported,
    normalise_per_layer,
    pool,
)
from pruneboard.benchmark.plugins import criteria, models
from pruneboard.benchmark.scoring import batch_size_for, score_all_shots
from pruneboard.benchmark.units import absolute_place, find_layers

N_IMAGES = 20
POOLED = ("activation", "gradient", "integrated_gradients", "lrp_epsilon", "taylor")


def context_of(kind, batch_size=100, n_images=N_IMAGES):
    model = tiny_network(kind)
    generator = torch.Generator().manual_seed(0)
    data = Batch(images(n_images, seed=1), torch.randint(10, (n_images,), generator=generator))
    layers = find_layers(model, GRANULARITIES[kind], images(1))
    return Context(model=model, layers=layers, generator=generator, data=data, batch_size=batch_size)


def naive_score(criterion, context, n_images):
    """Concatenate everything, convert it whole, and average; as it was before memory mattered."""
    batches = [criterion.values(context, batch) for batch in context.batches()]
    mean, scores = criterion.over_positions == "mean", {}
    for layer in context.layers:
        parts = [
            torch.stack(
                [pool(layer, batch[layer.name], absolute=place, mean=mean) for place in ("none", "token")], dim=-1
            )
            for batch in batches
        ]
        signed, by_token = torch.cat(parts)[:n_images].double().unbind(dim=-1)
        value = {
            "none": lambda signed=signed: signed.mean(dim=0),
            "token": lambda by_token=by_token: by_token.mean(dim=0),
            "image": lambda signed=signed: signed.abs().mean(dim=0),
            "total": lambda signed=signed: signed.mean(dim=0).abs(),
        }[absolute_place(layer, criterion.absolute)]()
        scores[layer.name] = normalise_per_layer(value, criterion.per_layer).float()
    return scores


@pytest.mark.parametrize("kind", ["vgg", "bottleneck", "vit_neurons", "vit_heads"])
@pytest.mark.parametrize("name", POOLED)
def test_scores_have_the_bits_of_a_naive_reduction(name, kind):
    context = context_of(kind, batch_size=7)
    for absolute, per_layer in itertools.product(("pxp", *ABSOLUTE_PLACES), ("none", "l2")):
        criterion = dataclasses.replace(criteria().get(name), absolute=absolute, per_layer=per_layer)
        try:
            scoring = score_all_shots(criterion, context, [1, 3, 20], images(2))
        except Unsupported as declined:
            pytest.skip(str(declined))
        for shots, scores in scoring.by_shots.items():
            expected = naive_score(criterion, context, shots)
            assert list(scores) == [layer.name for layer in context.layers]
            assert all(torch.equal(scores[layer], values) for layer, values in expected.items())
        direct = criterion.score(context)
        assert all(torch.equal(values, scoring.by_shots[20][layer]) for layer, values in direct.items())
        if name in ("integrated_gradients", "lrp_epsilon"):
            break


@pytest.mark.parametrize("n_images", [3, 100, 800, 9_000])
def test_the_reduction_is_that_of_a_plain_mean(n_images):
    """With so many numbers that it goes by parts, the same up to the rounding of float64."""
    layer = context_of("vgg").layers[0]
    contributions = torch.randn(n_images, 656, 2, generator=torch.Generator().manual_seed(1))
    criterion = dataclasses.replace(criteria().get("taylor"), absolute="image", per_layer="none")
    reduced = criterion.reduce_prefix([layer], {layer.name: contributions}, n_images)[layer.name]
    expected = contributions[..., 0].double().abs().mean(dim=0)
    if n_images < 1_000:
        assert torch.equal(reduced, expected.float())

    torch.testing.assert_close(reduced.double(), expected, rtol=1e-7, atol=0)


@dataclasses.dataclass(frozen=True)
class OfPlugin(SumCriterion):
    """What a plugin's author may write."""

    way: str = "fine"

    name: ClassVar[str] = "of_plugin"
    needs: ClassVar[str] = "labels"

    def contributions(self, context, batch):
        """Misbehave in the second batch, in some way."""
        n = len(batch.images)
        given = {
            layer.name: batch.images.mean(dim=(1, 2, 3))[:, None] * torch.ones(layer.n_units)
            for layer in context.layers
        }
        first = context.layers[0].name
        if torch.equal(batch.images[0], context.reference.images[0]):
            return given
        match self.way:
            case "rows":
                given[first] = given[first][: n - 1]
            case "one_row":
                given[first] = given[first][:1]
            case "missing":
                del given[first]
            case "more":
                given["more"] = given[first]
            case "type":
                given[first] = given[first].double()
        return given


@dataclasses.dataclass(frozen=True)
class BothParts(type(criteria().get("taylor"))):
    """A plugin whose own reduction reads both parts."""

    def reduce(self, layer, contributions):
        signed, by_token = contributions.unbind(dim=-1)
        return (signed.mean(dim=0) - 3 * by_token.mean(dim=0)) * (1 + contributions.shape[-1])


def test_a_plugin_that_reads_both_parts_is_given_both():
    context = context_of("vgg", batch_size=6)
    scores = BothParts().score(context)
    for layer, parts in BothParts().all_contributions(context).items():
        signed, by_token = parts.double().unbind(dim=-1)

        assert torch.equal(scores[layer], ((signed.mean(dim=0) - 3 * by_token.mean(dim=0)) * 3).float())


@pytest.mark.parametrize("way", ["rows", "one_row", "missing", "more", "type"])
def test_batches_that_do_not_fit_together_are_refused(way):
    context = context_of("vgg", batch_size=8)
    OfPlugin().score(context)
    with pytest.raises(CriterionError, match="must be one row per image and alike in all batches, .* return the same"):
        OfPlugin(way).score(context)


def test_the_memory_of_a_reduction_is_its_own():
    """What `reduce` writes to, and what it returns a view of, reaches no other layer and no other number of shots."""

    @dataclasses.dataclass(frozen=True)
    class Writes(OfPlugin):
        def reduce(self, layer, contributions):
            contributions += 1
            return contributions[-1]

    context = context_of("vgg", batch_size=8)
    by_shots = score_all_shots(Writes(), context, [1, 2, 20], images(2)).by_shots
    means = context.reference.images.mean(dim=(1, 2, 3))
    for shots, scores in by_shots.items():
        for values in scores.values():
            assert torch.equal(values, (means[shots - 1].double() + 1).float().expand_as(values))


@pytest.mark.parametrize(
    ("name", "granularity", "n_images"),
    [
        ("digits_vgg", "filters", 100),
        ("digits_resnet", "filters", 100),
        ("digits_vit", "neurons", 100),
        ("toy_moons", "neurons", 100),
        ("cifar_resnet20", "filters", 25),
        ("cifar_resnet56", "filters", 8),
    ],
)
def test_a_pass_holds_a_hundred_images_unless_their_activations_are_large(name, granularity, n_images):
    plugin = models().get(name)
    network, example = plugin.build().eval(), torch.zeros(1, *plugin.input_size)
    layers = find_layers(network, granularity, example)
    assert batch_size_for(network, layers, example) == n_images
    if name.startswith("cifar"):
        wide = torch.zeros(1, 3, 512, 512)

        assert batch_size_for(network, layers, wide) == 5


@pytest.mark.slow
@pytest.mark.parametrize("how", ["run", "tune"])
@pytest.mark.parametrize("name", ["taylor", "activation", "lrp_epsilon"])
def test_ten_thousand_images_and_all_units_of_a_resnet50_need_less_than_two_gigabytes(name, how):
    command = [sys.executable, str(ROOT / "tests" / "support" / "many_units.py"), name, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    n_units, n_images, n_bytes = map(int, done.stdout.split())

    assert (n_units, n_images) == (26_560, 10_000)
    assert 1.0e9 < n_bytes < 2.0e9
