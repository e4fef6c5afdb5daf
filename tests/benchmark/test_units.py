import pytest
import timm
import torch
from torch import nn

from networks import GRANULARITIES, images, tiny_network
from pruneboard.benchmark.errors import ModelError
from pruneboard.benchmark.units import by_unit, find_layers, masked, pool, tapped, unit_weights


@pytest.mark.parametrize(
    ("name", "granularity", "n_units", "n_layers"),
    [
        ("vgg16", "filters", 4224, 13),
        ("vgg16_bn", "filters", 4224, 13),
        ("resnet18", "filters", 4800, 20),
        ("resnet50", "filters", 26560, 53),
        ("vit_base_patch16_224", "neurons", 46080, 24),
        ("vit_base_patch16_224", "heads", 144, 12),
    ],
)
def test_unit_counts_of_the_papers_networks(name, granularity, n_units, n_layers):
    with torch.device("meta"):
        model = timm.create_model(name).eval()
        example = torch.zeros(1, 3, 224, 224)
    layers = find_layers(model, granularity, example)

    assert (sum(layer.n_units for layer in layers), len(layers)) == (n_units, n_layers)
    has_norm = name in ("vgg16_bn", "resnet18", "resnet50")
    assert all((layer.tap != layer.name) == has_norm for layer in layers if granularity == "filters")


def plain_network(n_hidden=3, width=7, seed=0):
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        hidden = [part for _ in range(n_hidden - 1) for part in (nn.Linear(width, width), nn.ReLU())]
        return nn.Sequential(
            nn.Flatten(), nn.Linear(2, width), nn.ReLU(), nn.Dropout(), *hidden, nn.Linear(width, 3)
        ).eval()


def test_neurons_of_a_plain_perceptron_are_the_outputs_of_all_linear_layers_but_the_last():
    layers = find_layers(plain_network(), "neurons", torch.zeros(1, 2, 1, 1))

    assert [(layer.name, layer.n_units, layer.tap, layer.tap_side) for layer in layers] == [
        (name, 7, name, "output") for name in ("1", "4", "6")
    ]
    for kind in ("vgg", "resnet"):
        with pytest.raises(ModelError, match="has none with `neurons`"):
            find_layers(tiny_network(kind), "neurons", images())
    attention = nn.Sequential(nn.MultiheadAttention(4, 2), nn.Linear(4, 4), nn.Linear(4, 2))
    for other in (attention, nn.Sequential(nn.Flatten(), nn.Linear(2, 3)), nn.Sequential(nn.ReLU())):
        with pytest.raises(ModelError, match="has none with `neurons`"):
            find_layers(other, "neurons", torch.zeros(1, 2, 1, 1))


def test_masked_neurons_equal_a_network_without_them():
    """The smaller network is built from the rows and columns that are left."""
    model = plain_network()
    layers = find_layers(model, "neurons", torch.zeros(1, 2, 1, 1))
    generator = torch.Generator().manual_seed(3)
    masks = {layer.name: torch.rand(7, generator=generator) > 0.4 for layer in layers}
    inputs = torch.randn(9, 2, 1, 1, generator=generator)
    smaller, live = [], torch.ones(2, dtype=torch.bool)
    for name, module in model.named_children():
        if not isinstance(module, nn.Linear):
            smaller.append(module)
            continue
        kept = masks.get(name, torch.ones(module.out_features, dtype=torch.bool))
        linear = nn.Linear(int(live.sum()), int(kept.sum()))
        linear.weight.data, linear.bias.data = module.weight.data[kept][:, live], module.bias.data[kept]
        smaller.append(linear)
        live = kept
    with torch.no_grad(), masked(model, layers, masks):
        actual = model(inputs)

    assert not all(bool(mask.all()) for mask in masks.values())
    torch.testing.assert_close(actual, nn.Sequential(*smaller)(inputs))


