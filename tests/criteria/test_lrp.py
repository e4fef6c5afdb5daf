"""LRP against rules written out by hand: dense matrices for a VGG, and a recursion for residual networks."""

import pytest
import torch
import torch.nn.utils.prune
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vgg import VGG
from torch import nn
from torch.nn import functional as F

from networks import images, tiny_network
from pruneboard.benchmark.api import Batch, Context, CriterionError, Layer, Unsupported
from pruneboard.benchmark.checks import Snapshot
from pruneboard.benchmark.plugins import criteria
from pruneboard.benchmark.units import find_layers, tapped
from pruneboard.criteria import lrp as lrp_module
from pruneboard.criteria.lrp import LRP

EPS = 1e-2
LABELS = torch.tensor([3, 0, 7])
EPSILON = 1e-6
EVERYWHERE = {"epsilon": {}, "z+": {"low": "z_plus", "mid": "z_plus", "high": "z_plus"}}


def _context(model, granularity="filters", labels=LABELS):
    dtype = next(model.parameters()).dtype
    layers = find_layers(model, granularity, images(1).to(dtype))
    reference = Batch(images(len(labels), seed=1).to(dtype), labels)
    return Context(model=model, layers=layers, generator=torch.Generator(), data=reference)


@pytest.fixture(scope="module", params=["vgg", "resnet", "bottleneck"])
def context(request):
    return _context(tiny_network(request.param).double())


def _large_eps(kind):
    """A network in float64 whose batch norms divide by noticeably more than their standard deviation.

    zennit leaves `eps` in a merged batch norm, which then still divides by sqrt(1 + eps); ours must not.
    """
    model = tiny_network(kind).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = EPS
    return model


def _stabilised(z):
    return z + EPSILON * torch.where(z >= 0, 1.0, -1.0)


def _merged(state, conv, norm):
    """Weight and bias of a convolution together with its batch norm."""
    scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + EPS).sqrt()
    bias = state.get(f"{conv}.bias", torch.zeros_like(scale)) - state[f"{norm}.running_mean"]
    return state[f"{conv}.weight"] * scale[:, None, None, None], bias * scale + state[f"{norm}.bias"]


def _dense(weight, size):
    """The matrix of a 3 x 3 convolution with padding 1 on a size x size image."""
    n_out, n_in = weight.shape[:2]
    matrix = torch.zeros(n_out, size, size, n_in, size, size, dtype=weight.dtype)
    for y in range(size):
        for x in range(size):
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    if 0 <= y + dy < size and 0 <= x + dx < size:
                        matrix[:, y, x, :, y + dy, x + dx] = weight[:, :, dy + 1, dx + 1]
    return matrix.reshape(n_out * size * size, n_in * size * size)


def _dense_rule(matrix, bias, a, relevance, rule):
    """R_i = sum over j of (contribution of i to j) / (stabilised sum over all contributions to j) * R_j."""
    if rule == "epsilon":
        z = matrix @ a + bias
        return a * (matrix.T @ (relevance / _stabilised(z)))
    positive, negative = matrix.clamp(min=0), matrix.clamp(max=0)
    z = positive @ a.clamp(min=0) + negative @ a.clamp(max=0) + bias.clamp(min=0)
    share = relevance / _stabilised(z)
    return a.clamp(min=0) * (positive.T @ share) + a.clamp(max=0) * (negative.T @ share)


