import copy
import json
import math
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import timm
import torch
import torch_pruning as tp
from timm.layers import ClassifierHead
from timm.models.vgg import ConvMlp
from torch import nn

from networks import GRANULARITIES, draw_norm, images, tiny_network
from pruneboard.benchmark import plugins
from pruneboard.benchmark.counts import Size, count_sizes, live_inputs
from pruneboard.benchmark.errors import AssetError, ModelError, StoreError
from pruneboard.benchmark.physical import (
    Facts,
    Targets,
    _files,
    check_targets,
    prune_coupled,
    prune_exactly,
    read_facts,
    targets_of,
    write,
)
from pruneboard.benchmark.ranking import masks_at, rank
from pruneboard.benchmark.units import find_layers, masked


@pytest.fixture(autouse=True)
def _without_fresh_interpreters(monkeypatch, request):
    """Spare the seconds in which a fresh interpreter imports torch, where a test is not about that."""
    if "fresh" not in request.node.name:
        monkeypatch.setattr(_files, "_load_again", lambda *_: None)


TIMM = {
    "resnet18": ("filters", 64),
    "resnet50": ("filters", 64),
    "mobilenetv2_100": ("filters", 64),
    "vit_tiny_patch16_224": ("heads", 224),
}


def _padded():
    model = tiny_network("resnet")
    # 8 channels become 2 empty ones, the 8, and 2 empty ones.
    model.layer3[0].downsample = nn.Sequential(nn.AvgPool2d(1, 2), nn.ConstantPad3d((0, 0, 0, 0, 2, 2), 0.0))
    return model


def _vgg_hidden():
    """A VGG with its hidden classifier, which pools up where the map is small: its code asks that of each image."""
    model = tiny_network("vgg")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.pre_logits, model.head = ConvMlp(10, 12, kernel_size=7), ClassifierHead(12, 10)
    return model.eval()


