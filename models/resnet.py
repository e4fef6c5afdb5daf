"""ResNets of basic blocks: for 8 x 8 digits, the 32 x 32 photographs of CIFAR-10, and those of Imagenette at 128 x 128.

Architecture: He et al. 2015, Deep Residual Learning for Image Recognition, arXiv 1512.03385, in timm's implementation
(Apache-2.0); the weights are our own.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from pruneboard.benchmark.api import Model, Recipe, Weights
from pruneboard.models import _cifar, _imagenette

_WIDTHS = (12, 24, 48)


def _digits_resnet() -> nn.Module:
    # A deep stem is timm's way to a width other than 64; it is then replaced by one convolution of that width.
    model = ResNet(BasicBlock, (1, 1, 1), 10, 1, stem_type="deep", stem_width=_WIDTHS[0] // 2, channels=_WIDTHS)
    model.conv1 = nn.Conv2d(1, _WIDTHS[0], 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    # timm's forward pass expects four stages.
    model.layer4 = nn.Identity()
    model.init_weights(zero_init_last=False)
    network: nn.Module = model
    return network


digits_resnet = Model(
    name="digits_resnet",
    version=1,
    family="ResNet",
    description="A 3 x 3 stem and three basic blocks; the last two halve the map and have projection shortcuts.",
    source="https://arxiv.org/abs/1512.03385",
    licence="BSD-3-Clause",
    build=_digits_resnet,
    granularities=("filters",),
    input_size=(1, 8, 8),
    mean=(0.306,),
    std=(0.376,),
    weights=Weights(
        file="digits_resnet.safetensors",
        digest="84464231b26742ee68ce35f7c0b8bcce373fd3430c0a1fa130facc88701a72de",
        sha256="46ba5280c15b4a03139652f0324e92297b4951bd27ba707244849e84457d9adf",
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


def _cifar_resnet18() -> nn.Module:
    model = ResNet(BasicBlock, (2, 2, 2, 2), 10)
    # Images of 32 pixels are too small to be halved twice before the first block.
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    model.init_weights(zero_init_last=False)
    network: nn.Module = model
    return network


cifar_resnet18 = Model(
    name="cifar_resnet18",
    version=1,
    family="ResNet",
    description="ResNet-18 in its form for CIFAR-10: a 3 x 3 stem without pooling and four stages of two basic blocks.",
    source="https://arxiv.org/abs/1512.03385",
    licence="BSD-3-Clause",
    build=_cifar_resnet18,
    granularities=("filters",),
    input_size=(3, 32, 32),
    mean=_cifar.MEAN,
    std=_cifar.STD,
    recipe=replace(_cifar.SGD, learning_rate=0.1),
    made_when_used=False,
)

imagenette_resnet18 = Model(
    name="imagenette_resnet18",
    version=1,
    family="ResNet",
    description="ResNet-18 for Imagenette at 128 x 128 pixels: a 7 x 7 stem with pooling, four stages of two blocks.",
    source="https://arxiv.org/abs/1512.03385",
    licence="BSD-3-Clause",
    build=partial(ResNet, BasicBlock, (2, 2, 2, 2), _imagenette.N_CLASSES, zero_init_last=False),
    granularities=("filters",),
    input_size=_imagenette.INPUT_SIZE,
    mean=_imagenette.MEAN,
    std=_imagenette.STD,
    recipe=_imagenette.SGD,
    made_when_used=False,
)
