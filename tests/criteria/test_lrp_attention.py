"""Relevance through attention against its formulas, element by element and in float64."""

import copy

import pytest
import torch
from timm.layers import Attention, LayerNorm, RmsNorm
from zennit.core import Composite

from pruneboard.criteria.lrp._attention import attend, gated, softmax_z_plus
from pruneboard.criteria.lrp._canonizers import Blocks
from pruneboard.criteria.lrp._composites import by_depth

RULES = ["attn_lrp", "cp", "z_plus", "z_plus_bias"]
EPSILON = 1e-6


def _divide(relevance, z):
    return relevance / (z + EPSILON * torch.where(z >= 0, 1.0, -1.0))


def _softmax_by_its_jacobian(x, relevance, rule):
    """Relevance at the input of a softmax, for vectors."""
    s = x.softmax(0)
    if rule == "attn_lrp":
        return x * (relevance - s * relevance.sum())
    n = len(x)
    jacobian = torch.tensor([[x[i] * s[i] * (float(i == j) - s[j]) for j in range(n)] for i in range(n)], dtype=x.dtype)
    denominator = jacobian.clamp(min=0).sum(0)
    if rule == "z_plus_bias":
        denominator = denominator + (s - jacobian.sum(0)).clamp(min=0)
    return jacobian.clamp(min=0) @ _divide(relevance, denominator)


def _attention_by_formula(q, k, v, scale, relevance, rule):
    """Relevance of queries, keys, values and attention weights of one head, (n_tokens, head_dim) each."""
    products = scale * q @ k.T
    weights = products.softmax(1)
    output = weights @ v
    share = _divide(relevance, output)
    if rule == "cp":
        return torch.zeros_like(q), torch.zeros_like(k), v * (weights.T @ share), None
    half = 0.5
    of_values = half * v * (weights.T @ share)
    of_weights = half * weights * (share @ v.T)
    rows = zip(products, of_weights, strict=True)
    of_products = torch.stack([_softmax_by_its_jacobian(row, r, rule) for row, r in rows])
    share = _divide(of_products, products) * scale
    return half * q * (share @ k), half * k * (share.T @ q), of_values, of_weights


def _inputs(n_tokens=5, head_dim=3, seed=0):
    torch.manual_seed(seed)
    shape = (2, 2, n_tokens, head_dim)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(3)]


def _relevance_of(q, k, v, scale, relevance, rule):
    output = attend(q, k, v, scale, rule)
    parts = torch.autograd.grad(output, (q, k, v), relevance, allow_unused=True)
    return output, [torch.zeros_like(q) if part is None else part for part in parts]


@pytest.mark.parametrize("rule", RULES)
def test_attention_follows_its_formula(rule):
    q, k, v = _inputs()
    given = torch.randn(2, 2, 5, 3, dtype=torch.float64)
    output, actual = _relevance_of(q, k, v, 0.7, given, rule)
    torch.testing.assert_close(output, (0.7 * q @ k.transpose(-2, -1)).softmax(-1) @ v, rtol=1e-12, atol=1e-12)
    for image in range(2):
        for head in range(2):
            at = (image, head)
            *expected, _ = _attention_by_formula(*(part[at].detach() for part in (q, k, v)), 0.7, given[at], rule)
            for ours, formula in zip(actual, expected, strict=True):
                torch.testing.assert_close(ours[at], formula, rtol=1e-4, atol=1e-6 * float(given.abs().max()))


