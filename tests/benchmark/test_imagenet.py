"""ImageNet-style networks and data: what cannot be had here is tested by the same code on real files."""

import dataclasses
import hashlib
import os

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from torch import nn
from torchvision.transforms.v2 import CenterCrop, Compose, InterpolationMode, Resize

from commands import pruneboard_here, write_suite
from pruneboard.benchmark.assets import Weights, cache_folder, file_sha256, load_weights, tensors_digest, weights_digest
from pruneboard.benchmark.data import Framing, open_dataset
from pruneboard.benchmark.data import _digests as digests
from pruneboard.benchmark.errors import AssetError
from pruneboard.benchmark.evaluate import Answers, Evaluation, measure
from pruneboard.benchmark.plugins import models
from pruneboard.benchmark.store import RunStore
from pruneboard.benchmark.suites import load_suite, suite_path
from pruneboard.benchmark.units import find_layers

PAPER = {
    "imagenet_vgg16": {"filters": 4224},
    "imagenet_vgg16_bn": {"filters": 4224},
    "imagenet_resnet18": {"filters": 4800},
    "imagenet_resnet50": {"filters": 26560},
    "imagenet_vit_base_patch16_224": {"neurons": 46080, "heads": 144},
}


@pytest.fixture
def imagenet(tmp_path, shared_data, monkeypatch):
    """The real files of Imagenette under the name of ImageNet, whose labels they have."""
    folder = tmp_path / "data" / "imagenet"
    folder.mkdir(parents=True)
    for file in (shared_data / "imagenette").glob("*.parquet"):
        (folder / file.name).symlink_to(file)
    monkeypatch.setenv("PRUNEBOARD_DATA", os.pathsep.join([str(tmp_path / "data"), str(shared_data)]))
    return tmp_path / "data"


def test_the_suites_have_the_papers_grid():
    names = {3: "imagenet_3", 100: "imagenet_100", None: "imagenet"}
    suites = {n_classes: load_suite(suite_path(name)) for n_classes, name in names.items()}
    for n_classes, suite in suites.items():
        assert {model.name: model.granularities for model in suite.models} == {
            name: tuple(units) for name, units in PAPER.items()
        }
        assert suite.task is not None
        assert (suite.task.n_classes, suite.task.argmax) == (n_classes, "task")
        assert (suite.shots, len(suite.seeds)) == ((10,), 20)
        assert suite.rates == tuple(round(0.05 * i, 2) for i in range(20))


@pytest.mark.parametrize("name", PAPER)
def test_networks_have_the_units_of_the_paper(name):
    plugin = models().get(name)
    with torch.device("meta"):
        network = plugin.build().eval()
        found = {
            granularity: sum(layer.n_units for layer in find_layers(network, granularity, torch.zeros(1, 3, 224, 224)))
            for granularity in plugin.granularities
        }

    assert found == PAPER[name]


@pytest.mark.parametrize("name", PAPER)
def test_preprocessing_is_what_timm_records_for_the_weights(name):
    plugin = models().get(name)
    recorded = timm.get_pretrained_cfg(plugin.weights.file.removesuffix(".safetensors"))

    assert plugin.weights.hub == recorded.hf_hub_id
    assert (plugin.input_size, plugin.mean, plugin.std) == (recorded.input_size, recorded.mean, recorded.std)
    assert plugin.framing == Framing(recorded.crop_pct, recorded.interpolation)
    assert plugin.licence.lower() == recorded.license


@pytest.mark.parametrize(
    ("crop", "how", "interpolation"),
    [
        (0.875, "bilinear", InterpolationMode.BILINEAR),
        (0.9, "bicubic", InterpolationMode.BICUBIC),
        (1.0, "bilinear", InterpolationMode.BILINEAR),
    ],
)
@pytest.mark.parametrize("shape", [(301, 400), (500, 333), (224, 225), (90, 91), (256, 256)])
def test_images_are_framed_as_torchvision_does_it(crop, how, interpolation, shape, tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for split in ("train", "test"):
        (tmp_path / "framed" / split / "one").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "framed" / split / "one" / "a.png")
    monkeypatch.setenv("PRUNEBOARD_DATA", str(tmp_path))
    split = open_dataset("framed").split("train")
    transform = Compose([Resize(int(224 / crop), interpolation), CenterCrop(224)])
    expected = np.asarray(transform(Image.fromarray(pixels))).transpose(2, 0, 1)

    assert np.array_equal(split.stored(size=(3, 224, 224), framing=Framing(crop, how))[0].numpy(), expected)


