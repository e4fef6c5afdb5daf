import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from pruneboard.benchmark.api import Recipe
from pruneboard.benchmark.assets import file_sha256, tensors_digest
from pruneboard.benchmark.data import open_dataset
from pruneboard.benchmark.errors import AssetError, ModelError, StoreError
from pruneboard.benchmark.plugins import models
from pruneboard.benchmark.training import Going, fit, random_shift, train

CPU = torch.device("cpu")


def quick(name="digits_vgg", **changes):
    plugin = models().get(name)
    recipe = dataclasses.replace(plugin.recipe, **{"epochs": 1, "max_shift": 1} | changes)
    return dataclasses.replace(plugin, recipe=recipe)


@pytest.mark.parametrize("name", ["digits_vgg", "digits_resnet", "digits_vit"])
def test_a_training_repeats_bit_for_bit_whatever_the_global_state(name, tmp_path):
    first = train(quick(name), device=CPU, out=tmp_path / "first.safetensors")
    n_threads = torch.get_num_threads()
    with torch.random.fork_rng([]):
        torch.manual_seed(123)
        before = torch.get_rng_state()
        again = train(quick(name), device=CPU, out=tmp_path / "again.safetensors")
        untouched = torch.equal(before, torch.get_rng_state())
    other = train(quick(name, seed=1), device=CPU, out=tmp_path / "other.safetensors")

    assert first.file.read_bytes() == again.file.read_bytes()
    assert first.tensors_digest == again.tensors_digest != other.tensors_digest
    assert untouched
    assert torch.get_num_threads() == n_threads


def test_the_result_describes_the_file(tmp_path):
    steps = []
    result = train(quick(epochs=2), device=CPU, out=tmp_path / "w.safetensors", progress=steps.append)
    with safe_open(result.file, "pt") as file:
        facts = json.loads(file.metadata()["pruneboard"])

    assert result.sha256 == file_sha256(result.file)
    assert result.tensors_digest == tensors_digest(load_file(result.file))
    assert facts["recipe"]["epochs"] == 2
    assert facts["data_digest"] == open_dataset("digits").digest
    assert facts["tensors_digest"] == result.tensors_digest
    assert facts["torch"] == torch.__version__
    assert facts["test_top1"] == result.top1 > 0.5
    assert result.n_images == facts["test_n_images"] == 599
    assert [(step.epoch, step.n_epochs) for step in steps] == [(1, 2), (2, 2)]
    assert steps[1].loss < steps[0].loss
    assert steps[1].learning_rate == pytest.approx(0.01 / 25 / 1e4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits_vgg", "digits_resnet", "digits_vit"])
def test_the_shipped_weights_can_be_made_again(name, tmp_path):
    plugin = models().get(name)
    path = plugin.weights.package / plugin.weights.file
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["pruneboard"])
    result = train(plugin, device=CPU, out=tmp_path / "again.safetensors")

    assert Recipe(**facts["recipe"]) == plugin.recipe
    assert facts["data_digest"] == open_dataset("digits").digest
    # The bits belong to one release of PyTorch on one kind of processor, the accuracy to the recipe.
    assert result.top1 == pytest.approx(facts["test_top1"], abs=0.015)


def test_every_epoch_sees_every_image_once_by_the_one_cycle_schedule():
    sizes, labels = [], torch.arange(10).repeat(5)
    pixels = torch.arange(50, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    seen = []

    class Recorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 10)

        def forward(self, images):
            sizes.append(len(images))
            seen.extend(images[:, 0, 4, 4].tolist())
            return self.linear(images.flatten(1))

    plugin = dataclasses.replace(quick(epochs=2, batch_size=20), build=Recorder, mean=(0.0,), std=(1.0,))
    steps = []
    network, _ = fit(plugin, pixels.float() / 255, labels, device=CPU, going=Going(steps.append))
    # One image tells how many outputs there are.
    assert sizes.pop(0) == 1
    seen.pop(0)

    assert sizes == [20, 20, 10] * 2
    for epoch in (seen[:50], seen[50:]):
        assert sorted(round(255 * value) for value in epoch) == list(range(50))
    assert seen[:50] != seen[50:]
    assert not network.training


