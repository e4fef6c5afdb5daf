"""Adapting pretrained networks to other data, through the real command line and from real weights."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy

from commands import pruneboard, pruneboard_here, write_suite
from pruneboard.benchmark.api import Recipe, adapted
from pruneboard.benchmark.assets import recorded_facts, tensors_digest
from pruneboard.benchmark.data import open_dataset, open_folder
from pruneboard.benchmark.errors import AssetError, ModelError
from pruneboard.benchmark.plugins import models
from pruneboard.benchmark.store import RunStore
from pruneboard.benchmark.training import (
    AdaptOptions,
    adapt_to,
    fit,
    random_flip,
    start_from_model,
    train,
)

CPU = torch.device("cpu")
DIGITS_VGG = models().get("digits_vgg").weights_file


@pytest.fixture
def folder(tmp_path):
    """Three of the digits as an image folder, with names that are not those of their labels."""
    write_folder(tmp_path / "three", {"one": 1, "seven": 7, "zero": 0})
    return tmp_path / "three"


def write_folder(root, classes, n_train=20, n_test=10):
    digits = open_dataset("digits")
    for split, n_images in (("train", n_train), ("test", n_test)):
        labels, pixels = digits.split(split).labels, digits.split(split).stored(size=(1, 8, 8))
        for name, label in classes.items():
            (root / split / name).mkdir(parents=True)
            for i, row in enumerate(np.flatnonzero(labels == label)[:n_images]):
                Image.fromarray(pixels[row, 0].numpy()).save(root / split / name / f"{i:02}.png")


def adapt(folder, out, *more, cwd):
    return pruneboard_here(
        "train", "digits_vgg", "--from", DIGITS_VGG, "--dataset", folder, "--out", out, *more, cwd=cwd
    )


def test_the_classifier_is_adapted_and_everything_else_stays(folder, tmp_path):
    done = adapt(folder, tmp_path / "w.safetensors", cwd=tmp_path)
    before, after = load_file(DIGITS_VGG), load_file(tmp_path / "w.safetensors")
    facts = recorded_facts(tmp_path / "w.safetensors")

    assert done.returncode == 0, done.stderr
    assert {key for key in after if not torch.equal(after[key], before[key])} == {"head.fc.weight", "head.fc.bias"}
    assert after["head.fc.weight"].shape == (3, 64)
    # The pretrained network tells these three digits apart, so that its features do as well.
    assert facts["test_top1"] >= 0.9
    assert facts["start"] == {"source": "digits_vgg", "digest": models().get("digits_vgg").weights.digest}
    assert facts["data_digest"] == open_folder("three", folder).digest
    assert facts["tensors_digest"] == tensors_digest(after)
    assert (facts["n_train"], facts["test_n_images"], facts["evaluation_split"]) == (60, 30, "test")
    assert facts["recipe"]["start"] == "digits_vgg"
    assert f'digest="{facts["tensors_digest"]}"' in done.stdout


def test_what_the_command_prints_makes_a_model_of_the_file(folder, tmp_path, monkeypatch):
    done = adapt(folder, tmp_path / "w.safetensors", cwd=tmp_path)
    (tmp_path / "mine.py").write_text(done.stdout[done.stdout.index("from pruneboard.benchmark.api") :])
    path = write_suite(
        tmp_path, models={"digits_vgg_three": ["filters"]}, criteria=["magnitude"], datasets=["three"], rates=[0.0, 0.1]
    )
    env = {
        "PRUNEBOARD_DATA": str(tmp_path),
        "PRUNEBOARD_WEIGHTS": str(tmp_path),
        "PRUNEBOARD_PLUGINS": str(tmp_path / "mine.py"),
    }
    # In a process of its own, because plugins are found once.
    ran = pruneboard("run", path, "--workers", 0, "--out", tmp_path / "runs", cwd=tmp_path, env=env)
    assert ran.returncode == 0, ran.stderr
    rows = RunStore(tmp_path / "runs").read("small")

    facts = recorded_facts(tmp_path / "w.safetensors")
    assert set(rows.loc[rows["rate"] == 0, "top1"]) == {facts["test_top1"]}
    assert set(rows["weights_digest"]) == {facts["tensors_digest"]}


def test_training_the_classifier_from_features_is_training_it_in_the_network(folder):
    """The same steps with the whole network in eval mode and gradients of the classifier alone."""
    dataset = open_folder("three", folder)
    model = adapt_to(models().get("digits_vgg"), dataset, AdaptOptions(epochs=2, batch_size=7), "digits_vgg")
    split = dataset.split("train")
    stored, labels = split.stored(size=model.input_size), torch.from_numpy(split.labels)
    network, _ = fit(model, stored, labels, device=CPU, start=start_from_model("digits_vgg"))

    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        slow = model.build().eval()
    pretrained = models().get("digits_vgg").load().state_dict()
    slow.load_state_dict({k: v for k, v in pretrained.items() if not k.startswith("head.fc")}, strict=False)
    parameters = [slow.head.fc.weight, slow.head.fc.bias]
    optimiser = torch.optim.AdamW(parameters, lr=0.001, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.001, total_steps=2 * 9, cycle_momentum=False)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        for chosen in torch.randperm(60, generator=generator).split(7):
            loss = cross_entropy(slow(model.prepare(stored[chosen])), labels[chosen])
            slow.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()

    torch.testing.assert_close(network.head.fc.weight, slow.head.fc.weight, rtol=1e-4, atol=1e-6)


def test_all_layers_learn_when_asked_to_while_frozen_batch_norms_keep_their_statistics(folder, tmp_path):
    done = adapt(folder, tmp_path / "w.safetensors", "--layers", "all", "--epochs", 1, cwd=tmp_path)
    before, after = load_file(DIGITS_VGG), load_file(tmp_path / "w.safetensors")

    assert done.returncode == 0, done.stderr
    for key in after.keys() - {"head.fc.weight", "head.fc.bias"}:
        same = torch.equal(before[key], after[key])
        assert same == key.endswith(("running_mean", "running_var", "num_batches_tracked")), key


def test_a_transfer_repeats_with_its_seed_and_differs_with_another(folder, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        more = ("--layers", "all", "--epochs", 1, "--seed", seed)
        assert adapt(folder, tmp_path / f"{name}.safetensors", *more, cwd=tmp_path).returncode == 0

    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    digests = {name: recorded_facts(tmp_path / f"{name}.safetensors")["tensors_digest"] for name in "ac"}
    assert digests["a"] != digests["c"]


@pytest.mark.parametrize("layers", ["classifier", "all"])
def test_a_resumed_transfer_equals_an_undisturbed_one(layers, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("pruneboard.benchmark.training._checkpoint.Checkpoint.every_seconds", 0.0)
    dataset = open_folder("three", folder)
    options = AdaptOptions(layers=layers, epochs=4, batch_size=20)
    model = adapt_to(models().get("digits_vgg"), dataset, options, "digits_vgg")

    def run(name, stop_after=None):
        epochs = []

        def progress(step):
            epochs.append(step.epoch)
            if step.epoch == stop_after:
                raise KeyboardInterrupt

        result = train(model, device=CPU, out=tmp_path / name, dataset=dataset, progress=progress)
        return result, epochs

    undisturbed, _ = run("whole.safetensors")
    with pytest.raises(KeyboardInterrupt):
        run("parts.safetensors", stop_after=2)
    assert (tmp_path / "parts.safetensors.training").exists()
    assert not (tmp_path / "parts.safetensors").exists()
    resumed, epochs = run("parts.safetensors")

    assert epochs == [3, 4]
    assert resumed.sha256 == undisturbed.sha256
    assert not (tmp_path / "parts.safetensors.training").exists()


def test_a_damaged_checkpoint_and_one_of_another_recipe_are_not_taken_up(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("pruneboard.benchmark.training._checkpoint.Checkpoint.every_seconds", 0.0)
    dataset, epochs = open_folder("three", folder), []

    def stop(step):
        raise KeyboardInterrupt

    def run(seed, progress):
        model = adapt_to(models().get("digits_vgg"), dataset, AdaptOptions(epochs=2, seed=seed), "digits_vgg")
        train(model, device=CPU, out=tmp_path / "w.safetensors", overwrite=True, dataset=dataset, progress=progress)

    with pytest.raises(KeyboardInterrupt):
        run(0, stop)
    run(1, lambda step: epochs.append(step.epoch))
    with pytest.raises(KeyboardInterrupt):
        run(0, stop)
    (tmp_path / "w.safetensors.training").write_bytes(b"cut off")
    run(0, lambda step: epochs.append(step.epoch))

    assert epochs == [1, 2, 1, 2]


def test_the_evaluation_split_decides_nothing_but_the_accuracy(folder, tmp_path):
    poisoned = tmp_path / "poisoned" / "three"
    shutil.copytree(folder, poisoned)
    for path in (poisoned / "test").rglob("*.png"):
        path.write_bytes(b"poison")
    good = adapt(folder, tmp_path / "good.safetensors", "--layers", "all", "--epochs", 1, cwd=tmp_path)
    assert good.returncode == 0, good.stderr
    bad = adapt(poisoned, tmp_path / "bad.safetensors", "--layers", "all", "--epochs", 1, cwd=tmp_path)

    # The training went to its end, and only then was an image of the split asked for.
    assert bad.returncode == 2
    assert "test/one/00.png` must be an image, but it cannot be decoded" in bad.stderr
    for path in (poisoned / "test").rglob("*.png"):
        Image.new("L", (8, 8), 99).save(path)
    bad = adapt(poisoned, tmp_path / "bad.safetensors", "--layers", "all", "--epochs", 1, cwd=tmp_path)
    facts = [recorded_facts(tmp_path / f"{name}.safetensors") for name in ("good", "bad")]
    assert bad.returncode == 0, bad.stderr
    assert facts[0]["tensors_digest"] == facts[1]["tensors_digest"]
    assert facts[1]["test_top1"] == pytest.approx(1 / 3)


def test_half_precision_is_measured_as_it_is_stored_and_loaded(folder, tmp_path, monkeypatch):
    done = adapt(folder, tmp_path / "w.safetensors", "--half", cwd=tmp_path)
    state, facts = load_file(tmp_path / "w.safetensors"), recorded_facts(tmp_path / "w.safetensors")
    assert done.returncode == 0, done.stderr
    assert {tensor.dtype for key, tensor in state.items() if not key.endswith("tracked")} == {torch.float16}

    model = dataclasses.replace(
        adapt_to(models().get("digits_vgg"), open_folder("three", folder), AdaptOptions()), recipe=None
    )
    network = model.with_weights("w", state)
    split = open_folder("three", folder).split("test")
    right = network(model.prepare(split.stored(size=(1, 8, 8)))).argmax(dim=1).numpy() == split.labels
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert right.mean() == facts["test_top1"]


def test_images_are_mirrored_with_probability_one_half():
    images = torch.arange(400 * 2 * 3, dtype=torch.float32).view(400, 1, 2, 3)
    flipped = random_flip(images, torch.Generator().manual_seed(0))
    is_mirrored = [torch.equal(new, old.flip(-1)) for old, new in zip(images, flipped, strict=True)]

    assert all(torch.equal(new, old) or m for old, new, m in zip(images, flipped, is_mirrored, strict=True))
    assert 160 < sum(is_mirrored) < 240


def test_bad_input_is_refused_before_anything_is_trained(folder, tmp_path):
    def message(*arguments):
        done = pruneboard_here("train", *arguments, "--out", tmp_path / "w.safetensors", cwd=tmp_path)
        assert done.returncode == 2
        assert not (tmp_path / "w.safetensors").exists()
        return " ".join(done.stderr.split())

    start = ("digits_vgg", "--from", DIGITS_VGG, "--dataset")
    assert "there is no data set `nothing`" in message(*start, "nothing")
    assert "`--from` must come with `--dataset`" in message("digits_vgg", "--from", DIGITS_VGG)
    assert "must come with `--from`" in message("digits_vgg", "--size", 9)
    assert "`learning_rate` of a recipe must be above 0, got -1.0" in message(*start, folder, "--learning-rate", "-1")
    (folder / "train").rename(folder / "training")
    assert "must have a split `train` to be learned, but `three` has test, training" in message(*start, folder)
    (folder / "training").rename(folder / "train")
    (folder / "test").rename(folder / "unseen")
    assert "must have a split that is not learned, test or validation or val" in message(*start, folder)
    (folder / "unseen").rename(folder / "test")
    (folder / "test" / "two").mkdir()
    shutil.copy(folder / "test" / "one" / "00.png", folder / "test" / "two")
    assert "but `two` of `three` has images in `test` and none in `train`" in message(*start, folder)
    shutil.rmtree(folder / "test" / "two")

    other = models().get("digits_resnet").weights_file
    said = message("digits_vgg", "--from", other, "--dataset", folder)
    assert "must fit `digits_vgg`, but `bn1.bias` is (12,) in the file and absent in the network" in said
    (tmp_path / "cut.safetensors").write_bytes(DIGITS_VGG.read_bytes()[:1000])
    assert "must be a whole safetensors file" in message(
        "digits_vgg", "--from", tmp_path / "cut.safetensors", "--dataset", folder
    )
    assert "must be a whole safetensors file" in message("digits_vgg", "--from", "absent.bin", "--dataset", folder)


def test_a_network_with_other_outputs_than_classes_is_refused_by_every_command(folder, tmp_path):
    write_suite(tmp_path, models={"digits_vgg": ["filters"]}, criteria=["activation"], datasets=["three"])
    data = {"PRUNEBOARD_DATA": str(tmp_path)}
    pruned = ("digits_vgg", "--criterion", "activation", "--rate", 0.5, "--suite", "small.toml")
    for command in (
        ("run", "small.toml", "--workers", 2),
        ("prune", *pruned, "--out", "w.safetensors"),
        ("tune", "lrp", "--suite", "small.toml", "--trials", 1, "--workers", 0),
        ("speed", "small.toml"),
        ("train", "digits_vgg", "--dataset", "three", "--out", "w.safetensors"),
    ):
        done = pruneboard_here(*command, cwd=tmp_path, env=data)
        assert done.returncode == 2, command
        assert "but `digits_vgg` has 10 and `three` 3 classes (one, seven, zero); complete" in done.stderr
        assert "\n" not in done.stderr.strip()
        assert not (tmp_path / "w.safetensors").exists()


def test_a_folder_that_is_there_needs_no_more_than_its_name(folder, tmp_path):
    assert adapt("three", tmp_path / "w.safetensors", "--epochs", 1, cwd=tmp_path).returncode == 0
    shutil.rmtree(folder)
    done = adapt("three", tmp_path / "v.safetensors", cwd=tmp_path)
    assert done.returncode == 2
    assert "there is no data set `three`" in done.stderr


def test_a_transfer_starts_from_a_pickled_checkpoint_with_another_head(folder, tmp_path):
    state = load_file(DIGITS_VGG)
    head = {key: tensor[:7] for key, tensor in state.items() if key.startswith("head.")}
    assert head
    checkpoint = {"epoch": 3, "model": {f"module.{key}": tensor for key, tensor in (state | head).items()}}
    torch.save(checkpoint, tmp_path / "seven.pth")
    done = pruneboard_here(
        *("train", "digits_vgg", "--from", "seven.pth", "--dataset", folder, "--epochs", 1, "--out", "w.safetensors"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    after = load_file(tmp_path / "w.safetensors")
    assert all(torch.equal(after[key], tensor) for key, tensor in state.items() if not key.startswith("head."))


def test_a_transfer_that_diverges_is_an_error(folder, tmp_path):
    done = adapt(folder, tmp_path / "w.safetensors", "--layers", "all", "--learning-rate", "1e30", cwd=tmp_path)

    assert done.returncode == 2
    assert "the training loss must be finite" in done.stderr
    assert not (tmp_path / "w.safetensors").exists()


def test_a_network_with_too_few_outputs_and_labels_with_gaps_are_refused(folder, tmp_path):
    base = models().get("digits_vgg")
    recipe = Recipe(dataset="three", epochs=1, batch_size=9, learning_rate=0.1, weight_decay=0, start="digits_vgg")
    two = adapted(base, name="two", n_classes=2, recipe=recipe)
    with pytest.raises(AssetError, match="but `two` has 2 and `three` 3 classes \\(one, seven, zero\\); complete"):
        train(two, device=CPU, out=tmp_path / "w.safetensors", dataset=open_folder("three", folder))

    gaps = dataclasses.replace(open_dataset("digits"), classes=None)
    split = gaps.split("train")
    split.labels[split.labels == 4] = 5
    with pytest.raises(AssetError, match="label 4 of `gaps` has none; number the classes from 0 to 8"):
        adapt_to(base, dataclasses.replace(gaps, name="gaps", sources={"train": Only(split)}), AdaptOptions())


class Only:
    def __init__(self, split):
        self._split = split

    def load(self, name):
        return self._split


def test_weights_for_images_of_another_size_are_refused_where_they_do_not_fit(folder, tmp_path):
    done = pruneboard_here(
        *("train", "digits_vit", "--from", "digits_vit", "--dataset", folder, "--size", 16, "--out", "w.safetensors"),
        cwd=tmp_path,
    )

    assert done.returncode == 2
    assert "must take images of 1 x 16 x 16, but Input height (16) doesn't match model (8)" in done.stderr


def test_every_network_of_timm_that_is_registered_can_be_adapted(folder):
    for name in ("digits_vgg", "digits_resnet", "digits_vit"):
        model = adapt_to(models().get(name), open_folder("three", folder), AdaptOptions(epochs=1), name)
        split = open_folder("three", folder).split("train")
        stored, labels = split.stored(size=model.input_size), torch.from_numpy(split.labels)
        network, _ = fit(model, stored, labels, device=CPU, start=start_from_model(name))
        assert network(model.prepare(stored[:2])).shape == (2, 3)


def test_a_network_without_a_known_classifier_is_declined(folder):
    model = dataclasses.replace(models().get("digits_vgg"), build=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))

    with pytest.raises(ModelError, match="must be one of timm's to get another classifier"):
        adapt_to(model, open_folder("three", folder), AdaptOptions()).build()


def test_the_shipped_transfer_reaches_its_accuracy(shared_data, monkeypatch):
    monkeypatch.setenv("PRUNEBOARD_DATA", str(shared_data))
    model = models().get("mobilenetv2_cifar10")
    facts, network = recorded_facts(model.weights_file), model.load()
    split = open_dataset("cifar10-lossless").split("test")
    rows = np.arange(300)
    right = []
    with torch.no_grad():
        for part in np.array_split(rows, 6):
            logits = network(model.prepare(split.stored(part, size=model.input_size)))
            right.extend(logits.argmax(dim=1).numpy() == split.labels[part])

    assert Recipe(**facts["recipe"]) == model.recipe
    assert facts["start"]["digest"] == models().get("mobilenetv2").weights.digest
    # The first 300 images may differ from all 1,000 by a few points.
    assert np.mean(right) == pytest.approx(facts["test_top1"], abs=0.06)
    assert model.weights_file.stat().st_size < 10_000_000
