"""Scoring 100 reference images, beside one forward and backward pass of them in one batch."""

import dataclasses

import pytest
import torch
from torch import nn
from zennit.canonizers import NamedMergeBatchNorm
from zennit.composites import LayerMapComposite, layer_map_base
from zennit.rules import Epsilon
from zennit.types import Linear

from pruneboard.benchmark import plugins
from pruneboard.benchmark.units import batch_norms_after, tapped
from pruneboard.criteria.lrp import LRP
from pruneboard.criteria.lrp._canonizers import Blocks
from subjects import subject


def everywhere(rule):
    return LRP(low=rule, mid=rule, high=rule, fc=rule)


SCORERS = {
    "taylor": lambda: plugins.criteria().get("taylor"),
    "lrp epsilon": LRP,
    "lrp z+": lambda: everywhere("z_plus"),
    "lrp gamma": lambda: everywhere("gamma"),
    "lrp alpha2-beta1": lambda: everywhere("alpha2_beta1"),
    "lrp epsilon_plus by zennit's rules": lambda: LRP(composite="epsilon_plus"),
}


def forward_and_backward(context):
    """The loss of the reference images in one batch, and its gradient for every parameter."""
    loss = nn.functional.cross_entropy(context.model(context.reference.images), context.reference.labels)
    torch.autograd.grad(loss, list(context.model.parameters()))


# The bounds we hold ourselves to: LRP-epsilon 2.5 times one forward and backward, gamma and alpha-beta 6 times.
@pytest.mark.parametrize("who", SCORERS)
@pytest.mark.parametrize("name", ["digits_vgg", "digits_resnet", "digits_vit", "cifar_resnet20"])
def test_scoring(compare, name, who):
    context, criterion = subject(name, 4).context, SCORERS[who]()
    compare(
        f"scoring 100 images, {who}",
        name,
        reference=lambda: forward_and_backward(context),
        reference_name="forward and backward",
        ours=lambda: criterion.score(context),
    )


@pytest.mark.parametrize("batch_size", [1, 100])
def test_lrp_epsilon_beside_zennit(compare, batch_size):
    """What the reference implementation of Hatefi et al. does is zennit's rules on one image at a time."""
    context = subject("cifar_resnet20", 4).context
    compare(
        "LRP-epsilon of 100 images",
        "cifar_resnet20",
        reference=lambda: zennit_epsilon(context, batch_size),
        reference_name="zennit image by image" if batch_size == 1 else "zennit in one batch",
        ours=lambda: LRP().score(context),
        rounds=3,
    )


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
