"""Tiny networks of timm's own classes, and a plain perceptron, with every parameter and statistic drawn at random."""

from collections.abc import Mapping

import timm
import torch
from timm.layers import ClassifierHead
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vgg import VGG
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pruneboard.benchmark.schema import Granularity

NETWORKS: Mapping[str, Granularity] = {
    "vgg": "filters",
    "resnet": "filters",
    "bottleneck": "filters",
    "mobilenet": "filters",
    "vit_neurons": "neurons",
    "vit_heads": "heads",
    "mlp": "neurons",
}
"""Kinds of network to the kind of unit that is pruned in them."""

N_CLASSES = 10


def draw_norm(norm: nn.BatchNorm2d) -> None:
    """Give a batch norm parameters and statistics that differ from the identity."""
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias, std=0.3)
    if norm.running_mean is not None and norm.running_var is not None:
        nn.init.normal_(norm.running_mean, std=0.3)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)


def tiny_network(kind: str, seed: int = 0) -> nn.Module:
    """Make a network of a kind named in `NETWORKS`, in eval mode, for images (3, 16, 16) and 10 classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _build(kind)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                draw_norm(module)
            elif isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
    return model.eval()


def _build(kind: str) -> nn.Module:
    if kind == "vgg":
        vgg: nn.Module = VGG([6, "M", 8, 10, "M"], num_classes=N_CLASSES, norm_layer=nn.BatchNorm2d, device="meta")
        vgg.pre_logits, vgg.head = nn.Identity(), ClassifierHead(10, N_CLASSES)
        vgg.get_submodule("features").to_empty(device="cpu")
        vgg._initialize_weights()  # type: ignore[operator]
        return vgg
    if kind in ("resnet", "bottleneck"):
        block = BasicBlock if kind == "resnet" else Bottleneck
        resnet: nn.Module = ResNet(
            block, (1, 2, 1, 1), num_classes=N_CLASSES, stem_type="deep", stem_width=4, channels=(8, 8, 12, 12)
        )
        return resnet
    if kind == "mobilenet":
        mobilenet: nn.Module = timm.create_model("mobilenetv2_035", num_classes=N_CLASSES)
        return mobilenet
    if kind == "mlp":
        return nn.Sequential(
            *(nn.Flatten(), nn.Linear(3 * 16 * 16, 12), nn.ReLU(), nn.Linear(12, 9), nn.ReLU()),
            nn.Linear(9, N_CLASSES),
        )
    vit: nn.Module = VisionTransformer(
        img_size=16, patch_size=4, num_classes=N_CLASSES, embed_dim=24, depth=2, num_heads=4, mlp_ratio=2.0
    )
    return vit


def images(n: int = 4, seed: int = 0) -> Tensor:
    """Draw normalised images for the tiny networks, (n, 3, 16, 16)."""
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
