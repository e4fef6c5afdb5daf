"""Speed beside a stated reference in the same run, because machines are noisy.

`make bench` prints one group per comparison, with the ratio to the fastest of the group in brackets. In `make test`
each is run once, as a test that it works.
"""

import copy
import dataclasses
import functools

import pytest
import torch
from torch import nn
from zennit.canonizers import NamedMergeBatchNorm
from zennit.composites import LayerMapComposite, layer_map_base
from zennit.rules import Epsilon
from zennit.types import Linear

from pruneboard.benchmark import plugins
from pruneboard.benchmark.api import Batch, Context
from pruneboard.benchmark.data import draw_reference, open_dataset
from pruneboard.benchmark.evaluate import Evaluation, accuracy_curve, measure
from pruneboard.benchmark.ranking import masks_at, rank
from pruneboard.benchmark.units import batch_norms_after, find_layers, tapped
from pruneboard.criteria.lrp import LRP
from pruneboard.criteria.lrp._canonizers import Blocks

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
    """A network with its layers and 100 reference images, and the evaluation images and labels.

    A network whose weights are not shipped has random ones, which take the same time, and no evaluation images.
    """
    plugin = plugins.models().get(name)
    if name.startswith("cifar"):
        model = plugin.build().eval()
        reference = Batch(torch.randn(100, *plugin.input_size), torch.arange(100) % 10)
        layers = find_layers(model, "filters", reference.images[:1])
        return Context(model=model, layers=layers, generator=torch.Generator(), data=reference), None, None
    dataset = open_dataset("digits")
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
        layers=find_layers(model, plugin.granularities[0], images[:1]),
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


SCORERS = {
    "taylor": lambda: plugins.criteria().get("taylor"),
    "lrp epsilon": LRP,
    "lrp z+": lambda: everywhere("z_plus"),
    "lrp gamma": lambda: everywhere("gamma"),
    "lrp alpha2-beta1": lambda: everywhere("alpha2_beta1"),
    "lrp epsilon_plus by zennit's rules": lambda: LRP(composite="epsilon_plus"),
}


def everywhere(rule):
    return LRP(low=rule, mid=rule, high=rule, fc=rule)


# The bounds we hold ourselves to: LRP-epsilon 2.5 times one forward and backward, gamma and alpha-beta 6 times.
@pytest.mark.parametrize("who", ["forward and backward", *SCORERS])
@pytest.mark.parametrize("model", [*MODELS, "digits_vit", "cifar_resnet20"])
def test_scoring(benchmark, model, who):
    benchmark.group = f"scoring 100 images, {model}"
    context = setting(model)[0]
    if who == "forward and backward":
        benchmark(lambda: forward_and_backward(context))
    else:
        criterion = SCORERS[who]()
        benchmark(lambda: criterion.score(context))


@pytest.mark.parametrize("who", ["forward and backward", "ours", "zennit in one batch", "zennit image by image"])
def test_lrp_epsilon_of_a_residual_network_beside_zennit(benchmark, who):
    """What the reference implementation of Hatefi et al. does is zennit's rules on one image at a time."""
    benchmark.group = "LRP-epsilon of 100 images, cifar_resnet20"
    context = setting("cifar_resnet20")[0]
    if who == "forward and backward":
        benchmark(lambda: forward_and_backward(context))
    elif who == "ours":
        benchmark(lambda: LRP().score(context))
    else:
        batch_size = 1 if who == "zennit image by image" else 100
        benchmark.pedantic(lambda: zennit_epsilon(context, batch_size), rounds=2)


def zennit_epsilon(context, batch_size):
    """LRP-epsilon with zennit's rules, the sums of residual blocks being made visible by our canonizer."""
    norms = batch_norms_after(context.model, context.reference.images[:1])
    rules = [*layer_map_base(), (Linear, Epsilon())]
    for batch in dataclasses.replace(context, batch_size=batch_size).batches():
        merge = NamedMergeBatchNorm([((layer,), norm) for layer, norm in norms.items()])
        composite = LayerMapComposite(rules, canonizers=[merge, Blocks("attn_lrp")])
        with composite.context(context.model) as model, tapped(model, context.layers) as taps:
            logits = model(batch.images.clone().requires_grad_())
            start = nn.functional.one_hot(batch.labels, logits.shape[1]).float()
            torch.autograd.grad(logits, list(taps.values()), start)