def test_depthwise_gates_embeddings_and_classifiers_hold_no_units():
    model = timm.create_model("efficientnet_b0", num_classes=10).eval()
    names = {layer.name for layer in find_layers(model, "filters", torch.zeros(1, 3, 32, 32))}

    assert "conv_stem" in names
    assert "blocks.1.0.conv_pw" in names
    assert "blocks.1.0.conv_pwl" in names
    assert not any("conv_dw" in name or ".se." in name for name in names)
    with pytest.raises(ModelError, match="has none with `filters`"):
        find_layers(tiny_network("vit_heads"), "filters", images())
    with pytest.raises(ModelError, match="has none with `heads`"):
        find_layers(tiny_network("vgg"), "heads", images())


def test_batch_norm_is_paired_by_data_flow_and_not_by_order_of_registration():
    # Pre-activation: the norm registered after the last convolution of a block reads the residual sum.
    model = timm.create_model("resnetv2_18", num_classes=10).eval()
    layers = find_layers(model, "filters", torch.zeros(1, 3, 32, 32))

    taps = {layer.name: layer.tap for layer in layers}
    assert taps["stages.0.blocks.0.conv1"] == "stages.0.blocks.0.norm2"
    assert taps["stages.0.blocks.0.conv2"] == "stages.0.blocks.0.conv2"


@pytest.mark.parametrize("kind", GRANULARITIES)
def test_masking_equals_zeroing_by_hand(kind):
    """Independent of the hooks: zero the tap's own parameters, or the columns that read a head."""
    model, granularity = tiny_network(kind), GRANULARITIES[kind]
    layers = find_layers(model, granularity, images(1))
    generator = torch.Generator().manual_seed(1)
    masks = {layer.name: torch.rand(layer.n_units, generator=generator) > 0.4 for layer in layers}
    by_hand = tiny_network(kind)
    for layer in layers:
        removed = ~masks[layer.name]
        tap = by_hand.get_submodule(layer.tap)
        with torch.no_grad():
            if granularity == "heads":
                tap.weight.view(tap.out_features, layer.n_units, -1)[:, removed] = 0
            else:
                tap.weight[removed] = 0
                tap.bias[removed] = 0
    with torch.no_grad(), masked(model, layers, masks):
        actual = model(images())
    with torch.no_grad():
        expected = by_hand(images())
    assert not torch.allclose(expected, model(images()))

    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("kind", GRANULARITIES)
