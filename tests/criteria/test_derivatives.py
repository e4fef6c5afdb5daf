"""Activation, gradient, Taylor and integrated gradients, re-derived on forward passes without modules or hooks."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional as F

from networks import GRANULARITIES, images, tiny_network
from pruneboard.benchmark.api import Batch, Context, CriterionError
from pruneboard.benchmark.plugins import criteria
from pruneboard.benchmark.units import find_layers
from pruneboard.criteria.gradient import Gradient
from pruneboard.criteria.integrated_gradients import IntegratedGradients
from pruneboard.criteria.taylor import Taylor

KINDS = ("vgg", "resnet", "bottleneck", "vit_neurons", "vit_heads")
LABELS = torch.tensor([3, 0, 7])


@dataclass(frozen=True)
class Case:
    kind: str
    context: Context
    state: dict[str, torch.Tensor]

    def forward(self, x, edit=lambda _name, activation: activation):
        if self.kind == "vgg":
            return _vgg(self.state, x, edit)
        return (_vit if self.kind.startswith("vit") else _resnet)(self.state, x, edit)

    def layer_forward(self, x):
        seen = {}
        logits = self.forward(x, lambda name, activation: seen.setdefault(name, activation))
        return logits, seen

    def unit(self, index):
        """Select a unit in an activation of one image."""
        if GRANULARITIES[self.kind] == "filters":
            return (index,)
        return (..., slice(6 * index, 6 * index + 6)) if self.kind == "vit_heads" else (..., index)


@pytest.fixture(scope="module", params=KINDS)
def case(request):
    return _case(request.param)


def _case(kind, change=lambda _model: None):
    model = tiny_network(kind).double()
    change(model)
    layers = find_layers(model, GRANULARITIES[kind], images(1).double())
    reference = Batch(images(3, seed=1).double(), LABELS)
    context = Context(model=model, layers=layers, generator=torch.Generator(), data=reference, batch_size=2)
    return Case(kind, context, {name: value.clone() for name, value in model.state_dict().items()})


def _conv_norm(s, conv, norm, x, edit, **how):
    x = F.conv2d(x, s[f"{conv}.weight"], s.get(f"{conv}.bias"), **how)
    mean, var, weight, bias = (s[f"{norm}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
    shape = (1, -1, 1, 1)
    x = (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt() * weight.view(shape) + bias.view(shape)
    return edit(conv, x)


def _vgg(s, x, edit):
    x = F.max_pool2d(_conv_norm(s, "features.0", "features.1", x, edit, padding=1).relu(), 2)
    x = _conv_norm(s, "features.4", "features.5", x, edit, padding=1).relu()
    x = F.max_pool2d(_conv_norm(s, "features.7", "features.8", x, edit, padding=1).relu(), 2)
    return x.mean((2, 3)) @ s["head.fc.weight"].T + s["head.fc.bias"]


def _resnet(s, x, edit):
    x = _conv_norm(s, "conv1.0", "conv1.1", x, edit, stride=2, padding=1).relu()
    x = _conv_norm(s, "conv1.3", "conv1.4", x, edit, padding=1).relu()
    x = _conv_norm(s, "conv1.6", "bn1", x, edit, padding=1).relu()
    x = F.max_pool2d(x, 3, 2, 1)
    for stage, n_blocks in ((1, 1), (2, 2), (3, 1), (4, 1)):
        for index in range(n_blocks):
            at, stride = f"layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1
            if f"{at}.conv3.weight" in s:
                y = _conv_norm(s, f"{at}.conv1", f"{at}.bn1", x, edit).relu()
                y = _conv_norm(s, f"{at}.conv2", f"{at}.bn2", y, edit, stride=stride, padding=1).relu()
                y = _conv_norm(s, f"{at}.conv3", f"{at}.bn3", y, edit)
            else:
                y = _conv_norm(s, f"{at}.conv1", f"{at}.bn1", x, edit, stride=stride, padding=1).relu()
                y = _conv_norm(s, f"{at}.conv2", f"{at}.bn2", y, edit, padding=1)
            if f"{at}.downsample.0.weight" in s:
                x = _conv_norm(s, f"{at}.downsample.0", f"{at}.downsample.1", x, edit, stride=stride)
            x = (y + x).relu()
    return x.mean((2, 3)) @ s["fc.weight"].T + s["fc.bias"]


def _vit(s, x, edit):
    x = F.conv2d(x, s["patch_embed.proj.weight"], s["patch_embed.proj.bias"], stride=4).flatten(2).transpose(1, 2)
    x = torch.cat([s["cls_token"].expand(len(x), -1, -1), x], 1) + s["pos_embed"]
    for at in ("blocks.0", "blocks.1"):
        qkv = _linear(s, f"{at}.attn.qkv", _layer_norm(s, f"{at}.norm1", x))
        heads = []
        for head in range(4):
            q, k, v = (qkv[..., 24 * part + 6 * head : 24 * part + 6 * head + 6] for part in range(3))
            heads.append((q @ k.transpose(1, 2) / math.sqrt(6)).softmax(-1) @ v)
        x = x + _linear(s, f"{at}.attn.proj", edit(f"{at}.attn", torch.cat(heads, -1)))
        hidden = edit(f"{at}.mlp.fc1", _linear(s, f"{at}.mlp.fc1", _layer_norm(s, f"{at}.norm2", x)))
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        x = x + edit(f"{at}.mlp.fc2", _linear(s, f"{at}.mlp.fc2", hidden))
    return _linear(s, "head", _layer_norm(s, "norm", x)[:, 0])


def _linear(s, at, x):
    return x @ s[f"{at}.weight"].T + s[f"{at}.bias"]


def _layer_norm(s, at, x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / ((centred**2).mean(-1, keepdim=True) + 1e-6).sqrt() * s[f"{at}.weight"] + s[f"{at}.bias"]


def _target(logits, label, target):
    if target == "logit":
        return logits[:, label]
    return logits.exp().sum(1).log() - logits[:, label]


def _directional(case, layer, image, label, target, change):
    """Differentiate the target numerically as `change(activation of a unit, step)` grows from step 0, for each unit."""
    step = 1e-6

    def edit(name, activation):
        if name != layer.name:
            return activation
        activation = activation.clone()
        for unit in range(layer.n_units):
            for row, signed in ((unit, step), (layer.n_units + unit, -step)):
                at = (row, *case.unit(unit))
                activation[at] = change(activation[at], signed)
        return activation

    values = _target(case.forward(image.expand(2 * layer.n_units, -1, -1, -1), edit), label, target)
    return (values[: layer.n_units] - values[layer.n_units :]) / (2 * step)


def _n_positions(case, activation):
    return activation[0, 0].numel() if GRANULARITIES[case.kind] == "filters" else activation.shape[1]


def _mean_derivatives(case, target, change):
    """Per layer: the mean over images and positions, image by image."""
    _, seen = case.layer_forward(images(1).double())
    means = {}
    for layer in case.context.layers:
        total = torch.zeros(layer.n_units, dtype=torch.float64)
        for image, label in zip(case.context.reference.images, LABELS, strict=True):
            total += _directional(case, layer, image[None], label, target, change)
        means[layer.name] = total / (len(LABELS) * _n_positions(case, seen[layer.name]))
    return means


def _check(scores, expected, *, normalised=True):
    for name, values in expected.items():
        values = values.abs()
        if normalised:
            values = values / math.sqrt(math.fsum(v * v for v in values.tolist()))
        assert values.max() > 0
        torch.testing.assert_close(scores[name].double(), values, rtol=1e-4, atol=1e-6 * float(values.max()))


def test_the_forward_pass_by_hand_is_the_networks(case):
    reference = case.context.reference.images
    logits, seen = case.layer_forward(reference)
    with torch.no_grad():
        torch.testing.assert_close(logits, case.context.model(reference), rtol=1e-9, atol=1e-9)

    assert {layer.name for layer in case.context.layers} <= seen.keys()


def test_activation_is_the_mean_of_the_absolute_value_at_the_tap(case):
    scores = criteria().get("activation").score(case.context)
    for layer in case.context.layers:
        for unit in range(0, layer.n_units, 5):
            values, n_positions = [], 0
            for image in case.context.reference.images:
                activation = case.layer_forward(image[None])[1][layer.name]
                n_positions += _n_positions(case, activation)
                values += activation[0][case.unit(unit)].flatten().abs().tolist()
            assert float(scores[layer.name][unit]) == pytest.approx(math.fsum(values) / n_positions, rel=1e-5)


@pytest.mark.parametrize("target", ["loss", "logit"])
def test_gradient_against_finite_differences(case, target):
    expected = _mean_derivatives(case, target, lambda activation, step: activation + step)

    _check(Gradient(target=target).score(case.context), expected)
    _check(Gradient(target=target, per_layer="none").score(case.context), expected, normalised=False)
    if target == "loss":
        _check(criteria().get("gradient").score(case.context), expected)


@pytest.mark.parametrize(("name", "target"), [("taylor", "loss"), ("taylor_logit", "logit")])
def test_taylor_against_finite_differences(case, name, target):
    """Scaling a unit's activation by 1 + t changes the target by t * sum of a dL/da."""
    expected = _mean_derivatives(case, target, lambda activation, step: activation * (1 + step))

    _check(criteria().get(name).score(case.context), expected)
    _check(Taylor(target=target, per_layer="none").score(case.context), expected, normalised=False)


