"""The recipes of the networks for CIFAR-10 and Imagenette, on a few real images."""

import dataclasses

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from commands import pruneboard_here
from pruneboard.benchmark.api import Recipe
from pruneboard.benchmark.data import draw_reference, open_dataset, scaled
from pruneboard.benchmark.errors import ModelError
from pruneboard.benchmark.plugins import models
from pruneboard.benchmark.training import Going, fit
from pruneboard.benchmark.training._augment import Augmentation
from pruneboard.benchmark.training._checkpoint import Checkpoint

CPU = torch.device("cpu")


def quick(name, **changes):
    """A network of the zoo with fewer epochs; the transformer is made small."""
    plugin = models().get(name)
    recipe = dataclasses.replace(plugin.recipe, **{"epochs": 2, "batch_size": 16} | changes)
    return dataclasses.replace(plugin, recipe=recipe)


def tiny_vit():
    return VisionTransformer(img_size=32, patch_size=8, num_classes=10, embed_dim=32, depth=1, num_heads=2)


@pytest.fixture
def images(shared_data, monkeypatch):
    monkeypatch.setenv("PRUNEBOARD_DATA", str(shared_data))
    split = open_dataset("cifar10-jpeg").split("train")
    return split.stored(range(48), size=(3, 32, 32)), torch.from_numpy(split.labels[:48])


@pytest.mark.parametrize("name", ["cifar_vgg16_bn_half", "cifar_vit"])
def test_the_loss_falls_on_real_images(name, images):
    steps = []
    plugin = quick(name, epochs=8, policy="none", cutmix=0.0, label_smoothing=0.0, flip=False, max_shift=0)
    if name == "cifar_vit":
        plugin = dataclasses.replace(plugin, build=tiny_vit)
    fit(plugin, *images, device=CPU, going=Going(steps.append))

    assert steps[-1].loss < 0.9 * steps[0].loss
    assert [step.epoch for step in steps] == list(range(1, 9))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar_vgg16_bn", "cifar_resnet18", "cifar_vit"])
def test_the_loss_of_the_whole_networks_falls_as_well(name, images):
    steps = []
    fit(quick(name, epochs=10, cutmix=0.0, policy="none"), *images, device=CPU, going=Going(steps.append))

    assert steps[-1].loss < 0.95 * steps[0].loss


@pytest.mark.slow
@pytest.mark.parametrize("name", ["imagenette_vgg16_bn", "imagenette_resnet18", "imagenette_vit"])
def test_the_loss_of_the_networks_for_imagenette_falls(name, shared_data, monkeypatch):
    monkeypatch.setenv("PRUNEBOARD_DATA", str(shared_data))
    plugin = quick(name, epochs=6, cutmix=0.0, policy="none", max_shift=0, flip=False, label_smoothing=0.0)
    split, steps = open_dataset("imagenette").split("train"), []
    rows = draw_reference(split.labels, 3, 0)
    labels = torch.from_numpy(split.labels[rows])
    stored = split.stored(rows, size=plugin.input_size, framing=plugin.framing)
    fit(plugin, stored, labels, device=CPU, going=Going(steps.append))

    assert len(set(labels.tolist())) == 10
    assert steps[-1].loss < 0.9 * steps[0].loss


def test_a_training_with_all_augmentation_continues_with_the_same_bits(images, tmp_path, monkeypatch):
    """TrivialAugment and CutMix draw from torch's global generator, whose state has to be kept as well."""
    monkeypatch.setattr(Checkpoint, "every_seconds", 0.0)
    plugin = dataclasses.replace(quick("cifar_vit", epochs=3), build=tiny_vit)

    def run(stop_after=None, checkpoint=None):
        def progress(step):
            if step.epoch == stop_after:
                raise KeyboardInterrupt

        return fit(plugin, *images, device=CPU, going=Going(progress, checkpoint))[0].state_dict()

    whole = run()
    checkpoint = Checkpoint(tmp_path / "w.training", "key")
    with pytest.raises(KeyboardInterrupt):
        run(2, checkpoint)
    before = torch.get_rng_state()
    resumed = run(None, checkpoint)

    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert torch.equal(torch.get_rng_state(), before)
    other = fit(dataclasses.replace(plugin, recipe=dataclasses.replace(plugin.recipe, seed=1)), *images, device=CPU)[
        0
    ].state_dict()
    assert any(not torch.equal(whole[key], other[key]) for key in whole)


