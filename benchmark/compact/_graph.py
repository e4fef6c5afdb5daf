"""A network as a list of steps that serve any number of images.

torch traces the network twice, with two and with three images: sizes that differ are multiples of the number of images.
Taps are written into the trace as steps of their own, batch norms are folded into the layer before them, and what does
nothing in eval mode is left out.
"""

import contextlib
import functools
import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from pruneboard.benchmark.units import Layer

aten = torch.ops.aten


@torch.library.custom_op("pruneboard::tap", mutates_args=())
def _copy_at_tap(activation: Tensor, layer: str) -> Tensor:
    return activation.clone()


_tap = torch.ops.pruneboard.tap

_FEW, _MORE = 2, 3

# They do nothing to a network in eval mode whose functions in place have become plain ones.
_IDENTITIES = {aten.dropout, aten.feature_dropout, aten.clone, aten.contiguous, aten.alias, aten.detach}


class NotCompactable(Exception):  # noqa: N818 - not an error of anyone: the network is masked instead
    """The network cannot be written as steps that give the same logits; the message says why."""


@dataclass(frozen=True)
class Batch:
    """A size that grows with the number of images."""

    per_image: int


@dataclass(frozen=True)
class Slot:
    """The place of an input in the arguments of a step."""

    index: int


@dataclass(frozen=True)
class Step:
    """One operation; its value has the number of its step, counted from 1, and the images are value 0.

    Attributes:
        target: what torch calls; a function without effects on its arguments.
        inputs: numbers of the values it reads.
        args: its arguments, with a `Slot` for each input and a `Batch` for each size that grows with the images.
        kwargs: the rest of them.
        shape: of its value, with a `Batch` likewise.
        number: of its value.
        tap: layer whose removed units are zero in its value, or None.
    """

    target: Any
    inputs: tuple[int, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shape: tuple[int | Batch, ...]
    number: int
    tap: str | None = None

    @property
    def name(self) -> Any:
        """The operation without its overload, such as `torch.ops.aten.add`."""
        return self.target.overloadpacket

    def call(self, n_images: int, inputs: Sequence[Tensor]) -> Tensor:
        """Run it on whole values."""
        args, kwargs = fill((self.args, self.kwargs), n_images, inputs)
        return self.target(*args, **kwargs)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Graph:
    """A network in steps.

    Attributes:
        steps: in the order they run.
        output: number of the value that holds the logits.
        layers: the layers whose taps are among the steps, by name.
    """

    steps: tuple[Step, ...]
    output: int
    layers: dict[str, Layer] = field(default_factory=dict)

    @functools.cached_property
    def n_readers(self) -> dict[int, int]:
        """How many steps read each value; the logits have one reader more."""
        read = Counter(number for step in self.steps for number in step.inputs)
        read[self.output] += 1
        return read


def fill(value: Any, n_images: int, inputs: Sequence[Tensor]) -> Any:
    """Put inputs and the number of images into the arguments of a step."""
    match value:
        case Slot(index):
            return inputs[index]
        case Batch(per_image):
            return per_image * n_images
        case tuple() | list():
            return type(value)([fill(part, n_images, inputs) for part in value])
        case dict():
            return {key: fill(part, n_images, inputs) for key, part in value.items()}
    return value


def trace(network: nn.Module, layers: Sequence[Layer], example: Tensor) -> Graph:
    """Write a network as steps.

    Args:
        network: in eval mode.
        layers: the layers of one granularity.
        example: one image, (1, channels, height, width).

    Raises:
        NotCompactable: torch cannot trace it, or the trace depends on more than the number of images.
    """
    with _marked(network, layers), torch.no_grad():
        few, more = (_trace(network, example.repeat(n, 1, 1, 1)) for n in (_FEW, _MORE))
    graph = _Reader(few, more).read()
    graph = _fused(_fused(graph, _fold_norm), _fold_tap)
    return replace(graph, layers={layer.name: layer for layer in layers})


def _trace(network: nn.Module, images: Tensor) -> fx.GraphModule:
    try:
        return make_fx(network, pre_dispatch=True)(images)
    # Tracing runs foreign code under a mode that few of its authors tried.
    except Exception as error:
        raise NotCompactable(f"torch cannot trace it: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _marked(network: nn.Module, layers: Sequence[Layer]) -> Iterator[None]:
    """Make taps visible in a trace."""
    handles = []
    for layer in layers:
        tap = network.get_submodule(layer.tap)

        def at_output(_m: nn.Module, _i: tuple[Tensor, ...], output: Tensor, name: str = layer.name) -> Tensor:
            return _tap(output, name)  # type: ignore[no-any-return]

        def at_input(_m: nn.Module, inputs: tuple[Tensor, ...], name: str = layer.name) -> tuple[Tensor, ...]:
            return (_tap(inputs[0], name), *inputs[1:])

        if layer.tap_side == "output":
            handles.append(tap.register_forward_hook(at_output))
        else:
            handles.append(tap.register_forward_pre_hook(at_input))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Reader:
    """Reads two traces of one network, made with `_FEW` and with `_MORE` images, into one list of steps."""

    def __init__(self, few: fx.GraphModule, more: fx.GraphModule) -> None:
        self._few, self._more = few, more
        self._steps: list[Step] = []
        # Number of the value of each node, or the tensor or list of nodes it stands for.
        self._values: dict[fx.Node, Any] = {}
        self._shapes: dict[fx.Node, tuple[int | Batch, ...]] = {}

    def read(self) -> Graph:
        pairs = zip(self._few.graph.nodes, self._more.graph.nodes, strict=False)
        if len(self._few.graph.nodes) != len(self._more.graph.nodes):
            raise NotCompactable("its operations depend on the number of images")
        output = None
        for few, more in pairs:
            if few.op != more.op or (few.op == "call_function" and few.target != more.target):
                raise NotCompactable("its operations depend on the number of images")
            match few.op:
                case "placeholder":
                    self._values[few] = 0
                    self._shapes[few] = (Batch(1), *few.meta["val"].shape[1:])
                case "get_attr":
                    self._values[few] = getattr(self._few, few.target).detach()
                    self._shapes[few] = tuple(self._values[few].shape)
                case "call_function":
                    self._values[few] = self._read(few, more)
                case "output":
                    output = self._values.get(few.args[0]) if isinstance(few.args[0], fx.Node) else None
        if not isinstance(output, int):
            raise NotCompactable("it returns more than one tensor")
        return Graph(tuple(self._steps), output)

    def _read(self, few: fx.Node, more: fx.Node) -> Any:
        if few.target is operator.getitem:
            return self._part(few)
        values = [node.meta.get("val") for node in (few, more)]
        if not isinstance(values[0], Tensor) or not isinstance(values[1], Tensor):
            # What has several values is read where one of them is taken.
            return few
        # A view is a demand on the layout of memory, which is another in a smaller network.
        target = aten.reshape.default if few.target is aten.view.default else _without_effects(few.target)
        self._shapes[few] = self._merge(tuple(values[0].shape), tuple(values[1].shape))
        args, kwargs = self._merge((few.args, dict(few.kwargs)), (more.args, dict(more.kwargs)))
        if target is aten.squeeze.default:
            # Which dimensions have size one must not depend on the number of images.
            target, args = aten.reshape.default, (args[0], list(self._shapes[few]))
        if target.overloadpacket in _IDENTITIES:
            return self._values[few.args[0]]  # type: ignore[index]
        return self._append(target, args, kwargs, self._shapes[few])

    def _part(self, node: fx.Node) -> int:
        """Read one of several values, such as of queries, keys and values, as a selection or a slice."""
        source, index = node.args
        if not isinstance(source, fx.Node) or not isinstance(index, int):
            raise NotCompactable("it indexes something unknown")
        packet = getattr(source.target, "overloadpacket", None)
        if packet not in (aten.unbind, aten.split, aten.chunk, aten.split_with_sizes):
            raise NotCompactable(f"`{source.target}` has several values")
        origin: Any = source.args[0]
        position = 1 if packet is aten.unbind else 2
        dim = int(source.args[position]) % origin.meta["val"].ndim if len(source.args) > position else 0  # type: ignore
        sizes: list[int | Batch] = list(self._shapes[origin])
        if isinstance(sizes[dim], Batch):
            raise NotCompactable("it takes images apart")
        if packet is aten.unbind:
            del sizes[dim]
            return self._append(aten.select.int, (origin, dim, index), {}, tuple(sizes))
        lengths = [part.shape[dim] for part in source.meta["val"]]
        start, sizes[dim] = sum(lengths[:index]), lengths[index]
        return self._append(aten.slice.Tensor, (origin, dim, start, start + lengths[index]), {}, tuple(sizes))

    def _slot(self, node: Any) -> Any:
        value = self._values[node]
        if isinstance(value, fx.Node):
            raise NotCompactable(f"`{value.target}` has several values")
        return value

    def _append(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], shape: tuple[Any, ...]) -> int:
        inputs: list[int] = []

        def place(value: Any) -> Any:
            match value:
                case fx.Node():
                    held = self._slot(value)
                    if not isinstance(held, int):
                        return held
                    if held not in inputs:
                        inputs.append(held)
                    return Slot(inputs.index(held))
                case tuple() | list():
                    return type(value)([place(part) for part in value])
                case dict():
                    return {key: place(part) for key, part in value.items()}
            return value

        args, kwargs = place(tuple(args)), place(kwargs)
        self._steps.append(Step(target, tuple(inputs), args, kwargs, shape, len(self._steps) + 1))
        return len(self._steps)

    def _merge(self, few: Any, more: Any) -> Any:
        """Return what the arguments of both traces have in common, with sizes that grow with the images marked."""
        match few:
            case fx.Node():
                return few
            case tuple() | list():
                if len(few) == len(more):
                    return type(few)([self._merge(*pair) for pair in zip(few, more, strict=True)])
            case dict():
                if few.keys() == more.keys():
                    return {key: self._merge(few[key], more[key]) for key in few}
            case int() if few != more and not isinstance(few, bool) and few * _MORE == more * _FEW:
                return Batch(few // _FEW)
            case _ if few == more:
                return few
        raise NotCompactable("its arguments depend on the number of images")


def _without_effects(target: Any) -> Any:
    """Return the function that gives the same value and leaves its arguments alone."""
    if not isinstance(target, torch._ops.OpOverload):
        raise NotCompactable(f"`{target}` is no operation of torch")
    if not target._schema.is_mutable:
        return target
    namespace, name = target._schema.name.split("::")
    plain = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    overload = getattr(plain, target._overloadname, None)
    if not name.endswith("_") or overload is None:
        raise NotCompactable(f"`{target}` works in place")
    return overload


def _fused(graph: Graph, fuse: Any) -> Graph:
    """Replace pairs of steps, the first of which nobody else reads, by one step where `fuse` gives one."""
    readers = graph.n_readers
    steps: list[Step] = []
    new_number = {0: 0}
    for number, step in enumerate(graph.steps, start=1):
        source = step.inputs[0] if step.inputs else 0
        before = steps[new_number[source] - 1] if source and readers[source] == 1 else None
        # Only the latest step may be rewritten where it stands: others may already read what came after it.
        merged = fuse(before, step) if before is not None else None
        if merged is not None:
            steps[new_number[source] - 1] = replace(merged, number=new_number[source])
            new_number[number] = new_number[source]
        else:
            steps.append(replace(step, inputs=tuple(new_number[i] for i in step.inputs), number=len(steps) + 1))
            new_number[number] = len(steps)
    return Graph(tuple(steps), new_number[graph.output], graph.layers)


def is_affine(step: Step) -> bool:
    """Whether it is a convolution or a linear layer whose weights are constants."""
    if step.name not in (aten.conv2d, aten.linear) or step.args[0] != Slot(0) or not isinstance(step.args[1], Tensor):
        return False
    return isinstance(bias_of(step), Tensor | None)


def bias_of(step: Step) -> Tensor | None:
    """Return the bias of a convolution or linear layer."""
    return step.args[2] if len(step.args) > 2 else None


def _fold_norm(affine: Step, norm: Step) -> Step | None:
    """Make a convolution or linear layer of it that contains the batch norm behind it (Jacob et al. 2018, eq. 13)."""
    if norm.name is not aten.batch_norm or not is_affine(affine) or affine.tap is not None:
        return None
    _, scale, shift, mean, variance, training, _, epsilon = norm.args[:8]
    constant = isinstance(mean, Tensor) and isinstance(variance, Tensor)
    constant &= isinstance(scale, Tensor | None) and isinstance(shift, Tensor | None)
    # Behind a linear layer of tokens a norm is one of tokens, not of channels.
    if training or not constant or (affine.name is aten.linear and len(affine.shape) != 2):
        return None
    weight, bias, own = affine.args[1], bias_of(affine), _in_double(affine.args[1])
    factor = (_in_double(variance) + epsilon).rsqrt() * (1.0 if scale is None else _in_double(scale))
    moved = (0.0 if bias is None else _in_double(bias)) - _in_double(mean)
    folded = moved * factor + (0.0 if shift is None else _in_double(shift))
    own = own * factor.view(-1, *[1] * (own.ndim - 1))
    return replace(affine, args=(affine.args[0], own.to(weight), folded.to(weight), *affine.args[3:]))


def _in_double(parameter: Tensor) -> Tensor:
    # Not every device has this type.
    return parameter.cpu().double()


def _fold_tap(affine: Step, tap: Step) -> Step | None:
    """Let a convolution or linear layer leave out itself what the tap behind it sets to zero."""
    if tap.name is not _tap or not is_affine(affine) or affine.tap is not None:
        return None
    return replace(affine, tap=tap.args[1])


def is_tap(step: Step) -> bool:
    """Whether it is a tap that no layer could take in."""
    return step.name is _tap
