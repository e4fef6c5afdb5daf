"""Relevance through the operations of a network, as gradients that autograd carries.

While relevance is propagated, the gradient of every tensor is its relevance R. Between `relevance_in` and
`relevance_out` it is R / x instead, so that any operation that is linear in each of its operands, applied between the
two, follows the epsilon rule by its own backward pass:

    z = f(x),  R_x = share * x * (df/dx)^T R_z / (z + epsilon sign z)

The shares of the operands of a product add up to one (Achtibat et al. 2024, AttnLRP, arXiv 2402.05602, section 3.3).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

EPSILON = 1e-6
"""Stabiliser of every denominator."""


def relevance_in(x: Tensor, share: float = 1.0) -> Tensor:
    """Mark an operand: what flows back beyond it is share * x times the gradient that arrives."""
    return _In.apply(x, share)  # type: ignore[no-any-return]


def relevance_out(z: Tensor) -> Tensor:
    """Mark a result: the relevance that arrives is divided by it, stabilised."""
    return _Out.apply(z)  # type: ignore[no-any-return]


def relevance_pass(x: Tensor, output: Tensor) -> Tensor:
    """Return `output`, whose relevance goes to `x` unchanged; both have the same shape."""
    return _Pass.apply(x, output)  # type: ignore[no-any-return]


def stabilised(z: Tensor) -> Tensor:
    """Return z + epsilon * sign(z), with sign(0) = 1, so that it can be divided by."""
    return z + torch.copysign(torch.tensor(EPSILON, dtype=z.dtype, device=z.device), z)


class _In(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.share = share
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        relevance = x * gradient
        return (relevance if ctx.share == 1 else relevance.mul_(ctx.share)), None


class _Out(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        # A copy, because what follows may write into it in place.
        return z.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, relevance: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return relevance / stabilised(z)


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, _x: Tensor, output: Tensor) -> Tensor:
        return output.clone()

    @staticmethod
    @once_differentiable
    def backward(_ctx: Any, relevance: Tensor) -> tuple[Tensor, None]:
        return relevance, None
