import re
import types

import numpy as np
import pytest
import torch
from torch import nn

from networks import images, tiny_network
from pruneboard.benchmark.checks import Snapshot, check_contributions, check_scores
from pruneboard.benchmark.errors import CriterionError
from pruneboard.benchmark.units import find_layers


class Sly(torch.Tensor):
    """A tensor that could do as it likes whenever it is used."""


SIZES = {"features.0": 6, "features.4": 8, "features.7": 10}


@pytest.fixture(scope="module")
def layers():
    return find_layers(tiny_network("vgg"), "filters", images(1))


def _scores(**changed):
    scores = {name: torch.arange(float(size)) for name, size in SIZES.items()}
    scores.update({name.replace("_", "."): values for name, values in changed.items()})
    return scores


def _contributions(**changed):
    contributions = {name: torch.ones(5, size, dtype=torch.float64) for name, size in SIZES.items()}
    contributions.update({name.replace("_", "."): values for name, values in changed.items()})
    return contributions


def _exactly(message):
    return f"^{re.escape(message)}$"


def test_what_keeps_the_contract_passes(layers):
    check_scores(_scores(), layers)
    check_scores(dict(reversed(_scores().items())), layers)
    check_scores(types.MappingProxyType(_scores(features_4=torch.full((8,), -1e38))), layers)
    check_contributions(_contributions(), layers, 5)
    check_contributions(_contributions(features_0=torch.ones(5, 6)), layers, 5)
    check_contributions({name: torch.ones(0, size) for name, size in SIZES.items()}, layers, 0)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([torch.ones(6)], "scores must be a dict of layer names to tensors, got `list`."),
        (None, "scores must be a dict of layer names to tensors, got `NoneType`."),
        (
            {name: values for name, values in _scores().items() if name != "features.4"},
            "every layer and nothing else must be scored; missing: ['features.4'], unknown: none.",
        ),
        (
            {**_scores(), "head.fc": torch.ones(10)},
            "every layer and nothing else must be scored; missing: none, unknown: ['head.fc'].",
        ),
        (
            {**_scores(), 7: torch.ones(10)},
            "every layer and nothing else must be scored; missing: none, unknown: ['7'].",
        ),
        (
            {"features.1": torch.ones(6)},
            "every layer and nothing else must be scored; missing: ['features.0', 'features.4', 'features.7'], "
            "unknown: ['features.1'].",
        ),
        (_scores(features_4=torch.ones(6)), "scores of `features.4` must be float32 (8,), got torch.float32 (6,)."),
        (
            _scores(features_4=torch.ones(8, 1)),
            "scores of `features.4` must be float32 (8,), got torch.float32 (8, 1).",
        ),
        (_scores(features_4=torch.tensor(1.0)), "scores of `features.4` must be float32 (8,), got torch.float32 ()."),
        (
            _scores(features_4=torch.ones(8, dtype=torch.float64)),
            "scores of `features.4` must be float32 (8,), got torch.float64 (8,).",
        ),
        (
            _scores(features_7=torch.arange(10)),
            "scores of `features.7` must be float32 (10,), got torch.int64 (10,).",
        ),
        (_scores(features_0=np.ones(6, np.float32)), "scores of `features.0` must be float32 (6,), got ndarray."),
        (_scores(features_0=[1.0] * 6), "scores of `features.0` must be float32 (6,), got list."),
        (_scores(features_0=None), "scores of `features.0` must be float32 (6,), got NoneType."),
        (
            _scores(features_0=torch.ones(6).as_subclass(Sly)),
            "scores of `features.0` must be a plain `torch.Tensor`, got `Sly`; return "
            "`values.as_subclass(torch.Tensor)`.",
        ),
        (
            _scores(features_7=torch.tensor([0.0] * 8 + [float("nan")] * 2)),
            "scores must be finite, but 2 of 10 values of `features.7` are NaN or infinite.",
        ),
        (
            _scores(features_0=torch.tensor([0, 0, 0, 0, 0, float("-inf")])),
            "scores must be finite, but 1 of 6 values of `features.0` are NaN or infinite.",
        ),
    ],
)
def test_broken_scores_are_refused(layers, scores, message):
    with pytest.raises(CriterionError, match=_exactly(message)):
        check_scores(scores, layers)


@pytest.mark.parametrize(
    ("contributions", "message"),
    [
        ((), "contributions must be a dict of layer names, got `tuple`."),
        (
            {"features.0": torch.ones(5, 6)},
            "every layer and nothing else must be scored; missing: ['features.4', 'features.7'], unknown: none.",
        ),
        (
            _contributions(features_4=torch.ones(4, 8)),
            "contributions to `features.4` must be floating point (5, 8), got torch.float32 (4, 8).",
        ),
        (
            _contributions(features_4=torch.ones(8)),
            "contributions to `features.4` must be floating point (5, 8), got torch.float32 (8,).",
        ),
        (
            _contributions(features_4=torch.ones(5, 8, dtype=torch.int32)),
            "contributions to `features.4` must be floating point (5, 8), got torch.int32 (5, 8).",
        ),
        (
            _contributions(features_4=torch.ones(5, 8).as_subclass(Sly)),
            "contributions to `features.4` must be a plain `torch.Tensor`, got `Sly`; return "
            "`values.as_subclass(torch.Tensor)`.",
        ),
        (
            _contributions(features_4=np.ones((5, 8))),
            "contributions to `features.4` must be floating point (5, 8), got ndarray.",
        ),
        (
            _contributions(features_7=torch.full((5, 10), float("inf"))),
            "scores must be finite, but 50 of 50 values of `features.7` are NaN or infinite.",
        ),
    ],
)
def test_broken_contributions_are_refused(layers, contributions, message):
    with pytest.raises(CriterionError, match=_exactly(message)):
        check_contributions(contributions, layers, 5)