def _pool_and_winners(maps):
    """2 x 2 max pooling by loops: the pooled map and, for each of its pixels, the flat index of the winner."""
    n_channels, size, _ = maps.shape
    values, winners = [], []
    for channel in range(n_channels):
        for y in range(0, size, 2):
            for x in range(0, size, 2):
                value, row, column = max((float(maps[channel, v, u]), -v, -u) for v in (y, y + 1) for u in (x, x + 1))
                values.append(value)
                winners.append((channel * size - row) * size - column)
    return torch.tensor(values, dtype=maps.dtype).reshape(n_channels, size // 2, size // 2), torch.tensor(winners)


def _unpool(relevance, winners, n_inputs):
    return torch.zeros(n_inputs, dtype=relevance.dtype).index_add(0, winners, relevance)


def _vgg_relevance(state, image, label, rule, output):
    """Relevance at the output of each merged convolution, (n_units, n_positions)."""
    w1, b1 = _merged(state, "features.0", "features.1")
    w2, b2 = _merged(state, "features.4", "features.5")
    w3, b3 = _merged(state, "features.7", "features.8")
    m1, m2, m3 = _dense(w1, 16), _dense(w2, 8), _dense(w3, 8)
    b1, b2, b3 = b1.repeat_interleave(256), b2.repeat_interleave(64), b3.repeat_interleave(64)
    a1 = (m1 @ image.flatten() + b1).clamp(min=0)
    p1, winners1 = _pool_and_winners(a1.reshape(6, 16, 16))
    a2 = (m2 @ p1.flatten() + b2).clamp(min=0)
    a3 = (m3 @ a2 + b3).clamp(min=0)
    p3, winners3 = _pool_and_winners(a3.reshape(10, 8, 8))
    mean = p3.mean((1, 2))
    weight, bias = state["head.fc.weight"], state["head.fc.bias"]
    logits = weight @ mean + bias
    start = torch.zeros_like(logits)
    start[label] = 1 if output == "one_hot" else logits[label]

    relevance = _dense_rule(weight, bias, mean, start, "epsilon")
    relevance = (p3 / 16 * (relevance / _stabilised(mean))[:, None, None]).flatten()
    r3 = _unpool(relevance, winners3, a3.numel())
    r2 = _dense_rule(m3, b3, a2, r3, rule)
    r1 = _unpool(_dense_rule(m2, b2, p1.flatten(), r2, rule), winners1, a1.numel())
    return {"features.0": r1.reshape(6, -1), "features.4": r2.reshape(8, -1), "features.7": r3.reshape(10, -1)}


@pytest.mark.parametrize("output", ["one_hot", "logit"])
@pytest.mark.parametrize("rule", ["epsilon", "z+"])
def test_both_rules_against_dense_matrices_and_every_place_of_the_absolute_value(rule, output):
    model = _large_eps("vgg")
    context = _context(model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    by_image = [
        _vgg_relevance(state, image, label, rule, output)
        for image, label in zip(context.reference.images, LABELS, strict=True)
    ]
    for name in ("features.0", "features.4", "features.7"):
        maps = torch.stack([relevance[name] for relevance in by_image])
        expected = {
            "none": maps.sum(2).mean(0),
            "token": maps.abs().sum(2).mean(0),
            "image": maps.sum(2).abs().mean(0),
            "pxp": maps.sum(2).abs().mean(0),
            "total": maps.sum(2).mean(0).abs(),
        }
        for absolute, values in expected.items():
            scores = LRP(**EVERYWHERE[rule], output=output, absolute=absolute).score(context)[name].double()
            torch.testing.assert_close(scores, values, rtol=1e-5, atol=1e-6 * float(values.abs().max()))


def test_presets_are_rules_with_the_other_defaults():
    context = _context(tiny_network("vgg").double())
    presets = {
        "lrp": {},
        "lrp_epsilon": {},
        "lrp_epsilon_plus": EVERYWHERE["z+"],
        "lrp_signed": {"absolute": "none"},
    }
    for name, parameters in presets.items():
        expected = LRP(**{"output": "one_hot", "absolute": "pxp", "fc": "epsilon", **parameters}).score(context)
        scores = criteria().get(name).score(context)
        assert all(torch.equal(values, expected[layer]) for layer, values in scores.items())


def _conv_rule(weight, bias, x, relevance, how, rule):
    """The rule of a convolution, with the transposed convolution spelled out by its gradient."""

    def back(kernel, share):
        return torch.nn.grad.conv2d_input(x.shape, kernel, share, **how)

    if rule == "epsilon":
        return x * back(weight, relevance / _stabilised(F.conv2d(x, weight, bias, **how)))
    plus, minus = weight.clamp(min=0), weight.clamp(max=0)
    z = F.conv2d(x.clamp(min=0), plus, bias.clamp(min=0), **how) + F.conv2d(x.clamp(max=0), minus, **how)
    share = relevance / _stabilised(z)
    return x.clamp(min=0) * back(plus, share) + x.clamp(max=0) * back(minus, share)


def _chain(state, pairs, x, *, last_relu):
    """Merged convolutions with ReLUs between: the output, and a function from its relevance to that of the input."""
    steps = []
    for index, (conv, norm, how) in enumerate(pairs):
        weight, bias = _merged(state, conv, norm)
        steps.append((conv, weight, bias, x, how))
        x = F.conv2d(x, weight, bias, **how)
        if last_relu or index < len(pairs) - 1:
            x = x.relu()

    def backward(relevance, rule, found):
        for conv, weight, bias, given, how in reversed(steps):
            found[conv] = relevance
            relevance = _conv_rule(weight, bias, given, relevance, how, rule)
        return relevance

    return x, backward


def _block(state, at, x, stride):
    one, three = {"padding": 0}, {"padding": 1}
    if f"{at}.conv3.weight" in state:
        hows = [one, {**three, "stride": stride}, one]
    else:
        hows = [{**three, "stride": stride}, three]
    pairs = [(f"{at}.conv{i}", f"{at}.bn{i}", how) for i, how in enumerate(hows, start=1)]
    branch, branch_back = _chain(state, pairs, x, last_relu=False)
    shortcut, shortcut_back = x, None
    if f"{at}.downsample.0.weight" in state:
        projection = [(f"{at}.downsample.0", f"{at}.downsample.1", {"stride": stride})]
        shortcut, shortcut_back = _chain(state, projection, x, last_relu=False)
    total = branch + shortcut

    def backward(relevance, rule, found):
        share = relevance / _stabilised(total)
        by_shortcut = shortcut * share
        if shortcut_back is not None:
            by_shortcut = shortcut_back(by_shortcut, rule, found)
        return branch_back(branch * share, rule, found) + by_shortcut

    return total.relu(), backward


def _resnet_relevance(state, x, label, rule):
    """Relevance at the output of each merged convolution, for one image (1, 3, height, width)."""
    stem = [
        ("conv1.0", "conv1.1", {"stride": 2, "padding": 1}),
        ("conv1.3", "conv1.4", {"padding": 1}),
        ("conv1.6", "bn1", {"padding": 1}),
    ]
    before_pool, stem_back = _chain(state, stem, x, last_relu=True)
    x, winners = F.max_pool2d(before_pool, 3, 2, 1, return_indices=True)
    pooled, blocks = x, []
    for at, stride in (("1.0", 1), ("2.0", 2), ("2.1", 1), ("3.0", 2), ("4.0", 2)):
        x, backward = _block(state, f"layer{at}", x, stride)
        blocks.append(backward)
    mean = x.mean((2, 3))[0]
    start = torch.zeros(10, dtype=x.dtype)
    start[label] = 1
    relevance = _dense_rule(state["fc.weight"], state["fc.bias"], mean, start, "epsilon")
    relevance = x / x[0, 0].numel() * (relevance / _stabilised(mean))[None, :, None, None]
    found = {}
    for backward in reversed(blocks):
        relevance = backward(relevance, rule, found)
    assert relevance.shape == pooled.shape
    spread = torch.zeros_like(before_pool).flatten(2)
    spread.scatter_add_(2, winners.flatten(2), relevance.flatten(2))
    stem_back(spread.reshape(before_pool.shape), rule, found)
    return found


@pytest.mark.parametrize("rule", ["epsilon", "z+"])
@pytest.mark.parametrize("kind", ["resnet", "bottleneck"])
def test_both_rules_of_residual_networks_against_a_recursion_by_hand(kind, rule):
    model = _large_eps(kind)
    context = _context(model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    contributions = LRP(**EVERYWHERE[rule]).contributions(context, context.reference)
    for part, absolute in enumerate(("none", "token")):
        for index, (image, label) in enumerate(zip(context.reference.images, LABELS, strict=True)):
            found = _resnet_relevance(state, image[None], label, rule)
            assert found.keys() == contributions.keys()
            for name, relevance in found.items():
                values = relevance[0].flatten(1)
                values = (values.abs() if absolute == "token" else values).sum(1)
                torch.testing.assert_close(
                    contributions[name][index, :, part], values, rtol=1e-5, atol=1e-6 * float(values.abs().max())
                )


@pytest.mark.parametrize("output", ["one_hot", "logit"])
def test_epsilon_is_activation_times_gradient_on_relu_networks(context, output):
    with tapped(context.model, context.layers) as taps:
        logits = context.model(context.reference.images.clone().requires_grad_())
        chosen = logits.gather(1, LABELS[:, None])
        names = [layer.name for layer in context.layers]
        gradients = torch.autograd.grad(chosen.sum(), [taps[name] for name in names])
    contributions = _signed(LRP(output=output), context)
    for name, gradient in zip(names, gradients, strict=True):
        expected = (taps[name] * gradient).sum((2, 3)).detach()
        if output == "one_hot":
            expected = expected / chosen.detach()
        torch.testing.assert_close(contributions[name], expected, rtol=1e-3, atol=2e-3 * float(expected.abs().max()))


def _signed(criterion, context):
    """Relevance of every image and unit, summed over positions."""
    return {name: parts[..., 0] for name, parts in criterion.contributions(context, context.reference).items()}


def _without_biases(kind):
    model = tiny_network(kind).double()
    with torch.no_grad():
        for name, values in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith(("bias", "running_mean")):
                values.zero_()
    return model


def _relevance_into_blocks(model, rule):
    """Sum of relevance, per image, where each block reads its input, from the first block on."""
    return _relevance_behind(model, rule, ["maxpool", "layer1.0", "layer2.0", "layer2.1", "layer3.0", "layer4.0"])


def _relevance_behind(model, rule, places):
    """Sum of relevance, per image, of what leaves each module."""
    context = _context(model)
    extra = tuple(Layer(place, "filters", 1, place, "output") for place in places)
    watching = Context(
        model=model, layers=(*context.layers, *extra), generator=context.generator, data=context.reference
    )
    contributions = _signed(LRP(**EVERYWHERE[rule]), watching)
    return [contributions[place].sum(1) for place in places]


# The z+ rule drops the relevance of a unit without any positive contribution, which the 1 x 1 convolutions of a
# bottleneck have on so few channels.
@pytest.mark.parametrize(("kind", "rule"), [("resnet", "epsilon"), ("bottleneck", "epsilon"), ("resnet", "z+")])
def test_without_biases_the_relevance_into_every_block_is_what_started(kind, rule):
    for total in _relevance_into_blocks(_without_biases(kind), rule):
        torch.testing.assert_close(total, torch.ones(3, dtype=torch.float64), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", ["epsilon", "z+"])
def test_without_biases_the_relevance_behind_every_layer_of_a_vgg_is_what_started(rule):
    places = [f"features.{index}" for index in range(10)]
    for place, total in zip(places, _relevance_behind(_without_biases("vgg"), rule, places), strict=True):
        torch.testing.assert_close(total, torch.ones(3).double(), rtol=1e-4, atol=1e-4, msg=place)


@pytest.mark.parametrize("kind", ["resnet", "bottleneck"])
def test_without_the_canonizer_of_residual_sums_relevance_doubles_in_every_block(kind, monkeypatch):
    class Nothing:
        def __init__(self, _softmax):
            pass

        def apply(self, _model):
            return []

    monkeypatch.setattr(lrp_module, "Blocks", Nothing)
    first, *_, into_last_block, out_of_last_block = _relevance_into_blocks(_without_biases(kind), "epsilon")

    assert out_of_last_block.tolist() == pytest.approx([1, 1, 1], rel=1e-3)
    assert into_last_block.tolist() == pytest.approx([2, 2, 2], rel=1e-3)
    assert (first.abs() > 16).all()


@pytest.mark.parametrize("kind", ["vgg", "resnet", "bottleneck"])
def test_the_changed_network_computes_the_same(kind):
    """Relevance at the output of the classifier is the logit it starts from, as the changed network computes it."""
    context = _context(_large_eps(kind))
    classifier = "head.fc" if kind == "vgg" else "fc"
    layers = (*context.layers, Layer(classifier, "neurons", 10, classifier, "output"))
    watching = Context(model=context.model, layers=layers, generator=context.generator, data=context.reference)
    contributions = _signed(LRP(output="logit"), watching)
    with torch.no_grad():
        logits = context.model(context.reference.images)
    expected = torch.zeros_like(logits)
    for row, label in enumerate(LABELS.tolist()):
        expected[row, label] = logits[row, label]

    torch.testing.assert_close(contributions[classifier], expected, rtol=1e-9, atol=1e-9)


def test_one_image_at_a_time_gives_the_same(context):
    for name in ("lrp_epsilon", "lrp_epsilon_plus"):
        criterion = criteria().get(name)
        together = criterion.contributions(context, context.reference)
        for index in range(3):
            part = slice(index, index + 1)
            alone = criterion.contributions(context, Batch(context.reference.images[part], LABELS[part]))
            for layer, values in alone.items():
                torch.testing.assert_close(
                    together[layer][part], values, rtol=1e-6, atol=1e-8 * float(values.abs().max())
                )


@pytest.mark.parametrize("pooling", ["fast", "fastavg", "avgmax", "catavgmax"])
def test_pooling_that_no_rule_reaches_is_declined(pooling):
    options = {"num_classes": 10, "stem_type": "deep", "stem_width": 4, "channels": (8, 8, 8, 8)}
    model = ResNet(BasicBlock, (1, 1, 1, 1), global_pool=pooling, **options).eval()
    with pytest.raises(Unsupported, match=r"^no rule for \w+ `global_pool(\.pool)?`; it needs"):
        criteria().get("lrp_epsilon").score(_context(model))


def _resnet(**block_args):
    options = {"num_classes": 10, "stem_type": "deep", "stem_width": 4, "channels": (8, 8, 8, 8)}
    return ResNet(BasicBlock, (1, 1, 1, 1), **options, **block_args).eval()


@pytest.mark.parametrize("attention", ["se", "ese", "eca"])
def test_gates_in_residual_blocks_are_declined_by_name(attention):
    context = _context(_resnet(block_args={"attn_layer": attention}))
    with pytest.raises(Unsupported, match=r"`layer1\.0"):
        criteria().get("lrp_epsilon").score(context)


def test_what_no_rule_covers_is_declined_by_name():
    pre_activation = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 10))
    with pytest.raises(
        Unsupported, match=r"^batch norm `0` cannot be merged: it follows no convolution or linear layer"
    ):
        criteria().get("lrp_epsilon").score(_context(pre_activation.eval()))

    class Own(nn.Sequential):
        pass

    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 16), nn.Linear(4, 10)

        def forward(self, x):
            return self.fc(self.conv(x).flatten(1))

    with pytest.raises(
        Unsupported, match=r"^no rule for Other the network itself; it needs a canonizer in criteria/lrp/"
    ):
        criteria().get("lrp_epsilon").score(_context(Other().eval()))
    plain = Own(nn.Conv2d(3, 4, 16), nn.Flatten(), nn.Linear(4, 10)).eval()
    assert criteria().get("lrp_epsilon").score(_context(plain)).keys() == {"0"}


def test_a_failure_inside_leaves_the_network_as_it_was():
    model = tiny_network("resnet")
    context = _context(model, labels=torch.tensor([3, 0, 99]))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="Class values must be smaller"):
        criteria().get("lrp_epsilon").score(context)

    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not any("forward" in vars(module) for module in model.modules())


