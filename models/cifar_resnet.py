"""The ResNets of He et al. 2015 for CIFAR-10, with published weights.

Architecture: section 4.2 of Deep Residual Learning for Image Recognition, arXiv 1512.03385, shortcuts of option A.
Weights: https://github.com/akamaster/pytorch_resnet_cifar10 (BSD-2-Clause), not part of this package.
"""

from functools import partial

from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from pruneboard.benchmark.api import Model, Weights

_WIDTHS = (16, 32, 64)
_URL = (
    "https://github.com/akamaster/pytorch_resnet_cifar10/raw/d5489e8995e81e91ce6b1d69dcc98ad579b0b153/pretrained_models"
)


def _padded_shortcut(n_added: int) -> nn.Module:
    """Option A: every second pixel, with `n_added` zero channels before and after, and no parameters."""
    return nn.Sequential(nn.AvgPool2d(1, stride=2), nn.ConstantPad3d((0, 0, 0, 0, n_added, n_added), 0.0))


def _cifar_resnet(n_blocks: int) -> nn.Module:
    # A deep stem is timm's way to a width other than 64; it is then replaced by one convolution of that width.
    model = ResNet(BasicBlock, (n_blocks,) * 3, 10, stem_type="deep", stem_width=_WIDTHS[0] // 2, channels=_WIDTHS)
    model.conv1 = nn.Conv2d(3, _WIDTHS[0], 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    model.layer2[0].downsample = _padded_shortcut(_WIDTHS[1] // 4)
    model.layer3[0].downsample = _padded_shortcut(_WIDTHS[2] // 4)
    # timm's forward pass expects four stages.
    model.layer4 = nn.Identity()
    model.init_weights(zero_init_last=False)
    network: nn.Module = model
    return network


def _rename(key: str) -> str:
    return key.replace("linear.", "fc.", 1) if key.startswith("linear.") else key


def _model(n_blocks: int, checkpoint: str, digest: str, sha256: str) -> Model:
    depth = 6 * n_blocks + 2
    return Model(
        name=f"cifar_resnet{depth}",
        version=1,
        family="ResNet",
        description=f"ResNet-{depth} for CIFAR-10: a 3 x 3 stem and three stages of {n_blocks} basic blocks, with "
        "shortcuts that have no parameters.",
        source="https://arxiv.org/abs/1512.03385",
        licence="BSD-2-Clause",
        build=partial(_cifar_resnet, n_blocks),
        granularities=("filters",),
        input_size=(3, 32, 32),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        weights=Weights(
            file=f"cifar_resnet{depth}.safetensors",
            digest=digest,
            sha256=sha256,
            url=f"{_URL}/{checkpoint}.th",
            url_sha256=checkpoint.rpartition("-")[2],
            url_prefix="module.",
        ),
        rename=_rename,
    )


cifar_resnet20 = _model(
    3,
    checkpoint="resnet20-12fca82f",
    digest="aeaf2e2b9592408bfb2540d44dba0be45785089ca0d34fa6f3244ec2100c6cbb",
    sha256="e69504a11fca90aff7e0c93356aca0dbf529359a8ecc096f8ce4c376b4c1825f",
)
cifar_resnet56 = _model(
    9,
    checkpoint="resnet56-4bfd9763",
    digest="dce0dac44d8731f6abea2119d32707b781f71d8090233d0fc69f89e2fdd95307",
    sha256="76303a5b09d163e608657bb7a4fe30e8083e0f6277f1bd34d04874b52198d874",
)
