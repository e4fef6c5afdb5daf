"""The checks, one function for each rule of the contract; each raises with the rule, what was found, and the remedy."""

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from pruneboard.benchmark.api import Batch, Context, Criterion, CriterionError, SumCriterion, Unsupported
from pruneboard.benchmark.checks import Snapshot, check_contributions, check_scores
from pruneboard.benchmark.contract._networks import NETWORKS, images
from pruneboard.benchmark.contract._permutation import permuted
from pruneboard.benchmark.contract._subject import (
    LABELS,
    N_IMAGES,
    Subject,
    Variation,
    first_difference,
    storages,
)
from pruneboard.benchmark.failures import clean_reason
from pruneboard.benchmark.process import ProcessState
from pruneboard.benchmark.ranking import masks_at, rank

Status = Literal["passed", "failed", "declined", "skipped"]

_TOLERANCE = 1e-3
"""Relative to a layer's largest score: what float32 may lose where the order of sums changes."""

_DEVICE_TOLERANCE = 1e-2
_FACTORS = (1e-3, 1e3)


@dataclass(frozen=True)
class Outcome:
    """What came of one check on one network.

    Attributes:
        check: name of the check, one of `CHECKS`.
        network: kind of network, one of `NETWORKS`.
        status: `declined` when the criterion does not apply to the network, `skipped` when the check does not apply.
        message: the rule, what was found and the remedy when it failed; why it did not apply; empty when it passed.
    """

    check: str
    network: str
    status: Status
    message: str = ""


class _Skip(Exception):  # noqa: N818 - no error: the check does not apply
    """A check does not apply, and why."""


def _scores(subject: Subject) -> None:
    context = subject.context()
    scores = subject.criterion.score(context)
    check_scores(scores, subject.layers)
    for name, values in scores.items():
        if values.requires_grad:
            raise CriterionError(f"scores must be detached, but those of `{name}` require a gradient; detach them.")
    own = storages({**context.model.state_dict(), **dict(context.model.named_parameters())})
    shared = next((name for name, values in scores.items() if storages(values) & own), None)
    if shared is not None:
        raise CriterionError(
            f"scores must not share memory with the network, but those of `{shared}` do; call `.clone()`."
        )
    flat = torch.cat([values.flatten() for values in scores.values()])
    if bool((flat == flat[0]).all()):
        raise CriterionError(
            "scores must tell units apart, but all of them are equal; raise `Unsupported` with the reason where the "
            "criterion ranks nothing."
        )


def _network(subject: Subject) -> None:
    context = subject.context()
    model = context.model
    snapshot, hooks = Snapshot(model), _hooks(model)
    try:
        subject.criterion.score(context)
    finally:
        snapshot.check()
    if _hooks(model) != hooks:
        raise CriterionError("a criterion must remove its hooks, but some are left; remove them in a `finally`.")
    with torch.no_grad():
        # What the first call patched, a comparison with just before this one would miss.
        if not torch.equal(model(images(4)), subject.logits):
            raise CriterionError(
                "a criterion must leave everything as it was, but the same network now gives other logits; undo "
                "what was patched in torch or timm in a `finally`."
            )


def _hooks(model: torch.nn.Module) -> list[tuple[str, str, int]]:
    """Every attribute of every module that could hold a hook, also those that a snapshot does not look at."""
    return [
        (name, key, len(value))
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if "hook" in key and hasattr(value, "__len__")
    ]


def _images(subject: Subject) -> None:
    if subject.criterion.needs == "nothing":
        raise _Skip("it needs no images")
    context = subject.context()
    data = context.reference
    before = data.images.clone(), data.labels.clone()
    subject.criterion.score(context)
    if data.images.requires_grad or not torch.equal(data.images, before[0]) or not torch.equal(data.labels, before[1]):
        raise CriterionError(
            "images and labels must be left as they were, but they were written to; work on `images.detach().clone()`."
        )


def _process(subject: Subject) -> None:
    state = ProcessState()
    subject.criterion.score(subject.context())
    if changed := state.changes():
        remedy = "draw from `context.generator`" if "random" in changed[0] else "put it back in a `finally`"
        raise CriterionError(f"a criterion must leave the process as it was, but {changed[0]} changed; {remedy}.")