def _lively(model, seed=0):
    """Draw every statistic of a network at random, so that no channel is zero for want of training."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                draw_norm(module)
    return model.eval()


def _network(name):
    """Return a network, its granularity and two images."""
    generator = torch.Generator().manual_seed(3)
    if name in ("padded", "vgg_hidden"):
        return _padded() if name == "padded" else _vgg_hidden(), "filters", images(2)
    if name in GRANULARITIES:
        return tiny_network(name), GRANULARITIES[name], images(2)
    if name in TIMM:
        granularity, size = TIMM[name]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = _lively(timm.create_model(name, num_classes=10))
        return model, granularity, torch.randn(2, 3, size, size, generator=generator)
    name, _, granularity = name.partition(" ")
    plugin = plugins.models().get(name)
    model = plugin.load() if plugin.weights and plugin.weights.package else _lively(plugin.build())
    drawn = torch.randn(2, *plugin.input_size, generator=generator)
    return model, granularity or plugin.granularities[0], drawn


def _random_masks(layers, seed, share):
    generator = torch.Generator().manual_seed(seed)
    return {layer.name: torch.rand(layer.n_units, generator=generator) < share for layer in layers}


def _scores(layers, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {layer.name: torch.rand(layer.n_units, generator=generator) for layer in layers}


@torch.no_grad()
def _assert_same_logits(network, model, layers, masks, x):
    with masked(model, layers, masks):
        expected = model(x)
    got = network(x)

    assert got.shape == expected.shape
    assert float((got - expected).abs().max()) <= 1e-5 * max(float(expected.abs().max()), 1e-2)


def _library_macs(network, x):
    """Multiply-accumulates of convolutions and linear layers as Torch-Pruning counts them, without its bias terms."""
    _, _, by_module, _ = tp.utils.count_ops_and_params(network, x[:1], layer_wise=True)
    positions = {}
    handles = [
        m.register_forward_hook(lambda m, _i, out: positions.update({m: out[0].numel()}))
        for m in network.modules()
        if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        network(x[:1])
    for handle in handles:
        handle.remove()
    return sum(int(by_module[m]) - (0 if m.bias is None else n) for m, n in positions.items())


EXACT = ["vgg", "vgg_hidden", "resnet", "bottleneck", "padded", "mobilenet", "vit_neurons", "vit_heads", "digits_vgg"]
EXACT += ["digits_resnet", "digits_vit neurons", "digits_vit heads", "cifar_resnet20", "toy_moons", *TIMM]


@pytest.mark.parametrize("name", EXACT)
def test_the_exact_form_computes_what_masks_do_and_has_the_size_that_was_counted(name):
    model, granularity, x = _network(name)
    layers = find_layers(model, granularity, x[:1])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ranking = rank(_scores(layers), "global", torch.Generator().manual_seed(0))
    drawn = [_random_masks(layers, 1, 0.5)]
    if name not in TIMM:
        rates = (0.95,) if name in ("mobilenet", "cifar_resnet20") else (0.0, 0.3, 0.95)
        drawn += [masks_at(ranking, rate) for rate in rates]
    for masks in drawn:
        pruned = prune_exactly(model, layers, masks, x)
        _assert_same_logits(pruned.network, model, layers, masks, x)
        (counted,) = count_sizes(model, layers, [masks], x[:1])
        assert pruned.size == counted
        assert sum(p.numel() for p in pruned.network.parameters()) == counted.params
        if name in ("resnet18", "resnet50", "cifar_resnet20", "digits_vgg"):
            assert _library_macs(pruned.network, x) == counted.macs
        assert pruned.n_units_removed == sum(int((~mask).sum()) for mask in masks.values())

    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["vgg", "resnet", "bottleneck", "padded", "mobilenet", "vit_neurons", "vit_heads"])
def test_whole_layers_may_be_removed(name):
    model, granularity, x = _network(name)
    layers = find_layers(model, granularity, x[:1])
    everything = {layer.name: torch.ones(layer.n_units, dtype=torch.bool) for layer in layers}
    for layer in layers if len(layers) < 9 else layers[:: len(layers) // 5]:
        masks = {**everything, layer.name: torch.zeros(layer.n_units, dtype=torch.bool)}
        pruned = prune_exactly(model, layers, masks, x)
        _assert_same_logits(pruned.network, model, layers, masks, x)
        assert pruned.removal.empty == [layer.name]
    nothing = {layer.name: torch.zeros(layer.n_units, dtype=torch.bool) for layer in layers}

    _assert_same_logits(prune_exactly(model, layers, nothing, x).network, model, layers, nothing, x)


def test_free_layers_need_no_index_modules_and_coupled_ones_say_so():
    model, granularity, x = _network("bottleneck")
    layers = find_layers(model, granularity, x[:1])
    masks = _random_masks(layers, 1, 0.7)
    removal = prune_exactly(model, layers, masks, x).removal
    # The stem is read by the first block's convolution and its shortcut's, and added to nothing.
    inner = {name for name in masks if name.endswith((".conv1", ".conv2")) or name.startswith("conv1.")}

    assert set(removal.free) == {name for name in inner if not masks[name].all()}
    assert set(removal.free).isdisjoint(removal.indexed)
    assert {"layer1.0.conv3", "layer1.0.downsample.0"} <= set(removal.indexed)
    vgg, granularity, x = _network("vgg")
    layers = find_layers(vgg, granularity, x[:1])
    pruned = prune_exactly(vgg, layers, {layer.name: torch.arange(layer.n_units) % 2 == 0 for layer in layers}, x)
    assert pruned.removal.free == [layer.name for layer in layers]
    assert not [name for name in pruned.network.state_dict() if "gather" in name or "scatter" in name]


def test_a_depthwise_convolution_reads_what_is_left_without_a_detour():
    model, granularity, x = _network("mobilenet")
    layers = find_layers(model, granularity, x[:1])
    masks = _random_masks(layers, 1, 0.5)
    pruned = prune_exactly(model, layers, masks, x)
    at = "blocks.1.0"
    kept = int(masks[f"{at}.conv_pw"].sum())
    expanded, depthwise = (pruned.network.get_submodule(f"{at}.{name}") for name in ("conv_pw", "conv_dw"))

    assert (expanded.out_channels, depthwise.groups) == (kept, kept)
    assert f"{at}.conv_dw_gather.index" not in pruned.network.state_dict()
    assert f"{at}.bn1_scatter.index" not in pruned.network.state_dict()
    # Without its filter a channel is not zero but what the batch norm makes of zero, so all of that is kept.
    assert pruned.network.get_submodule(f"{at}.bn2").num_features == len(masks[f"{at}.conv_pw"])


def test_dead_inputs_are_those_that_only_removed_units_fill():
    model, granularity, x = _network("padded")
    layers = find_layers(model, granularity, x[:1])
    masks = {layer.name: torch.ones(layer.n_units, dtype=torch.bool) for layer in layers}
    masks["layer3.0.conv2"][:2] = False

    assert live_inputs(model, layers, masks, x[:1])["layer4.0.conv1"].tolist() == [False] * 2 + [True] * 10


def test_a_convolution_in_groups_is_refused():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _lively(timm.create_model("resnext26ts", num_classes=10))
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    layers = find_layers(model, "filters", x)

    with pytest.raises(ModelError, match="of one group or of one channel per group, but `.*` has .* groups"):
        prune_exactly(model, layers, _random_masks(layers, 0, 0.5), x)


def test_a_network_that_torch_fx_cannot_follow_is_refused():
    class Fickle(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.fc = nn.Linear(4, 10)

        def forward(self, x):
            return self.fc(self.conv(x).mean(dim=(2, 3))[list(range(len(x)))])

    model = Fickle().eval()
    layers = find_layers(model, "filters", images(1))
    with pytest.raises(ModelError, match="must be traceable by torch.fx"):
        prune_exactly(model, layers, {"conv": torch.tensor([True, False, True, True])}, images(2))


COUPLED = ["vgg", "resnet", "bottleneck", "padded", "mobilenet", "vit_neurons", "vit_heads", "digits_resnet"]
COUPLED += ["cifar_resnet20", "cifar_resnet56", "toy_moons", "resnet18"]


def _plain(network):
    return not [name for name in network.state_dict() if "gather" in name or "scatter" in name]


@pytest.mark.parametrize("name", COUPLED)
def test_the_coupled_form_computes_what_masks_of_the_same_units_do(name):
    model, granularity, x = _network(name)
    layers = find_layers(model, granularity, x[:1])
    n_units = sum(layer.n_units for layer in layers)
    removed = []
    for rate in (0.6,) if name in (*TIMM, "cifar_resnet56") else (0.0, 0.4, 0.95):
        pruned = prune_coupled(
            model, layers, _scores(layers), x, rate=rate, scope="global", generator=torch.Generator().manual_seed(0)
        )
        _assert_same_logits(pruned.network, model, layers, pruned.masks, x)
        (counted,) = count_sizes(model, layers, [pruned.masks], x[:1])
        assert _plain(pruned.network)
        assert all(bool(mask.any()) for mask in pruned.masks.values())
        assert pruned.n_units_removed <= rate * n_units
        # Behind a depthwise convolution, statistics of removed channels go as well, which masks leave.
        assert pruned.size == counted or (name == "mobilenet" and pruned.size.params < counted.params)
        removed.append(pruned.n_units_removed)

    assert removed == sorted(removed)
    assert removed[-1] > 0


def test_coupled_units_go_together_by_the_sum_of_their_scores():
    model, granularity, x = _network("resnet")
    layers = find_layers(model, granularity, x[:1])
    scores = {layer.name: torch.full((layer.n_units,), 9.0) for layer in layers}
    together = ("layer2.0.conv2", "layer2.0.downsample.0", "layer2.1.conv2")
    # The channel with the lowest single score is not the one with the lowest sum.
    for name, (first, second) in zip(together, ((0.0, 1.0), (8.0, 1.0), (0.5, 1.0)), strict=True):
        scores[name][3], scores[name][5] = first, second
    pruned = prune_coupled(
        model, layers, scores, x, rate=0.03, scope="global", generator=torch.Generator().manual_seed(0)
    )

    for name, mask in pruned.masks.items():
        assert (~mask).nonzero().flatten().tolist() == ([5] if name in together else [])
    assert pruned.removal.coupled == [together]


def test_shortcuts_that_pad_channels_couple_across_the_pad():
    model, granularity, x = _network("padded")
    layers = find_layers(model, granularity, x[:1])
    scores = {layer.name: torch.full((layer.n_units,), 9.0) for layer in layers}
    stage2 = ("layer2.0.conv2", "layer2.0.downsample.0", "layer2.1.conv2")
    for name in stage2:
        scores[name][5] = 0.0
    scores["layer3.0.conv2"][[0, 7]] = 0.0
    pruned = prune_coupled(
        model, layers, scores, x, rate=5 / 132, scope="global", generator=torch.Generator().manual_seed(0)
    )
    gone = {name: (~mask).nonzero().flatten().tolist() for name, mask in pruned.masks.items() if not mask.all()}

    assert gone == {**{name: [5] for name in stage2}, "layer3.0.conv2": [0, 7]}
    assert pruned.network.get_submodule("layer3.0.downsample.1").padding == (0, 0, 0, 0, 1, 2)


def test_what_masks_cannot_switch_off_is_kept_whole():
    model, granularity, x = _network("vit_neurons")
    layers = find_layers(model, granularity, x[:1])
    pruned = prune_coupled(
        model, layers, _scores(layers), x, rate=0.95, scope="global", generator=torch.Generator().manual_seed(0)
    )

    assert pruned.removal.whole == ["blocks.0.mlp.fc2", "blocks.1.mlp.fc2"]
    assert all(pruned.masks[name].all() for name in pruned.removal.whole)
    assert [int(pruned.masks[f"blocks.{i}.mlp.fc1"].sum()) for i in (0, 1)] == [1, 1]


def test_ranked_within_layers_each_coupled_group_has_a_budget_of_its_own():
    model, granularity, x = _network("digits_resnet")
    layers = find_layers(model, granularity, x[:1])
    pruned = prune_coupled(
        model, layers, _scores(layers), x, rate=0.5, scope="layer", generator=torch.Generator().manual_seed(0)
    )

    assert {name: int(mask.sum()) for name, mask in pruned.masks.items()} == {
        layer.name: layer.n_units // 2 for layer in layers
    }


def _facts(model, input_size, **changes):
    return Facts(
        **{
            **{"model": model, "granularity": "filters", "criterion": "magnitude", "parameters": {"norm": "l1"}},
            **{"rate": 0.5, "seed": 0, "shots": 1, "suite": "digits", "form": "exact", "input_size": input_size},
            **{"mean": (0.5,) * input_size[0], "std": (0.25,) * input_size[0], "n_classes": 10, "n_units": 4},
            **{"n_units_removed": 2, "units_kept": {"conv": [0, 2]}, "params_before": 9, "params": 5},
            **{"macs_before": 8, "macs": 4, "top1_before": 0.9, "top1": 0.8, "dataset": "digits", "split": "test"},
            **{"n_images": 7, "licence": "BSD", "source": 'a "quoted" \\ source', "weights_digest": "0"},
            **{"pruneboard": "0", "commit": "", "clean": False},
            **changes,
        }
    )


_ALONE = """
import runpy, sys
import importlib.abc

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pruneboard", "timm", "torch_pruning", "torchvision"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
import numpy as np
import torch
torch.set_num_threads(1)
for folder in sys.argv[1:]:
    given = np.load(f"{folder}/given.npz")
    module = runpy.run_path(f"{folder}/small.py")
    network = module["load"]()
    assert not network.training and isinstance(network, torch.nn.Module)
    images = torch.from_numpy(given["images"])
    with torch.no_grad():
        logits = network(images)
        one = network(images[:1])
    assert torch.equal(module["normalise"](images[:1] * 0 + 0.5), images[:1] * 0)
    scale = max(float(abs(given["logits"]).max()), 1e-2)
    for got, expected in ((logits, given["logits"]), (one, given["logits"][:1])):
        assert float(abs(got.numpy() - expected).max()) <= 1e-5 * scale, folder
    # It can go on learning.
    network.train()(images).sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in network.parameters())
