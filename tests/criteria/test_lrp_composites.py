"""Depth groups against the published lists, composites of zennit, presets and search spaces."""

import pytest
import timm
import torch
import torchvision
import zennit.rules
from torch import nn
from zennit.composites import COMPOSITES, EpsilonPlus, LayerMapComposite, layer_map_base
from zennit.torchvision import ResNetCanonizer, VGGCanonizer
from zennit.types import Linear

from networks import GRANULARITIES, images, tiny_network
from pruneboard.benchmark.api import Batch, Context, Unsupported
from pruneboard.benchmark.plugins import criteria
from pruneboard.benchmark.units import find_layers, tapped
from pruneboard.criteria.lrp import LRP
from pruneboard.criteria.lrp._composites import depth_groups

LABELS = torch.tensor([3, 0, 7])


def _context(kind):
    model = tiny_network(kind).double()
    layers = find_layers(model, GRANULARITIES[kind], images(1).double())
    data = Batch(images(3, seed=1).double(), LABELS)
    return Context(model=model, layers=layers, generator=torch.Generator(), data=data)


def _numbers(prefix, text):
    return {f"{prefix}.{number}" for number in text.split(",")}


# Hatefi et al.'s lists for torchvision's networks, in timm's names.
PUBLISHED = {
    "vgg16": {
        "low": _numbers("features", "0,2,5,7"),
        "mid": _numbers("features", "10,12,14,17,19"),
        "high": _numbers("features", "21,24,26,28"),
        "fc": {"pre_logits.fc1", "pre_logits.fc2", "head.fc"},
    },
    "vgg16_bn": {
        "low": _numbers("features", "0,3,7,10"),
        "mid": _numbers("features", "14,17,20,24,27"),
        "high": _numbers("features", "30,34,37,40"),
        "fc": {"pre_logits.fc1", "pre_logits.fc2", "head.fc"},
    },
    "resnet18": {"low": {"conv1", "layer1"}, "mid": {"layer2", "layer3"}, "high": {"layer4"}, "fc": {"fc"}},
    "resnet50": {"low": {"conv1", "layer1"}, "mid": {"layer2", "layer3"}, "high": {"layer4"}, "fc": {"fc"}},
    "vit_base_patch16_224": {
        "low": {*_numbers("blocks", "0,1,2"), "patch_embed.proj"},
        "mid": _numbers("blocks", "3,4,5,6,7,8"),
        "high": _numbers("blocks", "9,10,11"),
        "fc": {"head"},
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_depth_groups_equal_the_published_lists(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    groups = depth_groups(model)
    every = {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert groups.keys() == every
    for depth, members in PUBLISHED[name].items():
        found = {layer for layer, group in groups.items() if group == depth}
        assert {m for m in members if not any(f == m or f.startswith(f"{m}.") for f in found)} == set()
        assert {f for f in found if not any(f == m or f.startswith(f"{m}.") for m in members)} == set()


def test_depth_groups_of_sequences_and_of_networks_with_few_stages():
    perceptron = nn.Sequential(nn.Linear(2, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 9), nn.Linear(9, 3))
    assert depth_groups(perceptron) == {"0": "low", "2": "mid", "4": "high", "5": "fc"}
    groups = depth_groups(tiny_network("mobilenet"))
    assert {groups[name] for name in ("conv_stem", "blocks.0.0.conv_dw", "blocks.1.1.conv_pwl")} == {"low"}
    assert {groups[name] for name in ("blocks.5.0.conv_pw", "blocks.6.0.conv_dw", "conv_head")} == {"high"}
    assert groups["blocks.3.0.conv_dw"] == "mid"
    assert groups["classifier"] == "fc"


def test_each_group_follows_its_own_rule():
    """Changing the rule of one group changes the relevance below it, and only that."""
    context = _context("resnet")
    plain = LRP().contributions(context, context.reference)
    order = [layer.name for layer in context.layers]
    for depth, first_unchanged in (("high", "layer4.0.conv2"), ("mid", "layer4.0.conv1"), ("low", "layer2.0.conv1")):
        changed = LRP(**{depth: "gamma"}).contributions(context, context.reference)
        same = [name for name in order if torch.equal(plain[name], changed[name])]
        assert first_unchanged in same
        assert "conv1.0" not in same


@pytest.mark.parametrize("kind", ["vgg", "resnet", "bottleneck", "mobilenet", "vit_neurons", "vit_heads"])
@pytest.mark.parametrize("name", sorted(COMPOSITES))
def test_every_composite_of_zennit_scores_or_names_what_it_leaves_without_a_rule(name, kind):
    context = _context(kind)
    if name in ("deconvnet", "guided_backprop", "beta_smooth"):
        with pytest.raises(
            Unsupported, match=r"leaves (Conv2d|Linear) `[\w.]+` without a rule; choose one that covers"
        ):
            LRP(composite=name).score(context)
    else:
        scores = LRP(composite=name).score(context)
        assert all(bool(torch.isfinite(values).all()) for values in scores.values())
        assert any(float(values.abs().max()) > 0 for values in scores.values())


def test_a_composite_of_zennit_gives_what_zennit_gives():
    context = _context("vgg")
    with (
        EpsilonPlus(canonizers=[VGGCanonizer()]).context(context.model) as model,
        tapped(model, context.layers) as taps,
    ):
        logits = model(context.reference.images.clone().requires_grad_())
        names = [layer.name for layer in context.layers]
        start = torch.eye(10, dtype=logits.dtype)[LABELS]
        expected = torch.autograd.grad(logits, [taps[name] for name in names], start)
    actual = LRP(composite="epsilon_plus").contributions(context, context.reference)
    ours = LRP(low="z_plus", mid="z_plus", high="z_plus").contributions(context, context.reference)
    for name, relevance in zip(names, expected, strict=True):
        pooled = relevance.sum((2, 3))
        torch.testing.assert_close(actual[name][..., 0], pooled, rtol=1e-3, atol=1e-4 * float(pooled.abs().max()))
        torch.testing.assert_close(ours[name], actual[name], rtol=1e-5, atol=1e-6 * float(pooled.abs().max()))


def test_search_spaces_hold_what_the_network_has():
    rules = ("epsilon", "gamma", "alpha2_beta1", "z_plus")
    common = {
        "absolute": ("none", "token", "image", "total"),
        "per_layer": ("none", "l2"),
        **dict.fromkeys(("low", "mid", "high", "fc"), rules),
        "output": ("one_hot", "logit"),
    }
    assert dict(LRP().search_space(_context("resnet"))) == common
    # Two blocks: one is low and one is high.
    with_attention = {**common, "softmax": ("attn_lrp", "cp", "z_plus", "z_plus_bias")}
    del with_attention["mid"]
    assert dict(LRP().search_space(_context("vit_heads"))) == with_attention
    for name in ("random", "bn_scale"):
        assert criteria().get(name).search_space(_context("resnet")) == {}
    sizes = {"magnitude": 4, "activation": 24, "gradient": 16, "taylor": 16, "integrated_gradients": 8}
    for name, size in sizes.items():
        space = criteria().get(name).search_space(_context("resnet"))
        assert torch.Size([len(values) for values in space.values()]).numel() == size


@pytest.mark.parametrize("rules", ["epsilon", "gamma", "alpha2_beta1", "z_plus"])
def test_resnet18_of_timm_gets_the_relevance_that_zennit_gives_its_twin_of_torchvision(rules):
    """The same weights in another implementation of network, canonizers and rules."""
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=10).double().eval()
    ours = timm.create_model("resnet18", num_classes=10).double().eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            # zennit's merge leaves out what the eps of 1e-5 does to a merged norm; here it does nothing.
            module.eps = 0.0
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))
    rule = {
        "epsilon": zennit.rules.Epsilon(),
        "gamma": zennit.rules.Gamma(0.25),
        "alpha2_beta1": zennit.rules.AlphaBeta(2.0, 1.0),
        "z_plus": zennit.rules.ZPlus(),
    }[rules]
    layers = find_layers(ours, "filters", x)
    composite = LayerMapComposite(
        [*layer_map_base(), (nn.Conv2d, rule), (Linear, zennit.rules.Epsilon())], canonizers=[ResNetCanonizer()]
    )
    with composite.context(theirs) as model, tapped(model, layers) as taps:
        logits = model(x.clone().requires_grad_())
        start = torch.eye(10, dtype=logits.dtype)[[4]]
        expected = torch.autograd.grad(logits, [taps[layer.name] for layer in layers], start)
    context = Context(model=ours, layers=layers, generator=torch.Generator(), data=Batch(x, torch.tensor([4])))
    actual = LRP(low=rules, mid=rules, high=rules).values(context, context.reference)
    assert len(layers) == 20
    for layer, relevance in zip(layers, expected, strict=True):
        scale = float(relevance.abs().max())
        torch.testing.assert_close(actual[layer.name], relevance, rtol=1e-4, atol=1e-6 * scale)
