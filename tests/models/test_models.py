import dataclasses
import hashlib

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import ResNet
from timm.models.vgg import VGG
from timm.models.vision_transformer import VisionTransformer
from torch.nn.functional import avg_pool2d, batch_norm, conv2d, linear, pad, relu

from pruneboard.benchmark.assets import tensors_digest
from pruneboard.benchmark.counts import Size, count_sizes
from pruneboard.benchmark.data import open_dataset
from pruneboard.benchmark.errors import AssetError, ModelError
from pruneboard.benchmark.evaluate import Evaluation, measure
from pruneboard.benchmark.plugins import models
from pruneboard.benchmark.units import find_layers

SHIPPED = ("digits_resnet", "digits_vgg", "digits_vit", "cifar_vgg16_bn_half", "cifar_vit_small")
ZOO = (
    *("cifar_resnet18", "cifar_vgg16_bn", "cifar_vit"),
    *("imagenette_resnet18", "imagenette_vgg16_bn", "imagenette_vit"),
)
ALL = ("cifar_resnet20", "cifar_resnet56", "mobilenetv2", "mobilenetv2_cifar10", *ZOO, *SHIPPED)
CLASSES = {"VGG": VGG, "ResNet": ResNet, "ViT": VisionTransformer, "MobileNet": EfficientNet}


def evaluate(plugin, dataset):
    split = open_dataset(dataset).split("test")
    stored, labels = split.stored(size=plugin.input_size), torch.from_numpy(split.labels)
    return measure(plugin.load(), Evaluation(stored, labels, plugin.prepare))


def built(plugin, seed=0):
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return plugin.build()


def test_these_models_are_registered():
    assert set(ALL) <= set(models().names())


@pytest.mark.parametrize(("name", "n_right"), [("digits_vgg", 596), ("digits_resnet", 592), ("digits_vit", 582)])
def test_shipped_weights_classify_the_digits(name, n_right):
    accuracy = evaluate(models().get(name), "digits")

    assert accuracy.n_images == 599
    # Another processor may round an image or two to the other side.
    assert accuracy.top1 == pytest.approx(n_right / 599, abs=2.5 / 599)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "n_right"), [("cifar_vgg16_bn_half", 8508), ("cifar_vit_small", 7377)])
def test_shipped_weights_classify_the_photographs(name, n_right, shared_data, monkeypatch):
    monkeypatch.setenv("PRUNEBOARD_DATA", str(shared_data))
    accuracy = evaluate(models().get(name), "cifar10-jpeg")

    assert accuracy.n_images == 10_000
    assert accuracy.top1 == pytest.approx(n_right / 10_000, abs=5 / 10_000)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_are_the_recorded_ones(name):
    plugin = models().get(name)
    path = plugin.weights.package / plugin.weights.file
    with safe_open(path, "pt") as file:
        metadata = file.metadata()

    assert hashlib.sha256(path.read_bytes()).hexdigest() == plugin.weights.sha256
    assert tensors_digest(load_file(path)) == plugin.weights.digest
    assert path.stat().st_size < 10_000_000
    assert list(metadata) == ["pruneboard"]


