import math

import pytest
import torch

from networks import GRANULARITIES, images, tiny_network
from pruneboard.benchmark.api import Context, CriterionError
from pruneboard.benchmark.plugins import criteria
from pruneboard.benchmark.units import find_layers
from pruneboard.criteria.magnitude import Magnitude


def _context(kind):
    model = tiny_network(kind)
    layers = find_layers(model, GRANULARITIES[kind], images(1))
    return Context(model=model, layers=layers, generator=torch.Generator())


def _weights_of_unit(model, layer, unit):
    """Collect a unit's own weights number by number."""
    if layer.granularity == "filters":
        kernel = model.get_submodule(layer.name).weight.tolist()[unit]
        return [value for plane in kernel for row in plane for value in row]
    if layer.granularity == "neurons":
        return model.get_submodule(layer.name).weight.tolist()[unit]
    attention = model.get_submodule(layer.name)
    qkv, proj = attention.qkv.weight.tolist(), attention.proj.weight.tolist()
    width = len(proj[0])
    size = width // layer.n_units
    own = range(unit * size, (unit + 1) * size)
    rows = [value for part in range(3) for index in own for value in qkv[part * width + index]]
    return rows + [row[index] for row in proj for index in own]


@pytest.mark.parametrize("kind", ["vgg", "resnet", "bottleneck", "vit_neurons", "vit_heads"])
@pytest.mark.parametrize("name", ["magnitude", "magnitude_l2"])
def test_norm_of_the_own_weights_divided_by_the_layers_l2_norm(name, kind):
    context = _context(kind)
    scores = criteria().get(name).score(context)
    for layer in context.layers:
        weights = [_weights_of_unit(context.model, layer, unit) for unit in range(layer.n_units)]
        if name == "magnitude":
            norms = [math.fsum(abs(w) for w in own) for own in weights]
        else:
            norms = [math.sqrt(math.fsum(w * w for w in own)) for own in weights]
        total = math.sqrt(math.fsum(norm * norm for norm in norms))
        assert scores[layer.name].tolist() == pytest.approx([norm / total for norm in norms], rel=1e-5)


def test_without_normalisation_the_norms_are_left_as_they_are():
    context = _context("vgg")
    layer = context.layers[1]
    scores = Magnitude(norm="l2", per_layer="none").score(context)[layer.name]
    expected = [math.hypot(*_weights_of_unit(context.model, layer, unit)) for unit in range(layer.n_units)]

    assert scores.tolist() == pytest.approx(expected, rel=1e-5)


def test_a_layer_of_zeros_scores_zero_and_biases_do_not_count():
    context = _context("vgg")
    expected = Magnitude().score(context)
    with torch.no_grad():
        context.model.features[4].weight.zero_()
        for index in (0, 4, 7):
            context.model.features[index].bias.add_(5)
    scores = Magnitude().score(context)

    assert scores["features.4"].tolist() == [0.0] * 8
    assert torch.equal(scores["features.7"], expected["features.7"])


def test_wrong_options_name_the_choices():
    with pytest.raises(CriterionError, match=r"^`norm` must be one of 'l1', 'l2', got 'l3'\.$"):
        Magnitude(norm="l3")
    with pytest.raises(CriterionError, match=r"^`per_layer` must be one of 'none', 'l2', got 'max'\.$"):
        Magnitude(per_layer="max")
