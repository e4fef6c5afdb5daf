"""Every rule for single modules against zennit's, or against the formula with dense matrices, in float64."""

import pytest
import torch
import zennit.rules
from timm.layers import Conv2dSame
from torch import nn
from zennit.core import Composite
from zennit.layer import Sum

from pruneboard.criteria.lrp._rules import AlphaBeta, DetachedLayerNorm, Epsilon, Gamma, Pass

PAIRS = {
    "epsilon": (Epsilon(), zennit.rules.Epsilon()),
    "z_plus": (AlphaBeta(1.0, 0.0), zennit.rules.ZPlus()),
    "alpha1_beta0": (AlphaBeta(1.0, 0.0), zennit.rules.AlphaBeta(1.0, 0.0)),
    "alpha2_beta1": (AlphaBeta(2.0, 1.0), zennit.rules.AlphaBeta(2.0, 1.0)),
    "gamma": (Gamma(0.25), zennit.rules.Gamma(0.25)),
    "gamma_linear": (Gamma(0.05), zennit.rules.Gamma(0.05)),
}
MODULES = {
    "linear": (lambda: nn.Linear(6, 5), (4, 6)),
    "linear_of_tokens": (lambda: nn.Linear(6, 5), (4, 3, 6)),
    "linear_without_bias": (lambda: nn.Linear(6, 5, bias=False), (4, 6)),
    "convolution": (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), (4, 3, 7, 7)),
    "depthwise": (lambda: nn.Conv2d(3, 3, 3, groups=3, padding=1), (4, 3, 6, 6)),
    "circular": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular", bias=False), (4, 3, 6, 6)),
    "same": (lambda: Conv2dSame(3, 4, 3, stride=2), (4, 3, 6, 6)),
}


def _relevance(module, rule, x, relevance):
    x = x.clone().requires_grad_()
    with Composite(lambda _context, _name, child: rule if child is module else None).context(module):
        output = module(x)
        return torch.autograd.grad(output, x, relevance)[0], output.detach()


@pytest.mark.parametrize("sign", ["any", "positive"])
@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("rule", PAIRS)
def test_rules_of_linear_maps_equal_those_of_zennit(rule, kind, sign):
    torch.manual_seed(0)
    make, shape = MODULES[kind]
    module, x = make().double(), torch.randn(shape, dtype=torch.float64)
    x = x if sign == "any" else x.relu()
    output = module(x).detach()
    ours, theirs = PAIRS[rule]
    given = torch.randn_like(output)
    expected, _ = _relevance(module, theirs, x, given)
    state = {name: value.clone() for name, value in module.state_dict().items()}

    actual, seen = _relevance(module, ours, x, given)

    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-9 * float(expected.abs().max()))
    assert torch.equal(seen, output)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (2.0, 1.0), (3.0, 2.0)])
def test_alpha_beta_without_biases_conserves_what_has_both_signs_of_contributions(alpha, beta):
    torch.manual_seed(1)
    module, x = nn.Linear(40, 5, bias=False).double(), torch.randn(3, 40, dtype=torch.float64)
    given = torch.rand(3, 5, dtype=torch.float64)
    relevance, _ = _relevance(module, AlphaBeta(alpha, beta), x, given)
    torch.testing.assert_close(relevance.sum(1), given.sum(1), rtol=1e-5, atol=0)


def test_gamma_lies_between_epsilon_and_z_plus():
    torch.manual_seed(2)
    module, x = nn.Linear(6, 5).double(), torch.rand(3, 6, dtype=torch.float64)
    with torch.no_grad():
        module.bias.fill_(2.0)
    given = torch.randn(3, 5, dtype=torch.float64)
    assert (module(x) > 0).all()
    for gamma, limit in ((0.0, Epsilon()), (1e9, AlphaBeta(1.0, 0.0))):
        actual, _ = _relevance(module, Gamma(gamma), x, given)
        expected, _ = _relevance(module, limit, x, given)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("module", [nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(3, 2, 1), Sum()], ids=repr)
def test_averages_and_sums_equal_zennits_norm(module):
    torch.manual_seed(3)
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    given = torch.randn_like(module(x))
    expected, _ = _relevance(module, zennit.rules.Norm(), x, given)
    actual, _ = _relevance(module, Epsilon(), x, given)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("module", [nn.ReLU6(inplace=True), nn.GELU(), nn.Hardswish(inplace=True)], ids=repr)
def test_functions_of_single_elements_hand_relevance_on_and_do_not_write_into_their_input(module):
    x = torch.linspace(-9, 9, 30, dtype=torch.float64)
    given = torch.randn(30, dtype=torch.float64)
    before = x.clone()
    relevance, output = _relevance(module, Pass(), x, given)
    assert torch.equal(relevance, given)
    assert torch.equal(x, before)
    assert torch.equal(output, module(x.clone()))


@pytest.mark.parametrize("shape", [(6,), (2, 3)])
def test_layer_norm_with_its_deviation_constant_is_the_epsilon_rule_of_a_dense_matrix(shape):
    torch.manual_seed(4)
    module = nn.LayerNorm(shape, eps=1e-3).double()
    with torch.no_grad():
        module.weight.uniform_(0.5, 2)
        module.bias.normal_()
    x, given = torch.randn(4, *shape, dtype=torch.float64), torch.randn(4, *shape, dtype=torch.float64)
    actual, _ = _relevance(module, DetachedLayerNorm(), x, given)
    for row in range(4):
        values, n = x[row].flatten(), x[row].numel()
        deviation = (((values - values.mean()) ** 2).mean() + 1e-3).sqrt()
        matrix = module.weight.flatten()[:, None] / deviation * (torch.eye(n, dtype=torch.float64) - 1 / n)
        z = matrix @ values + module.bias.flatten()
        share = given[row].flatten() / (z + 1e-6 * torch.where(z >= 0, 1.0, -1.0))
        expected = values * (matrix.T @ share)
        torch.testing.assert_close(actual[row].flatten(), expected.detach(), rtol=1e-6, atol=1e-9)