def test_wrong_options_name_the_choices():
    with pytest.raises(CriterionError, match=r"^`composite` must be one of 'depth', 'beta_smooth', .*, got 'gamma'\.$"):
        LRP(composite="gamma")
    with pytest.raises(CriterionError, match=r"^`low` must be one of 'epsilon', 'gamma', .*, got 'flat'\.$"):
        LRP(low="flat")
    with pytest.raises(CriterionError, match=r"^`gamma_conv` must be at least 0, got -1\.$"):
        LRP(gamma_conv=-1)
    with pytest.raises(
        CriterionError, match=r"`mid` must keep its default, got 'gamma' beside composite 'epsilon_plus'"
    ):
        LRP(mid="gamma", composite="epsilon_plus")
    with pytest.raises(CriterionError, match=r"^`output` must be one of 'one_hot', 'logit', got 'softmax'\.$"):
        LRP(output="softmax")
    with pytest.raises(CriterionError, match=r"^`absolute` must be one of .*, got None\.$"):
        LRP(absolute=None)


def _sequence(*head):
    torch.manual_seed(0)
    return nn.Sequential(*head, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 10)).double().eval()


def _norm(width):
    norm = nn.BatchNorm2d(width)
    nn.init.uniform_(norm.running_var, 0.3, 3)
    nn.init.normal_(norm.running_mean)
    return norm