def test_gradient_descent_takes_the_steps_of_its_formula():
    """Two steps of a linear network, whose gradient is known in closed form: v = 0.9 v + g, w = w - rate v."""
    plugin = dataclasses.replace(
        quick(
            epochs=2,
            batch_size=8,
            learning_rate=0.1,
            weight_decay=0.0,
            optimiser="sgd",
            max_shift=0,
            label_smoothing=0.0,
        ),
        build=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False)),
        mean=(0.0,),
        std=(1.0,),
    )
    inputs, labels = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8)
    steps = []
    network, _ = fit(plugin, inputs, labels, device=CPU, going=Going(steps.append))
    with torch.random.fork_rng([]):
        torch.manual_seed(plugin.recipe.seed)
        expected = plugin.build()[1].weight.detach().double()
    flat, velocity = inputs.flatten(1).double(), torch.zeros(10, 64, dtype=torch.float64)
    for step in steps:
        error = (flat @ expected.T).softmax(dim=1) - nn.functional.one_hot(labels, 10)
        velocity = 0.9 * velocity + error.T @ flat / 8
        expected = expected - step.learning_rate * velocity

    torch.testing.assert_close(network[1].weight.detach().double(), expected, rtol=1e-4, atol=1e-6)


def test_a_shift_moves_whole_images_and_fills_with_zeros():
    images = torch.arange(1, 1 + 60 * 2 * 9, dtype=torch.float32).view(60, 2, 3, 3)
    shifted = random_shift(images, 1, torch.Generator().manual_seed(0))
    padded = nn.functional.pad(images, [1] * 4)
    offsets = set()
    for before, after in zip(padded, shifted, strict=True):
        found = [(r, c) for r in range(3) for c in range(3) if torch.equal(before[:, r : r + 3, c : c + 3], after)]
        assert len(found) == 1
        offsets.update(found)

    assert len(offsets) == 9
    assert random_shift(images, 0, torch.Generator()) is images


def test_a_model_without_a_recipe_is_refused(tmp_path):
    plugin = models().get("cifar_resnet20")

    with pytest.raises(ModelError, match="must have a recipe to be trained, but `cifar_resnet20` has none"):
        train(plugin, device=CPU, out=tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_unless_it_may_be_overwritten(tmp_path):
    out = tmp_path / "w.safetensors"
    out.write_bytes(b"precious")

    with pytest.raises(AssetError, match=r"`out` must be a new file, but `.*w\.safetensors` exists"):
        train(quick(), device=CPU, out=out)
    assert out.read_bytes() == b"precious"
    with pytest.raises(AssetError, match="name a file in it"):
        train(quick(), device=CPU, out=tmp_path, overwrite=True)
    result = train(quick(), device=CPU, out=out, overwrite=True)
    assert file_sha256(out) == result.sha256
    assert list(tmp_path.iterdir()) == [out]


def test_a_place_that_cannot_be_written_is_refused_before_the_training(tmp_path):
    (tmp_path / "file").write_text("no folder")
    steps = []

    with pytest.raises(StoreError, match="must be writable"):
        train(quick(), device=CPU, out=tmp_path / "file" / "w.safetensors", progress=steps.append)
    assert steps == []


def test_an_interrupted_training_leaves_no_file(tmp_path):
    def interrupt(_step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(quick(), device=CPU, out=tmp_path / "w.safetensors", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    plugin = dataclasses.replace(quick(), mean=(float("nan"),))

    with pytest.raises(ModelError, match="must be finite, but it is not in epoch 1 of `digits_vgg`"):
        train(plugin, device=CPU, out=tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
def test_training_on_a_gpu_reaches_the_same_accuracy(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    plugin = models().get("digits_vgg")

    assert train(plugin, device=torch.device("cuda"), out=tmp_path / "w.safetensors").top1 > 0.97


def test_weights_that_are_made_here_are_found_by_their_recipe_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNEBOARD_CACHE", str(tmp_path))
    plugin = dataclasses.replace(quick(), weights=None)
    with pytest.raises(ModelError, match="has no weights yet; make them with `pruneboard train digits_vgg`"):
        plugin.load()
    assert plugin.weights_digest == ""
    result = train(plugin, device=CPU, out=plugin.made_file)
    state = load_file(result.file)

    assert result.file.parent == tmp_path / "weights"
    assert plugin.weights_digest == result.tensors_digest == tensors_digest(state)
    assert all(torch.equal(value, state[key]) for key, value in plugin.load().named_parameters())
    for other in (
        dataclasses.replace(quick(learning_rate=0.02), weights=None),
        dataclasses.replace(plugin, version=plugin.version + 1),
        dataclasses.replace(plugin, name="another"),
    ):
        assert other.made_file != plugin.made_file
        assert other.weights_digest == ""
    assert models().get("digits_vgg").made_file is None
    assert models().get("cifar_resnet20").made_file is None

    content = bytearray(result.file.read_bytes())
    content[-1] ^= 1
    result.file.write_bytes(content)
    for look in (plugin.load, lambda: plugin.weights_digest):
        with pytest.raises(AssetError, match=f"must have the digest {result.tensors_digest}, got .*; delete the file"):
            look()
    save_file(state, result.file)
    with pytest.raises(AssetError, match="must have the digest that a training records, got"):
        plugin.load()
