"""A small VGG with batch norm for 8 x 8 digits.

Architecture: Simonyan and Zisserman 2014, Very Deep Convolutional Networks, arXiv 1409.1556, in timm's implementation
(Apache-2.0); the weights are our own.
"""

from pathlib import Path

from timm.layers import ClassifierHead
from timm.models.vgg import VGG
from torch import nn

from pruneboard.benchmark.api import Model, Recipe, Weights

_WIDTHS = (12, 12, "M", 24, 24, "M", 64, 64)


def _digits_vgg() -> nn.Module:
    # timm always makes a hidden classifier of 4096 filters and 7 x 7 kernels; on the meta device that costs nothing.
    model = VGG(list(_WIDTHS), num_classes=10, in_chans=1, norm_layer=nn.BatchNorm2d, device="meta")
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
    build=_digits_vgg,
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
