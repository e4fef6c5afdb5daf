"""The same function with the units of one layer in another order."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Name of a layer of each tiny network, its batch norm, and the layer that reads its outputs and nobody else's.
_CHAINS = {
    "vgg": ("features.4", "features.5", "features.7"),
    "resnet": ("layer2.0.conv1", "layer2.0.bn1", "layer2.0.conv2"),
    "bottleneck": ("layer1.0.conv2", "layer1.0.bn2", "layer1.0.conv3"),
    "vit_neurons": ("blocks.1.mlp.fc1", None, "blocks.1.mlp.fc2"),
    "mlp": ("1", None, "3"),
}
_HEADS, _WIDTH = torch.tensor([2, 0, 3, 1]), 6


def permuted(kind: str, model: nn.Module) -> tuple[str, Tensor, nn.Module] | None:
    """Return a layer's name, an order of its units, and a copy of a tiny network with the units in that order.

    Unit i of the copy is unit `order[i]` of the network. None for a kind whose units cannot be moved alone.
    """
    if kind not in (*_CHAINS, "vit_heads"):
        return None
    model = copy.deepcopy(model)
    if kind == "vit_heads":
        attention = model.get_submodule("blocks.0.attn")
        within = torch.cat([torch.arange(_WIDTH * head, _WIDTH * (head + 1)) for head in _HEADS])
        width = len(within)
        _permute_rows(model, ["blocks.0.attn.qkv"], torch.cat([within, width + within, 2 * width + within]))
        _permute_columns(attention.get_submodule("proj"), within)
        return "blocks.0.attn", _HEADS, model
    layer, norm, reader = _CHAINS[kind]
    n_units = len(_weight(model.get_submodule(layer)))
    order = torch.randperm(n_units, generator=torch.Generator().manual_seed(5))
    _permute_rows(model, [layer] if norm is None else [layer, norm], order)
    _permute_columns(model.get_submodule(reader), order)
    return layer, order, model


def _permute_rows(model: nn.Module, names: Sequence[str], order: Tensor) -> None:
    for name in names:
        module = model.get_submodule(name)
        for values in (module.weight, module.bias, *module.buffers()):
            if isinstance(values, Tensor) and values.ndim > 0:
                values.data = values.data[order].clone()


def _permute_columns(module: nn.Module, order: Tensor) -> None:
    weight = _weight(module)
    weight.data = weight.data[:, order].clone()


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"a `{type(module).__name__}` has no weight")
    return weight
