"""The checks of a criterion's contract find each way of breaking it, and say so in these very words."""

import dataclasses
import inspect
import os
import random
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from commands import EXTRA, pruneboard
from pruneboard.benchmark.api import Criterion, CriterionError, SumCriterion, Unsupported, pool, tapped
from pruneboard.benchmark.contract import (
    NETWORKS,
    Outcome,
    _isolated,
    check_criterion,
    failures,
    images,
    measure_cost,
    permuted,
    tiny_network,
)
from pruneboard.benchmark.contract._check import CHECKS
from pruneboard.benchmark.contract._subject import N_IMAGES, Subject
from pruneboard.benchmark.plugins import criteria
from pruneboard.benchmark.process import ProcessState
from pruneboard.benchmark.workers import Death


def norms(context, power=2):
    weights = {layer.name: context.model.get_submodule(layer.name).weight.detach() for layer in context.layers}
    return {name: weight.flatten(1).norm(p=power, dim=1) for name, weight in weights.items()}


def brightness(context):
    """Scores that depend on the images, and on the units."""
    return {name: values * context.reference.images.mean().abs() for name, values in norms(context).items()}


def make(score, needs="nothing", deterministic=True):
    """A criterion that scores by a function of the context."""
    namespace = {
        **{"name": "broken", "version": 1, "family": "control", "source": "", "needs": needs, "score": score},
        **{"deterministic": deterministic, "__annotations__": {}},
    }
    return dataclasses.dataclass(frozen=True)(type("Broken", (Criterion,), namespace))()


def found(criterion, network="vgg"):
    """What is wrong, by check."""
    return {one.check: one.message for one in check_criterion(criterion, [network]) if one.status == "failed"}


def changed(change):
    """Good scores, one thing of which is changed."""

    def score(_self, context):
        scores = norms(context)
        scores["features.4"] = change(scores["features.4"], context)
        return scores

    return make(score)


def after(act, needs="nothing"):
    """Good scores, after something that a criterion must not do."""

    def score(_self, context):
        act(context)
        return norms(context) if needs == "nothing" else brightness(context)

    return make(score, needs)


class Ends(BaseException):
    """What no `except Exception` catches."""


def raises(error):
    def act(_context):
        raise error

    return after(act)


WHERE = f"(`{Path(__file__).name}`, line {inspect.getsourcelines(raises)[1] + 2})"


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        (
            changed(lambda scores, _: scores[:-1]),
            "scores of `features.4` must be float32 (8,), got torch.float32 (7,).",
        ),
        (
            changed(lambda scores, _: scores.double()),
            "scores of `features.4` must be float32 (8,), got torch.float64 (8,).",
        ),
        (
            changed(lambda scores, _: scores / 0),
            "scores must be finite, but 8 of 8 values of `features.4` are NaN or infinite.",
        ),
        (
            changed(lambda scores, _: scores.clone().requires_grad_()),
            "scores must be detached, but those of `features.4` require a gradient; detach them.",
        ),
        (
            changed(lambda _, context: context.model.get_submodule("features.5").weight.detach()),
            "scores must not share memory with the network, but those of `features.4` do; call `.clone()`.",
        ),
        (
            make(lambda _, context: {layer.name: torch.ones(layer.n_units) for layer in context.layers}),
            "scores must tell units apart, but all of them are equal; raise `Unsupported` with the reason where the "
            "criterion ranks nothing.",
        ),
        (make(lambda *_: None), "scores must be a dict of layer names to tensors, got `NoneType`."),
        (
            raises(ValueError("not today")),
            f"scoring must not raise, but it raised ValueError: not today {WHERE}; mend "
            "it, or raise `Unsupported` with the reason where it does not apply.",
        ),
        (
            raises(SystemExit(3)),
            f"scoring must not raise, but it raised SystemExit: 3 {WHERE}; mend it, or "
            "raise `Unsupported` with the reason where it does not apply.",
        ),
        (
            raises(Ends("whatever you catch")),
            f"scoring must not raise, but it raised Ends: whatever you catch {WHERE}; "
            "mend it, or raise `Unsupported` with the reason where it does not apply.",
        ),
    ],
)
def test_scores_that_break_the_contract_are_found_and_nothing_else_is_said(criterion, message):
    assert found(criterion) == {"scores": message}


LEFT = "restore it in a `finally`, or work on a copy."


