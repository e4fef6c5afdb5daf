"""The networks of Hatefi et al. 2024 (arXiv 2408.12568) with published ImageNet weights, in timm's implementation.

The convolutional ones have the weights of torchvision, as there; the transformer has timm's default ones, because those
of torchvision do not fit timm's network. All are fetched from the hub, and none is part of this package.
"""

from functools import partial

import timm
from torch import nn

from pruneboard.benchmark.api import Framing, Granularity, Model, Weights

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def _build(name: str) -> nn.Module:
    network: nn.Module = timm.create_model(name)
    return network


def _model(name: str, tag: str, family: str, source: str, granularities: tuple[Granularity, ...], text: str) -> Model:
    is_vit = family == "ViT"
    mean, std = _HALF if is_vit else _IMAGENET
    return Model(
        name=f"imagenet_{name}",
        version=1,
        family=family,
        description=f"{text} Its weights are timm's {name}.{tag}.",
        source=source,
        licence="Apache-2.0" if is_vit else "BSD-3-Clause",
        build=partial(_build, name),
        granularities=granularities,
        input_size=(3, 224, 224),
        mean=mean,
        std=std,
        framing=Framing(0.9, "bicubic") if is_vit else Framing(0.875),
        weights=Weights(file=f"{name}.{tag}.safetensors", hub=f"timm/{name}.{tag}"),
    )


_VGG, _RESNET = "https://arxiv.org/abs/1409.1556", "https://arxiv.org/abs/1512.03385"

imagenet_vgg16 = _model("vgg16", "tv_in1k", "VGG", _VGG, ("filters",), "VGG-16 for ImageNet.")
imagenet_vgg16_bn = _model("vgg16_bn", "tv_in1k", "VGG", _VGG, ("filters",), "VGG-16 with batch norm for ImageNet.")
imagenet_resnet18 = _model("resnet18", "tv_in1k", "ResNet", _RESNET, ("filters",), "ResNet-18 for ImageNet.")
imagenet_resnet50 = _model("resnet50", "tv_in1k", "ResNet", _RESNET, ("filters",), "ResNet-50 for ImageNet.")
imagenet_vit_base_patch16_224 = _model(
    "vit_base_patch16_224",
    "augreg2_in21k_ft_in1k",
    "ViT",
    "https://arxiv.org/abs/2010.11929",
    ("neurons", "heads"),
    "ViT-B/16 for ImageNet, pretrained on ImageNet-21k.",
)
