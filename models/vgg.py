"""VGGs with batch norm: for 8 x 8 digits, the 32 x 32 photographs of CIFAR-10, and those of Imagenette at 128 x 128.

Architecture: Simonyan and Zisserman 2014, Very Deep Convolutional Networks, arXiv 1409.1556, in timm's implementation
(Apache-2.0); the weights are our own.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from timm.layers import ClassifierHead
from timm.models.vgg import VGG
from torch import nn

from pruneboard.benchmark.api import Model, Recipe, Weights
from pruneboard.models import _cifar, _imagenette

_DIGITS = (12, 12, "M", 24, 24, "M", 64, 64)
# Configuration D of the paper, without the last pooling, in whose place all positions are averaged.
_VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)


def _vgg(widths: Sequence[int | str], n_channels: int, n_classes: int = 10) -> nn.Module:
    # timm always makes a hidden classifier of 4096 filters and 7 x 7 kernels; on the meta device that costs nothing.
    model = VGG(list(widths), num_classes=n_classes, in_chans=n_channels, norm_layer=nn.BatchNorm2d, device="meta")
    model.pre_logits = nn.Identity()
    model.head = ClassifierHead(model.num_features, model.num_classes, device="meta")
    model.head_hidden_size = model.num_features
    network: nn.Module = model.to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
            module.reset_parameters()
    model._initialize_weights()
    return network


digits_vgg = Model(
    name="digits_vgg",
    version=1,
    family="VGG",
    description="Six 3 x 3 convolutions with batch norm, global average pooling and one linear layer.",
    source="https://arxiv.org/abs/1409.1556",
    licence="BSD-3-Clause",
    build=partial(_vgg, _DIGITS, 1),
    granularities=("filters",),
    input_size=(1, 8, 8),
    mean=(0.306,),
    std=(0.376,),
    weights=Weights(
        file="digits_vgg.safetensors",
        digest="259ec3e2686f4ee4bef17f2f3f1f9f3e496653a9dd8d592337fa5b083d5f98dd",
        sha256="1df8e9605c8e0dd6d8dd21162594d17dac766301ce99be19f3dc4e2dafcbf522",
        package=Path(__file__).parent,
    ),
    recipe=Recipe(
        dataset="digits",
        epochs=40,
        batch_size=64,
        learning_rate=0.01,
        weight_decay=0.05,
        label_smoothing=0.1,
    ),
)


def _cifar_vgg(name: str, divisor: int, description: str, weights: Weights | None = None) -> Model:
    widths = tuple(width if isinstance(width, str) else width // divisor for width in _VGG16)
    return Model(
        name=name,
        version=1,
        family="VGG",
        description=description,
        source="https://arxiv.org/abs/1409.1556",
        licence="BSD-3-Clause",
        build=partial(_vgg, widths, 3),
        granularities=("filters",),
        input_size=(3, 32, 32),
        mean=_cifar.MEAN,
        std=_cifar.STD,
        weights=weights,
        recipe=_cifar.SGD,
        made_when_used=False,
    )


cifar_vgg16_bn = _cifar_vgg(
    "cifar_vgg16_bn",
    1,
    "VGG-16 with batch norm for CIFAR-10: 13 3 x 3 convolutions, global average pooling and one linear layer.",
)
cifar_vgg16_bn_half = _cifar_vgg(
    "cifar_vgg16_bn_half",
    2,
    "The VGG-16 with batch norm for CIFAR-10 with half as many filters in each layer; its weights are of 12 epochs of "
    "the recipe in place of 100.",
    Weights(
        file="cifar_vgg16_bn_half.safetensors",
        digest="bb3ff860ba2462a0db276f11bba897837c6bdca23df0396264c8233e9f3d46d0",
        sha256="9be8ea8cdfe1b7d8fc5539626c17e86efa4eb8025535a46671222fcd0c491a99",
        package=Path(__file__).parent,
    ),
)

imagenette_vgg16_bn = Model(
    name="imagenette_vgg16_bn",
    version=1,
    family="VGG",
    description="VGG-16 with batch norm for Imagenette at 128 x 128 pixels: 13 convolutions, global average pooling "
    "and one linear layer.",
    source="https://arxiv.org/abs/1409.1556",
    licence="BSD-3-Clause",
    build=partial(_vgg, _VGG16, 3, _imagenette.N_CLASSES),
    granularities=("filters",),
    input_size=_imagenette.INPUT_SIZE,
    mean=_imagenette.MEAN,
    std=_imagenette.STD,
    recipe=_imagenette.SGD,
    made_when_used=False,
)