@pytest.mark.parametrize(
    ("name", "granularity", "n_units", "n_layers"),
    [
        ("digits_vgg", "filters", 12 + 12 + 24 + 24 + 64 + 64, 6),
        ("digits_resnet", "filters", 12 + 2 * 12 + 3 * 24 + 3 * 48, 9),
        ("digits_vit", "neurons", 3 * (64 + 32), 6),
        ("digits_vit", "heads", 3 * 8, 3),
        ("cifar_resnet20", "filters", 16 + 3 * 2 * (16 + 32 + 64), 19),
        ("cifar_resnet56", "filters", 16 + 9 * 2 * (16 + 32 + 64), 55),
        # The stem, the convolution to the widest layer, and of 17 blocks 16 that widen (6 times) and 17 that narrow.
        ("mobilenetv2", "filters", 32 + 1280 + 6 * 1072 + 2176, 35),
        ("mobilenetv2_cifar10", "filters", 32 + 1280 + 6 * 1072 + 2176, 35),
        ("cifar_vgg16_bn", "filters", 4224, 13),
        ("cifar_vgg16_bn_half", "filters", 2112, 13),
        ("cifar_resnet18", "filters", 4800, 20),
        ("cifar_vit", "neurons", 9 * (768 + 192), 18),
        ("cifar_vit", "heads", 9 * 6, 9),
        ("cifar_vit_small", "neurons", 6 * (256 + 128), 12),
        ("cifar_vit_small", "heads", 6 * 4, 6),
        ("imagenette_resnet18", "filters", 4800, 20),
        ("imagenette_vgg16_bn", "filters", 4224, 13),
        ("imagenette_vit", "neurons", 9 * (768 + 192), 18),
        ("imagenette_vit", "heads", 9 * 6, 9),
    ],
)
def test_units(name, granularity, n_units, n_layers):
    plugin = models().get(name)
    layers = find_layers(built(plugin).eval(), granularity, torch.zeros(1, *plugin.input_size))

    assert (sum(layer.n_units for layer in layers), len(layers)) == (n_units, n_layers)
    assert granularity in plugin.granularities
    assert all((layer.tap != layer.name) == (granularity == "filters") for layer in layers if granularity != "heads")


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("digits_vgg", Size(61_118, 417_664)),
        ("digits_resnet", Size(44_014, 431_328)),
        ("digits_vit", Size(26_762, 475_648)),
        ("cifar_resnet20", Size(269_722, 40_551_040)),
        ("cifar_resnet56", Size(853_018, 125_485_696)),
        ("mobilenetv2", Size(3_504_872, 300_774_272)),
        ("mobilenetv2_cifar10", Size(2_236_682, 24_461_312)),
        ("cifar_vgg16_bn", Size(14_728_266, 313_201_664)),
        ("cifar_vgg16_bn_half", Size(3_686_954, 78_744_064)),
        ("cifar_resnet18", Size(11_173_962, 555_422_720)),
        ("cifar_vit", Size(4_028_170, 273_978_624)),
        ("cifar_vit_small", Size(811_146, 58_002_176)),
        ("imagenette_resnet18", Size(11_689_512, 592_695_296)),
        ("imagenette_vgg16_bn", Size(15_236_136, 5_011_656_704)),
        ("imagenette_vit", Size(4_357_480, 283_016_064)),
    ],
)
def test_sizes_are_those_of_the_cards(name, size):
    plugin = models().get(name)
    network, example = built(plugin).eval(), torch.zeros(1, *plugin.input_size)
    layers = find_layers(network, plugin.granularities[-1], example)
    all_kept = {layer.name: torch.ones(layer.n_units, dtype=torch.bool) for layer in layers}

    assert count_sizes(network, layers, [all_kept], example) == (size,)


@pytest.mark.parametrize("name", ALL)
def test_networks_are_timms_own_and_built_anew_from_the_seed(name):
    plugin = models().get(name)
    first, again, other = (built(plugin, seed).state_dict() for seed in (0, 0, 1))

    assert isinstance(plugin.build(), CLASSES[plugin.family])
    assert all(torch.isfinite(tensor).all() for tensor in first.values())
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_fresh_batch_norms_of_the_vgg_are_reset():
    state = built(models().get("digits_vgg")).state_dict()

    assert all(bool((tensor == 0).all()) for key, tensor in state.items() if key.endswith("running_mean"))
    assert all(bool((tensor == 1).all()) for key, tensor in state.items() if key.endswith("running_var"))


def test_the_residual_network_has_projections():
    network = built(models().get("digits_resnet"))
    projected = [stage[0].downsample is not None for stage in (network.layer1, network.layer2, network.layer3)]

    assert projected == [False, True, True]


@pytest.mark.parametrize(("depth", "top1"), [(20, 0.9150), (56, 0.9260)])
def test_published_cifar_weights_reach_their_accuracy(depth, top1, shared_data, shared_weights, monkeypatch):
    monkeypatch.setenv("PRUNEBOARD_DATA", str(shared_data))
    monkeypatch.setenv("PRUNEBOARD_WEIGHTS", str(shared_weights))

    assert evaluate(models().get(f"cifar_resnet{depth}"), "cifar10-lossless").top1 == pytest.approx(top1, abs=0.0015)


@pytest.mark.slow
def test_published_mobilenet_weights_reach_their_accuracy(shared_data, shared_weights, monkeypatch):
    monkeypatch.setenv("PRUNEBOARD_DATA", str(shared_data))
    monkeypatch.setenv("PRUNEBOARD_WEIGHTS", str(shared_weights))
    plugin, split = models().get("mobilenetv2"), open_dataset("imagenette").split("validation")
    images = Evaluation(split.stored(size=plugin.input_size), torch.from_numpy(split.labels), plugin.prepare, 50)
    accuracy = measure(plugin.load(), images)

    assert (accuracy.n_images, round(accuracy.top1, 4), round(accuracy.top5, 4)) == (3925, 0.7338, 0.9327)
    assert accuracy.cross_entropy == pytest.approx(1.1055, abs=1e-3)


