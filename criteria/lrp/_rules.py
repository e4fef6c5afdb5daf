"""Rules for single modules, as hooks that zennit's composites place.

Each gives what zennit 0.5's rule of the same name gives, at a fraction of the cost: the epsilon rule needs no further
pass through the module, the others no more than they have to, and half as many where the input is not negative.

Source: Bach et al. 2015 (doi 10.1371/journal.pone.0130140) for epsilon and alpha-beta, Montavon et al. 2019 (doi
10.1007/978-3-030-28954-6_10) for gamma, Andeol et al. 2021 (arXiv 2106.06420) for its form with negative inputs.
"""

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from zennit.core import Hook, RemovableHandle, RemovableHandleList

from pruneboard.criteria.lrp._flow import relevance_in, relevance_out, relevance_pass, stabilised


class Rule(Hook):  # type: ignore[misc] # zennit is untyped
    """A rule for a module of one input and one output."""

    def register(self, module: nn.Module) -> RemovableHandleList:
        """Attach to a module; the input's gradient beyond the module will be its relevance."""
        return RemovableHandleList(
            [
                RemovableHandle(self),
                module.register_forward_pre_hook(self.before),
                module.register_forward_hook(self.after),
            ]
        )

    def copy(self) -> "Rule":
        """Return a rule with the same parameters, for another module."""
        twin = copy.copy(self)
        twin.stored_tensors = {}
        return twin

    @abstractmethod
    def before(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        """Return what the module gets in place of its input."""

    @abstractmethod
    def after(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Return what the network gets in place of the module's output."""


class Epsilon(Rule):
    """R_i = x_i sum_j w_ji R_j / z_j with z_j = sum_i w_ji x_i + b_j, for any module that is affine in its input."""

    def before(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        """Turn the gradient at the module's input into relevance."""
        return relevance_in(inputs[0])

    def after(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Turn relevance at the module's output into a gradient."""
        return relevance_out(output)


class DetachedRule(Rule):
    """A rule with its own backward pass; the module itself stays outside the graph, so it may work in place."""

    def before(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        """Keep the input, and give the module a copy without a graph."""
        self.stored_tensors["input"] = inputs[0]
        return inputs[0].detach().clone()

    def after(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Connect the output with the kept input by the rule."""
        return self.connect(module, self.stored_tensors.pop("input"), output)

    def connect(self, module: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        """Return `output` with a graph that takes its relevance to `x`."""
        return _Propagated.apply(x, output, self, module)  # type: ignore[no-any-return]

    def propagate(self, module: nn.Module, x: Tensor, output: Tensor, relevance: Tensor) -> Tensor:
        """Return the relevance of `x`, given that of `output`."""
        raise NotImplementedError


class _Propagated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, output: Tensor, rule: DetachedRule, module: nn.Module) -> Tensor:
        ctx.save_for_backward(x, output)
        ctx.rule, ctx.module = rule, module
        return output.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None, None, None]:
        x, output = ctx.saved_tensors
        return ctx.rule.propagate(ctx.module, x, output, relevance), None, None, None


class Pass(DetachedRule):
    """R_i = R_j, for modules that work element by element."""

    def connect(self, module: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        """Hand relevance on."""
        return relevance_pass(x, output)


class DetachedLayerNorm(DetachedRule):
    """Epsilon rule of a layer norm whose deviation is taken for a constant (Ali et al. 2022, arXiv 2202.07304).

    Subtraction of the mean, scale and bias take part; the division by the deviation then is linear.
    """

    def propagate(self, module: Any, x: Tensor, output: Tensor, relevance: Tensor) -> Tensor:
        """Apply the transposed centring to what the scaled relevance gives."""
        dims = tuple(range(-len(module.normalized_shape), 0))
        variance = x.var(dim=dims, unbiased=False, keepdim=True)
        gradient: Tensor = relevance / stabilised(output) / (variance + module.eps).sqrt()
        if module.weight is not None:
            gradient = gradient * module.weight
        return x * (gradient - gradient.mean(dim=dims, keepdim=True))


class SplitRule(DetachedRule):
    """A rule that treats positive and negative contributions differently, for convolutions and linear layers.

    With x = x+ + x-, weights P and N, and biases p and n that a subclass derives from w and b:

        z+ = P x+ + N x- + p,    z- = N x+ + P x- + n
        R_x = x+ (P^T s+ + N^T s-) + x- (N^T s+ + P^T s-)

    where s+ and s- come from `shares`.
    """

    @abstractmethod
    def parts(self, parameter: Tensor) -> tuple[Tensor, Tensor]:
        """Return P and N of a weight, or p and n of a bias."""

    @abstractmethod
    def shares(self, relevance: Tensor, output: Tensor, sums: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return s+ and s-, given R, z = w x + b, and z+ and z-; both without the latter where it plays no role."""

    @property
    def uses_negative(self) -> bool:
        """Whether z- takes part."""
        return True

    def propagate(self, module: Any, x: Tensor, output: Tensor, relevance: Tensor) -> Tensor:
        """Compute z+ and z- with a graph, and take their gradient at x+ and x-."""
        with torch.no_grad():
            weights = self.parts(module.weight)
            biases = (None, None) if module.bias is None else self.parts(module.bias)
        halves = [x.detach().clamp(min=0).requires_grad_()]
        if bool((x < 0).any()):
            halves.append(x.detach().clamp(max=0).requires_grad_())
        with torch.enable_grad():
            sums = [_affine(module, weights[0], biases[0])(halves[0])]
            if self.uses_negative:
                sums.append(_affine(module, weights[1], biases[1])(halves[0]))
            if len(halves) == 2:
                sums[0] = sums[0] + _affine(module, weights[1], None)(halves[1])
                if self.uses_negative:
                    sums[1] = sums[1] + _affine(module, weights[0], None)(halves[1])
        shares = self.shares(relevance, output, [total.detach() for total in sums])
        gradients = torch.autograd.grad(sums, halves, shares)
        with torch.no_grad():
            return torch.stack([half * gradient for half, gradient in zip(halves, gradients, strict=True)]).sum(dim=0)


class AlphaBeta(SplitRule):
    """R_i = sum_j (alpha (w_ji x_i)+ / z+_j - beta (w_ji x_i)- / z-_j) R_j, with alpha - beta = 1.

    Args:
        alpha: weight of positive contributions.
        beta: weight of negative contributions, at least 0.
    """

    def __init__(self, alpha: float, beta: float) -> None:
        super().__init__()
        self.alpha, self.beta = alpha, beta

    @property
    def uses_negative(self) -> bool:
        """Whether beta differs from 0."""
        return self.beta != 0

    def parts(self, parameter: Tensor) -> tuple[Tensor, Tensor]:
        """Split by sign."""
        return parameter.clamp(min=0), parameter.clamp(max=0)

    def shares(self, relevance: Tensor, output: Tensor, sums: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Divide the relevance by the sums."""
        factors = (self.alpha, -self.beta)
        return tuple(factor * relevance / stabilised(total) for factor, total in zip(factors, sums, strict=False))


class Gamma(SplitRule):
    """Contributions of the sign of the output are favoured: weights w + gamma w+ where z > 0, w + gamma w- where z < 0.

    Args:
        gamma: how much, at least 0; 0 is the epsilon rule, infinity the z+ rule.
    """

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma

    def parts(self, parameter: Tensor) -> tuple[Tensor, Tensor]:
        """Add the favoured half."""
        return parameter + self.gamma * parameter.clamp(min=0), parameter + self.gamma * parameter.clamp(max=0)

    def shares(self, relevance: Tensor, output: Tensor, sums: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Divide the relevance of each output by the sum of its own sign."""
        zero = torch.zeros_like(relevance)
        return tuple(
            torch.where(sign * output > 0, relevance / stabilised(total), zero)
            for sign, total in zip((1, -1), sums, strict=True)
        )


def _affine(module: nn.Module, weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Return the module's own map with other parameters, outside all hooks; the module itself is not touched."""
    twin = copy.copy(module)
    twin._parameters = {"weight": weight, "bias": bias}  # type: ignore[dict-item] # plain tensors do as well
    return twin.forward
