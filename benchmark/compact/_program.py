"""Networks that compute only what is left under a set of masks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pruneboard.benchmark.compact._graph import Batch, Graph, NotCompactable, Slot, Step, aten, is_affine, is_tap
from pruneboard.benchmark.compact._rules import Cut, Part, Rule, is_activation, part, rule_of, take

_VECTOR = 8
"""Channels that a CPU computes at once: a layer with fewer outputs costs as much as one with the next multiple."""

# Operations whose values lie in memory of their own; of all others it is supposed that they share it with their inputs.
_ALLOCATING = {
    *(aten.conv2d, aten.linear, aten.batch_norm, aten.layer_norm, aten.matmul, aten.scaled_dot_product_attention),
    *(aten.softmax, aten.max_pool2d, aten.avg_pool2d, aten.adaptive_avg_pool2d, aten.mean, aten.cat),
}


class Probe:
    """Which values depend on the images, at several sets of masks at once.

    The network runs on one image of NaN for each set of masks. NaN survives what can depend on the image, so what comes
    out as a number is a constant, and is that number: a removed unit, a channel behind nothing but removed units, or
    what biases make of them.

    Args:
        graph: the network.
        masks: for each set, layer name to bool (n_units,).
        image_shape: (channels, height, width).
        like: a tensor of the network's type, on its device.
    """

    def __init__(
        self, graph: Graph, masks: Sequence[Mapping[str, Tensor]], image_shape: Sequence[int], like: Tensor
    ) -> None:
        self.n_sets = len(masks)
        self._graph = graph
        self._removed = {
            name: ~torch.stack([at_rate[name] for at_rate in masks]) for name in graph.layers if name in masks[0]
        }
        self._values: list[Tensor] = [like.new_full((self.n_sets, *image_shape), float("nan"))]
        for step in graph.steps:
            self._values.append(self._value(step))

    def _value(self, step: Step) -> Tensor:
        inputs = [self._values[number] for number in step.inputs]
        value = step.call(self.n_sets, inputs)
        if not value.is_floating_point() and any(bool(one.isnan().any()) for one in inputs):
            raise NotCompactable(f"`{step.name}` decides by values that depend on the image, which NaN cannot show")
        if step.name is aten.mul and len(inputs) == 2:
            # A unit that is zero stays zero, whatever gate it is multiplied with.
            value = value.masked_fill((inputs[0] == 0) | (inputs[1] == 0), 0.0)
        layer = step.args[1] if is_tap(step) else step.tap
        if layer in self._removed:
            removed = self.removed(layer, _n_channels(value)).to(value.device)
            # Windows of attention are counted as images.
            n_windows = len(value) // self.n_sets
            zero = _along(removed.repeat_interleave(n_windows, dim=0), value)
            if step.name is aten.linear:
                padding = _along(_padding(removed).repeat_interleave(n_windows, dim=0), value)
                zero = zero & ~(padding & value.isnan())
            value = value.masked_fill(zero, 0.0)
        return value

    def removed(self, layer: str, n_channels: int) -> Tensor:
        """Which channels at a layer's tap belong to removed units, bool (n_sets, n_channels)."""
        removed = self._removed[layer]
        return removed.repeat_interleave(n_channels // removed.shape[1], dim=1)

    def value(self, number: int, at: int) -> Tensor:
        """Return a value at one set of masks, as for one image."""
        value = self._values[number]
        batched = _batch_of(self._graph, number)
        return value if batched is None else value.narrow(batched[0], at * batched[1], batched[1])


def _padding(removed: Tensor) -> Tensor:
    """Return the removed channels that are computed, as zeros, to fill the last vector, bool (n_sets, n_channels).

    A matrix product of 401 columns takes a third longer than one of 408.
    """
    kept = (~removed).sum(dim=1, keepdim=True)
    n_missing = torch.where(kept > 0, -kept % _VECTOR, 0)
    return removed & (removed.cumsum(dim=1) <= n_missing)


def _n_channels(value: Tensor) -> int:
    return value.shape[1] if value.ndim == 4 else value.shape[-1]


def _along(removed: Tensor, value: Tensor) -> Tensor:
    """Shape (n_images, n_channels) so that it broadcasts over a value at a tap."""
    return removed[..., None, None] if value.ndim == 4 else removed.view(len(removed), *[1] * (value.ndim - 2), -1)


def _batch_of(graph: Graph, number: int) -> tuple[int, int] | None:
    """Return the dimension that grows with the images and its size for one image; None where there is none."""
    if number == 0:
        return 0, 1
    for dim, size in enumerate(graph.steps[number - 1].shape):
        if isinstance(size, Batch):
            return dim, size.per_image
    return None


class Facts:
    """What a probe tells about one of its sets of masks.

    Args:
        graph: the network.
        probe: the probe.
        at: index of the set of masks.
    """

    def __init__(self, graph: Graph, probe: Probe, at: int) -> None:
        self._graph, self._probe, self._at = graph, probe, at
        self._nan: dict[int, Tensor] = {}
        self._varies: dict[tuple[int, int], Tensor] = {}

    def shape(self, value: int) -> tuple[int, ...]:
        """The shape of a value of one image."""
        return tuple(self._probe.value(value, self._at).shape)

    def is_constant(self, value: int) -> bool:
        """Whether no part of a value depends on the images."""
        return not bool(self._is_nan(value).any())

    def varies(self, value: int, dim: int) -> Tensor:
        """Which indices of a dimension depend on the images, bool (n,)."""
        if (value, dim) not in self._varies:
            self._varies[value, dim] = self._is_nan(value).movedim(dim, 0).flatten(1).any(dim=1).cpu()
        return self._varies[value, dim]

    def constant(self, value: int) -> Tensor:
        """The value where it does not depend on the images, and zero elsewhere; of one image."""
        return self._probe.value(value, self._at).nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)

    def removed(self, layer: str, n_channels: int) -> Tensor:
        """Which channels at a layer's tap belong to removed units, bool (n_channels,)."""
        return self._probe.removed(layer, n_channels)[self._at]

    def _is_nan(self, value: int) -> Tensor:
        if value not in self._nan:
            self._nan[value] = self._probe.value(value, self._at).isnan()
        return self._nan[value]


