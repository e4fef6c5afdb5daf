import math

import pytest
import torch
import torch_pruning as tp
from torch import nn

from networks import GRANULARITIES, images, tiny_network
from pruneboard.benchmark.counts import Size, count_sizes
from pruneboard.benchmark.units import find_layers, masked


def _network(kind):
    if kind != "padded":
        return tiny_network(kind), GRANULARITIES[kind]
    model = tiny_network("resnet")
    # 8 channels become 2 empty ones, the 8, and 2 empty ones.
    model.layer3[0].downsample = nn.Sequential(nn.AvgPool2d(1, 2), nn.ConstantPad3d((0, 0, 0, 0, 2, 2), 0.0))
    return model, "filters"


def _masks(layers, seed, share):
    generator = torch.Generator().manual_seed(seed)
    return {layer.name: torch.rand(layer.n_units, generator=generator) < share for layer in layers}


def _count(model, layers, masks):
    return count_sizes(model, layers, masks, images(1, seed=9))


def _library_macs(model):
    """Multiply-accumulates of convolutions and linear layers as Torch-Pruning counts them, without its bias terms."""
    _, _, by_module, _ = tp.utils.count_ops_and_params(model, images(1), layer_wise=True)
    pixels = {}
    handles = [
        module.register_forward_hook(lambda m, _i, output: pixels.update({m: output[0, 0].numel()}))
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.no_grad():
        model(images(1))
    for handle in handles:
        handle.remove()
    total = 0
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            total += by_module[module] - (0 if module.bias is None else module.out_channels * pixels[module])
        elif isinstance(module, nn.Linear):
            total += by_module[module] - (0 if module.bias is None else module.out_features)
    return total


@pytest.mark.parametrize("kind", ["vgg", "resnet", "bottleneck", "padded", "mobilenet"])
def test_the_unpruned_size_of_convolutional_networks_is_the_librarys(kind):
    model, granularity = _network(kind)
    layers = find_layers(model, granularity, images(1))
    nothing = {layer.name: torch.ones(layer.n_units, dtype=torch.bool) for layer in layers}

    assert _count(model, layers, [nothing]) == (Size(sum(p.numel() for p in model.parameters()), _library_macs(model)),)


@pytest.mark.parametrize("kind", ["vit_neurons", "vit_heads"])
def test_the_unpruned_size_of_a_transformer(kind):
    model, granularity = _network(kind)
    layers = find_layers(model, granularity, images(1))
    nothing = {layer.name: torch.ones(layer.n_units, dtype=torch.bool) for layer in layers}
    (size,) = _count(model, layers, [nothing])
    n_tokens = 4 * 4 + 1
    embedding, classifier = 16 * 3 * 4 * 4 * 24, 24 * 10
    per_block = n_tokens * 24 * 72 + n_tokens * 24 * 24 + 2 * n_tokens * 24 * 48

    assert size.params == sum(p.numel() for p in model.parameters())
    linear = embedding + 2 * per_block + classifier
    # Queries times keys gives 17 x 17 products of 6 numbers for each of 4 heads; attention times values as many.
    assert size.macs == linear + 2 * 2 * 4 * 17 * 17 * 6


def test_filters_removed_for_good_leave_the_size_that_was_counted():
    model, granularity = _network("vgg")
    layers = find_layers(model, granularity, images(1))
    masks = []
    for seed, share in enumerate((0.9, 0.7, 0.5, 0.3, 0.1)):
        drawn = _masks(layers, seed, share)
        for mask in drawn.values():
            mask[seed % len(mask)] = True
        masks.append(drawn)
    for drawn, size in zip(masks, _count(model, layers, masks), strict=True):
        pruned = tiny_network("vgg")
        graph = tp.DependencyGraph().build_dependency(pruned, example_inputs=images(1))
        for layer in layers:
            gone = (~drawn[layer.name]).nonzero().flatten().tolist()
            if gone:
                conv = pruned.get_submodule(layer.name)
                graph.get_pruning_group(conv, tp.prune_conv_out_channels, idxs=gone).prune()
            assert pruned.get_submodule(layer.name).out_channels == int(drawn[layer.name].sum())
        assert size == Size(sum(p.numel() for p in pruned.parameters()), _library_macs(pruned))


class _Tally:
    """Adds up weights one output at a time; liveness and kept outputs are lists of bool."""

    def __init__(self, model):
        self.model, self.params, self.macs = model, 0, 0

    def conv(self, name, live, kept, pixels):
        """Return the number of output pixels per side, given that of the input."""
        module = self.model.get_submodule(name)
        after = (pixels + 2 * module.padding[0] - module.kernel_size[0]) // module.stride[0] + 1
        n_inputs, n_outputs = module.in_channels // module.groups, module.out_channels // module.groups
        assert len(live) == module.in_channels
        assert len(kept) == module.out_channels
        for output in range(module.out_channels):
            if kept[output]:
                first = output // n_outputs * n_inputs
                weights = math.prod(module.kernel_size) * sum(live[first : first + n_inputs])
                self.params += weights + (module.bias is not None)
                self.macs += weights * after * after
        return after

    def norm(self, kept):
        self.params += 2 * sum(kept)

    def linear(self, live, kept, n_tokens=1):
        weights = sum(live) * sum(kept)
        self.params += weights + sum(kept)
        self.macs += weights * n_tokens

    def unit(self, name, live, masks, pixels):
        """A convolution with units and its batch norm; a kept unit is live, a removed one is zero."""
        kept = masks[name].tolist()
        pixels = self.conv(name, live, kept, pixels)
        self.norm(kept)
        return kept, pixels

    @property
    def size(self):
        return Size(self.params, self.macs)


def _either(left, right):
    return [a or b for a, b in zip(left, right, strict=True)]


def _vgg_by_hand(model, masks):
    tally, live, pixels = _Tally(model), [True] * 3, 16
    live, pixels = tally.unit("features.0", live, masks, pixels)
    live, pixels = tally.unit("features.4", live, masks, pixels // 2)
    live, pixels = tally.unit("features.7", live, masks, pixels)
    tally.linear(live, [True] * 10)
    return tally.size


def _resnet_by_hand(model, masks):
    tally, live, pixels = _Tally(model), [True] * 3, 16
    for name in ("conv1.0", "conv1.3", "conv1.6"):
        live, pixels = tally.unit(name, live, masks, pixels)
    pixels = (pixels + 2 - 3) // 2 + 1
    for at in ("layer1.0", "layer2.0", "layer2.1", "layer3.0", "layer4.0"):
        branch, after = live, pixels
        for name in (f"{at}.conv1", f"{at}.conv2", f"{at}.conv3"):
            if name in masks:
                branch, after = tally.unit(name, branch, masks, after)
        shortcut = live
        if f"{at}.downsample.0" in masks:
            shortcut, _ = tally.unit(f"{at}.downsample.0", live, masks, pixels)
        elif f"{at}.downsample.1" in dict(model.named_modules()):
            shortcut = [False] * 2 + live + [False] * 2
        live, pixels = _either(branch, shortcut), after
    tally.linear(live, [True] * 10)
    return tally.size


def _depthwise(tally, name, norm, live, pixels):
    """No units of its own: a channel without input still emits the constant that its batch norm makes of zero."""
    pixels = tally.conv(name, live, [True] * len(live), pixels)
    tally.norm([True] * len(live))
    norm = tally.model.get_submodule(norm)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    constant = (norm.bias - norm.running_mean * scale).tolist()
    return [was or value > 0 for was, value in zip(live, constant, strict=True)], pixels


def _mobilenet_by_hand(model, masks):
    tally, live, pixels = _Tally(model), [True] * 3, 16
    live, pixels = tally.unit("conv_stem", live, masks, pixels)
    live, pixels = _depthwise(tally, "blocks.0.0.conv_dw", "blocks.0.0.bn1", live, pixels)
    live, pixels = tally.unit("blocks.0.0.conv_pw", live, masks, pixels)
    for stage in range(1, 7):
        for index in range(len(model.blocks[stage])):
            at, given, before = f"blocks.{stage}.{index}", live, pixels
            live, pixels = tally.unit(f"{at}.conv_pw", live, masks, pixels)
            live, pixels = _depthwise(tally, f"{at}.conv_dw", f"{at}.bn2", live, pixels)
            live, pixels = tally.unit(f"{at}.conv_pwl", live, masks, pixels)
            if before == pixels and len(given) == len(live) and index > 0:
                live = _either(live, given)
    live, pixels = tally.unit("conv_head", live, masks, pixels)
    tally.linear(live, [True] * 10)
    return tally.size


def _vit_by_hand(model, masks):
    """The residual stream and the layer norms mix everything, so only the units themselves are ever dead."""
    tally, n_tokens, stream = _Tally(model), 17, [True] * 24
    tally.conv("patch_embed.proj", [True] * 3, stream, 16)
    tally.params += 24 + 17 * 24 + 2 * 24
    for at in ("blocks.0", "blocks.1"):
        tally.params += 2 * (2 * 24)
        heads = masks.get(f"{at}.attn", torch.ones(4, dtype=torch.bool)).tolist()
        own = [kept for kept in heads for _ in range(6)]
        tally.linear(stream, own * 3, n_tokens)
        tally.linear(own, stream, n_tokens)
        tally.macs += sum(heads) * 2 * 17 * 17 * 6
        first = masks.get(f"{at}.mlp.fc1", torch.ones(48, dtype=torch.bool)).tolist()
        second = masks.get(f"{at}.mlp.fc2", torch.ones(24, dtype=torch.bool)).tolist()
        tally.linear(stream, first, n_tokens)
        tally.linear(first, second, n_tokens)
    tally.linear(stream, [True] * 10)
    return tally.size


BY_HAND = {
    "vgg": _vgg_by_hand,
    "resnet": _resnet_by_hand,
    "bottleneck": _resnet_by_hand,
    "padded": _resnet_by_hand,
    "mobilenet": _mobilenet_by_hand,
    "vit_neurons": _vit_by_hand,
    "vit_heads": _vit_by_hand,
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_random_masks_against_liveness_by_hand(kind):
    model, granularity = _network(kind)
    layers = find_layers(model, granularity, images(1))
    shares = (1.1, 0.95, 0.7, 0.5, 0.5, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02)
    masks = [_masks(layers, seed, share) for seed, share in enumerate(shares)]
    # A whole layer that is gone, and a network of which one layer is left.
    masks.append({**masks[0], layers[-2].name: torch.zeros_like(masks[0][layers[-2].name])})
    masks.append({**_masks(layers, 0, 0.0), layers[1].name: masks[0][layers[1].name]})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sizes = _count(model, layers, masks)
    for at_rate, size in zip(masks, sizes, strict=True):
        assert size == BY_HAND[kind](model, at_rate)

    assert len(set(sizes)) > (4 if kind == "vit_heads" else 8)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("kind", BY_HAND)
def test_with_everything_removed_only_what_holds_no_units_is_left(kind):
    model, granularity = _network(kind)
    layers = find_layers(model, granularity, images(1))
    (size,) = _count(model, layers, [{layer.name: torch.zeros(layer.n_units, dtype=torch.bool) for layer in layers}])
    if kind in ("vgg", "resnet", "bottleneck", "padded"):
        # The bias of the classifier: its weights meet no live input.
        assert size == Size(10, 0)
    elif kind == "mobilenet":
        depthwise = sum(len(m.bias) for name, m in model.named_modules() if _follows_depthwise(name))
        assert size == Size(10 + 2 * depthwise, 0)
    else:
        total, macs = sum(p.numel() for p in model.parameters()), BY_HAND[kind](model, {}).macs
        mlp, qkv, proj = 24 * 48 + 48 + 48 * 24 + 24, 24 * 72 + 72, 24 * 24
        if kind == "vit_neurons":
            assert size == Size(total - 2 * mlp, macs - 2 * 17 * 2 * 24 * 48)
        else:
            assert size == Size(total - 2 * (qkv + proj), macs - 2 * 17 * (24 * 72 + 24 * 24) - 2 * 2 * 4 * 17 * 17 * 6)


def _follows_depthwise(name):
    return name == "blocks.0.0.bn1" or (name.endswith(".bn2") and name != "blocks.0.0.bn2")


@pytest.mark.parametrize("kind", ["resnet", "mobilenet", "vit_heads"])
def test_many_rates_in_one_pass_are_each_counted_alone(kind):
    model, granularity = _network(kind)
    layers = find_layers(model, granularity, images(1))
    masks = [_masks(layers, seed, 0.6) for seed in range(4)]

    assert _count(model, layers, masks) == tuple(_count(model, layers, [one])[0] for one in masks)
    assert count_sizes(model, layers, masks, torch.zeros(1, 3, 16, 16)) == _count(model, layers, masks)


def test_channels_that_only_a_removed_branch_filled_are_dead_for_everyone_behind():
    model, granularity = _network("padded")
    layers = find_layers(model, granularity, images(1))
    everything = {layer.name: torch.ones(layer.n_units, dtype=torch.bool) for layer in layers}
    without = {**everything, "layer3.0.conv2": torch.tensor([False] * 2 + [True] * 10)}
    full, size = _count(model, layers, [everything, without])
    lost_here = 2 * (12 * 9 + 2)
    lost_behind = 2 * 9 * 12 + 2 * 12

    assert full.params - size.params == lost_here + lost_behind
    with torch.no_grad(), masked(model, layers, without):
        expected = model(images())
        for reader in (model.layer4[0].conv1, model.layer4[0].downsample[0]):
            reader.weight[:, :2] += 10
        assert torch.equal(model(images()), expected)
        model.layer4[0].conv1.weight[:, 2] += 10
        assert not torch.equal(model(images()), expected)
