"""What other libraries score by is what their adapters give, and our own criteria agree with theirs."""

import dataclasses
import re

import pytest
import torch
import torch_pruning as tp
from timm.layers import ClassifierHead
from timm.models.vgg import VGG
from torch import nn
from zennit.composites import EpsilonPlus, LayerMapComposite
from zennit.rules import Epsilon, Pass
from zennit.types import Activation, AvgPool, BatchNorm, Convolution

from commands import ROOT
from networks import GRANULARITIES, images, tiny_network
from pruneboard.benchmark.adapters import (
    FunctionCriterion,
    TorchPruningCriterion,
    TorchPruningGradientCriterion,
    ZennitCriterion,
)
from pruneboard.benchmark.api import Batch, Context, CriterionError, Unsupported
from pruneboard.benchmark.contract import check_criterion, failures
from pruneboard.benchmark.plugins import criteria, criteria_of_file, own_criterion
from pruneboard.benchmark.units import find_layers

LABELS = torch.tensor([3, 0, 7, 3, 9])
OWN = ("tp_magnitude", "tp_lamp", "tp_fpgm", "tp_bn_scale", "tp_taylor", "tp_hessian", "tp_random")


def context_of(kind="vgg", model=None, granularity=None):
    model = tiny_network(kind) if model is None else model
    layers = find_layers(model, granularity or GRANULARITIES[kind], images(1))
    generator = torch.Generator().manual_seed(0)
    return Context(model=model, layers=layers, generator=generator, data=Batch(images(5, seed=1), LABELS))


def described(needs="nothing"):
    return {"name": "mine", "version": 1, "family": "control", "source": "", "needs": needs}


def make(base, needs="nothing", **members):
    return dataclasses.dataclass(frozen=True)(type("Mine", (base,), {**described(needs), **members}))()


def their_scores(importance, model, layer, function):
    """By Torch-Pruning's own dependency graph, on the group that it finds, cut down to the layer and its batch norm."""
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=images(1))
    module = model.get_submodule(layer.name)
    group = graph.get_pruning_group(module, function, list(range(layer.n_units)))
    own = {id(module), id(model.get_submodule(layer.tap))}
    kept = [item for item in group.items if id(item.dep.target.module) in own and "out" in item.dep.handler.__name__]
    for item in kept:
        item.root_idxs = list(range(layer.n_units))
    group._group = kept
    return importance(group)


@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")
@pytest.mark.parametrize("kind", ["vgg", "resnet", "vit_neurons"])
@pytest.mark.parametrize(
    ("name", "importance"),
    [
        ("tp_magnitude", tp.importance.MagnitudeImportance(p=2)),
        ("tp_lamp", tp.importance.LAMPImportance()),
        ("tp_fpgm", tp.importance.FPGMImportance()),
    ],
)
def test_scores_are_those_of_a_group_that_torch_pruning_itself_makes(name, importance, kind):
    context = context_of(kind)
    scores = criteria().get(name).score(context)
    function = tp.prune_linear_out_channels if kind == "vit_neurons" else tp.prune_conv_out_channels
    for layer in context.layers[:3]:
        expected = their_scores(importance, context.model, layer, function)
        torch.testing.assert_close(scores[layer.name], expected, rtol=1e-5, atol=1e-6)


def test_our_magnitude_is_torch_prunings():
    context = context_of("resnet")
    options = {"p": 1, "group_reduction": "first", "normalizer": None}
    theirs = make(TorchPruningCriterion, importance=lambda _: tp.importance.MagnitudeImportance(**options)).score(
        context
    )
    ours = dataclasses.replace(criteria().get("magnitude"), norm="l1", per_layer="none").score(context)

    for name, scores in ours.items():
        torch.testing.assert_close(scores, theirs[name])


def bare_network():
    """Two convolutions without biases and norms: there sum w dL/dw of a filter is sum over positions of a dL/da."""
    model = VGG([6, 8, "M"], num_classes=10, device="meta")
    model.pre_logits, model.head = nn.Identity(), ClassifierHead(8, 10)
    model.features.to_empty(device="cpu")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model._initialize_weights()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.bias = None
    return model.eval()


def test_our_taylor_is_torch_prunings_where_both_are_the_same_expansion():
    context = context_of(model=bare_network(), granularity="filters")
    importance = tp.importance.TaylorImportance(multivariable=True, normalizer=None)
    members = {"importance": lambda _: importance, "gradient_of": "loss"}
    theirs = make(TorchPruningGradientCriterion, "labels", **members).score(context)
    ours = dataclasses.replace(criteria().get("taylor"), per_layer="none").score(context)

    for name, scores in ours.items():
        torch.testing.assert_close(16 * 16 * scores, theirs[name], rtol=1e-4, atol=1e-6)


def test_the_hessian_is_the_mean_square_of_each_images_own_gradient():
    """By backward, image by image, on a network of its own."""
    context, model = context_of("vgg"), tiny_network("vgg")
    scores = criteria().get("tp_hessian").score(context)
    squares = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for image, label in zip(images(5, seed=1), LABELS, strict=True):
        model.zero_grad()
        nn.functional.cross_entropy(model(image[None]), label[None]).backward()
        for name, parameter in model.named_parameters():
            squares[name] += parameter.grad.square() / 5
    weights = dict(model.named_parameters())
    for layer in context.layers:
        filters = (weights[f"{layer.name}.weight"].square() * squares[f"{layer.name}.weight"]).flatten(1).sum(dim=1)
        norm = weights[f"{layer.tap}.weight"].square() * squares[f"{layer.tap}.weight"]
        both = ((filters + norm) / 2).detach()
        torch.testing.assert_close(scores[layer.name], both / both.mean(), rtol=1e-4, atol=1e-6)