def _path_attribution(case, image, label, points):
    """Difference of activations times mean gradient at the given fractions of the image; one image, all positions."""
    difference, gradients = {}, {}
    _, at_end = case.layer_forward(image[None])
    _, at_start = case.layer_forward(torch.zeros_like(image[None]))
    names = [layer.name for layer in case.context.layers]
    line = torch.tensor(points, dtype=torch.float64).view(-1, 1, 1, 1) * image
    logits, seen = case.layer_forward(line.requires_grad_())
    for name, gradient in zip(
        names, torch.autograd.grad(logits[:, label].sum(), [seen[n] for n in names]), strict=True
    ):
        gradients[name] = gradient.mean(0)
        difference[name] = at_end[name][0] - at_start[name][0]
    return {name: (difference[name] * gradients[name]).detach() for name in names}


def _attributions(case, points):
    return [
        _path_attribution(case, image, label, points)
        for image, label in zip(case.context.reference.images, LABELS, strict=True)
    ]


def _per_position(case, layer, attribution):
    """One image's attribution as (n_units, n_positions)."""
    return torch.stack([_rows(case, attribution[case.unit(unit)]) for unit in range(layer.n_units)])


def _rows(case, values):
    return values.sum(-1) if case.kind == "vit_heads" else values.flatten()


