"""What each operation needs of its inputs when only a part of its value is wanted, and how it computes that part.

A part of a value is a `Cut`: some indices of one dimension; None is all of it. An operation without a rule of its own
takes and gives whole values, so a network that contains one is still right, and as small as its other operations allow.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pruneboard.benchmark.compact._graph import Batch, Slot, Step, aten, bias_of, fill, is_affine


@dataclass(frozen=True, eq=False)
class Cut:
    """Some indices of one dimension of a value.

    Attributes:
        dim: the dimension, counted from 0.
        keep: bool (n,), on the CPU.
    """

    dim: int
    keep: Tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cut) and self.dim == other.dim and torch.equal(self.keep, other.keep)

    __hash__ = None  # type: ignore[assignment]

    @property
    def count(self) -> int:
        """Number of indices."""
        return int(self.keep.sum())


Part = Cut | None
Call = Callable[..., Tensor]
"""Computes a value from the number of images and the parts of its inputs."""


def part(dim: int, keep: Tensor) -> Part:
    """Return a cut, or None where it is everything."""
    return None if bool(keep.all()) else Cut(dim, keep)


class Facts(Protocol):
    """What is known of all values at one set of masks."""

    def varies(self, value: int, dim: int) -> Tensor:
        """Which indices of a dimension depend on the images, bool (n,)."""

    def constant(self, value: int) -> Tensor:
        """The value where it does not depend on the images, and zero elsewhere; of one image."""

    def removed(self, layer: str, n_channels: int) -> Tensor:
        """Which channels at a layer's tap belong to removed units, bool (n_channels,)."""

    def shape(self, value: int) -> tuple[int, ...]:
        """The shape of a value of one image."""


class Rule:
    """An operation that takes and gives whole values."""

    def axis(self, step: Step, axes: Sequence[int | None]) -> int | None:
        """Return the dimension of its channels, given that of each input, where it passes a part of them on."""
        return None

    def gives(self, step: Step, wanted: Part, facts: Facts) -> Part:
        """Return what it can give that contains the part that is wanted."""
        return None

    def takes(self, step: Step, given: Part, facts: Facts) -> list[Part]:
        """Return the part of each input that it needs for what it gives."""
        return [None] * len(step.inputs)

    def call(self, step: Step, given: Part, facts: Facts) -> Call:
        """Return what computes the given part from the parts of the inputs."""
        return lambda n_images, *inputs: step.call(n_images, inputs)


class Channelwise(Rule):
    """An operation that maps each index of a dimension to the same index, such as an activation or pooling.

    Args:
        mixes: gives the dimensions of the value that it mixes.
        parameters: positions of arguments that hold one number per channel, of dimension 1.
    """

    def __init__(
        self, mixes: Callable[[Step], set[int]] = lambda step: set(), parameters: tuple[int, ...] = ()
    ) -> None:
        self._mixes = mixes
        self._parameters = parameters

    def axis(self, step: Step, axes: Sequence[int | None]) -> int | None:
        return next((axis for axis in axes if axis is not None and axis not in self._mixes(step)), None)

    def gives(self, step: Step, wanted: Part, facts: Facts) -> Part:
        if wanted is None or wanted.dim in self._mixes(step):
            return None
        shapes = [facts.shape(number) for number in step.inputs]
        fits = all(len(s) == len(step.shape) and s[wanted.dim] == len(wanted.keep) for s in shapes)
        return wanted if fits else None

    def takes(self, step: Step, given: Part, facts: Facts) -> list[Part]:
        return [given] * len(step.inputs)

    def call(self, step: Step, given: Part, facts: Facts) -> Call:
        if given is None or not self._parameters:
            return super().call(step, given, facts)
        args = list(step.args)
        for position in self._parameters:
            if args[position] is not None:
                args[position] = args[position][given.keep]
        return lambda n_images, *inputs: step.target(*fill(args, n_images, inputs), **step.kwargs)