def cifar_resnet(state, images, n_blocks):
    """The network of the paper, from the names of the published weights alone."""

    def norm(x, name):
        names = ("running_mean", "running_var", "weight", "bias")
        return batch_norm(x, *(state[f"{name}.{part}"] for part in names), eps=1e-5)

    x = relu(norm(conv2d(images, state["conv1.weight"], padding=1), "bn1"))
    for stage in (1, 2, 3):
        for block in range(n_blocks):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = relu(norm(conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1"))
            y = norm(conv2d(y, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if stride == 2:
                quarter = y.shape[1] // 4
                x = pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
            x = relu(x + y)
    x = avg_pool2d(x, x.shape[-1]).flatten(1)
    return linear(x, state["linear.weight"], state["linear.bias"])


@pytest.mark.parametrize(("depth", "n_blocks"), [(20, 3), (56, 9)])
def test_the_cifar_networks_compute_what_the_paper_says(depth, n_blocks, monkeypatch, tmp_path):
    plugin = models().get(f"cifar_resnet{depth}")
    generator = torch.Generator().manual_seed(depth)
    state = {}
    for key, tensor in plugin.build().state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        drawn = torch.randn(tensor.shape, generator=generator) * (0.05 if tensor.ndim > 1 else 0.3)
        if key.endswith(("running_var", "bn1.weight", "bn2.weight")):
            drawn = 0.5 + drawn.abs()
        state[key.replace("fc.", "linear.") if key.startswith("fc.") else key] = drawn
    save_file(state, tmp_path / plugin.weights.file)
    monkeypatch.setenv("PRUNEBOARD_WEIGHTS", str(tmp_path))
    sha256 = hashlib.sha256((tmp_path / plugin.weights.file).read_bytes()).hexdigest()
    weights = dataclasses.replace(plugin.weights, digest=tensors_digest(state), sha256=sha256)
    images = torch.randn(3, 3, 32, 32, generator=generator)

    with torch.no_grad():
        logits = dataclasses.replace(plugin, weights=weights).load()(images)
        expected = cifar_resnet(state, images, n_blocks)

    assert expected.std() > 0.01
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_weights_of_another_shape_are_refused(tmp_path):
    plugin = models().get("digits_vgg")
    state = load_file(plugin.weights.package / plugin.weights.file)
    state["head.fc.weight"] = torch.zeros(7, 64)
    save_file(state, tmp_path / "other.safetensors")
    sha256 = hashlib.sha256((tmp_path / "other.safetensors").read_bytes()).hexdigest()
    weights = dataclasses.replace(
        plugin.weights, file="other.safetensors", package=tmp_path, digest=tensors_digest(state), sha256=sha256
    )

    with pytest.raises(ModelError, match=r"`head\.fc\.weight` is \(7, 64\) in the file and \(10, 64\) in the network"):
        dataclasses.replace(plugin, weights=weights).load()


def test_damaged_weights_are_refused(tmp_path):
    plugin = models().get("digits_vit")
    content = bytearray((plugin.weights.package / plugin.weights.file).read_bytes())
    content[-1] ^= 1
    (tmp_path / plugin.weights.file).write_bytes(content)

    with pytest.raises(AssetError, match="must have the sha256"):
        dataclasses.replace(plugin, weights=dataclasses.replace(plugin.weights, package=tmp_path)).load()


def test_a_model_without_weights_says_how_to_make_them():
    plugin = dataclasses.replace(models().get("digits_vgg"), weights=None)

    with pytest.raises(ModelError, match="make them with `pruneboard train digits_vgg`"):
        plugin.load()


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_weights_saved_inside_a_wrapper_fit(prefix):
    model = models().get("digits_vgg")
    state = model.load().state_dict()
    loaded = model.with_weights("w.pth", {prefix + key: tensor for key, tensor in state.items()}).state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in state.items())


def test_weights_that_do_not_fit_say_what_to_do():
    model = models().get("digits_vgg")
    state = model.load().state_dict()
    head = {key: tensor[:7] for key, tensor in state.items() if key.startswith("head.")}
    with pytest.raises(
        ModelError, match=r"\(7,\) in the file and \(10,\) in the network; its head has another number of"
    ):
        model.with_weights("w.pth", state | head)
    with pytest.raises(ModelError, match="name the weights of this network, or correct its `build` or `rename`"):
        model.with_weights("w.pth", state | head | {"more": torch.ones(1)})