def _behind_an_activation_in_place():
    return _sequence(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), _norm(4), nn.Conv2d(4, 5, 3))


def _one_norm_behind_two_convolutions():
    norm = _norm(5)
    return _sequence(nn.Conv2d(3, 5, 3), norm, nn.ReLU(), nn.Conv2d(5, 5, 3), norm)


def _two_convolutions_with_one_weight():
    first, second = nn.Conv2d(5, 5, 3, bias=False), nn.Conv2d(5, 5, 3, bias=False)
    second.weight = first.weight
    return _sequence(nn.Conv2d(3, 5, 3), nn.ReLU(), first, _norm(5), nn.ReLU(), second, _norm(5))


def _one_convolution_with_a_norm_behind_one_use():
    convolution = nn.Conv2d(5, 5, 3, bias=False)
    return _sequence(nn.Conv2d(3, 5, 3), convolution, _norm(5), nn.ReLU(), convolution, nn.ReLU())


def _norm_without_scale():
    return _sequence(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, affine=False))


def _pruned_by_torch():
    convolution = nn.Conv2d(3, 5, 3)
    torch.nn.utils.prune.random_unstructured(convolution, "weight", 0.5)
    return _sequence(convolution, nn.ReLU())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_behind_an_activation_in_place, r"batch norm `2` cannot be merged"),
        (_one_norm_behind_two_convolutions, r"batch norms that are used twice"),
        (_two_convolutions_with_one_weight, r"behind layers that share their weights"),
        (_one_convolution_with_a_norm_behind_one_use, r"gives other logits"),
        (_norm_without_scale, r"batch norm `1` cannot be merged: it has no scale"),
        (_pruned_by_torch, r"`0`: its weight is computed anew"),
    ],
)
def test_what_cannot_be_merged_exactly_is_declined_and_left_as_it_was(make, message):
    torch.manual_seed(1)
    model = make()
    snapshot = Snapshot(model)
    with pytest.raises(Unsupported, match=message):
        criteria().get("lrp_epsilon").score(_context(model))
    snapshot.check()


def test_vgg_on_small_images_pools_before_its_hidden_classifier():
    """Its classifier enlarges small maps to 7 x 7 by a pooling that no module shows."""
    torch.manual_seed(0)
    model = VGG([6, "M", 8, "M"], num_classes=10).double().eval()
    # Without biases relevance does not depend on the scale, and large activations leave the stabiliser no part.
    context = _context(model)
    context.reference.images.mul_(1000)
    with tapped(model, context.layers) as taps:
        chosen = model(context.reference.images.clone().requires_grad_()).gather(1, LABELS[:, None])
        names = [layer.name for layer in context.layers]
        gradients = torch.autograd.grad(chosen.sum(), [taps[name] for name in names])
    relevance = _signed(LRP(output="logit"), context)
    for name, gradient in zip(names, gradients, strict=True):
        expected = (taps[name] * gradient).sum((2, 3)).detach()
        torch.testing.assert_close(relevance[name], expected, rtol=1e-3, atol=5e-3 * float(expected.abs().max()))
