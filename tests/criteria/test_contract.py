"""What every registered criterion must keep, whatever it computes."""

import copy
import functools

import pytest
import torch

from networks import GRANULARITIES, images, tiny_network
from pruneboard.benchmark.api import Batch, Context, CriterionError, SumCriterion, Unsupported
from pruneboard.benchmark.checks import Snapshot, check_contributions, check_scores
from pruneboard.benchmark.plugins import criteria
from pruneboard.benchmark.units import find_layers

KINDS = ("vgg", "resnet", "bottleneck", "vit_neurons", "vit_heads")
NAMES = criteria().names()
SUMS = [name for name in NAMES if isinstance(criteria().get(name), SumCriterion)]
LABELS = torch.tensor([3, 0, 7, 3, 9])


@functools.cache
def _network(kind, dtype):
    model = tiny_network(kind).to(dtype)
    return model, find_layers(model, GRANULARITIES[kind], images(1).to(dtype))


def _context(name, kind, *, model=None, dtype=torch.float64, seed=0, n_images=5, labels=LABELS, batch_size=100):
    shared, layers = _network(kind, dtype)
    data = None
    if criteria().get(name).needs != "nothing":
        data = Batch(images(5, seed=1)[:n_images].to(dtype), labels[:n_images])
    generator = torch.Generator().manual_seed(seed)
    return Context(model=model or shared, layers=layers, generator=generator, data=data, batch_size=batch_size)


def _score(name, kind, **options):
    try:
        return criteria().get(name).score(_context(name, kind, **options))
    except Unsupported as declined:
        pytest.skip(str(declined))


def _assert_close(actual, expected, rtol=1e-5):
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(actual[name], values, rtol=rtol, atol=rtol * float(values.abs().max()))


def test_which_networks_the_known_criteria_support():
    declined = set()
    for name in NAMES:
        for kind in KINDS:
            try:
                criteria().get(name).score(_context(name, kind))
            except Unsupported:
                declined.add((name, kind.split("_")[0]))
    known = ("bn_scale", *(name for name in NAMES if name.startswith("lrp")))
    anything = {"random", "magnitude", "magnitude_l2", "activation", "gradient", "taylor", "taylor_logit"}

    assert {(name, kind) for name, kind in declined if name in known} == {("bn_scale", "vit")}
    assert not {name for name, _ in declined} & (anything | {"integrated_gradients"})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_scores_keep_the_contract_and_the_network_and_the_images_are_left_alone(name, kind):
    model, layers = copy.deepcopy(_network(kind, torch.float32)[0]), _network(kind, torch.float32)[1]
    context = _context(name, kind, model=model, dtype=torch.float32)
    before = None if context.data is None else context.data.images.clone()
    with torch.no_grad():
        logits = model(images())
    hooks = _all_hooks(model)
    snapshot = Snapshot(model)
    try:
        scores = criteria().get(name).score(context)
    except Unsupported as declined:
        pytest.skip(str(declined))
    finally:
        snapshot.check()
    with torch.no_grad():
        assert torch.equal(model(images()), logits)
    assert _all_hooks(model) == hooks
    assert all(parameter.grad is None for parameter in model.parameters())
    if before is not None:
        assert torch.equal(context.data.images, before)
        assert not context.data.images.requires_grad

    check_scores(scores, layers)
    assert not any(values.requires_grad for values in scores.values())
    own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    assert not any(values.untyped_storage().data_ptr() in own for values in scores.values())
    assert torch.cat(list(scores.values())).unique().numel() > 1


def _all_hooks(model):
    """Every attribute of every module that could hold a hook, also those that the snapshot does not look at."""
    return [
        (name, key, len(value))
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if "hook" in key and hasattr(value, "__len__")
    ]


