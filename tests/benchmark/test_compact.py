"""Programs that compute only what is left, held to the masked network and to a count of what torch computes."""

import pytest
import timm
import torch
from timm.models.resnet import Bottleneck, ResNet
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from networks import GRANULARITIES, draw_norm, images, tiny_network
from pruneboard.benchmark import plugins
from pruneboard.benchmark.compact import TOLERANCE, CompactNetwork, NotCompactable
from pruneboard.benchmark.counts import count_sizes
from pruneboard.benchmark.evaluate import Evaluation, accuracy_curve, measure, prepare_pruning
from pruneboard.benchmark.ranking import masks_at, rank
from pruneboard.benchmark.units import Layer, find_layers, masked

OURS = [
    ("digits_vgg", "filters"),
    ("digits_resnet", "filters"),
    ("digits_vit", "neurons"),
    ("digits_vit", "heads"),
    ("toy_moons", "neurons"),
    ("cifar_resnet20", "filters"),
]
FOREIGN = [
    ("resnet18", "filters"),
    ("resnet50", "filters"),
    ("mobilenetv2_100", "filters"),
    *(
        pytest.param((name, "filters"), marks=pytest.mark.slow)
        for name in ("resnext50_32x4d", "mobilenetv3_small_100", "densenet121", "regnety_002", "efficientnet_b0")
    ),
]
RATES = [0.0, 0.05, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def of(name):
    """A network with layers and images; ours with random weights, as their files may be missing."""
    torch.manual_seed(0)
    if name in GRANULARITIES:
        return tiny_network(name), GRANULARITIES[name], (3, 16, 16)
    name, granularity = name
    if (name, granularity) in OURS:
        plugin = plugins.models().get(name)
        return shaken(plugin.build()), granularity, plugin.input_size
    return shaken(timm.create_model(name, num_classes=10)), granularity, (3, 32, 32)


def shaken(model):
    """Give every batch norm statistics and parameters that differ from the identity."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            draw_norm(module)
    return model.eval()


def drawn(*size):
    return torch.randn(*size, generator=torch.Generator().manual_seed(1))


def ranked(layers, seed=0):
    """Some layers score higher than others, so that whole layers go at high rates."""
    generator = torch.Generator().manual_seed(seed)
    scores = {layer.name: torch.rand(layer.n_units, generator=generator) + i % 3 for i, layer in enumerate(layers)}
    return rank(scores, "global", generator)


def assert_same(model, layers, masks, programs, x):
    for at_rate, program in zip(masks, programs, strict=True):
        with masked(model, layers, at_rate):
            expected = model(x)
        ours = program(x)
        assert ours.shape == expected.shape
        assert bool(((ours - expected).abs().amax(dim=1) <= TOLERANCE * expected.abs().amax(dim=1)).all())


@pytest.mark.parametrize("name", [*GRANULARITIES, *OURS, *FOREIGN], ids=str)
def test_the_logits_are_those_of_the_masked_network(name):
    model, granularity, size = of(name)
    layers = find_layers(model, granularity, drawn(1, *size))
    compact = CompactNetwork(model, layers, drawn(3, *size))
    masks = [masks_at(ranked(layers), rate) for rate in RATES]
    # The number of images is neither of those that were traced.
    assert_same(model, layers, masks, compact.programs(masks), drawn(5, *size))
    assert_same(model, layers, masks[:2], compact.programs(masks[:2]), drawn(1, *size))


@pytest.mark.parametrize("name", [*GRANULARITIES, *OURS], ids=str)
def test_layers_without_any_unit(name):
    model, granularity, size = of(name)
    layers = find_layers(model, granularity, drawn(1, *size))
    compact = CompactNetwork(model, layers, drawn(3, *size))
    everything = {layer.name: torch.ones(layer.n_units, dtype=torch.bool) for layer in layers}
    masks = [
        everything | {name: torch.zeros_like(everything[name]) for name in gone}
        for gone in ([layers[0].name], [layers[-1].name], [layer.name for layer in layers])
    ]
    assert_same(model, layers, masks, compact.programs(masks), drawn(4, *size))


def computed(call, x):
    """Multiply-accumulates of convolutions, linear layers and attention for one image, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        call(x)
    return counter.get_total_flops() // 2 // len(x)


@pytest.mark.parametrize("name", [*GRANULARITIES, *OURS], ids=str)
def test_no_more_is_computed_than_what_is_left(name):
    """Zeros may be computed where that costs no time, to fill a vector or the width of a residual sum; a chain of
    convolutions computes exactly what is counted."""
    model, granularity, size = of(name)
    layers = find_layers(model, granularity, drawn(1, *size))
    compact = CompactNetwork(model, layers, drawn(3, *size))
    masks = [masks_at(ranked(layers), rate) for rate in (0.3, 0.6)]
    sizes = count_sizes(model, layers, masks, drawn(1, *size))
    whole = computed(model, drawn(2, *size))
    for size_left, program in zip(sizes, compact.programs(masks), strict=True):
        macs = computed(program, drawn(2, *size))
        assert macs < whole
        if name in ("vgg", ("digits_vgg", "filters")) or granularity == "heads":
            assert macs <= size_left.macs
        else:
            assert macs <= 1.35 * size_left.macs


@pytest.mark.parametrize("name", GRANULARITIES)
def test_the_network_is_left_as_it_was(name):
    model, granularity, size = of(name)
    layers = find_layers(model, granularity, drawn(1, *size))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = drawn(4, *size)
    logits = model(x)
    images_before = x.clone()
    compact = CompactNetwork(model, layers, x)
    for program in compact.programs([masks_at(ranked(layers), 0.5)]):
        program(x)
        assert torch.equal(program(x), program(x))
    assert torch.equal(x, images_before)
    assert torch.equal(model(x), logits)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Branching(nn.Module):
    """Takes another way for bright images, which no trace can show."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        y = self.conv(x)
        if float(y.mean()) > 0.1:
            y = y * 2
        return self.head(y.mean((2, 3)))


class Chunked(Branching):
    """Writes into a part of a value, which has an effect on the whole."""

    def forward(self, x):
        y = self.conv(x)
        y[:, :4].mul_(2.0)
        return self.head(y.mean((2, 3)))


class Unusual(Branching):
    """Uses operations that have no rule."""

    def forward(self, x):
        y = torch.cumsum(self.conv(x), 1)
        y = torch.roll(y, 1, 1) + torch.einsum("nchw,kc->nkhw", y, self.conv.weight.mean((2, 3)) @ torch.ones(3, 8))
        return self.head(torch.logsumexp(y, (2, 3)))


@pytest.mark.parametrize("network", [Branching, Chunked])
def test_what_cannot_be_compacted_is_masked_and_says_so(network):
    torch.manual_seed(0)
    model = network().eval()
    layers = find_layers(model, "filters", images(1))
    pruning = prepare_pruning(model, layers, images(4))
    ranking = ranked(layers)
    evaluation = Evaluation(images(16), torch.arange(16) % 10)
    (point,) = accuracy_curve(pruning, ranking, [0.5], evaluation)
    with masked(model, layers, masks_at(ranking, 0.5)):
        expected = measure(model, Evaluation(images(16), torch.arange(16) % 10))
    assert (point.top1, point.top5, point.cross_entropy) == (expected.top1, expected.top5, expected.cross_entropy)
    if network is not Chunked:
        assert pruning.how.startswith("masked: ")
        assert "\n" not in pruning.how


def test_operations_without_a_rule_get_whole_values():
    torch.manual_seed(0)
    model = Unusual().eval()
    layers = find_layers(model, "filters", images(1))
    compact = CompactNetwork(model, layers, images(4))
    masks = [masks_at(ranked(layers), rate) for rate in RATES]
    assert_same(model, layers, masks, compact.programs(masks), images(6))


def test_a_network_whose_trace_misleads_is_refused(monkeypatch):
    """The check on random masks is what stands between a wrong rule and a wrong table."""
    from pruneboard.benchmark.compact import _rules

    model = tiny_network("vgg")
    layers = find_layers(model, "filters", images(1))
    monkeypatch.setattr(_rules.Affine, "takes", lambda self, step, given, facts: [None])
    with pytest.raises(NotCompactable):
        CompactNetwork(model, layers, images(4))


@pytest.mark.parametrize("kind", GRANULARITIES)
def test_predictions_are_those_of_masking_even_where_logits_tie(kind):
    """The classifier gives every second class the logits of the class before, so that only exactness decides."""
    model = tiny_network(kind)
    *_, head = (module for module in model.modules() if isinstance(module, nn.Linear))
    head.weight[1::2] = head.weight[::2]
    head.bias[1::2] = head.bias[::2]
    layers = find_layers(model, GRANULARITIES[kind], images(1))
    ranking = ranked(layers)
    evaluation = Evaluation(images(64, seed=3), torch.arange(64) % 10)
    pruning = prepare_pruning(model, layers, images(4))
    assert pruning.how == "compact"
    for point in accuracy_curve(pruning, ranking, RATES, evaluation):
        with masked(model, layers, masks_at(ranking, point.rate)):
            expected = measure(model, evaluation)
        assert (point.top1, point.top5) == (expected.top1, expected.top5)


def test_decisions_within_rounding_are_left_to_the_masked_network():
    from pruneboard.benchmark.evaluate import _is_doubtful

    logits = torch.tensor(
        [[1.0, 1.0 - 1e-6, 0, 0, 0, 0], [1.0, 0.9, 0, 0, 0, 0], [5.0, 4.0, 3.0, 2.0, 1.0, 1.0 + 1e-5]]
    )

    def doubtful(logits, labels):
        return _is_doubtful(logits, Evaluation(torch.empty(0), torch.tensor(labels))).tolist()

    assert doubtful(logits, [1, 1, 4]) == [True, False, True]
    assert doubtful(logits, [0, 0, 0]) == [True, False, False]
    assert doubtful(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), [0, 0]) == [True, False]


def test_a_bottleneck_with_depthwise_and_dilated_convolutions():
    torch.manual_seed(0)
    model = shaken(ResNet(Bottleneck, (1, 1, 1, 1), num_classes=10, output_stride=8, cardinality=4, base_width=8))
    layers = find_layers(model, "filters", drawn(1, 3, 32, 32))
    compact = CompactNetwork(model, layers, drawn(3, 3, 32, 32))
    masks = [masks_at(ranked(layers), rate) for rate in RATES]
    assert_same(model, layers, masks, compact.programs(masks), drawn(4, 3, 32, 32))


def test_a_tap_that_others_read_around():
    """What is removed at the tap is still there for who reads the layer's own output."""

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
            self.head = nn.Linear(16, 10)

        def forward(self, x):
            y = self.conv(x)
            return self.head(torch.cat([self.norm(y), y], 1).mean((2, 3)))

    torch.manual_seed(0)
    model = shaken(Around())
    layers = find_layers(model, "filters", images(1))
    assert layers == (Layer("conv", "filters", 8, "norm", "output"),)
    compact = CompactNetwork(model, layers, images(4))
    masks = [masks_at(ranked(layers), rate) for rate in RATES]
    assert_same(model, layers, masks, compact.programs(masks), images(6))


class Two(nn.Module):
    """Two convolutions, with something unusual between them."""

    def __init__(self, between):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.between, self.head = between, nn.Linear(8, 10)

    def forward(self, x):
        t = self.between(self, self.norm1(self.conv1(x)).relu())
        t = self.norm2(self.conv2(t)).relu()
        return self.head(nn.functional.adaptive_avg_pool2d(t, 1).squeeze())


def overlapping(_net, t):
    t = torch.cat([t, t[:, :1]], 1)
    return t[:, 1:] + t[:, :-1]


def read_again(_net, t):
    u = torch.einsum("nchw->nhwc", t)
    return u.relu().permute(0, 3, 1, 2) - 0.5 * t


def gated(_net, t):
    return t.mean((2, 3), keepdim=True).expand_as(t) + t


def gated_in_place(_net, t):
    return t.mean((2, 3), keepdim=True).expand_as(t).relu() * t


def transposed(_net, t):
    return t + t.transpose(2, 3)


def in_parts(_net, t):
    first, second = t.chunk(2, 1)
    return torch.cat([second, first], 1)


def scaled(net, t):
    return nn.functional.batch_norm(t, net.norm1.running_mean, net.norm1.running_var, net.norm1.weight.exp(), None)


def recomputed(net, t):
    return nn.functional.conv2d(t, net.conv2.weight, net.conv2.bias * 2, padding=1).relu()


@pytest.mark.parametrize(
    "between", [overlapping, read_again, gated, gated_in_place, transposed, in_parts, scaled, recomputed]
)
def test_memory_that_is_shared_is_not_written_to(between):
    """Each layer whole while the other loses units, so that values are handed on as they are; and each mask alone."""
    torch.manual_seed(0)
    model = shaken(Two(between))
    layers = find_layers(model, "filters", images(1))
    compact = CompactNetwork(model, layers, images(4))
    everything = {layer.name: torch.ones(layer.n_units, dtype=torch.bool) for layer in layers}
    for layer in layers:
        for unit in range(layer.n_units):
            one = {name: mask.clone() for name, mask in everything.items()}
            one[layer.name][unit] = False
            assert_same(model, layers, [one], compact.programs([one]), images(6, seed=9))


def rarely(_net, t):
    return torch.where(t > 6.0, 6.0 + 0.1 * (t - 6.0), t)


def test_decisions_by_values_of_the_image_are_not_frozen():
    torch.manual_seed(0)
    model = shaken(Two(rarely))
    with pytest.raises(NotCompactable, match="decides by values"):
        CompactNetwork(model, find_layers(model, "filters", images(1)), images(4))


class Attending(nn.Module):
    """Splits what is no activation: the images, and the weights of torch's own attention."""

    def __init__(self):
        super().__init__()
        self.conv, self.attention = nn.Conv2d(1, 8, 3), nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        red, green, _ = x.chunk(3, 1)
        tokens = self.conv(red + green).flatten(2).transpose(1, 2)
        return self.head(self.attention(tokens.mean(1, keepdim=True), tokens, tokens)[0][:, 0])


def test_parts_of_images_and_of_parameters():
    torch.manual_seed(0)
    model = Attending().eval()
    layers = find_layers(model, "filters", images(1))
    pruning = prepare_pruning(model, layers, images(4))
    ranking, evaluation = ranked(layers), Evaluation(images(16), torch.arange(16) % 10)
    (point,) = accuracy_curve(pruning, ranking, [0.5], evaluation)
    with masked(model, layers, masks_at(ranking, 0.5)):
        assert point.top1 == measure(model, evaluation).top1


def test_a_norm_of_tokens_behind_a_linear_layer_is_not_folded():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear, self.norm = nn.Conv2d(3, 8, 5), nn.Linear(8, 8), nn.BatchNorm1d(144)
            self.head = nn.Linear(8, 10)

        def forward(self, x):
            return self.head(self.norm(self.linear(self.conv(x).flatten(2).transpose(1, 2))).mean(1))

    torch.manual_seed(0)
    model = Tokens().eval()
    nn.init.uniform_(model.norm.running_var, 0.5, 1.5)
    layers = find_layers(model, "filters", images(1))
    compact = CompactNetwork(model, layers, images(4))
    masks = [masks_at(ranked(layers), rate) for rate in RATES]
    assert_same(model, layers, masks, compact.programs(masks), images(6))


def test_networks_that_mix_images_are_measured_as_masks_do():
    torch.manual_seed(0)
    model = Two(lambda _net, t: t).eval()
    model.norm1 = nn.BatchNorm2d(8, track_running_stats=False)
    layers = find_layers(model, "filters", images(1))
    pruning, ranking = prepare_pruning(model, layers, images(4)), ranked(layers)
    evaluation = Evaluation(images(90), torch.arange(90) % 10, batch_size=45)
    for point in accuracy_curve(pruning, ranking, [0.2, 0.5], evaluation):
        with masked(model, layers, masks_at(ranking, point.rate)):
            expected = measure(model, evaluation)
        assert (point.top1, point.top5) == (expected.top1, expected.top5)


def test_a_program_that_breaks_later_gives_way_to_masks(monkeypatch):
    model = tiny_network("vgg")
    layers = find_layers(model, "filters", images(1))
    pruning, ranking = prepare_pruning(model, layers, images(4)), ranked(layers)
    evaluation = Evaluation(images(16), torch.arange(16) % 10)
    monkeypatch.setattr(CompactNetwork, "programs", lambda self, masks: iter([lambda images: images[:, 0, 0, :10]]))
    for point in accuracy_curve(pruning, ranking, [0.3, 0.6], evaluation):
        with masked(model, layers, masks_at(ranking, point.rate)):
            expected = measure(model, evaluation)
        assert (point.top1, point.cross_entropy) == (expected.top1, expected.cross_entropy)
