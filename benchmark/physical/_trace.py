"""A network as a flat graph of torch's own modules and functions, under the names of its state dict."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError

from pruneboard.benchmark.errors import ModelError
from pruneboard.benchmark.physical._modules import Constant, Gather, Scatter
from pruneboard.benchmark.physical._surgery import INNER, Indexed

LEAVES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv2d: (
        *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"),
        *("bias", "padding_mode"),
    ),
    nn.Linear: ("in_features", "out_features", "bias"),
    nn.BatchNorm1d: ("num_features", "eps", "momentum", "affine", "track_running_stats"),
    nn.BatchNorm2d: ("num_features", "eps", "momentum", "affine", "track_running_stats"),
    nn.LayerNorm: ("normalized_shape", "eps", "elementwise_affine", "bias"),
    nn.GroupNorm: ("num_groups", "num_channels", "eps", "affine"),
    nn.ReLU: ("inplace",),
    nn.ReLU6: ("inplace",),
    nn.SiLU: ("inplace",),
    nn.Hardswish: ("inplace",),
    nn.Hardsigmoid: ("inplace",),
    nn.LeakyReLU: ("negative_slope", "inplace"),
    nn.ELU: ("alpha", "inplace"),
    nn.GELU: ("approximate",),
    nn.Sigmoid: (),
    nn.Tanh: (),
    nn.Identity: (),
    nn.Dropout: ("p", "inplace"),
    nn.Flatten: ("start_dim", "end_dim"),
    nn.MaxPool2d: ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode"),
    nn.AvgPool2d: ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    nn.AdaptiveAvgPool2d: ("output_size",),
    nn.AdaptiveMaxPool2d: ("output_size", "return_indices"),
    nn.ConstantPad3d: ("padding", "value"),
    nn.ZeroPad2d: ("padding",),
    Gather: ("n_kept", "dim"),
    Scatter: ("n_kept", "width", "dim", "bias"),
    Constant: ("width", "bias", "reach", "stride"),
}
"""Modules that are called as a whole, and the arguments that make them again, each an attribute of the module."""


class _Root(nn.Module):
    """Gives a network one argument, whatever further ones its `forward` takes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits


class _NormAct(nn.Module):
    """A batch norm with an activation behind it, as timm has it in one module, made of torch's modules."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        plain = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        plain.load_state_dict({key: value for key, value in norm.state_dict().items() if "." not in key}, strict=False)
        self.norm = Indexed(None, plain, None)
        self.drop, self.act = norm.get_submodule("drop"), norm.get_submodule("act")

    def forward(self, x: Tensor) -> Any:
        return self.act(self.drop(self.norm(x)))


class _Tracer(fx.Tracer):
    """Follows one image where the code asks for a truth, such as whether a feature map is large enough."""

    def __init__(self, example: Tensor) -> None:
        super().__init__()
        self._example = example
        self._values: dict[fx.Node, Any] = {}
        self._follows = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in LEAVES

    def to_bool(self, obj: fx.Proxy) -> bool:
        self._follows = True
        try:
            return bool(self._value(obj.node))
        finally:
            self._follows = False

    # While the example is followed, modules compute instead of being recorded.
    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return forward(*args, **kwargs) if self._follows else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self._follows else super().getattr(attr, attr_val, parameter_proxy_cache)

    def _value(self, node: fx.Node) -> Any:
        if node not in self._values:
            args, kwargs = (fx.node.map_arg(part, self._value) for part in (node.args, node.kwargs))
            with torch.no_grad():
                self._values[node] = self._run(node, args, kwargs)
        return self._values[node]

    def _run(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        if node.op == "placeholder":
            return self._example
        if node.op == "call_function" and callable(node.target):
            return node.target(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        part = _attribute(self.root, str(node.target))
        return part(*args, **kwargs) if node.op == "call_module" else part


def flatten(network: nn.Module, example: Tensor) -> fx.GraphModule:
    """Return a network as a flat graph that shares its parameters, for any number of images.

    Args:
        network: network in eval mode.
        example: one image that the network accepts, (1, channels, height, width).

    Raises:
        ModelError: the network's code cannot be followed.
    """
    root = _Root(network).eval()
    _split_norm_acts(root)
    try:
        graph = _Tracer(example).trace(root)
    except (TraceError, TypeError, RuntimeError, AttributeError, ValueError) as error:
        raise ModelError(
            f"a network must be traceable by torch.fx to be written down, but `{type(network).__name__}` is not: "
            f"{' '.join(str(error).split())[:300]}; use it with masks only."
        ) from error
    for node in reversed(graph.nodes):
        # What they say of a wrong input is a text with names of the trace in it.
        if node.target is torch._assert:
            graph.erase_node(node)
        elif node.op == "call_module" and isinstance(_attribute(root, str(node.target)), nn.Identity):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    parts: dict[str, Any] = {}
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            part = _attribute(root, str(node.target))
            node.target = _state_name(root, str(node.target))
            parts[node.target] = part
            node._rename(node.target.replace(".", "_"))
    flat = fx.GraphModule(parts, graph, class_name="Network")
    _drop_round_trips(flat)
    flat.graph.eliminate_dead_code()
    flat.delete_all_unused_submodules()
    flat.recompile()
    return flat.eval()


def _drop_round_trips(flat: fx.GraphModule) -> None:
    """Drop each scatter that nothing reads but gathers of the same channels, with those gathers."""
    modules = dict(flat.named_modules())
    for node in flat.graph.nodes:
        scatter = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(scatter, Scatter) or scatter.bias is not None:
            continue
        readers = [(user, modules.get(str(user.target)) if user.op == "call_module" else None) for user in node.users]
        if all(isinstance(m, Gather) and m.dim == scatter.dim and m.index.equal(scatter.index) for _, m in readers):
            for reader, _ in readers:
                reader.replace_all_uses_with(node.args[0])
                flat.graph.erase_node(reader)
            flat.graph.erase_node(node)


def _split_norm_acts(root: nn.Module) -> None:
    for name, module in list(root.named_modules()):
        if isinstance(module, nn.BatchNorm2d) and type(module) is not nn.BatchNorm2d and hasattr(module, "act"):
            parent, _, child = name.rpartition(".")
            setattr(root.get_submodule(parent), child, _NormAct(module).eval())


def _attribute(root: nn.Module, target: str) -> Any:
    part: Any = root
    for name in target.split("."):
        part = getattr(part, name)
    return part


def _state_name(root: nn.Module, target: str) -> str:
    """Return the name that a part has in the network it was made of."""
    part: Any = root
    names: list[str] = []
    for name in target.split("."):
        if isinstance(part, Indexed) and name != INNER:
            names[-1] += f"_{name}"
        elif not isinstance(part, Indexed) and (type(part), name) not in ((_Root, "network"), (_NormAct, "norm")):
            names.append(name)
        part = getattr(part, name)
    return ".".join(names)