def _deterministic(subject: Subject) -> None:
    first, again, other = (subject.score(Variation(seed=seed)) for seed in (0, 0, 1))
    if (found := first_difference(first, again)) is not None:
        raise CriterionError(
            f"the same seed must give the same scores bit for bit, but unit {found[1]} of `{found[0]}` has "
            f"{found[2]:.9g}, then {found[3]:.9g}; draw from `context.generator` only."
        )
    same = first_difference(first, other) is None
    if same != subject.criterion.deterministic:
        what, flag = ("the same", True) if same else ("others", False)
        raise CriterionError(
            f"`deterministic` must say whether the seed matters, got {subject.criterion.deterministic}, but another "
            f"seed gives {what}; declare `deterministic: ClassVar[bool] = {flag}`."
        )


def _needs(subject: Subject) -> None:
    criterion = subject.criterion
    if criterion.needs == "nothing":
        subject.score()
        return
    expected = subject.score()
    if not criterion.deterministic:
        raise _Skip("its scores are random")
    if first_difference(expected, subject.score(Variation(other_images=True))) is None:
        raise CriterionError(
            f'`needs` must be no more than what is looked at, got "{criterion.needs}", but other images give the same '
            'scores; declare `needs: ClassVar[Needs] = "nothing"`.'
        )
    relabelled = tuple((label + 1) % 10 for label in LABELS)
    if criterion.needs == "labels" and first_difference(expected, subject.score(Variation(labels=relabelled))) is None:
        raise CriterionError(
            '`needs` must be no more than what is looked at, got "labels", but other labels give the same scores; '
            'declare `needs: ClassVar[Needs] = "images"`.'
        )


def _permutation(subject: Subject) -> None:
    if not subject.criterion.deterministic:
        raise _Skip("its scores are random")
    moved = permuted(subject.kind, subject.network)
    if moved is None:
        raise _Skip("no layer of this network can be permuted alone")
    layer, order, model = moved
    expected = subject.score()
    expected[layer] = expected[layer][order]
    if (found := first_difference(expected, subject.score(Variation(model=model)), _TOLERANCE)) is not None:
        raise CriterionError(
            "permuting the units of a layer must permute their scores and change no others, but with those of "
            f"`{layer}` permuted, unit {found[1]} of `{found[0]}` must have {found[2]:.6g} and has {found[3]:.6g}; "
            "let a score depend on what a unit computes, not on where it stands."
        )


def _scale(subject: Subject) -> None:
    scores = subject.score()
    expected = _masks(scores)
    for factor in _FACTORS:
        if _masks({name: values * factor for name, values in scores.items()}) != expected:
            largest = max(float(values.abs().max()) for values in scores.values())
            raise CriterionError(
                f"a positive factor on all scores must not change the ranking, but {factor:g} does, as float32 "
                f"cannot hold the products (largest score {largest:.3g}); scale the scores to about 1."
            )


def _masks(scores: Mapping[str, torch.Tensor]) -> list[list[bool]]:
    ranking = rank(scores, "global", torch.Generator().manual_seed(0))
    return [mask.tolist() for rate in (0.25, 0.5, 0.75) for mask in masks_at(ranking, rate).values()]


def _batches(subject: Subject) -> None:
    if subject.criterion.needs == "nothing":
        raise _Skip("it needs no images")
    if not subject.criterion.deterministic:
        raise _Skip("its scores are random")
    expected = subject.score()
    if (found := first_difference(expected, subject.score(Variation(batch_size=2)), _TOLERANCE)) is not None:
        raise CriterionError(
            f"the batch size must not change scores, but unit {found[1]} of `{found[0]}` has {found[2]:.6g} in one "
            f"batch and {found[3]:.6g} in batches of 2; sum over images, and divide once by their number."
        )
    if isinstance(subject.criterion, SumCriterion):
        _check_images_alone(subject.criterion, subject.context(), expected)


def _check_images_alone(criterion: SumCriterion, context: Context, expected: Mapping[str, torch.Tensor]) -> None:
    data = context.reference
    together = criterion.contributions(context, data)
    check_contributions(together, context.layers, N_IMAGES)
    for index in range(N_IMAGES):
        part = slice(index, index + 1)
        alone = criterion.contributions(context, Batch(data.images[part], data.labels[part]))
        rows = {name: values[part].detach().flatten() for name, values in together.items()}
        found = first_difference(rows, {name: values.detach().flatten() for name, values in alone.items()}, _TOLERANCE)
        if found is not None:
            raise CriterionError(
                f"an image's contribution must not depend on the rest of its batch, but image {index} contributes "
                f"{found[2]:.6g} to `{found[0]}` in a batch and {found[3]:.6g} alone; take nothing over the batch."
            )
    reduced = criterion.reduce_prefix(context.layers, criterion.all_contributions(context), N_IMAGES)
    if (found := first_difference(dict(expected), reduced, _TOLERANCE)) is not None:
        raise CriterionError(
            f"`score` must be what `reduce` makes of all contributions, but unit {found[1]} of `{found[0]}` has "
            f"{found[2]:.6g} and {found[3]:.6g}; leave `score` to `SumCriterion`."
        )


