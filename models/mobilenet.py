"""MobileNetV2 with published ImageNet weights, and adapted to CIFAR-10.

Architecture: Sandler et al. 2018, MobileNetV2: Inverted Residuals and Linear Bottlenecks, arXiv 1801.04381, in timm's
implementation (Apache-2.0).
Weights: https://github.com/google-coral/test_data (Apache-2.0), de-quantised; not part of this package.
"""

from pathlib import Path

import timm
from torch import nn

from pruneboard.benchmark.api import Model, Recipe, Weights, adapted


def _mobilenetv2() -> nn.Module:
    # TensorFlow pads layers of stride 2 at the right and at the bottom.
    network: nn.Module = timm.create_model("mobilenetv2_100", num_classes=1000, pad_type="same")
    return network


mobilenetv2 = Model(
    name="mobilenetv2",
    version=1,
    family="MobileNet",
    description="MobileNetV2 for ImageNet; its batch norms are folded into the convolutions, so that their scales are "
    "all 1. Filters of depthwise convolutions belong to the convolution before them.",
    source="https://arxiv.org/abs/1801.04381",
    licence="Apache-2.0",
    build=_mobilenetv2,
    granularities=("filters",),
    input_size=(3, 224, 224),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    weights=Weights(
        file="mobilenetv2_100_tf.safetensors",
        digest="9a2f286723358329d3522f14406b4cecdb90087a96fbad69ecfeb566d78161c3",
        sha256="2b0c4fb43c75bf6c225822062cc121595f0497b80f0e72cb60da34961662d5b9",
    ),
)

mobilenetv2_cifar10 = adapted(
    mobilenetv2,
    name="mobilenetv2_cifar10",
    n_classes=10,
    input_size=(3, 64, 64),
    weights=Weights(
        file="mobilenetv2_cifar10.safetensors",
        digest="717f616f9dce68c0b95ac62addb8616ae50bc7710148820cd806582039dd8e72",
        sha256="1a0455f62945ffac3f4ee8b66ea70576773ee90c8d74dbf5b87f075b7166acc0",
        package=Path(__file__).parent,
    ),
    recipe=Recipe(
        dataset="cifar10-lossless",
        epochs=5,
        batch_size=32,
        learning_rate=0.0005,
        weight_decay=0.01,
        label_smoothing=0.1,
        max_shift=4,
        flip=True,
        start="mobilenetv2",
        batch_norms="frozen",
        stored_as="float16",
    ),
)
