"""Relevance through attention: O = A V with A = softmax(S) and S = scale Q K^T.

Source: Achtibat et al. 2024 (AttnLRP, arXiv 2402.05602), Ali et al. 2022 (CP-LRP, arXiv 2202.07304), Hatefi et al. 2024
(arXiv 2408.12568) for the choice between them and for the z+ rule of the softmax.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from pruneboard.criteria.lrp._flow import relevance_in, relevance_out, relevance_pass, stabilised

SoftmaxRule = Literal["attn_lrp", "cp", "z_plus", "z_plus_bias"]
"""`attn_lrp`: the softmax is expanded at its input, R_i = x_i (R_i - s_i sum_j R_j). `cp`: the attention weights are
constants, so all relevance goes to the values. `z_plus`, `z_plus_bias`: only positive contributions to the softmax
count, without or with a share for its virtual bias."""


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, rule: SoftmaxRule) -> Tensor:
    """Compute softmax(scale q k^T) v with a graph that carries relevance by the rule.

    Each product splits relevance evenly between its two operands. Where the softmax is followed by its gradient
    (`attn_lrp`), or not at all (`cp`), the fused kernel does all of it and no attention map is kept.

    Args:
        q: queries, (n_images, n_heads, n_tokens, head_dim).
        k: keys, likewise.
        v: values, likewise.
        scale: factor of the products of queries and keys.
        rule: rule of the softmax.

    Returns:
        (n_images, n_heads, n_tokens, head_dim).
    """
    match rule:
        case "attn_lrp":
            parts = (relevance_in(q, 1 / 4), relevance_in(k, 1 / 4), relevance_in(v, 1 / 2))
            return relevance_out(scaled_dot_product_attention(*parts, scale=scale))
        case "cp":
            parts = (q.detach(), k.detach(), relevance_in(v))
            return relevance_out(scaled_dot_product_attention(*parts, scale=scale))
        case "z_plus" | "z_plus_bias":
            products = relevance_in(q, 1 / 2) @ relevance_in(k, 1 / 2).transpose(-2, -1) * scale
            weights = softmax_z_plus(relevance_out(products), virtual_bias=rule == "z_plus_bias")
            return relevance_out(relevance_in(weights, 1 / 2) @ relevance_in(v, 1 / 2))


def gated(x: Tensor, logits: Tensor, rule: SoftmaxRule) -> Tensor:
    """Compute x * sigmoid(logits); relevance is split evenly, except that `cp` takes the gate for a constant."""
    gate = logits.detach().sigmoid()
    if rule == "cp":
        return relevance_pass(x, x.detach() * gate)
    return relevance_out(relevance_in(x, 1 / 2) * relevance_in(relevance_pass(logits, gate), 1 / 2))


def softmax_z_plus(x: Tensor, *, virtual_bias: bool) -> Tensor:
    """Compute the softmax over the last dimension, whose relevance follows the z+ rule.

    With s = softmax(x), the contribution of x_i to s_j is J_ij = x_i s_i (delta_ij - s_j), and

        R_i = sum_j J+_ij R_j / (sum_k J+_kj + b+_j),    b_j = s_j - sum_k J_kj with the virtual bias, else 0.

    Since the sign of J_ij is that of x_i on the diagonal and the opposite elsewhere, no Jacobian is needed: with
    p = x+, m = -x- and T = sum_k m_k s_k the denominator is p_j s_j (1 - s_j) + s_j (T - m_j s_j) + b+_j, and with
    r_j = R_j / denominator_j and q = sum_j s_j r_j the result is p_i s_i (1 - s_i) r_i + m_i s_i (q - s_i r_i).
    """
    return _SoftmaxZPlus.apply(x, virtual_bias)  # type: ignore[no-any-return]


class _SoftmaxZPlus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, virtual_bias: bool) -> Tensor:  # autograd takes no keywords
        s = x.softmax(dim=-1)
        ctx.save_for_backward(x, s)
        ctx.virtual_bias = virtual_bias
        return s.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None]:
        x, s = ctx.saved_tensors
        p, m = x.clamp(min=0), (-x).clamp(min=0)
        total = (m * s).sum(dim=-1, keepdim=True)
        own = p * s * (1 - s)
        denominator = own + s * (total - m * s)
        if ctx.virtual_bias:
            denominator = denominator + (s * (1 - x + (x * s).sum(dim=-1, keepdim=True))).clamp(min=0)
        r = relevance / stabilised(denominator)
        return own * r + m * s * ((s * r).sum(dim=-1, keepdim=True) - s * r), None
