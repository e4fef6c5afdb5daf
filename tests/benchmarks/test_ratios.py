"""Speed beside a stated reference in the same run, because machines are noisy.

`make bench` prints one group per comparison, with the ratio to the fastest of the group in brackets. In `make test`
each is run once, as a test that it works.
"""

import copy
import functools

import pytest
import torch
from torch import nn

from pruneboard.benchmark import plugins
from pruneboard.benchmark.api import Batch, Context
from pruneboard.benchmark.data import draw_reference, open_dataset
from pruneboard.benchmark.evaluate import Evaluation, accuracy_curve, measure
from pruneboard.benchmark.ranking import masks_at, rank
from pruneboard.benchmark.units import find_layers

MODELS = ["digits_vgg", "digits_resnet"]
RATES = [i / 20 for i in range(20)]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@functools.cache
def setting(name):
    """A network with its layers and 100 reference images, and the evaluation images and labels."""
    plugin, dataset = plugins.models().get(name), open_dataset("digits")
    test, train = dataset.split("test"), dataset.split("train")
    images = plugin.normalise(test.images(size=plugin.input_size).float() / 255)
    chosen = draw_reference(train.labels, 10, 0)
    reference = Batch(
        plugin.normalise(train.images(chosen, size=plugin.input_size).float() / 255),
        torch.from_numpy(train.labels[chosen]),
    )
    model = plugin.load()
    context = Context(
        model=model,
        layers=find_layers(model, "filters", images[:1]),
        generator=torch.Generator().manual_seed(0),
        data=reference,
    )
    return context, images, torch.from_numpy(test.labels)


def zeroed_copies(context, ranking, evaluation):
    """What users do today: copy the network, zero pruned weights and norms, evaluate it whole, at each rate."""
    for rate in RATES:
        pruned = copy.deepcopy(context.model)
        masks = masks_at(ranking, rate)
        with torch.no_grad():
            for layer in context.layers:
                for name in {layer.name, layer.tap}:
                    for parameter in pruned.get_submodule(name).parameters():
                        parameter[~masks[layer.name]] = 0
        measure(pruned, evaluation)


def forward_and_backward(context):
    """The loss of the reference images in one batch, and its gradient for every parameter."""
    loss = nn.functional.cross_entropy(context.model(context.reference.images), context.reference.labels)
    torch.autograd.grad(loss, list(context.model.parameters()))


@pytest.mark.parametrize("who", ["zeroed copies", "ours"])
@pytest.mark.parametrize("model", MODELS)
def test_curve(benchmark, model, who):
    benchmark.group = f"accuracy at 20 rates, {model}"
    context, images, labels = setting(model)
    ranking = rank(plugins.criteria().get("taylor").score(context), "global", torch.Generator().manual_seed(0))
    if who == "ours":
        benchmark(lambda: accuracy_curve(context.model, context.layers, ranking, RATES, Evaluation(images, labels)))
    else:
        benchmark(lambda: zeroed_copies(context, ranking, Evaluation(images, labels)))


@pytest.mark.parametrize("who", ["forward and backward", "taylor", "lrp_epsilon", "lrp_epsilon_plus"])
@pytest.mark.parametrize("model", MODELS)
def test_scoring(benchmark, model, who):
    benchmark.group = f"scoring 100 images, {model}"
    context, _, _ = setting(model)
    if who == "forward and backward":
        benchmark(lambda: forward_and_backward(context))
    else:
        benchmark(lambda: plugins.criteria().get(who).score(context))