class Elementwise(Rule):
    """Arithmetic of two values that broadcast."""

    def axis(self, step: Step, axes: Sequence[int | None]) -> int | None:
        return next((axis for axis in axes if axis is not None), None)

    def gives(self, step: Step, wanted: Part, facts: Facts) -> Part:
        return wanted

    def takes(self, step: Step, given: Part, facts: Facts) -> list[Part]:
        if given is None:
            return [None] * len(step.inputs)
        cuts = {
            operand.index: self._of_operand(facts.shape(step.inputs[operand.index]), step, given)
            for operand in step.args[:2]
            if isinstance(operand, Slot)
        }
        return [cuts[index] for index in range(len(step.inputs))]

    def _of_operand(self, shape: Sequence[int], step: Step, given: Cut) -> Part:
        dim = given.dim - (len(step.shape) - len(shape))
        return Cut(dim, given.keep) if dim >= 0 and shape[dim] == len(given.keep) else None

    def call(self, step: Step, given: Part, facts: Facts) -> Call:
        args = list(step.args)
        for position, operand in enumerate(args[:2]):
            if isinstance(operand, Tensor) and given is not None:
                cut = self._of_operand(operand.shape, step, given)
                args[position] = operand if cut is None else take(operand, cut.dim, cut.keep)
        return lambda n_images, *inputs: step.target(*fill(args, n_images, inputs), **step.kwargs)