def test_a_network_of_the_paper_runs_with_random_weights_on_real_images(imagenet, tmp_path, monkeypatch):
    """The whole way through the command line: shards, task, scoring, compact evaluation, rows."""
    run_with_random_weights("imagenet_resnet18", "filters", tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "granularity"),
    [
        ("imagenet_vgg16", "filters"),
        ("imagenet_vgg16_bn", "filters"),
        ("imagenet_resnet50", "filters"),
        ("imagenet_vit_base_patch16_224", "neurons"),
        ("imagenet_vit_base_patch16_224", "heads"),
    ],
)
def test_the_larger_ones_do_so_as_well(name, granularity, imagenet, tmp_path, monkeypatch):
    run_with_random_weights(name, granularity, tmp_path, monkeypatch)


def run_with_random_weights(name, granularity, tmp_path, monkeypatch):
    plugin = models().get(name)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        state = {key: value.contiguous() for key, value in plugin.build().state_dict().items()}
    (tmp_path / "weights").mkdir()
    safetensors.torch.save_file(state, tmp_path / "weights" / plugin.weights.file)
    monkeypatch.setenv("PRUNEBOARD_WEIGHTS", str(tmp_path / "weights"))
    path = write_suite(
        tmp_path,
        models={name: [granularity]},
        criteria=["magnitude", "lrp_epsilon"],
        shots=[1],
        rates=[0.0, 0.5],
        datasets=["imagenet"],
        splits=("train", "validation"),
    )
    task = 'evaluation_per_class = 2\n[task]\nclasses = 3\nargmax = "task"\n[protocol]'
    path.write_text(path.read_text().replace("[protocol]", task))
    done = pruneboard_here("run", path, "--workers", 0, "--out", tmp_path / "runs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = RunStore(tmp_path / "runs").read("small")

    assert set(rows["status"]) == {"ok"}
    assert set(rows["n_units"]) == {PAPER[name][granularity]}
    assert set(rows["n_images"]) == {6}
    assert set(rows["weights_digest"]) == {tensors_digest(state)}
    assert set(rows["evaluation"]) == {"compact"}
    assert set(rows.loc[rows["rate"] == 0.5, "n_units_removed"]) == {PAPER[name][granularity] // 2}


def test_mobilenet_reaches_its_accuracy_on_ilsvrc_images_among_1000_and_10_classes(
    shared_data, shared_weights, monkeypatch
):
    """The 134 images that it has not seen; the expected numbers come from another implementation."""
    monkeypatch.setenv("PRUNEBOARD_DATA", str(shared_data))
    monkeypatch.setenv("PRUNEBOARD_WEIGHTS", str(shared_weights))
    table = pq.read_table(shared_data / "imagenette" / "validation-00000-of-00001.parquet", columns=["image"])
    paths = pc.struct_field(table.column("image"), "path").to_pylist()
    rows = [i for i, path in enumerate(paths) if "ILSVRC2012_val" in path]
    plugin, split = models().get("mobilenetv2"), open_dataset("imagenette").split("validation")
    stored, labels = split.stored(rows, size=plugin.input_size), torch.from_numpy(split.labels[rows])
    network = plugin.load()
    with torch.no_grad():
        logits = torch.cat([network(plugin.prepare(part)) for part in stored.split(27)])
    ten = Answers(torch.from_numpy(np.unique(split.labels)))
    everything = measure(nn.Identity(), Evaluation(logits, labels))
    among_ten = measure(nn.Identity(), Evaluation(logits, labels, answers=ten))

    assert everything.n_images == 134
    assert (round(everything.top1, 4), round(everything.top5, 4)) == (0.6791, 0.9030)
    assert everything.cross_entropy == pytest.approx(1.4373, abs=1e-3)
    assert round(among_ten.top1, 4) == 0.9776


def test_an_image_folder_serves_as_imagenet_when_it_has_all_classes(tmp_path, monkeypatch):
    for number in range(1000):
        for split in ("train", "val"):
            folder = tmp_path / "imagenet" / split / f"n{number:08}"
            folder.mkdir(parents=True)
            if number % 250 == 0:
                Image.new("RGB", (20, 30), (number % 256, 0, 0)).save(folder / "a.JPEG", format="JPEG")
    monkeypatch.setenv("PRUNEBOARD_DATA", str(tmp_path))
    dataset = open_dataset("imagenet")

    assert dataset.split("validation").labels.tolist() == [0, 250, 500, 750]
    (tmp_path / "imagenet" / "train" / "n00000999").rmdir()
    (tmp_path / "imagenet" / "val" / "n00000999").rmdir()
    with pytest.raises(AssetError, match="`imagenet` must have 1000 classes, but .* has 999"):
        open_dataset("imagenet")


def test_what_is_missing_of_imagenet_is_said_at_once(tmp_path):
    done = pruneboard_here("run", "imagenet_3", "--workers", 0, cwd=tmp_path, env={"PRUNEBOARD_DATA": str(tmp_path)})

    assert done.returncode == 2
    assert "`vgg16.tv_in1k.safetensors` must be at hand" in done.stderr
    assert "the hub did not answer" in done.stderr


def test_help_on_a_suite_says_how_to_run_it(tmp_path):
    said = pruneboard_here("run", "imagenet", "--help", cwd=tmp_path)

    assert said.returncode == 0
    assert "pruneboard run imagenet --model imagenet_vit_base_patch16_224" in said.stdout
    assert "docs/imagenet.md" in said.stdout
    assert "imagenet_vit" not in pruneboard_here("run", "--help", cwd=tmp_path).stdout


@pytest.fixture
def unrecorded(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    monkeypatch.setenv("PRUNEBOARD_WEIGHTS", str(folder))
    state = {"a": torch.arange(3.0)}
    safetensors.torch.save_file(state, folder / "net.tag.safetensors")
    return folder / "net.tag.safetensors", Weights(file="net.tag.safetensors", hub="timm/net.tag"), state


def test_weights_that_only_the_hub_knows_are_recorded_at_their_first_use(unrecorded):
    path, weights, state = unrecorded
    assert torch.equal(load_weights(weights)["a"], state["a"])
    assert weights_digest(weights) == tensors_digest(state)
    assert torch.equal(load_weights(weights)["a"], state["a"])
    first = file_sha256(path)

    safetensors.torch.save_file({"a": torch.arange(4.0)}, path)
    with pytest.raises(AssetError, match=rf"must have the sha256 {first}, got .*; get the file again that was used"):
        load_weights(weights)
    (cache_folder() / "weights" / "net.tag.safetensors.sha256").unlink()
    assert len(load_weights(weights)["a"]) == 4


def test_a_large_data_set_is_digested_once_until_a_file_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "LARGE", 1)
    file, n_computed = tmp_path / "file", 0

    def compute():
        nonlocal n_computed
        n_computed += 1
        return hashlib.sha256(file.read_bytes()).hexdigest()

    file.write_bytes(b"one")
    first = digests.remembered({"file": file}, compute)
    assert digests.remembered({"file": file}, compute) == first
    assert n_computed == 1
    file.write_bytes(b"three")
    assert digests.remembered({"file": file}, compute) == hashlib.sha256(b"three").hexdigest()
    assert n_computed == 2
    monkeypatch.setattr(digests, "LARGE", 10**9)
    digests.remembered({"file": file}, compute)
    assert n_computed == 3


def test_framing_belongs_to_the_images_that_jobs_share(tmp_path, monkeypatch):
    from pruneboard.benchmark.runner import LatestInputs

    for split in ("train", "test"):
        (tmp_path / "framed" / split / "one").mkdir(parents=True)
        pixels = np.arange(16 * 20, dtype=np.uint8).reshape(16, 20)
        Image.fromarray(pixels).save(tmp_path / "framed" / split / "one" / "a.png")
    monkeypatch.setenv("PRUNEBOARD_DATA", str(tmp_path))
    split, latest = open_dataset("framed").split("train"), LatestInputs(torch.device("cpu"))
    plain = models().get("digits_vgg")
    cropped = dataclasses.replace(plain, framing=Framing(1.0))

    assert not torch.equal(latest.of(split, None, plain), latest.of(split, None, cropped))
