"""Small vision transformers: for 8 x 8 digits, the 32 x 32 photographs of CIFAR-10, and Imagenette at 128 x 128.

Architecture: Dosovitskiy et al. 2020, An Image is Worth 16x16 Words, arXiv 2010.11929, in timm's implementation
(Apache-2.0); the weights are our own.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from pruneboard.benchmark.api import Model, Recipe, Weights
from pruneboard.models import _cifar, _imagenette


def _digits_vit() -> nn.Module:
    network: nn.Module = VisionTransformer(
        img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=32, depth=3, num_heads=8, mlp_ratio=2.0
    )
    return network


digits_vit = Model(
    name="digits_vit",
    version=1,
    family="ViT",
    description="Three transformer blocks of eight heads on 2 x 2 patches, read out at the class token.",
    source="https://arxiv.org/abs/2010.11929",
    licence="BSD-3-Clause",
    build=_digits_vit,
    granularities=("neurons", "heads"),
    input_size=(1, 8, 8),
    mean=(0.306,),
    std=(0.376,),
    weights=Weights(
        file="digits_vit.safetensors",
        digest="06ba9040432e8306127c649f0a90dbb20da02a7b9bd353890437f69da756263e",
        sha256="81c651a76d45e3381f457180d2ae62ea32d489f40d90ee5686c850b278f5fdb9",
        package=Path(__file__).parent,
    ),
    recipe=Recipe(
        dataset="digits",
        epochs=60,
        batch_size=32,
        learning_rate=0.005,
        weight_decay=0.5,
        label_smoothing=0.1,
    ),
)


def _vit(
    width: int, depth: int, n_heads: int, mlp_ratio: float, size: int = 32, patch: int = 4, n_classes: int = 10
) -> nn.Module:
    network: nn.Module = VisionTransformer(
        img_size=size,
        patch_size=patch,
        num_classes=n_classes,
        embed_dim=width,
        depth=depth,
        num_heads=n_heads,
        mlp_ratio=mlp_ratio,
    )
    return network


cifar_vit = Model(
    name="cifar_vit",
    version=1,
    family="ViT",
    description="Nine transformer blocks of six heads and width 192 on 4 x 4 patches, read out at the class token.",
    source="https://arxiv.org/abs/2010.11929",
    licence="BSD-3-Clause",
    build=partial(_vit, 192, 9, 6, 4.0),
    granularities=("neurons", "heads"),
    input_size=(3, 32, 32),
    mean=_cifar.MEAN,
    std=_cifar.STD,
    recipe=_cifar.ADAMW,
    made_when_used=False,
)

cifar_vit_small = Model(
    name="cifar_vit_small",
    version=1,
    family="ViT",
    description="Six transformer blocks of four heads and width 128 on 4 x 4 patches, read out at the class token.",
    source="https://arxiv.org/abs/2010.11929",
    licence="BSD-3-Clause",
    build=partial(_vit, 128, 6, 4, 2.0),
    granularities=("neurons", "heads"),
    input_size=(3, 32, 32),
    mean=_cifar.MEAN,
    std=_cifar.STD,
    weights=Weights(
        file="cifar_vit_small.safetensors",
        digest="dcc01d3059a43bd83025509addc36313fedcf9fe28b6fb1b2a233397bff63721",
        sha256="54d60973bc1ae2dcf3046796ac4f416ad99820b8fef93bce8fa69993751c630b",
        package=Path(__file__).parent,
    ),
    # In so few epochs no image is learned by heart.
    recipe=replace(_cifar.ADAMW, epochs=16, batch_size=64, policy="none", cutmix=0.0),
    made_when_used=False,
)

imagenette_vit = Model(
    name="imagenette_vit",
    version=1,
    family="ViT",
    description="Nine transformer blocks of six heads and width 192 on 16 x 16 patches of images of 128 x 128 pixels, "
    "for Imagenette, read out at the class token.",
    source="https://arxiv.org/abs/2010.11929",
    licence="BSD-3-Clause",
    build=partial(_vit, 192, 9, 6, 4.0, 128, 16, _imagenette.N_CLASSES),
    granularities=("neurons", "heads"),
    input_size=_imagenette.INPUT_SIZE,
    mean=_imagenette.MEAN,
    std=_imagenette.STD,
    recipe=_imagenette.ADAMW,
    made_when_used=False,
)