def test_nothing_masked_is_the_unpruned_network_bit_for_bit_and_the_network_is_restored(kind):
    model = tiny_network(kind)
    layers = find_layers(model, GRANULARITIES[kind], images(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        expected = model(images())
        with masked(model, layers, {layer.name: torch.ones(layer.n_units, dtype=torch.bool) for layer in layers}):
            actual = model(images())
        with (
            pytest.raises(RuntimeError, match="inside"),
            masked(model, layers, {layer.name: torch.zeros(layer.n_units, dtype=torch.bool) for layer in layers}),
        ):
            raise RuntimeError("inside")
        after = model(images())

    assert torch.equal(actual, expected)
    assert torch.equal(after, expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("kind", GRANULARITIES)
def test_each_image_can_have_its_own_mask(kind):
    model, granularity = tiny_network(kind), GRANULARITIES[kind]
    layers = find_layers(model, granularity, images(1))
    generator = torch.Generator().manual_seed(2)
    masks = {layer.name: torch.rand(4, layer.n_units, generator=generator) > 0.5 for layer in layers}
    with torch.no_grad():
        with masked(model, layers, masks):
            together = model(images(4))
        for index in range(4):
            with masked(model, layers, {name: mask[index] for name, mask in masks.items()}):
                torch.testing.assert_close(model(images(4)[index : index + 1]), together[index : index + 1])


def test_a_mask_that_fits_no_layer_is_refused():
    model = tiny_network("vgg")
    layers = find_layers(model, "filters", images(1))
    wrong = [{"nowhere": torch.ones(6, dtype=torch.bool)}, {layers[0].name: torch.ones(5, dtype=torch.bool)}]
    wrong.append({layers[0].name: torch.ones(6)})
    for masks in wrong:
        with pytest.raises(ModelError, match="a mask must fit its layer"), masked(model, layers, masks):
            pass


@pytest.mark.parametrize("kind", GRANULARITIES)
def test_tapped_gradients_are_those_of_the_tap_despite_in_place_operations(kind):
    """Finite differences on a perturbation that is added at the tap, in float64."""
    model = tiny_network(kind).double()
    layers = find_layers(model, GRANULARITIES[kind], images(1).double())
    inputs = images(2).double().requires_grad_()
    with tapped(model, layers) as taps:
        logits = model(inputs)
        gradients = torch.autograd.grad(logits[:, 3].sum(), [taps[layer.name] for layer in layers])
    for layer, gradient in zip(layers, gradients, strict=True):
        direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        numeric = (
            _with_added(model, layer, inputs, 1e-6 * direction) - _with_added(model, layer, inputs, -1e-6 * direction)
        ) / 2e-6
        torch.testing.assert_close((gradient * direction).sum(), numeric, rtol=1e-4, atol=1e-7)


def _with_added(model, layer, inputs, amount):
    tap = model.get_submodule(layer.tap)
    if layer.tap_side == "output":
        handle = tap.register_forward_hook(lambda _m, _i, output: output + amount)
    else:
        handle = tap.register_forward_pre_hook(lambda _m, given: (given[0] + amount,))
    with torch.no_grad():
        value = model(inputs)[:, 3].sum()
    handle.remove()
    return value


def test_pool_takes_the_absolute_value_where_it_is_told_to():
    heads = find_layers(tiny_network("vit_heads"), "heads", images(1))[0]
    values = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(4))
    split = values.reshape(2, 5, 4, 6).sum(-1)

    assert by_unit(heads, values).shape == (2, 5, 4, 6)
    torch.testing.assert_close(pool(heads, values), split.sum(1))
    torch.testing.assert_close(pool(heads, values, absolute="image"), split.sum(1).abs())
    torch.testing.assert_close(pool(heads, values, absolute="token"), split.abs().sum(1))
    torch.testing.assert_close(pool(heads, values, absolute="pxp"), split.abs().sum(1))
    torch.testing.assert_close(pool(heads, values, absolute="total"), split.sum(1))
    torch.testing.assert_close(pool(heads, values, mean=True), split.mean(1))

    filters = find_layers(tiny_network("vgg"), "filters", images(1))[0]
    maps = torch.randn(2, 6, 3, 3, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(pool(filters, maps), maps.sum((2, 3)))
    torch.testing.assert_close(pool(filters, maps, absolute="pxp"), maps.sum((2, 3)).abs())


def test_weights_of_a_head_are_those_that_silence_it():
    """Zeroing a head's own weights and biases must have the effect of masking it."""
    model = tiny_network("vit_heads")
    layer = find_layers(model, "heads", images(1))[0]
    assert unit_weights(model, layer).shape == (4, 3 * 6 * 24 + 24 * 6)
    by_hand = tiny_network("vit_heads")
    attention = by_hand.get_submodule(layer.name)
    assert isinstance(attention.qkv, nn.Linear)
    before = unit_weights(by_hand, layer).clone()
    with torch.no_grad():
        for part in range(3):
            attention.qkv.weight[part * 24 + 2 * 6 : part * 24 + 3 * 6] = 0
            attention.qkv.bias[part * 24 + 2 * 6 : part * 24 + 3 * 6] = 0
        attention.proj.weight[:, 12:18] = 0
    after = unit_weights(by_hand, layer)
    mask = torch.tensor([True, True, False, True])
    with torch.no_grad(), masked(model, [layer], {layer.name: mask}):
        torch.testing.assert_close(model(images()), by_hand(images()))

    assert torch.equal(after[mask], before[mask])
    assert not after[2].any()
