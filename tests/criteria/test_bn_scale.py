import pytest
import torch
from timm.models.vgg import VGG
from torch import nn

from networks import GRANULARITIES, images, tiny_network
from pruneboard.benchmark.api import Context, Unsupported
from pruneboard.benchmark.plugins import criteria
from pruneboard.benchmark.units import find_layers

# Written down by hand: the batch norm that reads each convolution.
NORMS = {
    "vgg": {"features.0": "features.1", "features.4": "features.5", "features.7": "features.8"},
    "resnet": {
        "conv1.0": "conv1.1",
        "conv1.6": "bn1",
        "layer1.0.conv1": "layer1.0.bn1",
        "layer2.0.conv2": "layer2.0.bn2",
        "layer2.0.downsample.0": "layer2.0.downsample.1",
        "layer2.1.conv2": "layer2.1.bn2",
    },
    "bottleneck": {"layer1.0.conv3": "layer1.0.bn3", "layer4.0.downsample.0": "layer4.0.downsample.1"},
}


def _context(model, granularity="filters"):
    layers = find_layers(model, granularity, images(1))
    return Context(model=model, layers=layers, generator=torch.Generator())


@pytest.mark.parametrize("kind", NORMS)
def test_absolute_scale_of_the_batch_norm_behind_each_convolution(kind):
    model = tiny_network(kind)
    with torch.no_grad():
        for index, module in enumerate(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            module.weight[index % len(module.weight)] *= -1
    scores = criteria().get("bn_scale").score(_context(model))
    for conv, norm in NORMS[kind].items():
        expected = [abs(value) for value in model.get_submodule(norm).weight.tolist()]
        assert scores[conv].tolist() == expected


def test_a_score_is_no_view_of_the_parameter():
    model = tiny_network("vgg")
    before = model.features[1].weight.clone()
    for values in criteria().get("bn_scale").score(_context(model)).values():
        values.zero_()

    assert torch.equal(model.features[1].weight, before)


def test_networks_without_a_scale_to_read_are_declined():
    plain = VGG([4, "M", 4, "M"], num_classes=10, mlp_ratio=0.01).eval()
    with pytest.raises(
        Unsupported, match=r"needs a batch norm with a scale behind every layer; `features\.0` has none"
    ):
        criteria().get("bn_scale").score(_context(plain))
    for kind, first in (("vit_neurons", "blocks.0.mlp.fc1"), ("vit_heads", "blocks.0.attn")):
        with pytest.raises(Unsupported, match=f"behind every layer; `{first}` has none"):
            criteria().get("bn_scale").score(_context(tiny_network(kind), GRANULARITIES[kind]))
    without_affine = tiny_network("vgg")
    without_affine.features[5] = nn.BatchNorm2d(8, affine=False).eval()
    with pytest.raises(Unsupported, match=r"`features\.4` has none"):
        criteria().get("bn_scale").score(_context(without_affine))


def test_folded_batch_norms_are_declined_but_one_scale_that_differs_is_enough():
    model = tiny_network("resnet")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(1)
    with pytest.raises(Unsupported, match=r"all batch-norm scales are equal \(folded into the convolutions\)"):
        criteria().get("bn_scale").score(_context(model))
    with torch.no_grad():
        model.layer4[0].bn2.weight[3] = 0.5

    assert criteria().get("bn_scale").score(_context(model))["layer4.0.conv2"][3] == 0.5