@pytest.mark.parametrize(
    ("criterion", "check", "message"),
    [
        (
            after(lambda context: context.model.get_submodule("features.4").weight.data.add_(1)),
            "network left alone",
            f"a criterion must leave the model as it was, but features.4.weight changed (1 differences); {LEFT}",
        ),
        (
            after(lambda context: context.model.register_forward_hook(lambda *_: None)),
            "network left alone",
            f"a criterion must leave the model as it was, but module `` changed (1 differences); {LEFT}",
        ),
        (
            after(lambda context: context.reference.images.mul_(2), "images"),
            "images left alone",
            "images and labels must be left as they were, but they were written to; work on `images.detach().clone()`.",
        ),
        (
            after(lambda _: torch.rand(1)),
            "process left alone",
            "a criterion must leave the process as it was, but the random state of torch changed; draw from "
            "`context.generator`.",
        ),
        (
            after(lambda _: random.random()),
            "process left alone",
            "a criterion must leave the process as it was, but the random state of Python changed; draw from "
            "`context.generator`.",
        ),
        (
            after(lambda _: np.random.rand()),
            "process left alone",
            "a criterion must leave the process as it was, but the random state of NumPy changed; draw from "
            "`context.generator`.",
        ),
        (
            after(lambda _: os.environ.update(MINE="1")),
            "process left alone",
            "a criterion must leave the process as it was, but the environment changed; put it back in a `finally`.",
        ),
        (
            after(lambda _: os.chdir("/")),
            "process left alone",
            "a criterion must leave the process as it was, but the present folder changed; put it back in a `finally`.",
        ),
        (
            make(lambda _, context: norms(context), "labels"),
            "needs",
            '`needs` must be no more than what is looked at, got "labels", but other images give the same scores; '
            'declare `needs: ClassVar[Needs] = "nothing"`.',
        ),
        (
            make(lambda _, context: brightness(context), "labels"),
            "needs",
            '`needs` must be no more than what is looked at, got "labels", but other labels give the same scores; '
            'declare `needs: ClassVar[Needs] = "images"`.',
        ),
        (
            make(lambda _, context: norms(context), deterministic=False),
            "seeds",
            "`deterministic` must say whether the seed matters, got False, but another seed gives the same; declare "
            "`deterministic: ClassVar[bool] = True`.",
        ),
        (
            make(lambda _, c: {n: s + torch.rand(len(s), generator=c.generator) for n, s in norms(c).items()}),
            "seeds",
            "`deterministic` must say whether the seed matters, got True, but another seed gives others; declare "
            "`deterministic: ClassVar[bool] = False`.",
        ),
        (
            make(lambda _, context: {name: values * 1e-41 for name, values in norms(context).items()}),
            "scale",
            "a positive factor on all scores must not change the ranking, but 0.001 does, as float32 cannot hold the "
            "products (largest score 1.47e-41); scale the scores to about 1.",
        ),
    ],
)
def test_what_a_criterion_does_beside_scoring_is_found(criterion, check, message):
    state = ProcessState()

    assert found(criterion)[check] == message
    assert state.changes() == [], "what a criterion changed is put back"


def test_scores_without_a_given_seed_are_found():
    """A generator of its own that goes on from call to call."""
    generator = torch.Generator().manual_seed(0)
    criterion = make(
        lambda _, context: {layer.name: torch.rand(layer.n_units, generator=generator) for layer in context.layers}
    )
    assert found(criterion)["seeds"].startswith("the same seed must give the same scores bit for bit, but unit ")
    assert found(criterion)["seeds"].endswith("; draw from `context.generator` only.")


def test_scores_by_position_are_found():
    criterion = make(lambda _, c: {layer.name: torch.arange(layer.n_units).float() for layer in c.layers})
    message = found(criterion)["permutation"]

    assert message.startswith(
        "permuting the units of a layer must permute their scores and change no others, but with those of `features.4` "
        "permuted, unit "
    )
    assert message.endswith("; let a score depend on what a unit computes, not on where it stands.")


def test_data_that_was_not_declared_is_not_there():
    message = found(make(lambda _, context: brightness(context)))["scores"]

    assert message == 'a criterion that declares needs = "nothing" gets no images; declare "images".'


def test_scores_that_depend_on_the_size_of_batches_are_found():
    def score(_self, context):
        means = [batch.images.mean().abs() for batch in context.batches()]
        return {name: values * sum(means) / len(means) for name, values in norms(context).items()}

    message = found(make(score, "images"))["batches"]
    assert message.startswith("the batch size must not change scores, but unit ")
    assert message.endswith(" in batches of 2; sum over images, and divide once by their number.")


@dataclasses.dataclass(frozen=True)
class OverTheBatch(SumCriterion):
    """Each image's activation over the mean of its batch."""

    name: ClassVar[str] = "over_the_batch"
    version: ClassVar[int] = 1
    family: ClassVar[str] = "activation"
    source: ClassVar[str] = ""
    needs: ClassVar[str] = "images"

    def contributions(self, context, batch):
        with torch.no_grad(), tapped(context.model, context.layers) as taps:
            context.model(batch.images)
            pooled = {layer.name: pool(layer, taps[layer.name].abs()) for layer in context.layers}
        return {name: values / values.mean(dim=0, keepdim=True) * values.sum() for name, values in pooled.items()}