@pytest.mark.parametrize("kind", ["resnet", "vit_heads"])
@pytest.mark.parametrize("name", NAMES)
def test_the_deterministic_flag_is_honest(name, kind):
    first, again, other = (_score(name, kind, dtype=torch.float32, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(values, again[layer]) for layer, values in first.items())

    same = all(torch.equal(values, other[layer]) for layer, values in first.items())
    assert same == criteria().get(name).deterministic


@pytest.mark.parametrize("name", NAMES)
def test_only_what_needs_declares_is_looked_at(name):
    criterion = criteria().get(name)
    context = _context(name, "vgg")
    if criterion.needs == "nothing":
        assert context.data is None
        criterion.score(context)
        return
    without = Context(model=context.model, layers=context.layers, generator=context.generator)
    with pytest.raises(CriterionError, match='that declares needs = "nothing" gets no images; declare "images"'):
        criterion.score(without)
    scores, relabelled = criterion.score(context), _score(name, "vgg", labels=(LABELS + 1) % 10)
    looks_at_labels = not all(torch.equal(values, relabelled[layer]) for layer, values in scores.items())
    assert looks_at_labels == (criterion.needs == "labels")


@pytest.mark.parametrize("name", [name for name in NAMES if criteria().get(name).needs != "nothing"])
def test_scores_work_without_gradients_of_parameters_and_inside_no_grad(name):
    expected = _score(name, "vgg")
    frozen = copy.deepcopy(_network("vgg", torch.float64)[0]).requires_grad_(False)
    with torch.no_grad():
        _assert_close(_score(name, "vgg", model=frozen), expected, rtol=1e-6)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def _permute_rows(model, names, order):
    for name in names:
        module = model.get_submodule(name)
        for values in (module.weight, module.bias, *module.buffers()):
            if values is not None and values.ndim > 0:
                values.data = values.data[order].clone()


def _permuted(kind):
    """The same function with the units of one layer in another order: its name, the order, and the network."""
    model = copy.deepcopy(_network(kind, torch.float64)[0])
    generator = torch.Generator().manual_seed(5)
    if kind == "vit_heads":
        order = torch.tensor([2, 0, 3, 1])
        attention = model.blocks[0].attn
        within = torch.cat([torch.arange(6 * head, 6 * head + 6) for head in order])
        _permute_rows(model, ["blocks.0.attn.qkv"], torch.cat([within, 24 + within, 48 + within]))
        attention.proj.weight.data = attention.proj.weight.data[:, within].clone()
        return "blocks.0.attn", order, model
    layer, norm, reader = {
        "vgg": ("features.4", "features.5", "features.7"),
        "resnet": ("layer2.0.conv1", "layer2.0.bn1", "layer2.0.conv2"),
        "bottleneck": ("layer1.0.conv2", "layer1.0.bn2", "layer1.0.conv3"),
        "vit_neurons": ("blocks.1.mlp.fc1", None, "blocks.1.mlp.fc2"),
    }[kind]
    order = torch.randperm(len(model.get_submodule(layer).weight), generator=generator)
    _permute_rows(model, [layer] if norm is None else [layer, norm], order)
    reader = model.get_submodule(reader)
    reader.weight.data = reader.weight.data[:, order].clone()
    return layer, order, model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in NAMES if criteria().get(name).deterministic])
def test_permuting_the_units_of_a_layer_permutes_its_scores_and_no_others(name, kind):
    layer, order, model = _permuted(kind)
    with torch.no_grad():
        torch.testing.assert_close(model(images().double()), _network(kind, torch.float64)[0](images().double()))
    expected = dict(_score(name, kind))
    expected[layer] = expected[layer][order]
    assert not torch.equal(expected[layer], _score(name, kind)[layer])

    _assert_close(_score(name, kind, model=model), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SUMS)
def test_an_images_contribution_does_not_depend_on_the_rest_of_its_batch(name, kind):
    criterion, context = criteria().get(name), _context(name, kind)
    try:
        together = criterion.contributions(context, context.reference)
    except Unsupported as declined:
        pytest.skip(str(declined))
    check_contributions(together, context.layers, 5)
    for index in range(5):
        part = slice(index, index + 1)
        alone = criterion.contributions(context, Batch(context.reference.images[part], LABELS[part]))
        _assert_close({layer: values[part] for layer, values in together.items()}, alone, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SUMS)
def test_fewer_shots_are_the_first_rows_and_the_batch_size_changes_nothing(name, kind):
    expected = {n_images: _score(name, kind, n_images=n_images) for n_images in (1, 3, 5)}
    criterion, context = criteria().get(name), _context(name, kind, batch_size=2)
    contributions = criterion.all_contributions(context)
    for n_images, scores in expected.items():
        _assert_close(criterion.reduce_prefix(context.layers, contributions, n_images), scores)
    _assert_close(criterion.score(context), expected[5])

    assert any(not torch.allclose(values, expected[1][layer]) for layer, values in expected[5].items())
