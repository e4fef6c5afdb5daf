"""Accuracy at 20 rates, beside the recipe that users run today."""

import copy

import pytest
import torch

from pruneboard.benchmark import plugins
from pruneboard.benchmark.counts import count_sizes
from pruneboard.benchmark.evaluate import Evaluation, Pruning, accuracy_curve, measure, prepare_pruning
from pruneboard.benchmark.ranking import masks_at, rank
from subjects import DEVICE, PRECISION, subject

RATES = [i / 20 for i in range(20)]

# Images to measure on: a quarter to a half of the smallest evaluation split of such networks, as time allows. With
# fewer, the making of programs, whose cost does not grow with the images, would weigh more than it does in a suite.
ON_CPU = {
    "vgg16_bn at 32 px": 250,
    "resnet18 at 64 px": 250,
    "vit_tiny at 64 px": 125,
    "cifar_resnet20": 500,
    "cifar_resnet56": 250,
    "digits_vgg": 599,
    "digits_resnet": 599,
    "digits_vit": 599,
}
ON_GPU = {"resnet50 at 224 px": 1000, "vit_base at 224 px": 1000}
IMAGES = ON_CPU if DEVICE.type == "cpu" else ON_GPU


def zeroed_copies(pruning, ranking, evaluation, rates=RATES):
    """Copy the network, zero what belongs to pruned units, evaluate it whole, at each rate."""
    accuracies = []
    for rate in rates:
        pruned = copy.deepcopy(pruning.model)
        masks = masks_at(ranking, rate)
        with torch.no_grad():
            for layer in pruning.layers:
                for name in {layer.name, layer.tap}:
                    for parameter in pruned.get_submodule(name).parameters():
                        parameter[~masks[layer.name]] = 0
        accuracies.append(measure(pruned, evaluation))
    return accuracies


def ranked(context):
    return rank(plugins.criteria().get("taylor").score(context), "global", torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", IMAGES)
def test_curve(compare, benchmark, name):
    of = subject(name, IMAGES[name] if benchmark.enabled else 4)
    context = of.context
    ranking, rates = ranked(context), RATES if benchmark.enabled else RATES[::10]
    pruning = prepare_pruning(context.model, context.layers, of.inputs[:8])
    assert pruning.how == "compact"
    sizes = count_sizes(context.model, context.layers, [masks_at(ranking, rate) for rate in rates], of.inputs[:1])
    n_macs = sum(size.macs for size in sizes)

    def evaluation():
        return Evaluation(of.inputs, of.labels, precision=PRECISION)

    compare(
        "accuracy at 20 rates",
        name,
        reference=lambda: zeroed_copies(pruning, ranking, evaluation(), rates),
        reference_name="zeroed copies",
        ours=lambda: accuracy_curve(pruning, ranking, rates, evaluation()),
        rounds=3 if of.inputs[0].numel() > 1000 else 7,
        mac_bound=len(sizes) * sizes[0].macs / n_macs,
        n_macs=n_macs * len(of.inputs),
    )


@pytest.mark.parametrize("name", ["vgg16_bn at 32 px", "cifar_resnet20", "digits_resnet", "digits_vit"])
def test_the_recipe_and_ours_count_the_same_images(name):
    """Otherwise the ratios would compare two different things; a label may fall either way within rounding."""
    of = subject(name, 16)
    pruning = prepare_pruning(of.context.model, of.context.layers, of.inputs[:8])
    ranking = ranked(of.context)
    curve = accuracy_curve(pruning, ranking, RATES[::6], Evaluation(of.inputs, of.labels))
    for point, accuracy in zip(
        curve, zeroed_copies(pruning, ranking, Evaluation(of.inputs, of.labels), RATES[::6]), strict=True
    ):
        assert point.top1 == accuracy.top1
        assert point.cross_entropy == pytest.approx(accuracy.cross_entropy, rel=1e-4)


def test_masking_beside_the_recipe(compare, benchmark):
    """What a network costs that cannot be compacted."""
    of = subject("digits_vgg", 0)
    pruning = Pruning(of.context.model, of.context.layers)
    ranking, rates = ranked(of.context), RATES if benchmark.enabled else RATES[::10]
    compare(
        "accuracy at 20 rates, masked",
        "digits_vgg",
        reference=lambda: zeroed_copies(pruning, ranking, Evaluation(of.inputs, of.labels), rates),
        reference_name="zeroed copies",
        ours=lambda: accuracy_curve(pruning, ranking, rates, Evaluation(of.inputs, of.labels)),
    )