def test_contributions_that_depend_on_other_images_are_found():
    message = found(OverTheBatch())["batches"]

    assert message.startswith("the batch size must not change scores, but unit ")
    outcomes = check_criterion(OverTheBatch(), ["vgg"])
    assert [one.check for one in outcomes if one.status == "failed"] == ["batches"]


@dataclasses.dataclass(frozen=True)
class OverNeighbours(OverTheBatch):
    """As above, but so that it cancels out in the sum: every image gives what the next one should."""

    def contributions(self, context, batch):
        with torch.no_grad(), tapped(context.model, context.layers) as taps:
            context.model(batch.images)
            pooled = {layer.name: pool(layer, taps[layer.name].abs()) for layer in context.layers}
        return {name: values.roll(1, dims=0) for name, values in pooled.items()}


@dataclasses.dataclass(frozen=True)
class Twice(OverNeighbours):
    """Scores that are not what its contributions add up to."""

    def contributions(self, context, batch):
        return {name: values.roll(-1, dims=0) for name, values in super().contributions(context, batch).items()}

    def score(self, context):
        return {name: 2 * values for name, values in super().score(context).items()}


def test_contributions_that_belong_to_another_image_are_found():
    message = found(OverNeighbours())["batches"]

    assert message.startswith("an image's contribution must not depend on the rest of its batch, but image 0 contrib")
    assert message.endswith(" alone; take nothing over the batch.")


def test_scores_that_are_not_what_the_contributions_add_up_to_are_found():
    message = found(Twice())["batches"]

    assert message.startswith("`score` must be what `reduce` makes of all contributions, but unit ")
    assert message.endswith("; leave `score` to `SumCriterion`.")


def test_a_network_that_computes_something_else_afterwards_is_found(monkeypatch):
    monkeypatch.setattr(torch.nn.BatchNorm2d, "forward", torch.nn.BatchNorm2d.forward)
    criterion = after(lambda _: setattr(torch.nn.BatchNorm2d, "forward", lambda self, values: values))

    assert found(criterion)["network left alone"] == (
        "a criterion must leave everything as it was, but the same network now gives other logits; undo what was "
        "patched in torch or timm in a `finally`."
    )


def test_traces_of_hooks_that_no_snapshot_looks_at_are_found():
    criterion = after(lambda context: context.model._forward_hooks_with_kwargs.update({7: True}))

    assert found(criterion)["network left alone"] == (
        "a criterion must remove its hooks, but some are left; remove them in a `finally`."
    )


def test_scores_that_depend_on_who_requires_gradients_are_found():
    def score(_self, context):
        factor = 2 if next(context.model.parameters()).requires_grad else 1
        return {name: factor * values for name, values in norms(context).items()}

    message = found(make(score))["frozen parameters"]
    assert message.startswith("scores must not depend on whether parameters require gradients, but unit ")
    assert message.endswith(" where none does; use `torch.enable_grad()` and gradients of inputs or taps.")


def test_other_scores_on_a_gpu_are_found(monkeypatch):
    """Without a GPU: what comes from there is made up."""
    usual = Subject.score

    def score(subject, how=None):
        if how is None or how.device == "cpu":
            return usual(subject, how)
        return {name: values * off for name, values in usual(subject).items()}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(Subject, "score", score)
    subject = Subject(make(lambda _, context: norms(context)), "vgg")
    off = 1.005
    CHECKS["GPU"](subject)
    off = 1.02
    with pytest.raises(CriterionError) as error:
        CHECKS["GPU"](subject)

    assert str(error.value).startswith("a GPU must give the scores of the CPU within 0.01 of a layer's largest, but ")
    assert str(error.value).endswith("; make tensors on the device of the images.")


@pytest.mark.parametrize(
    ("death", "message"),
    [
        (
            Death(how="signal SIGKILL", cause="time", n_outside=0),
            "the checks on a tiny network must end within 30 s, but they had not; look for a loop that does not end.",
        ),
        (
            Death(how="signal SIGKILL", cause="memory", n_outside=0, n_bytes=5 * 10**9),
            "the checks on a tiny network must hold less than 4.3 GB, but held 5.0 GB; look for tensors that grow with "
            "something else than images and units.",
        ),
        (
            Death(how="exit status 3", cause="itself", n_outside=0),
            "scoring must not end its process, but it died with exit status 3; raise an exception with the reason.",
        ),
    ],
)
def test_how_a_worker_died_is_told(death, message):
    checks = _isolated._Checks(30.0)
    (outcome,) = checks.death_of(_isolated._Task("mine", "vgg"), None, death).outcomes

    assert outcome == Outcome("scores", "vgg", "failed", message)
    assert checks.death_of(_isolated._Task("mine", _isolated.COST), None, death).outcomes == ()


