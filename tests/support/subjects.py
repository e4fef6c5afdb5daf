"""The networks whose speed is measured, with layers, reference images and evaluation images.

Weights that are not shipped are random: they take the same time, and batch norms get statistics that differ from the
identity.
"""

import functools
import os
from dataclasses import dataclass

import timm
import torch
from timm.layers import ClassifierHead
from timm.models.vgg import VGG
from torch import Tensor, nn

from networks import draw_norm
from pruneboard.benchmark import plugins
from pruneboard.benchmark.api import Batch, Context, Granularity
from pruneboard.benchmark.data import draw_reference, open_dataset
from pruneboard.benchmark.schema import Precision
from pruneboard.benchmark.units import find_layers

DEVICE = torch.device(os.environ.get("PRUNEBOARD_BENCH_DEVICE", "cpu"))
PRECISION: Precision = os.environ.get("PRUNEBOARD_BENCH_PRECISION", "float32")  # type: ignore[assignment]

_VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)


@dataclass(frozen=True)
class Subject:
    """A network with all that a measurement needs.

    Attributes:
        context: network, layers and 100 reference images.
        inputs: evaluation images, float32 (n_images, channels, height, width).
        labels: int64 (n_images,).
    """

    context: Context
    inputs: Tensor
    labels: Tensor


def cifar_vgg16_bn() -> nn.Module:
    """Make VGG-16 with batch norm for images of 32 pixels: 13 convolutions, average pooling, one linear layer."""
    model = VGG(list(_VGG16), num_classes=10, norm_layer=nn.BatchNorm2d, device="meta")
    model.pre_logits, model.head = nn.Identity(), ClassifierHead(512, 10, device="meta")
    network: nn.Module = model.to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
            module.reset_parameters()
    model._initialize_weights()
    return network


_FOREIGN: dict[str, tuple[object, Granularity, int]] = {
    "vgg16_bn at 32 px": (cifar_vgg16_bn, "filters", 32),
    "resnet18 at 64 px": (functools.partial(timm.create_model, "resnet18", num_classes=10), "filters", 64),
    "vit_tiny at 64 px": (
        functools.partial(timm.create_model, "vit_tiny_patch16_224", img_size=64, patch_size=8, num_classes=10),
        "neurons",
        64,
    ),
    "resnet50 at 224 px": (functools.partial(timm.create_model, "resnet50"), "filters", 224),
    "vit_base at 224 px": (functools.partial(timm.create_model, "vit_base_patch16_224"), "neurons", 224),
}


@functools.cache
def subject(name: str, n_images: int) -> Subject:
    """Return a network of ours by its registered name, or one of timm's at a size of images.

    Networks that are shipped get their own images, all others noise.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name.startswith("digits"):
            return _shipped(name)
        if name in _FOREIGN:
            build, granularity, size = _FOREIGN[name]
            network, shape = build(), (3, size, size)
        else:
            plugin = plugins.models().get(name)
            network, granularity, shape = plugin.build(), plugin.granularities[0], plugin.input_size
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                draw_norm(module)
        inputs = torch.randn(n_images, *shape, device=DEVICE)
        reference = torch.randn(100 if shape[1] <= 64 else 10, *shape, device=DEVICE)
    return _subject(network, granularity, reference, torch.arange(len(reference)) % 10, inputs)


def _shipped(name: str) -> Subject:
    plugin, dataset = plugins.models().get(name), open_dataset("digits")
    test, train = dataset.split("test"), dataset.split("train")
    chosen = draw_reference(train.labels, 10, 0)
    inputs = plugin.normalise(test.inputs(size=plugin.input_size, device=DEVICE))
    reference = plugin.normalise(train.inputs(chosen, size=plugin.input_size, device=DEVICE))
    return _subject(
        plugin.load(),
        plugin.granularities[0],
        reference,
        torch.from_numpy(train.labels[chosen]),
        inputs,
        torch.from_numpy(test.labels),
    )


def _subject(
    network: nn.Module,
    granularity: Granularity,
    reference: Tensor,
    reference_labels: Tensor,
    inputs: Tensor,
    labels: Tensor | None = None,
) -> Subject:
    model = network.eval().to(DEVICE)
    context = Context(
        model=model,
        layers=find_layers(model, granularity, inputs[:1]),
        generator=torch.Generator().manual_seed(0),
        data=Batch(reference, reference_labels.to(DEVICE)),
    )
    if labels is None:
        labels = torch.arange(len(inputs)) % 10
    return Subject(context, inputs, labels.to(DEVICE))