def test_integrated_gradients_of_four_steps_at_their_four_midpoints(case):
    attributions = _attributions(case, [1 / 8, 3 / 8, 5 / 8, 7 / 8])
    expected = {"none": {}, "token": {}, "image": {}, "total": {}}
    for layer in case.context.layers:
        maps = [_per_position(case, layer, attribution[layer.name]) for attribution in attributions]
        expected["none"][layer.name] = torch.stack([m.sum(1) for m in maps]).mean(0)
        expected["token"][layer.name] = torch.stack([m.abs().sum(1) for m in maps]).mean(0)
        expected["image"][layer.name] = torch.stack([m.sum(1).abs() for m in maps]).mean(0)
        expected["total"][layer.name] = torch.stack([m.sum(1) for m in maps]).mean(0).abs()
    expected["pxp"] = expected["image" if GRANULARITIES[case.kind] == "filters" else "token"]
    for absolute, by_layer in expected.items():
        scores = IntegratedGradients(steps=4, absolute=absolute).score(case.context)
        for name, values in by_layer.items():
            torch.testing.assert_close(scores[name].double(), values, rtol=1e-5, atol=1e-6 * float(values.abs().max()))
    different = [torch.cat(list(expected[absolute].values())) for absolute in ("none", "token", "image", "total")]
    assert all(not torch.allclose(a, b) for i, a in enumerate(different) for b in different[:i])


def test_integrated_gradients_approach_the_path_integral_as_steps_grow():
    case = _case("vgg")
    fine = _attributions(case, [(k + 0.5) / 997 for k in range(997)])
    errors = []
    for steps in (1, 20, 150):
        scores = IntegratedGradients(steps=steps, absolute="none").score(case.context)
        error = size = 0.0
        for layer in case.context.layers:
            maps = [_per_position(case, layer, attribution[layer.name]).sum(1) for attribution in fine]
            exact = torch.stack(maps).mean(0)
            error += float((scores[layer.name].double() - exact).square().sum())
            size += float(exact.square().sum())
        errors.append(math.sqrt(error / size))

    assert errors[2] < errors[1] < errors[0]
    assert errors[1] < 0.02
    assert errors[2] < 0.005


def test_integrated_gradients_are_complete_where_the_activation_is_affine_in_the_image():
    """The path is then straight at the layer too, so the attribution of all units is f(x) - f(x')."""
    case = _case("vgg")
    contributions = IntegratedGradients(steps=400, absolute="none").contributions(case.context, case.context.reference)
    with torch.no_grad():
        logits = case.context.model(case.context.reference.images)
        start = case.context.model(torch.zeros(1, 3, 16, 16).double())
    expected = (logits - start).gather(1, LABELS[:, None])[:, 0]

    torch.testing.assert_close(contributions["features.0"][..., 0].sum(1), expected, rtol=2e-3, atol=0)


def _remove_biases(model):
    with torch.no_grad():
        for name, values in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith(("bias", "running_mean")):
                values.zero_()


def test_without_biases_one_step_is_exact_and_complete_in_every_layer():
    """A ReLU network without biases is linear along the ray through the image: the gradient is the same everywhere."""
    case = _case("vgg", _remove_biases)
    reference = case.context.reference
    with torch.no_grad():
        expected = case.context.model(reference.images).gather(1, LABELS[:, None])[:, 0]
    for steps in (1, 7):
        contributions = IntegratedGradients(steps=steps, absolute="none").contributions(case.context, reference)
        for layer in case.context.layers:
            torch.testing.assert_close(contributions[layer.name][..., 0].sum(1), expected, rtol=1e-9, atol=1e-12)


def test_wrong_options_name_the_choices():
    for criterion in (Gradient, Taylor):
        with pytest.raises(CriterionError, match=r"^`target` must be one of 'loss', 'logit', got 'softmax'\.$"):
            criterion(target="softmax")
        with pytest.raises(CriterionError, match=r"^`per_layer` must be one of 'none', 'l2', got True\.$"):
            criterion(per_layer=True)
    message = r"^`absolute` must be one of 'pxp', 'none', 'token', 'image', 'total', got 'pixel'\.$"
    with pytest.raises(CriterionError, match=message):
        IntegratedGradients(absolute="pixel")
    with pytest.raises(CriterionError, match=r"^`steps` must be at least 1, got 0\.$"):
        IntegratedGradients(steps=0)