assert not {"pruneboard", "timm", "torch_pruning"} & set(sys.modules)
print("alone")
"""


def test_the_written_pair_needs_only_torch_and_safetensors(tmp_path):
    folders = []
    for name in ("vgg", "resnet", "padded", "mobilenet", "vit_neurons", "vit_heads", "digits_vgg", "vgg_hidden"):
        model, granularity, x = _network(name)
        layers = find_layers(model, granularity, x[:1])
        masks = _random_masks(layers, 1, 0.4)
        masks[layers[1].name][:] = False
        pruned = prune_exactly(model, layers, masks, x)
        folder = tmp_path / name
        write(pruned.network, _facts(name, tuple(x.shape[1:])), targets_of(folder / "small", onnx=False), x)
        with masked(model, layers, masks), torch.no_grad():
            np.savez(folder / "given.npz", images=x.numpy(), logits=model(x).numpy())
        assert sorted(path.name for path in folder.iterdir()) == ["given.npz", "small.py", "small.safetensors"]
        assert set(pruned.network.state_dict()) - set(model.state_dict()) == {
            name for name in pruned.network.state_dict() if "_gather" in name or "_scatter" in name
        }
        folders.append(str(folder))
    done = subprocess.run(
        [sys.executable, "-I", "-c", textwrap.dedent(_ALONE), *folders],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.stdout == "alone\n", done.stderr[-3000:]


def test_the_metadata_says_everything_that_is_known(tmp_path):
    model, granularity, x = _network("vgg")
    layers = find_layers(model, granularity, x[:1])
    pruned = prune_exactly(model, layers, _random_masks(layers, 1, 0.5), x)
    targets = targets_of(tmp_path / "deep" / "small.safetensors", onnx=False)
    facts = _facts("vgg", (3, 16, 16))
    write(pruned.network, facts, targets, x)
    found = read_facts(targets.weights)

    assert found == json.loads(json.dumps(facts.document()))
    assert found["format"] == 1
    first = targets.weights.read_bytes()
    write(pruned.network, facts, targets, x)
    assert targets.weights.read_bytes() == first
    (tmp_path / "other.safetensors").write_bytes(b"nothing")
    with pytest.raises(AssetError, match="must be the weights file of a pruned network"):
        read_facts(tmp_path / "other.safetensors")


@pytest.mark.parametrize("name", ["digits_resnet", "vit_heads"])
def test_onnx_gives_the_same_logits_for_any_number_of_images(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, granularity, x = _network(name)
    layers = find_layers(model, granularity, x[:1])
    masks = _random_masks(layers, 1, 0.5)
    pruned = prune_exactly(model, layers, masks, x)
    targets = targets_of(tmp_path / "small", onnx=True)
    write(pruned.network, _facts(name, tuple(x.shape[1:])), targets, x)
    assert b".py" not in targets.onnx.read_bytes(), "the file must not say where on this machine it was made"
    session = onnxruntime.InferenceSession(str(targets.onnx))
    assert json.loads(session.get_modelmeta().custom_metadata_map["pruneboard"])["model"] == name
    for part in (x[:1], x, torch.cat([x, x[:1]])):
        with masked(model, layers, masks), torch.no_grad():
            expected = model(part).numpy()
        (got,) = session.run(None, {"images": part.numpy()})
        assert abs(got - expected).max() <= 1e-5 * abs(expected).max()


def test_files_are_refused_before_the_work(tmp_path):
    with pytest.raises(AssetError, match="must name a file that ends in `.safetensors`"):
        targets_of(tmp_path / "small.pt", onnx=False)
    with pytest.raises(AssetError, match="must name a file"):
        targets_of(tmp_path, onnx=False)
    (tmp_path / "small.py").write_text("mine")
    targets = targets_of(tmp_path / "small", onnx=True)
    assert targets == Targets(tmp_path / "small.safetensors", tmp_path / "small.py", tmp_path / "small.onnx")
    with pytest.raises(AssetError, match="`.*small.py` exists; choose another name, or replace it with `--overwrite`"):
        check_targets(targets, overwrite=False)
    check_targets(targets, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="must be writable"):
        check_targets(targets_of(tmp_path / "file" / "small", onnx=False), overwrite=False)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "small.py"]


def test_nothing_appears_when_one_of_the_files_fails(tmp_path, monkeypatch):
    model, granularity, x = _network("vgg")
    layers = find_layers(model, granularity, x[:1])
    pruned = prune_exactly(model, layers, _random_masks(layers, 1, 0.5), x)

    def fail(*_args, **_options):
        raise RuntimeError("no exporter")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(RuntimeError, match="no exporter"):
        write(pruned.network, _facts("vgg", (3, 16, 16)), targets_of(tmp_path / "small", onnx=True), x)
    assert not list(tmp_path.iterdir())


def test_a_network_that_does_not_match_the_masked_one_is_not_returned(monkeypatch):
    model, granularity, x = _network("vgg")
    layers = find_layers(model, granularity, x[:1])
    wrong = copy.deepcopy(model)
    with torch.no_grad():
        wrong.features[0].weight += 1
    from pruneboard.benchmark.physical import _build

    monkeypatch.setattr(_build, "flatten", lambda _network, _example: wrong)
    with pytest.raises(ModelError, match="must compute what masks make of the unpruned one, but logits of `VGG`"):
        prune_exactly(model, layers, {n: torch.ones(k, dtype=torch.bool) for n, k in _sizes(layers)}, x)


def _sizes(layers):
    return [(layer.name, layer.n_units) for layer in layers]


def test_the_size_of_an_unpruned_network_is_its_own():
    model, granularity, x = _network("vgg")
    layers = find_layers(model, granularity, x[:1])
    pruned = prune_exactly(model, layers, {n: torch.ones(k, dtype=torch.bool) for n, k in _sizes(layers)}, x)

    assert pruned.before == pruned.size
    assert isinstance(pruned.size, Size)
    assert pruned.difference == 0


class _Odd(nn.Module):
    """Asks the tracer for what is not torch's: `math` of sizes, infinity, a type, a buffer and a plain tensor."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3)
        self.fc = nn.Linear(6, 10)
        self.register_buffer("shift", torch.ones(1, 8, 1, 1), persistent=False)
        self.scale = torch.tensor(2.0)

    def forward(self, x):
        x = nn.functional.pad(x, [math.ceil(x.shape[-1] / 5), 0, max(x.shape[-2] // 8, 1), 0])
        x = (self.first(x) + self.shift).clamp(max=math.inf) * self.scale
        return self.fc(self.second(torch.relu(x)).to(torch.float32, copy=True).mean((2, 3)))


def _same_padding():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _lively(timm.create_model("mobilenetv2_035", num_classes=10, pad_type="same"))


@pytest.mark.parametrize("make", [_Odd, _same_padding])
def test_a_fresh_interpreter_loads_what_calls_more_than_torch(make, tmp_path):
    model, x = make().eval(), images(2)
    layers = find_layers(model, "filters", x[:1])
    pruned = prune_exactly(model, layers, _random_masks(layers, 1, 0.5), x)
    write(pruned.network, _facts("odd", (3, 16, 16)), targets_of(tmp_path / "small", onnx=False), x)

    source = (tmp_path / "small.py").read_text()
    assert "from math import ceil as math_ceil" in source
    assert "wrap(" not in source


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            lambda source: source.replace("return ", "import timm; return "),
            "import of timm halted; None in sys.modules",
        ),
        (lambda source: source.replace("self.head", "2 * self.head"), "its logits differ by"),
    ],
)
def test_what_a_fresh_interpreter_does_not_load_is_not_written(damage, reason, tmp_path, monkeypatch):
    model, granularity, x = _network("vgg")
    layers = find_layers(model, granularity, x[:1])
    pruned = prune_exactly(model, layers, _random_masks(layers, 1, 0.5), x)
    whole = _files.module_source
    monkeypatch.setattr(_files, "module_source", lambda *given: damage(whole(*given)))
    with pytest.raises(ModelError, match="must load in a fresh interpreter and give its logits") as error:
        write(pruned.network, _facts("vgg", (3, 16, 16)), targets_of(tmp_path / "small", onnx=False), x)

    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_frozen_parameters_are_cut_like_others():
    model, granularity, x = _network("resnet")
    layers = find_layers(model, granularity, x[:1])
    masks = _random_masks(layers, 1, 0.5)
    expected = prune_exactly(model, layers, masks, x)
    model.requires_grad_(False)
    pruned = prune_exactly(model, layers, masks, x)

    assert pruned.removal == expected.removal
    assert not any(parameter.requires_grad for parameter in model.parameters())
    _coupled(model, layers, x)


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize(
    ("norm", "is_coupled"),
    [(nn.BatchNorm2d, True), (nn.InstanceNorm2d, True), (lambda n, affine: nn.GroupNorm(1, n, affine=affine), False)],
)
def test_norms_without_parameters_are_cut_or_refused(norm, is_coupled, coupled):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(3, 8, 3), norm(8, affine=False), nn.ReLU(), nn.Conv2d(8, 6, 3), norm(6, affine=False)),
            *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10)),
        ).eval()
    x = images(2)
    layers = find_layers(model, "filters", x[:1])
    if not coupled:
        pruned = prune_exactly(model, layers, _random_masks(layers, 1, 0.5), x)
        _assert_same_logits(pruned.network, model, layers, pruned.masks, x)
    elif is_coupled:
        pruned = _coupled(model, layers, x)
        _assert_same_logits(pruned.network, model, layers, pruned.masks, x)
    else:
        # Statistics over all channels change with the channels that are gone.
        with pytest.raises(ModelError, match="differ by .* of the largest; measure it by masks only"):
            _coupled(model, layers, x)


def _coupled(model, layers, x):
    generator = torch.Generator().manual_seed(0)
    return prune_coupled(model, layers, _scores(layers), x, rate=0.5, scope="global", generator=generator)


def test_logits_are_not_cut():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = images(2)
    layers = find_layers(model.eval(), "filters", x[:1])
    with pytest.raises(ModelError, match="must keep its 4 logits"):
        _coupled(model, layers, x)


def test_a_network_that_breaks_what_cuts_it_is_refused_by_name():
    model = timm.models.SwinTransformer(
        img_size=32, patch_size=2, window_size=4, embed_dim=24, depths=(1, 1), num_heads=(2, 2), num_classes=4
    ).eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    layers = find_layers(model, "neurons", x[:1])
    with pytest.raises(ModelError, match="must be one that can be cut, but `SwinTransformer` cannot"):
        prune_exactly(model, layers, _random_masks(layers, 1, 0.5), x)