def _set_value(model):
    model.features[4].weight.data[0, 0, 0, 0] += 1e-7


def _flip_the_sign_of_a_zero(model):
    model.features[5].bias.data[2] *= -1.0


def _set_buffer(model):
    model.features[1].running_mean[3] = 0.25


def _count_a_batch(model):
    model.features[1].num_batches_tracked += 1


def _train(model):
    model.features[8].train()


def _leave_forward_hook(model):
    model.features[2].register_forward_hook(lambda *_: None)


def _leave_forward_pre_hook(model):
    model.register_forward_pre_hook(lambda *_: None)


def _leave_backward_hook(model):
    model.features[2].register_full_backward_hook(lambda *_: None)


def _leave_backward_pre_hook(model):
    model.features[2].register_full_backward_pre_hook(lambda *_: None)


def _replace_module(model):
    model.features[2] = nn.ReLU(inplace=True).eval()


def _replace_parameter(model):
    model.features[0].weight = nn.Parameter(model.features[0].weight.detach().clone())


def _add_module(model):
    model.features[2].inner = nn.Identity()


def _remove_module(model):
    model.features[10] = None


def _add_buffer(model):
    model.features[3].register_buffer("mask", torch.ones(6))


def _override_forward(model):
    relu = model.features[6]
    relu.forward = types.MethodType(lambda _self, x: x.clamp(min=0), relu)


def _freeze(model):
    model.features[7].bias.requires_grad_(False)


def _leave_gradient(model):
    model.head.fc.weight.grad = torch.zeros_like(model.head.fc.weight)


def _change_type(model):
    model.head.fc.double()


def _reshape(model):
    model.head.fc.weight.data = model.head.fc.weight.data.reshape(5, 20)


def _change_option(model):
    model.features[1].eps = 0.1


def _add_passing_buffer(model):
    model.features[3].register_buffer("mask", torch.ones(1), persistent=False)


@pytest.mark.parametrize(
    ("change", "what", "n_differences"),
    [
        (_set_value, "features.4.weight", 1),
        (_flip_the_sign_of_a_zero, "features.5.bias", 1),
        (_set_buffer, "features.1.running_mean", 1),
        (_count_a_batch, "features.1.num_batches_tracked", 1),
        (_train, "module `features.8`", 1),
        (_leave_forward_hook, "module `features.2`", 1),
        (_leave_forward_pre_hook, "module ``", 1),
        (_leave_backward_hook, "module `features.2`", 1),
        (_leave_backward_pre_hook, "module `features.2`", 1),
        (_replace_module, "module `features.2`", 1),
        (_replace_parameter, "features.0.weight", 1),
        (_add_module, "module `features.2.inner`", 1),
        (_remove_module, "module `features.10`", 1),
        (_add_buffer, "features.3.mask", 1),
        (_add_passing_buffer, "features.3.mask", 1),
        (_change_option, "module `features.1`", 1),
        (_override_forward, "module `features.6`", 1),
        (_freeze, "parameter `features.7.bias`", 1),
        (_leave_gradient, "parameter `head.fc.weight`", 1),
        (_change_type, "head.fc.weight", 2),
        (_reshape, "head.fc.weight", 1),
    ],
)
def test_what_a_criterion_left_behind_is_found_and_named(change, what, n_differences):
    model = tiny_network("vgg")
    model.features[5].bias.data[2] = 0.0
    snapshot = Snapshot(model)
    snapshot.check()
    change(model)
    message = (
        f"a criterion must leave the model as it was, but {what} changed "
        f"({n_differences} differences); restore it in a `finally`, or work on a copy."
    )
    with pytest.raises(CriterionError, match=_exactly(message)):
        snapshot.check()


def test_what_was_there_before_and_what_was_restored_is_no_difference():
    model = tiny_network("vgg")
    model.features[0].weight.data[0, 0, 0, 0] = float("nan")
    model.features[2].register_forward_hook(lambda *_: None)
    model.head.fc.weight.grad = torch.ones_like(model.head.fc.weight)
    model.features[7].bias.requires_grad_(False)
    model.features[8].train()
    snapshot = Snapshot(model)
    weight = model.features[4].weight.data
    model.features[4].weight.data = weight * 2
    handle = model.features[4].register_forward_hook(lambda *_: None)
    model.features[6].forward = types.MethodType(lambda _self, x: x, model.features[6])
    with pytest.raises(CriterionError, match=r"features\.4\.weight changed \(3 differences\)"):
        snapshot.check()
    model.features[4].weight.data = weight
    handle.remove()
    del model.features[6].forward

    snapshot.check()


def test_several_differences_are_counted_and_the_first_is_named():
    model = tiny_network("vgg")
    snapshot = Snapshot(model)
    model.train()
    with torch.no_grad():
        model.features[4].weight.add_(1)
        model.head.fc.bias.zero_()
    n_modules = sum(1 for _ in model.modules())
    with pytest.raises(CriterionError, match=rf"but features\.4\.weight changed \({n_modules + 2} differences\)"):
        snapshot.check()