@pytest.mark.parametrize("rule", ["z_plus", "z_plus_bias"])
@pytest.mark.parametrize("case", ["any", "positive", "negative", "one large"])
def test_the_closed_form_of_the_softmax_equals_its_jacobian(rule, case):
    torch.manual_seed(1)
    x = torch.randn(6, 7, dtype=torch.float64)
    x = {"any": x, "positive": x.abs(), "negative": -x.abs(), "one large": x + 9 * torch.eye(6, 7)}[case]
    x.requires_grad_()
    given = torch.randn(6, 7, dtype=torch.float64)
    output = softmax_z_plus(x, virtual_bias=rule == "z_plus_bias")
    (actual,) = torch.autograd.grad(output, x, given)
    expected = torch.stack([_softmax_by_its_jacobian(row, r, rule) for row, r in zip(x.detach(), given, strict=True)])
    torch.testing.assert_close(output, x.softmax(-1))
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)


def test_attn_lrp_does_not_conserve_and_cp_does():
    q, k, v = _inputs(seed=2)
    given = torch.rand(2, 2, 5, 3, dtype=torch.float64)
    lost = {}
    for rule in ("attn_lrp", "cp"):
        _, parts = _relevance_of(q, k, v, 1.0, given, rule)
        lost[rule] = abs(float(sum(part.sum() for part in parts) - given.sum()) / float(given.sum()))
    assert lost["cp"] < 1e-3
    assert lost["attn_lrp"] > 1e-2


@pytest.mark.parametrize("rule", ["attn_lrp", "z_plus"])
def test_the_score_of_a_head_needs_no_attention_map(rule):
    """The relevance of a head's attention weights is half of that of its output (Hatefi et al.'s site and ours)."""
    q, k, v = (part.detach() for part in _inputs(seed=3))
    given = torch.randn(2, 2, 5, 3, dtype=torch.float64)
    for at in ((0, 0), (0, 1), (1, 0)):
        *_, of_weights = _attention_by_formula(q[at], k[at], v[at], 1.0, given[at], rule)
        torch.testing.assert_close(of_weights.sum(1), given[at].sum(1) / 2, rtol=1e-4, atol=1e-5)


def test_gates_split_relevance_evenly_or_are_constants():
    torch.manual_seed(4)
    x, logits = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    given = torch.randn(3, 4, dtype=torch.float64)
    for rule, share in (("attn_lrp", 0.5), ("z_plus", 0.5), ("cp", 1.0)):
        output = gated(x, logits, rule)
        of_x, of_logits = torch.autograd.grad(output, (x, logits), given, allow_unused=True)
        torch.testing.assert_close(output, x * logits.sigmoid())
        torch.testing.assert_close(of_x, share * given, rtol=1e-3, atol=1e-4)
        if rule == "cp":
            assert of_logits is None
        else:
            torch.testing.assert_close(of_logits, 0.5 * given, rtol=1e-3, atol=1e-4)


VARIANTS = {
    "plain": {},
    "qk_norm": {"qk_norm": True, "norm_layer": LayerNorm},
    "rms_norm": {"qk_norm": True, "scale_norm": True, "norm_layer": RmsNorm},
    "scale_norm": {"scale_norm": True, "norm_layer": LayerNorm},
    "gated": {"gated": True},
    "wide_heads": {"attn_head_dim": 5},
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_form_of_timms_attention_computes_the_same_and_does_not_depend_on_the_fused_kernel(variant, rule):
    torch.manual_seed(5)
    attention = Attention(8, num_heads=2, qkv_bias=True, **VARIANTS[variant]).double().eval()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = attention(x)
    found = {}
    for fused in (True, False):
        module = copy.deepcopy(attention)
        module.fused_attn = fused
        root = torch.nn.Sequential(module)
        every = dict.fromkeys(("low", "mid", "high", "fc"), "epsilon")
        rules = by_depth(root, every, None, 0.25, 0.05)
        composite = Composite(lambda _c, name, m, rules=rules: rules(name, m), canonizers=[Blocks(rule)])
        given = x.clone().requires_grad_()
        with composite.context(root):
            output = root(given)
            (found[fused],) = torch.autograd.grad(output, given, torch.ones_like(output))
        torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-12)
    assert torch.equal(found[True], found[False])
    assert torch.isfinite(found[True]).all()
