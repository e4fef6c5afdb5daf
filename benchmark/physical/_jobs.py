"""A network pruned as the leaderboard's rows have it: the same images, scores, ranking and accuracy."""

from dataclasses import dataclass

from pruneboard.benchmark import plugins, provenance
from pruneboard.benchmark.api import Scores
from pruneboard.benchmark.errors import CriterionError, SuiteError, Unsupported
from pruneboard.benchmark.evaluate import measure
from pruneboard.benchmark.physical._build import Pruned, prune_coupled, prune_exactly
from pruneboard.benchmark.physical._records import Facts, Form
from pruneboard.benchmark.ranking import masks_at, rank
from pruneboard.benchmark.runner import (
    LoadedModel,
    NoResult,
    Workbench,
    attempt,
    context_of,
    generator_for,
    reference_of,
)
from pruneboard.benchmark.schema import Job
from pruneboard.benchmark.scoring import score_all_shots
from pruneboard.benchmark.units import Layer


@dataclass(frozen=True)
class Scored:
    """A job's network with the scores of its units.

    Attributes:
        job: suite, network, granularity, criterion and seed.
        shots: reference images per class.
        loaded: the network, with its evaluation images.
        layers: its layers.
        scores: layer name to scores (n_units,).
    """

    job: Job
    shots: int
    loaded: LoadedModel
    layers: tuple[Layer, ...]
    scores: Scores


def score(job: Job, shots: int, bench: Workbench) -> Scored:
    """Score the units of a job's network as a run of the job does.

    Args:
        job: what to score.
        shots: one of the suite's numbers of reference images per class.
        bench: the process's workbench.

    Raises:
        SuiteError: the suite's protocol goes step by step.
        Unsupported: the criterion declines.
        CriterionError: it fails.
        AssetError, ModelError: the network or the data cannot be loaded.
    """
    if job.suite.protocol != "one_shot":
        raise SuiteError(
            f"a network must be pruned at once to be cut out of one, but suite `{job.suite.name}` has the protocol "
            f"`{job.suite.protocol}`; choose a suite of the protocol `one_shot`."
        )
    criterion = plugins.criterion_of(job)
    loaded = bench.model(job)
    context = context_of(job, loaded, reference_of(job, bench, loaded.plugin, criterion))
    # The reference images are drawn for the largest number of shots, and smaller ones are its prefixes.
    needed = sorted({shots, max(job.suite.shots)})
    scoring = attempt(lambda: score_all_shots(criterion, context, needed, loaded.probe), job, bench)
    if isinstance(scoring, NoResult):
        name = f"criterion `{job.criterion}`"
        if scoring.status == "unsupported":
            raise Unsupported(f"{name} declines `{job.model}` by {job.granularity}: {scoring.reason}")
        raise CriterionError(f"{name} must score every unit of `{job.model}`, but it failed: {scoring.reason}")
    return Scored(job, shots, loaded, context.layers, scoring.by_shots[shots])


def build(scored: Scored, rate: float, form: Form) -> Pruned:
    """Remove a fraction of the units physically, ranked as a run of the job ranks them.

    Args:
        scored: network and scores.
        rate: fraction of units, in [0, 1).
        form: `exact` removes each unit by itself, `coupled` what shares a channel together.

    Raises:
        ModelError: the network cannot be pruned physically in this form.
    """
    job, network, layers = scored.job, scored.loaded.network, scored.layers
    generator = generator_for(job, "ties")
    if form == "exact":
        ranking = rank(scored.scores, job.suite.scope, generator)
        return prune_exactly(network, layers, masks_at(ranking, rate), scored.loaded.probe)
    return prune_coupled(
        network, layers, scored.scores, scored.loaded.probe, rate=rate, scope=job.suite.scope, generator=generator
    )


def facts_of(scored: Scored, pruned: Pruned, rate: float, form: Form, bench: Workbench) -> Facts:
    """Measure a pruned network's accuracy, and gather what is known of it.

    The accuracy is that of the physical network itself, on the images that the suite's rows are measured on.
    """
    job, plugin, evaluation = scored.job, scored.loaded.plugin, scored.loaded.evaluation
    accuracy = measure(pruned.network.to(bench.device), evaluation)
    before = measure(scored.loaded.network, evaluation)
    pruned.network.cpu()
    commit, clean = provenance.commit()
    return Facts(
        model=job.model,
        granularity=job.granularity,
        criterion=job.criterion,
        parameters=plugins.criterion_parameters(plugins.criterion_of(job)),
        rate=rate,
        seed=job.seed,
        shots=scored.shots,
        suite=job.suite.name,
        form=form,
        input_size=plugin.input_size,
        mean=plugin.mean,
        std=plugin.std,
        n_classes=pruned.network(scored.loaded.probe[:1].cpu()).shape[1],
        n_units=sum(layer.n_units for layer in scored.layers),
        n_units_removed=pruned.n_units_removed,
        units_kept={name: mask.nonzero().flatten().tolist() for name, mask in pruned.masks.items()},
        params_before=pruned.before.params,
        params=pruned.size.params,
        macs_before=pruned.before.macs,
        macs=pruned.size.macs,
        top1_before=before.top1,
        top1=accuracy.top1,
        dataset=bench.dataset(job).name,
        split=job.suite.evaluation_split,
        n_images=accuracy.n_images,
        licence=plugin.licence,
        source=plugin.source,
        weights_digest=plugin.weights_digest,
        pruneboard=provenance.versions()["pruneboard"],
        commit=commit,
        clean=clean,
    )