class Affine(Rule):
    """A convolution or linear layer: its outputs are rows of the weights, its inputs columns.

    What constant inputs contribute goes into the bias.
    """

    def axis(self, step: Step, axes: Sequence[int | None]) -> int | None:
        return 1 if step.name is aten.conv2d else len(step.shape) - 1

    def gives(self, step: Step, wanted: Part, facts: Facts) -> Part:
        if wanted is None or wanted.dim != self.axis(step, ()) or _grouping(step) == "some":
            return None
        return wanted

    def takes(self, step: Step, given: Part, facts: Facts) -> list[Part]:
        axis = self.axis(step, ())
        match _grouping(step):
            case "one":
                return [part(axis, facts.varies(step.inputs[0], axis))]  # type: ignore[arg-type]
            case "each":
                return [given]
        return [None]

    def call(self, step: Step, given: Part, facts: Facts) -> Call:
        weight, bias, added = self._rows(step, given, facts)
        rest = step.args[3:] if _grouping(step) != "each" else (*step.args[3:6], len(weight), *step.args[7:])
        args = (weight, bias, *rest)
        if added is None:
            return lambda _n_images, x: step.target(x, *args, **step.kwargs)
        return lambda _n_images, x: step.target(x, *args, **step.kwargs).add_(added)

    def _rows(self, step: Step, given: Part, facts: Facts) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return weights, bias, and what is added to the value where constants do not give a plain bias."""
        weight, bias = step.args[1], bias_of(step)
        axis: int = self.axis(step, ())  # type: ignore[assignment]
        rows = None if given is None else given.keep.nonzero().flatten().to(weight.device)
        if rows is not None:
            weight, bias = weight[rows], None if bias is None else bias[rows]
        added = None
        if _grouping(step) == "one":
            varies = facts.varies(step.inputs[0], axis)
            if not bool(varies.all()):
                bias, added = self._with_constants(step, weight, bias, facts.constant(step.inputs[0]))
                weight = weight[:, varies.to(weight.device)]
        if step.tap is not None:
            removed = facts.removed(step.tap, len(step.args[1]))
            removed = removed if given is None else removed[given.keep]
            if bool(removed.any()):
                removed = removed.to(weight.device)
                weight = weight.masked_fill(removed.view(-1, *[1] * (weight.ndim - 1)), 0.0)
                bias = None if bias is None else bias.masked_fill(removed, 0.0)
                if added is not None:
                    added = added.masked_fill(removed.view(-1, *[1] * (added.ndim - 1 - axis)), 0.0)
        form = torch.channels_last if weight.ndim == 4 else torch.contiguous_format
        return weight.contiguous(memory_format=form), bias, added

    def _with_constants(
        self, step: Step, weight: Tensor, bias: Tensor | None, constant: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        if not bool(constant.any()):
            return bias, None
        value = step.target(constant, weight, bias, *step.args[3:], **step.kwargs)
        channels = value.movedim(1 if step.name is aten.conv2d else -1, 0).flatten(1)
        if bool((channels == channels[:, :1]).all()):
            return channels[:, 0].contiguous(), None
        return None, value


def _grouping(step: Step) -> str:
    """Return `one` for a dense layer, `each` for a depthwise convolution, `some` for other groups."""
    groups = step.args[6] if step.name is aten.conv2d and len(step.args) > 6 else 1
    if groups == 1:
        return "one"
    return "each" if step.args[1].shape[:2] == (groups, 1) else "some"


class Tap(Rule):
    """A tap that no layer could take in: what is removed is never part of its value."""

    def axis(self, step: Step, axes: Sequence[int | None]) -> int | None:
        return 1 if len(step.shape) == 4 else len(step.shape) - 1

    def gives(self, step: Step, wanted: Part, facts: Facts) -> Part:
        axis: int = self.axis(step, ())  # type: ignore[assignment]
        return wanted if wanted is not None and wanted.dim == axis else part(axis, facts.varies(step.number, axis))

    def takes(self, step: Step, given: Part, facts: Facts) -> list[Part]:
        return [given]

    def call(self, step: Step, given: Part, facts: Facts) -> Call:
        return lambda _n_images, x: x


class Reshape(Rule):
    """A change of shape that keeps the order of elements."""

    def gives(self, step: Step, wanted: Part, facts: Facts) -> Part:
        return wanted if wanted is not None and self._before(step, wanted, facts) is not None else None

    def takes(self, step: Step, given: Part, facts: Facts) -> list[Part]:
        return [given if given is None else self._before(step, given, facts)]

    def call(self, step: Step, given: Part, facts: Facts) -> Call:
        sizes = [-1 if isinstance(size, Batch) else size for size in step.shape]
        if given is not None:
            sizes[given.dim] = given.count
        return lambda _n_images, x: x.reshape(sizes)

    def _before(self, step: Step, wanted: Cut, facts: Facts) -> Part:
        """Return the indices of one dimension of the input that hold what is wanted, if there is such a dimension."""
        after = tuple(size.per_image if isinstance(size, Batch) else size for size in step.shape)
        dims, index = _origin(facts.shape(step.inputs[0]), after, wanted.dim)
        kept = wanted.keep[index]
        for position, dim in enumerate(dims):
            along = kept.movedim(position, 0).reshape(kept.shape[position], -1)
            if bool((along == along[:, :1]).all()):
                return Cut(dim, along[:, 0])
        return None


@functools.cache
def _origin(before: tuple[int, ...], after: tuple[int, ...], dim: int) -> tuple[tuple[int, ...], Tensor]:
    """Return the dimensions before a change of shape that decide an index after it.

    Returns:
        The dimensions, and for their indices the index of `dim` after the change, int64 of the size of the dimensions.
    """
    index = torch.arange(after[dim]).view([-1 if d == dim else 1 for d in range(len(after))]).expand(after)
    index = index.reshape(before)
    dims = []
    for candidate in range(len(before)):
        if bool((index == index.narrow(candidate, 0, 1)).all()):
            index = index.narrow(candidate, 0, 1)
        else:
            dims.append(candidate)
    return tuple(dims), index.reshape([before[d] for d in dims]).clone()


class Permute(Rule):
    """Another order of dimensions."""

    def axis(self, step: Step, axes: Sequence[int | None]) -> int | None:
        return None if axes[0] is None else self._order(step).index(axes[0])

    def gives(self, step: Step, wanted: Part, facts: Facts) -> Part:
        return wanted

    def takes(self, step: Step, given: Part, facts: Facts) -> list[Part]:
        return [None if given is None else Cut(self._order(step)[given.dim], given.keep)]

    def _order(self, step: Step) -> list[int]:
        n = len(step.shape)
        if step.name is aten.permute:
            return [dim % n for dim in step.args[1]]
        order = list(range(n))
        first, second = step.args[1] % n, step.args[2] % n
        order[first], order[second] = order[second], order[first]
        return order


class Select(Rule):
    """One index of a dimension, which disappears."""

    def gives(self, step: Step, wanted: Part, facts: Facts) -> Part:
        return wanted

    def takes(self, step: Step, given: Part, facts: Facts) -> list[Part]:
        if given is None:
            return [None]
        gone = step.args[1] % (len(step.shape) + 1)
        return [Cut(given.dim + (given.dim >= gone), given.keep)]


class Slice(Rule):
    """A range of a dimension; what is wanted of it is taken from the input directly."""

    def gives(self, step: Step, wanted: Part, facts: Facts) -> Part:
        return wanted

    def takes(self, step: Step, given: Part, facts: Facts) -> list[Part]:
        if given is None:
            return [None]
        return [given if given.dim != self._dim(step) else self._inside(step, given, facts)]

    def call(self, step: Step, given: Part, facts: Facts) -> Call:
        if given is not None and given.dim == self._dim(step):
            return lambda _n_images, x: x
        return super().call(step, given, facts)

    def _dim(self, step: Step) -> int:
        return int(step.args[1]) % len(step.shape) if len(step.args) > 1 else 0

    def _inside(self, step: Step, given: Cut, facts: Facts) -> Cut:
        start, end, stride = [*step.args[2:], None, None, None][:3]
        keep = torch.zeros(facts.shape(step.inputs[0])[given.dim], dtype=torch.bool)
        keep[slice(start, end, stride)] = given.keep
        return Cut(given.dim, keep)


class Mean(Rule):
    """A mean over some dimensions."""

    def axis(self, step: Step, axes: Sequence[int | None]) -> int | None:
        return None if axes[0] is None or axes[0] not in (places := self._places(step)) else places.index(axes[0])

    def gives(self, step: Step, wanted: Part, facts: Facts) -> Part:
        return wanted if wanted is not None and self._places(step)[wanted.dim] >= 0 else None

    def takes(self, step: Step, given: Part, facts: Facts) -> list[Part]:
        return [None if given is None else Cut(self._places(step)[given.dim], given.keep)]

    def _places(self, step: Step) -> list[int]:
        """Return which dimension of the input each dimension of the value is; -1 for one that is left over."""
        keeps = len(step.args) > 2 and bool(step.args[2])
        n = len(step.shape) if keeps else len(step.shape) + len(step.args[1])
        gone = {dim % n for dim in step.args[1]}
        return [-1 if dim in gone else dim for dim in range(n) if keeps or dim not in gone]


class Concatenate(Rule):
    """Values one behind the other."""

    def gives(self, step: Step, wanted: Part, facts: Facts) -> Part:
        return None if wanted is None or wanted.dim == self._dim(step) else wanted

    def takes(self, step: Step, given: Part, facts: Facts) -> list[Part]:
        return [given] * len(step.inputs)

    def _dim(self, step: Step) -> int:
        return int(step.args[1]) % len(step.shape) if len(step.args) > 1 else 0


class Pad(Rule):
    """Constants around a value; padded channels are constants that nobody has to carry."""

    def axis(self, step: Step, axes: Sequence[int | None]) -> int | None:
        return axes[0]

    def gives(self, step: Step, wanted: Part, facts: Facts) -> Part:
        if wanted is None:
            return None
        before, after = self._amounts(step, wanted.dim)
        outside = torch.ones_like(wanted.keep)
        outside[before : len(outside) - after] = False
        # A pad that is wanted as a value is computed with everything else.
        return None if bool((wanted.keep & outside).any()) else wanted

    def takes(self, step: Step, given: Part, facts: Facts) -> list[Part]:
        if given is None:
            return [None]
        before, after = self._amounts(step, given.dim)
        return [Cut(given.dim, given.keep[before : len(given.keep) - after])]

    def call(self, step: Step, given: Part, facts: Facts) -> Call:
        if given is None:
            return super().call(step, given, facts)
        pads = list(step.args[1])
        at = 2 * (len(step.shape) - 1 - given.dim)
        pads[at : at + 2] = [0] * len(pads[at : at + 2])
        if not any(pads):
            return lambda _n_images, x: x
        args = (step.args[0], pads, *step.args[2:])
        return lambda n_images, *inputs: step.target(*fill(args, n_images, inputs), **step.kwargs)

    def _amounts(self, step: Step, dim: int) -> tuple[int, int]:
        at = 2 * (len(step.shape) - 1 - dim)
        pads = [*step.args[1], 0, 0, 0, 0, 0, 0, 0, 0]
        return pads[at], pads[at + 1]


def take(value: Tensor, dim: int, keep: Tensor) -> Tensor:
    """Return the kept indices of a dimension."""
    return value.index_select(dim, keep.nonzero().flatten().to(value.device))


def _none(step: Step) -> set[int]:
    return set()


def _all_but_channels(step: Step) -> set[int]:
    return {dim for dim in range(len(step.shape)) if dim != 1}


def _last_two(step: Step) -> set[int]:
    return {len(step.shape) - 1, len(step.shape) - 2}


def _normalised(step: Step) -> set[int]:
    n = len(step.shape)
    return set(range(n - len(step.args[1]), n))


def _softmaxed(step: Step) -> set[int]:
    return {step.args[1] % len(step.shape)}


_WHOLE, _UNARY, _POOL, _ARITHMETIC = Rule(), Channelwise(_none), Channelwise(_all_but_channels), Elementwise()
_RESHAPE, _PERMUTE, _AFFINE = Reshape(), Permute(), Affine()

_UNARY_NAMES = (
    "relu relu6 gelu silu mish sigmoid tanh hardtanh hardswish hardsigmoid leaky_relu elu celu selu softplus "
    "clamp clamp_min clamp_max exp log neg abs sqrt rsqrt square erf sin cos reciprocal log_sigmoid"
)
_RULES: dict[Any, Rule] = {
    **{getattr(aten, name): _UNARY for name in _UNARY_NAMES.split()},
    **dict.fromkeys((aten.max_pool2d, aten.avg_pool2d, aten.adaptive_avg_pool2d, aten.adaptive_max_pool2d), _POOL),
    **dict.fromkeys((aten.add, aten.sub, aten.mul, aten.div, aten.maximum, aten.minimum), _ARITHMETIC),
    **dict.fromkeys((aten.reshape, aten.view, aten.flatten, aten.unflatten, aten.unsqueeze, aten.squeeze), _RESHAPE),
    **dict.fromkeys((aten.permute, aten.transpose), _PERMUTE),
    **dict.fromkeys((aten.matmul, aten.scaled_dot_product_attention), Channelwise(_last_two)),
    aten.layer_norm: Channelwise(_normalised),
    aten.softmax: Channelwise(_softmaxed),
    aten.batch_norm: Channelwise(_all_but_channels, parameters=(1, 2, 3, 4)),
    aten.mean: Mean(),
    aten.select: Select(),
    aten.slice: Slice(),
    aten.cat: Concatenate(),
    aten.pad: Pad(),
    aten.constant_pad_nd: Pad(),
    torch.ops.pruneboard.tap: Tap(),
}


def rule_of(step: Step) -> Rule:
    """Return the rule of an operation; the one for whole values where it has none, or is used in an unusual way."""
    if is_affine(step):
        return _AFFINE
    rule = _RULES.get(step.name, _WHOLE)
    return rule if _is_usual(step, rule) else _WHOLE


def _is_usual(step: Step, rule: Rule) -> bool:
    first = step.args[0] if step.args else None
    if isinstance(rule, Elementwise):
        return all(isinstance(operand, Slot | Tensor | int | float) for operand in step.args[:2])
    if isinstance(rule, Concatenate):
        return all(isinstance(one, Slot) for one in first)  # type: ignore[union-attr]
    if isinstance(rule, Pad):
        constant = step.name is aten.constant_pad_nd or len(step.args) < 3 or step.args[2] == "constant"
        return bool(constant and min(step.args[1]) >= 0)
    if isinstance(rule, Mean):
        return isinstance(first, Slot) and len(step.args) > 1 and bool(step.args[1])
    if step.name is aten.batch_norm:
        return isinstance(first, Slot) and not step.args[5]
    others = step.args[1:] if step.name is not aten.layer_norm else ()
    return isinstance(first, Slot) and not any(isinstance(arg, Tensor) for arg in others)


def is_activation(rule: Rule) -> bool:
    """Whether it maps each element of one value to an element at the same place."""
    return rule is _UNARY