def test_lamp_by_its_definition():
    """Lee et al. 2021, equation 1, for whole units: over the sum of those that are not smaller."""
    context = context_of("vit_neurons")
    scores = criteria().get("tp_lamp").score(context)
    for layer in context.layers:
        weights = context.model.get_submodule(layer.name).weight.detach().square().sum(dim=1).tolist()
        expected = [w / sum(other for other in weights if other >= w) for w in weights]
        torch.testing.assert_close(scores[layer.name], torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_heads_are_averaged_over_their_elements():
    context = context_of("vit_heads")
    scores = criteria().get("tp_magnitude").score(context)
    attention = context.model.get_submodule("blocks.0.attn")
    rows = attention.qkv.weight.detach().square().sum(dim=1).reshape(3, 24)
    columns = attention.proj.weight.detach().square().sum(dim=0)
    elements = torch.cat([rows, columns[None]]).mean(dim=0)
    expected = (elements / elements.mean()).reshape(4, 6).mean(dim=1)

    torch.testing.assert_close(scores["blocks.0.attn"], expected)


@pytest.mark.parametrize("name", OWN)
def test_importances_of_torch_pruning_keep_the_contract(name):
    assert failures(check_criterion(criteria().get(name), ["vgg", "vit_heads"])) == []


def test_random_scores_come_from_the_jobs_seed():
    first, again = (criteria().get("tp_random").score(context_of()) for _ in range(2))
    assert all(torch.equal(values, again[name]) for name, values in first.items())


def test_an_importance_with_nothing_to_say_declines():
    with pytest.raises(Unsupported, match="BNScaleImportance has nothing to score in layer `blocks.0.mlp.fc1`"):
        criteria().get("tp_bn_scale").score(context_of("vit_neurons"))


def test_a_function_gets_what_needs_declares_and_gives_the_layers_that_are_asked_for():
    seen = []

    def scores_of(model, pictures, labels):
        seen.append((pictures is not None, labels is not None))
        modules = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
        return {name: module.weight.double().flatten(1).norm(dim=1) for name, module in modules.items()}

    for needs in ("nothing", "images", "labels"):
        context = context_of()
        scores = make(FunctionCriterion, needs, function=staticmethod(scores_of)).score(context)
        assert scores.keys() == {layer.name for layer in context.layers}
        assert {values.dtype for values in scores.values()} == {torch.float32}
    assert seen == [(False, False), (True, False), (True, True)]


def test_a_function_that_gives_no_tensors_by_name_is_told():
    broken = make(FunctionCriterion, function=staticmethod(lambda *_: [torch.ones(3)]))
    with pytest.raises(CriterionError, match="must return a dict of module names to tensors, got `list`; return one"):
        broken.score(context_of())


class _Everywhere(LayerMapComposite):
    def __init__(self):
        rules = [(Convolution, Epsilon()), (nn.Linear, Epsilon()), (Activation, Pass()), (AvgPool, Epsilon())]
        super().__init__(rules)


def test_relevance_of_zennit_is_that_of_our_own_lrp_on_a_plain_network():
    """A network without norms and residual sums; zennit's epsilon rule with its default, and ours."""
    context = context_of(model=bare_network(), granularity="filters")
    theirs = make(ZennitCriterion, "labels", composite=lambda *_: _Everywhere()).score(context)
    ours = criteria().get("lrp_epsilon").score(context)

    for name, scores in ours.items():
        torch.testing.assert_close(theirs[name], scores, rtol=1e-3, atol=1e-5 * float(scores.abs().max()))


def test_relevance_of_zennit_where_a_module_has_no_rule_is_declined():
    only = [(Convolution, Epsilon()), (BatchNorm, Epsilon())]
    criterion = make(ZennitCriterion, "labels", composite=lambda *_: LayerMapComposite(only))
    with pytest.raises(Unsupported, match=r"no rule for `head\.fc` \(Linear\); add one, or a canonizer"):
        criterion.score(context_of("vgg"))
    model = tiny_network("vit_heads")
    with pytest.raises(Unsupported, match="the composite has no rule for"):
        make(ZennitCriterion, "labels", composite=lambda *_: EpsilonPlus()).score(context_of("vit_heads", model=model))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "submit.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=["function", "torch_pruning", "zennit"])
def test_the_examples_of_the_page_keep_the_contract(example, tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNEBOARD_PLUGINS", "")
    (tmp_path / "example.py").write_text(f'"""An example."""\n\n{example}')
    (name,) = criteria_of_file(tmp_path / "example.py")
    outcomes = check_criterion(own_criterion(name), ["vgg", "resnet"])

    assert failures(outcomes) == []
    assert {one.status for one in outcomes if one.check == "scores"} == {"passed"}
    assert len(EXAMPLES) == 3