@dataclass(frozen=True)
class _Instruction:
    """One call of a program.

    Attributes:
        call: computes a value from the number of images and the registers it reads.
        reads: registers.
        owns: whether its value lies in memory of its own; else it may share memory with what it reads, or with a
            constant.
        in_place: does the same by overwriting the first register it reads, or None.
    """

    call: Callable[..., Tensor]
    reads: tuple[int, ...]
    owns: bool = False
    in_place: Callable[..., Tensor] | None = None


class Program:
    """A network that computes only what is left; calling it gives the logits of images.

    Args:
        instructions: in the order they run; register 0 holds the images, register i + 1 the value of instruction i.
        output: register of the logits.
    """

    def __init__(self, instructions: Sequence[_Instruction], output: int) -> None:
        # Whose memory a register may lie in; the images and constants belong to others, and stand under 0.
        memory = [frozenset({0})]
        for register, instruction in enumerate(instructions, start=1):
            shared = frozenset({0}).union(*(memory[read] for read in instruction.reads))
            memory.append(frozenset({register}) if instruction.owns else shared)
        read_last: dict[int, int] = {output: len(instructions)}
        used_last = dict.fromkeys(memory[output], len(instructions))
        for index in reversed(range(len(instructions))):
            for register in instructions[index].reads:
                read_last.setdefault(register, index)
                for owner in memory[register]:
                    used_last.setdefault(owner, index)
        self._output = output
        self._calls: list[tuple[Callable[..., Tensor], tuple[int, ...], tuple[int, ...]]] = []
        for index, instruction in enumerate(instructions):
            call = instruction.call
            if instruction.in_place is not None:
                target, *others = instruction.reads
                alone = memory[target] == {target} and all(target not in memory[other] for other in others)
                if alone and target != 0 and used_last[target] == index:
                    call = instruction.in_place
            ended = tuple({r for r in instruction.reads if read_last[r] == index})
            self._calls.append((call, instruction.reads, ended))

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits, (n_images, n_classes)."""
        if images.is_contiguous():
            images = images.contiguous(memory_format=torch.channels_last)
        registers: list[Tensor | None] = [images]
        for call, reads, ended in self._calls:
            registers.append(call(len(images), *[registers[r] for r in reads]))
            for register in ended:
                registers[register] = None
        return registers[self._output]  # type: ignore[return-value]


def build(graph: Graph, facts: Facts) -> Program:
    """Make the program of what is left."""
    return _Builder(graph, facts).build()


class _Builder:
    def __init__(self, graph: Graph, facts: Facts) -> None:
        self._graph, self._facts = graph, facts
        self._rules: list[Rule] = [rule_of(step) for step in graph.steps]
        # The part of each value that is computed; values that nobody needs, or that are constant, have none.
        self._given: dict[int, Part] = {0: None}
        self._instructions: list[_Instruction] = []
        self._registers: dict[int, int] = {0: 0}
        self._fitted: dict[tuple[int, int, bytes], int] = {}

    def build(self) -> Program:
        self._plan()
        self._widen()
        for step, rule in zip(self._graph.steps, self._rules, strict=True):
            if step.number in self._given:
                self._registers[step.number] = self._compute(step, rule)
        return Program(self._instructions, self._fit(self._graph.output, None))

    def _plan(self) -> None:
        """Decide which part of each value is computed, from the logits back to the images."""
        axes: list[int | None] = [1]
        for step, rule in zip(self._graph.steps, self._rules, strict=True):
            axes.append(rule.axis(step, [axes[number] for number in step.inputs]))
        asked: dict[int, list[Part]] = {self._graph.output: [None]}
        for step, rule in zip(reversed(self._graph.steps), reversed(self._rules), strict=True):
            if step.number not in asked or self._facts.is_constant(step.number):
                continue
            wanted = self._left(step.number, _union(asked[step.number]), axes[step.number])
            if wanted is not None and wanted.count == 0:
                continue
            given = rule.gives(step, wanted, self._facts)
            self._given[step.number] = given
            for number, taken in zip(step.inputs, rule.takes(step, given, self._facts), strict=True):
                asked.setdefault(number, []).append(taken)

    def _left(self, number: int, wanted: Part, axis: int | None) -> Part:
        """Return the part of what is wanted that depends on the images."""
        if wanted is not None:
            return part(wanted.dim, wanted.keep & self._facts.varies(number, wanted.dim))
        return None if axis is None else part(axis, self._facts.varies(number, axis))

    def _widen(self) -> None:
        """Let a layer compute zeros for removed units where the sum that reads it needs its width and that is free."""
        for step in self._graph.steps:
            if step.name is not aten.add or step.number not in self._given:
                continue
            whole = self._given[step.number]
            for number in step.inputs:
                source = self._graph.steps[number - 1] if number else None
                part = self._given.get(number)
                if source is None or part is None or not is_affine(source) or source.tap is None:
                    continue
                if whole is not None and whole.dim != part.dim:
                    continue
                keep = torch.ones_like(part.keep) if whole is None else whole.keep
                others = keep & ~part.keep
                removed = self._facts.removed(source.tap, len(keep))
                if bool((others & ~removed).any()) or _vectors(keep) != _vectors(part.keep):
                    continue
                if bool((part.keep & ~keep).any()) or self._graph.n_readers[number] != 1:
                    continue
                self._given[number] = whole

    def _compute(self, step: Step, rule: Rule) -> int:
        given = self._given[step.number]
        if step.name is aten.add and step.args[:2] == (Slot(0), Slot(1)) and not step.kwargs and len(step.args) == 2:
            return self._add(step, given)
        takes = rule.takes(step, given, self._facts)
        reads = tuple(self._fit(number, taken) for number, taken in zip(step.inputs, takes, strict=True))
        call = rule.call(step, given, self._facts)
        owns = step.name in _ALLOCATING or is_activation(rule)
        return self._emit(call, reads, owns=owns, in_place=_overwriting(step, rule))

    def _add(self, step: Step, given: Part) -> int:
        """Add two values; one that is zero outside a part of the sum is added to that part only."""
        first, second = step.inputs
        rule = rule_of(step)
        takes = rule.takes(step, given, self._facts)
        for big, small in ((first, second), (second, first)):
            cut = self._given.get(small)
            same = self._facts.shape(big) == self._facts.shape(small)
            if big == small or not same or cut is None or not self._is_zero_outside(small, cut, given):
                continue
            register = self._fit(big, given)
            source = self._registers[small]
            positions = (cut.keep if given is None else cut.keep[given.keep]).nonzero().flatten()
            call, in_place = _scattered_addition(cut.dim, positions)
            return self._emit(call, (register, source), owns=True, in_place=in_place)
        reads = tuple(self._fit(number, taken) for number, taken in zip(step.inputs, takes, strict=True))
        return self._emit(lambda _n, a, b: a + b, reads, owns=True, in_place=self._added_in_place(step))

    def _added_in_place(self, step: Step) -> Callable[..., Tensor] | None:
        same = self._facts.shape(step.inputs[0]) == self._facts.shape(step.inputs[1])
        computed = step.inputs[0] in self._given
        return (lambda _n, a, b: a.add_(b)) if same and computed else None

    def _is_zero_outside(self, number: int, cut: Cut, given: Part) -> bool:
        if given is not None and (given.dim != cut.dim or bool((cut.keep & ~given.keep).any())):
            return False
        if given is not None and bool((given.keep == cut.keep).all()):
            return False
        outside = ~cut.keep if given is None else given.keep & ~cut.keep
        return not bool(take(self._facts.constant(number), cut.dim, outside).any()) and not bool(
            (self._facts.varies(number, cut.dim) & outside).any()
        )

    def _fit(self, number: int, wanted: Part) -> int:
        """Return a register that holds a part of a value."""
        has = self._given.get(number)
        if number in self._given and (has == wanted or (has is None and wanted is None)):
            return self._registers[number]
        key = (number, -1 if wanted is None else wanted.dim, b"" if wanted is None else wanted.keep.numpy().tobytes())
        if key not in self._fitted:
            self._fitted[key] = self._fitting(number, has, wanted)
        return self._fitted[key]

    def _fitting(self, number: int, has: Part, wanted: Part) -> int:
        if number not in self._given:
            return self._constant(number, wanted)
        register = self._registers[number]
        if has is None:
            return self._narrowed(register, wanted)  # type: ignore[arg-type]
        if wanted is not None and wanted.dim == has.dim and not bool((wanted.keep & ~has.keep).any()):
            return self._narrowed(register, Cut(has.dim, wanted.keep[has.keep]))
        # What is not computed is constant, or not wanted.
        template = self._facts.constant(number)
        keep = torch.ones_like(has.keep)
        if wanted is not None and wanted.dim == has.dim:
            keep = wanted.keep | has.keep
            template = take(template, has.dim, keep)
        positions = has.keep[keep].nonzero().flatten().to(template.device)
        expand = self._expanding(number, template)
        dim = has.dim
        whole = self._emit(lambda n, x: expand(n).to(x.dtype).index_copy(dim, positions, x), (register,), owns=True)
        if wanted is None or (wanted.dim == has.dim and torch.equal(keep, wanted.keep)):
            return whole
        return self._narrowed(whole, wanted if wanted.dim != has.dim else Cut(has.dim, wanted.keep[keep]))

    def _constant(self, number: int, wanted: Part) -> int:
        template = self._facts.constant(number)
        if wanted is not None:
            template = take(template, wanted.dim, wanted.keep)
        return self._emit(self._expanding(number, template), ())

    def _expanding(self, number: int, template: Tensor) -> Callable[[int], Tensor]:
        batched = _batch_of(self._graph, number)
        if batched is None:
            return lambda _n: template
        dim, per_image = batched
        if per_image == 1:
            sizes = [-1] * template.ndim
            return lambda n: template.expand([*sizes[:dim], n, *sizes[dim + 1 :]])
        return lambda n: template.repeat([1] * dim + [n] + [1] * (template.ndim - dim - 1))

    def _narrowed(self, register: int, cut: Cut) -> int:
        index = cut.keep.nonzero().flatten()
        dim = cut.dim
        return self._emit(lambda _n, x: x.index_select(dim, index.to(x.device)), (register,), owns=True)

    def _emit(
        self,
        call: Callable[..., Tensor],
        reads: tuple[int, ...],
        *,
        owns: bool = False,
        in_place: Callable[..., Tensor] | None = None,
    ) -> int:
        self._instructions.append(_Instruction(call, reads, owns, in_place))
        return len(self._instructions)


def _union(parts: Sequence[Part]) -> Part:
    """Return the smallest part that contains all of them; everything where they are parts of different dimensions."""
    whole = any(one is None for one in parts) or len({one.dim for one in parts}) > 1  # type: ignore[union-attr]
    if whole:
        return None
    cuts = [one for one in parts if one is not None]
    return part(cuts[0].dim, torch.stack([cut.keep for cut in cuts]).any(dim=0))


def _vectors(keep: Tensor) -> int:
    return -(-int(keep.sum()) // _VECTOR)


def _overwriting(step: Step, rule: Rule) -> Callable[..., Tensor] | None:
    """Return what computes an activation in the memory of its input, where torch has such a function."""
    name = step.target._schema.name.split("::")[1] + "_"
    target = getattr(getattr(aten, name, None), step.target._overloadname, None) if is_activation(rule) else None
    if target is None or len(step.inputs) != 1:
        return None
    args, kwargs = step.args[1:], step.kwargs
    return lambda _n, x: target(x, *args, **kwargs)


def _scattered_addition(dim: int, positions: Tensor) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Return what adds a part to some indices of a dimension: to a copy, and in place."""

    def in_place(_n_images: int, whole: Tensor, some: Tensor) -> Tensor:
        index, some = positions.to(whole.device), some.to(whole.dtype)
        flat = whole.movedim(dim, -1)
        if not flat.is_contiguous():
            return whole.index_add_(dim, index, some)
        # In rows of channels it is several times as fast.
        flat.view(-1, flat.shape[-1]).index_add_(1, index, some.movedim(dim, -1).reshape(-1, len(index)))
        return whole

    return lambda n, whole, some: in_place(n, whole.clone(), some), in_place