def test_mixed_precision_is_for_gpus_alone(images):
    nets = [
        fit(
            dataclasses.replace(quick("cifar_vit", mixed_precision=mixed, epochs=1), build=tiny_vit),
            *images,
            device=CPU,
        )
        for mixed in (False, True)
    ]

    assert all(torch.equal(a, b) for a, b in zip(nets[0][0].parameters(), nets[1][0].parameters(), strict=True))


@pytest.mark.gpu
def test_mixed_precision_trains_on_a_gpu(images):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    steps = []
    fit(quick("cifar_vgg16_bn_half", epochs=8), *images, device=torch.device("cuda"), going=Going(steps.append))
    assert steps[-1].loss < steps[0].loss


def test_trivial_augment_changes_images_and_keeps_them_images(images):
    recipe = models().get("cifar_vit").recipe
    stored = scaled(images[0])
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        changed = Augmentation(recipe, 10).change(stored, torch.Generator().manual_seed(0))

    assert changed.shape == stored.shape
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
    assert (changed != stored).flatten(1).any(dim=1).float().mean() > 0.8


def test_cutmix_labels_say_how_much_of_each_image_there_is():
    """Images of one value each: the mean of a mixed one is the mean of the values by their probabilities."""
    recipe = dataclasses.replace(models().get("cifar_vit").recipe, cutmix=1.0)
    values = torch.linspace(0, 1, 10)
    images = values.view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    generator, n_mixed = torch.Generator().manual_seed(0), 0
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        for _ in range(20):
            mixed, probabilities = Augmentation(recipe, 10).mix(images, torch.arange(10), generator)
            torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), probabilities @ values, rtol=1e-4, atol=1e-4)
            n_mixed += bool((probabilities.max(dim=1).values < 1).any())
    never = Augmentation(dataclasses.replace(recipe, cutmix=0.0), 10)

    assert n_mixed > 10
    assert never.mix(images, torch.arange(10), generator)[0] is images


def test_gradients_are_clipped_to_the_norm_of_the_recipe(images):
    """With a tiny norm, one step of gradient descent cannot go further than rate times norm."""
    plugin = dataclasses.replace(
        quick(
            "cifar_vit", epochs=1, batch_size=48, learning_rate=1.0, optimiser="sgd", weight_decay=0.0, clip_norm=0.1
        ),
        build=tiny_vit,
    )
    steps = []
    network, _ = fit(plugin, *images, device=CPU, going=Going(steps.append))
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        fresh = tiny_vit()
    moved = sum(((a - b) ** 2).sum() for a, b in zip(network.parameters(), fresh.parameters(), strict=True)).sqrt()

    assert float(moved.detach()) == pytest.approx(steps[0].learning_rate * 0.1, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "`epochs` of a recipe must be at least 1, got 0"),
        ({"cutmix": 1.5}, r"`cutmix` of a recipe must be in \[0, 1\], got 1.5"),
        ({"learning_rate": float("nan")}, "`learning_rate` of a recipe must be above 0, got nan"),
        ({"trains": "classifier", "flip": True}, "must leave the images as they are"),
    ],
)
def test_recipes_out_of_range_are_refused(changes, message):
    recipe = {"dataset": "digits", "epochs": 1, "batch_size": 1, "learning_rate": 0.1, "weight_decay": 0.0}

    with pytest.raises(ModelError, match=message):
        Recipe(**recipe | changes)


def test_weights_that_take_long_are_not_made_by_the_way(tmp_path, shared_data):
    env = {"PRUNEBOARD_DATA": str(shared_data)}
    done = pruneboard_here("run", "cifar10_jpeg", "--model", "cifar_vit", "--workers", 0, cwd=tmp_path, env=env)

    assert done.returncode == 2
    assert "make them with `pruneboard train cifar_vit --device auto`" in " ".join(done.stderr.split())


def test_a_recipe_learns_another_data_set_when_asked_to(tmp_path):
    done = pruneboard_here("train", "digits_vgg", "--epochs", 1, "--dataset", "digits", "--half", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["digits_vgg.safetensors"]
    refused = pruneboard_here("train", "digits_vgg", "--dataset", "toy_moons", "--out", "w.safetensors", cwd=tmp_path)
    assert refused.returncode == 2
    assert "holds points, so the `input_size` of a network must be (2, 1, 1)" in " ".join(refused.stderr.split())