def _frozen(subject: Subject) -> None:
    expected = subject.score()
    frozen = subject.context().model.requires_grad_(False)
    with torch.no_grad():
        found = first_difference(expected, subject.score(Variation(model=frozen)), _TOLERANCE)
    if found is not None:
        raise CriterionError(
            f"scores must not depend on whether parameters require gradients, but unit {found[1]} of `{found[0]}` has "
            f"{found[2]:.6g}, and {found[3]:.6g} where none does; use `torch.enable_grad()` and gradients of inputs "
            "or taps."
        )


def _device(subject: Subject) -> None:
    if not torch.cuda.is_available():
        raise _Skip("there is no GPU here")
    found = first_difference(subject.score(), subject.score(Variation(device="cuda")), _DEVICE_TOLERANCE)
    if found is not None:
        raise CriterionError(
            f"a GPU must give the scores of the CPU within {_DEVICE_TOLERANCE:g} of a layer's largest, but unit "
            f"{found[1]} of `{found[0]}` has {found[3]:.6g} there and {found[2]:.6g} here; make tensors on the device "
            "of the images."
        )


CHECKS: Mapping[str, Callable[[Subject], None]] = {
    "scores": _scores,
    "network left alone": _network,
    "images left alone": _images,
    "process left alone": _process,
    "seeds": _deterministic,
    "needs": _needs,
    "permutation": _permutation,
    "scale": _scale,
    "batches": _batches,
    "frozen parameters": _frozen,
    "GPU": _device,
}
"""Name of each check to what does it."""


def check_criterion(criterion: Criterion, networks: Iterable[str] = tuple(NETWORKS)) -> list[Outcome]:
    """Check that a criterion keeps its contract on tiny networks, in this process.

    Args:
        criterion: the criterion, with its parameters.
        networks: kinds of network, of `contract.NETWORKS`.

    Returns:
        What came of each check on each network; on one that the criterion declines, only that.
    """
    return [outcome for kind in networks for outcome in _check_on(Subject(criterion, kind))]


def failures(outcomes: Iterable[Outcome]) -> list[str]:
    """Return one line for each failed check, and one where every network is declined; empty when nothing is wrong."""
    given = list(outcomes)
    lines = [f"{one.check} ({one.network}): {one.message}" for one in given if one.status == "failed"]
    declined = [one for one in given if one.status == "declined"]
    if declined and len({one.network for one in declined}) == len({one.network for one in given}):
        lines.append(
            f"a criterion must apply to some network, but it declines all of them, such as {declined[0].network}: "
            f"{declined[0].message}"
        )
    return lines


def _check_on(subject: Subject) -> Iterator[Outcome]:
    for name, check in CHECKS.items():
        outcome = _outcome(name, check, subject)
        yield outcome
        if outcome.status == "declined" or (name == "scores" and outcome.status == "failed"):
            # The other checks would say the same again.
            return


def _outcome(name: str, check: Callable[[Subject], None], subject: Subject) -> Outcome:
    # What one call changed must not hide from the next check that every call changes it.
    state = ProcessState()
    try:
        check(subject)
    except _Skip as skip:
        return Outcome(name, subject.kind, "skipped", str(skip))
    except Unsupported as refusal:
        return Outcome(name, subject.kind, "declined", clean_reason(refusal))
    except CriterionError as error:
        return Outcome(name, subject.kind, "failed", str(error))
    except KeyboardInterrupt:
        raise
    # A plugin is foreign code, and whatever it raises is what came of the check.
    except BaseException as error:  # noqa: BLE001
        frames = traceback.extract_tb(error.__traceback__)
        where = f" (`{Path(frames[-1].filename).name}`, line {frames[-1].lineno})" if frames else ""
        message = (
            f"scoring must not raise, but it raised {type(error).__name__}: {clean_reason(error)}{where}; mend it, or "
            "raise `Unsupported` with the reason where it does not apply."
        )
        return Outcome(name, subject.kind, "failed", message)
    finally:
        state.restore()
    return Outcome(name, subject.kind, "passed")
