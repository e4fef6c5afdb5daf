"""Parameters and multiply-accumulates that a pruned network still needs, counted without building it.

A weight counts while it meets a live input and a kept output. Which inputs are live is found by a probe: one forward
pass in which kept units emit NaN and removed ones zero, because NaN survives sums, products, pooling and activations,
and zero channels survive unless something adds to them. Each image of the probe's batch carries another rate's masks.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruneboard.benchmark.units import Layer, expand_mask, find_heads


@dataclass(frozen=True)
class Size:
    """Size of a network.

    Attributes:
        params: number of parameters, biases and affine normalisations included.
        macs: multiply-accumulates for one image, in convolutions, linear layers and the two products of attention.
    """

    params: int
    macs: int


def count_sizes(
    model: nn.Module, layers: Sequence[Layer], masks: Sequence[Mapping[str, Tensor]], example: Tensor
) -> tuple[Size, ...]:
    """Count the network's size under each of several sets of masks.

    Args:
        model: network in eval mode.
        layers: its layers, all of one granularity.
        masks: for each rate, layer name to bool (n_units,).
        example: one image that the network accepts, (1, channels, height, width).
    """
    stacked = {layer.name: torch.stack([m[layer.name] for m in masks]).to(example.device) for layer in layers}
    probe = _Probe(model, layers, stacked, len(masks))
    with probe, torch.no_grad():
        model(torch.full_like(example, math.nan).expand(len(masks), *example.shape[1:]).clone())
    return tuple(Size(int(p), int(m)) for p, m in zip(probe.params.tolist(), probe.macs.tolist(), strict=True))


def live_inputs(
    model: nn.Module, layers: Sequence[Layer], masks: Mapping[str, Tensor], example: Tensor
) -> dict[str, Tensor]:
    """Find which inputs of each convolution and linear layer are not always zero under masks.

    Args:
        model: network in eval mode.
        layers: its layers, all of one granularity.
        masks: layer name to bool (n_units,).
        example: one image that the network accepts, (1, channels, height, width).

    Returns:
        Dotted name of the convolution or linear layer to bool (n_inputs,), on the CPU.
    """
    probe = _Probe(model, layers, {name: mask[None].to(example.device) for name, mask in masks.items()}, 1)
    with probe, torch.no_grad():
        model(torch.full_like(example, math.nan))
    return {name: live[0] for name, live in probe.live.items()}


class _Probe:
    """Hooks that mark live channels and count what meets them; removed on exit.

    Attributes:
        live: dotted name of each convolution and linear layer to its live inputs, bool (n_rates, n_inputs).
        params: float64 (n_rates,).
        macs: float64 (n_rates,).
    """

    def __init__(self, model: nn.Module, layers: Sequence[Layer], masks: Mapping[str, Tensor], n_rates: int) -> None:
        self._model = model
        self._masks = masks
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._layers = {layer.name: layer for layer in layers}
        self._norm_of = {layer.tap: layer for layer in layers if layer.tap != layer.name and layer.tap_side == "output"}
        self._qkv_of = {f"{layer.name}.qkv": layer for layer in layers if layer.granularity == "heads"}
        self._attentions = find_heads(model)
        counted = sum(p.numel() for m in model.modules() if self._is_counted(m) for p in m.parameters(recurse=False))
        rest = sum(p.numel() for p in model.parameters()) - counted
        self.live: dict[str, Tensor] = {}
        self.params = torch.full((n_rates,), float(rest), dtype=torch.float64)
        self.macs = torch.zeros(n_rates, dtype=torch.float64)

    def _is_counted(self, module: nn.Module) -> bool:
        return isinstance(module, nn.Conv2d | nn.Linear | _BatchNorm)

    def __enter__(self) -> None:
        for name, module in self._model.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                # Runs before the tap's own hook, so it sees which inputs of the layer are live.
                self._handles.append(module.register_forward_hook(self._count_weights(name)))
            elif isinstance(module, _BatchNorm):
                self._handles.append(module.register_forward_hook(self._count_norm(name)))
        for attention in self._attentions:
            proj = self._model.get_submodule(attention.tap)
            self._handles.append(proj.register_forward_pre_hook(self._count_attention(attention)))
        for layer in self._layers.values():
            tap = self._model.get_submodule(layer.tap)
            if layer.tap_side == "output":
                self._handles.append(tap.register_forward_hook(self._mark_output(layer)))
            else:
                self._handles.append(tap.register_forward_pre_hook(self._mark_input(layer)))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _mark(self, layer: Layer, values: Tensor) -> Tensor:
        kept = expand_mask(layer, self._masks[layer.name], values)
        return torch.full_like(values, math.nan).masked_fill(~kept, 0.0)

    def _mark_output(self, layer: Layer) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        return lambda _module, _inputs, output: self._mark(layer, output)

    def _mark_input(self, layer: Layer) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (self._mark(layer, inputs[0]), *inputs[1:])

        return hook

    def _count_attention(self, attention: Layer) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            _, n_tokens, width = inputs[0].shape
            kept = self._masks.get(attention.name)
            n_heads = attention.n_units if kept is None else kept.sum(dim=1).double().cpu()
            # Queries times keys, and attention times values: each n_tokens^2 * head_dim for every head.
            self.macs += 2 * n_tokens**2 * (width // attention.n_units) * n_heads

        return hook

    def _kept_outputs(self, name: str, module: nn.Module, n_outputs: int) -> Tensor:
        """Which outputs are kept, bool (n_rates, n_outputs)."""
        if name in self._masks and self._layers[name].granularity != "heads":
            return self._masks[name]
        if name in self._qkv_of:
            layer = self._qkv_of[name]
            return self._masks[layer.name].repeat_interleave(n_outputs // (3 * layer.n_units), dim=1).repeat(1, 3)
        return torch.ones(len(self.params), n_outputs, dtype=torch.bool)

    def _count_weights(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            values = inputs[0]
            if isinstance(module, nn.Conv2d):
                live = (values != 0).flatten(2).any(dim=2)
                n_positions, kernel, groups = output[0, 0].numel(), math.prod(module.kernel_size), module.groups
                kept = self._kept_outputs(name, module, module.out_channels)
            else:
                live = (values != 0).flatten(1, -2).any(dim=1) if values.ndim > 2 else values != 0
                n_positions, kernel, groups = output[0].numel() // output.shape[-1], 1, 1
                kept = self._kept_outputs(name, module, output.shape[-1])
            self.live[name] = live.cpu()
            per_group = [part.reshape(len(part), groups, -1).sum(dim=2).double().cpu() for part in (live, kept)]
            weights = kernel * (per_group[0] * per_group[1]).sum(dim=1)
            self.macs += weights * n_positions
            self.params += weights
            if module.bias is not None:
                self.params += kept.sum(dim=1).cpu()

        return hook

    def _count_norm(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            n_parameters = sum(p.numel() for p in module.parameters(recurse=False))
            layer = self._norm_of.get(name)
            if layer is None:
                self.params += n_parameters
            else:
                self.params += n_parameters // layer.n_units * self._masks[layer.name].sum(dim=1).cpu()

        return hook