def test_the_pass_beside_which_a_cost_is_told_takes_memory_and_so_does_a_scoring_of_the_same():
    """Whichever of both comes first."""
    cost = measure_cost(criteria().get("taylor"))
    if cost.n_bytes is None:
        pytest.skip("this system does not tell the memory of a process")

    assert cost.pass_bytes > 1e6
    assert cost.n_bytes > 0.3 * cost.pass_bytes
    assert cost.seconds > 0
    assert cost.pass_seconds > 0


def test_gradients_of_parameters_that_are_taken_for_granted_are_found():
    def score(_self, context):
        parameters = {layer.name: context.model.get_submodule(layer.name).weight for layer in context.layers}
        loss = context.model(context.reference.images).square().sum()
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        return {name: g.flatten(1).norm(dim=1) for name, g in zip(parameters, gradients, strict=True)}

    assert "scoring must not raise, but it raised RuntimeError" in found(make(score, "images"))["frozen parameters"]


def test_a_network_that_is_declined_is_left_out_but_not_all_of_them():
    def score(_self, context):
        raise Unsupported("not this one")

    outcomes = check_criterion(make(score), ["vgg", "mlp"])
    assert [(one.check, one.network, one.status) for one in outcomes] == [
        ("scores", "vgg", "declined"),
        ("scores", "mlp", "declined"),
    ]
    assert failures(outcomes) == [
        "a criterion must apply to some network, but it declines all of them, such as vgg: not this one"
    ]
    assert failures([*outcomes, Outcome("scores", "resnet", "passed")]) == []


@pytest.mark.parametrize("network", NETWORKS)
def test_criteria_of_every_kind_keep_the_contract_on_every_network(network):
    for name in ("random", "magnitude", "taylor", "tp_lamp"):
        outcomes = check_criterion(criteria().get(name), [network])
        assert failures(outcomes) == []
        assert len(outcomes) == len(CHECKS)
    assert N_IMAGES > 2, "or batches of 2 would hold all images"


@pytest.mark.parametrize("network", [name for name in NETWORKS if name != "mobilenet"])
def test_a_permuted_network_computes_the_same(network):
    model = tiny_network(network)
    layer, order, other = permuted(network, model)
    with torch.no_grad():
        torch.testing.assert_close(other(images()), model(images()), rtol=1e-4, atol=1e-5)

    assert sorted(order.tolist()) == list(range(len(order)))
    assert order.tolist() != sorted(order.tolist())
    assert not torch.equal(next(other.get_submodule(layer).parameters()), next(model.get_submodule(layer).parameters()))


BROKEN = '''
import ctypes, dataclasses, os, sys, time
from typing import ClassVar
from pruneboard.benchmark.api import Criterion, unit_weights

@dataclasses.dataclass(frozen=True)
class Broken(Criterion):
    """Breaks its process."""
    way: str = "crashes"
    name = "broken"; version = 1; family = "control"; source = ""; needs = "nothing"
    presets = {"broken_hangs": {"way": "hangs"}, "broken_prints": {"way": "prints"}}
    def score(self, context):
        if self.way == "crashes":
            ctypes.string_at(0)
        if self.way == "hangs" and len(context.layers) == 3:
            time.sleep(600)
        if self.way == "prints":
            os.write(1, 50_000_000 * b"p")
        return {layer.name: unit_weights(context.model, layer).norm(dim=1) for layer in context.layers}
'''


@pytest.mark.slow
def test_a_criterion_that_crashes_hangs_or_prints_megabytes_is_told_by_the_command(tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    done = pruneboard("check", "./broken.py", cwd=tmp_path)

    assert done.returncode == 1, done.stderr
    assert "scoring must not end its process, but it died with signal SIGSEGV" in done.stdout
    assert "the checks on a tiny network must end within 30 s, but they had not" in done.stdout
    assert "broken_prints: 5" in done.stdout
    assert len(done.stdout) < 20_000


@pytest.mark.slow
def test_the_command_prints_what_passed_and_what_failed(tmp_path):
    done = pruneboard("check", "bad_nan", "magnitude", cwd=tmp_path, env=EXTRA)

    assert done.returncode == 1, done.stderr
    assert "bad_nan: 0 checks passed on 7 networks, 7 failed." in done.stdout
    assert "FAILED scores (vgg): scores must be finite, but 1 of 6 values of `features.0` are NaN" in done.stdout
    assert "magnitude: 55 checks passed on 7 networks, 0 failed." in done.stdout
    assert "times a forward and backward pass" in done.stdout
