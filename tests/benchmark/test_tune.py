import dataclasses
import itertools
import json
import pickle

import numpy as np
import pytest
import torch

from commands import PLUGINS, write_suite
from pruneboard.benchmark import plugins
from pruneboard.benchmark.api import Batch, Context
from pruneboard.benchmark.data import Dataset, draw_reference, open_dataset
from pruneboard.benchmark.discovery import Source
from pruneboard.benchmark.errors import CriterionError, PruneboardError, StoreError, SuiteError
from pruneboard.benchmark.ranking import n_removed
from pruneboard.benchmark.runner import NoResult, Workbench, run_job
from pruneboard.benchmark.schema import Tuned
from pruneboard.benchmark.studies import StudyStore, Trial
from pruneboard.benchmark.suites import load_suite, suite_path
from pruneboard.benchmark.tune import Budget, Cell, Draws, SearchEnded, TrialEnded, TuningBench, is_done, prepare
from pruneboard.benchmark.tune._images import draw_images
from pruneboard.benchmark.tune._objective import Objective
from pruneboard.benchmark.tune._propose import importances, propose
from pruneboard.benchmark.tune._search import run_search
from pruneboard.benchmark.tune._space import Space, as_text, make_space
from pruneboard.benchmark.units import find_layers, masked

CPU = torch.device("cpu")
DRAWS = Draws(n_images=6)


@pytest.fixture
def suite(tmp_path):
    path = write_suite(
        tmp_path,
        models={"digits_vgg": ["filters"], "digits_vit": ["neurons", "heads"]},
        criteria=["magnitude", "taylor", "taylor_logit"],
        seeds=[0, 3],
    )
    return load_suite(path)


def search(suite, criterion, store, *, n_trials=60, sampler="gp", draws=DRAWS, stop_after=None, fresh=False):
    """Search to the end, or stop after some trials; return the study as it is on disk."""
    bench = TuningBench(CPU, draws)
    cell = Cell(suite, "digits_vgg", "filters", criterion)
    made = prepare(cell, Budget(n_trials=n_trials, sampler=sampler, draws=draws), bench, criterion)
    known = store.begin(made.study, fresh=fresh)
    if not is_done(made, known):
        n_ended = 0
        for report in run_search(made, store, bench):
            n_ended += isinstance(report, TrialEnded)
            if n_ended == stop_after:
                break
    (study,) = [s for s in store.read(suite.name) if s.name == made.study.name]
    return study


def without_times(trials):
    return [dataclasses.replace(trial, seconds=0.0) for trial in trials]


def slow_a_pr(suite, criterion, seeds, rows):
    """A_PR on rows of the train split by hand: the mean over draws of reference images and over rates."""
    plugin, train = plugins.models().get("digits_vgg"), open_dataset("digits").split("train")
    model = plugin.load()
    images = plugin.normalise(train.images(rows, size=(1, 8, 8)).float() / 255)
    layers = find_layers(model, "filters", images[:1])
    values = []
    for seed in seeds:
        chosen = draw_reference(train.labels, max(suite.shots), seed)
        batch = Batch(
            plugin.normalise(train.images(chosen, size=(1, 8, 8)).float() / 255), torch.from_numpy(train.labels[chosen])
        )
        context = Context(model=model, layers=layers, generator=torch.Generator(), data=batch, batch_size=3)
        scores = criterion.score(context)
        worst_first = sorted((float(value), name, i) for name, v in scores.items() for i, value in enumerate(v))
        for rate in suite.rates:
            masks = {layer.name: torch.ones(layer.n_units, dtype=torch.bool) for layer in layers}
            for _, name, index in worst_first[: n_removed(rate, len(worst_first))]:
                masks[name][index] = False
            with torch.no_grad(), masked(model, layers, masks):
                values.append(float((model(images).argmax(1).numpy() == train.labels[rows]).mean()))
    return float(np.mean(values))


def test_the_objective_is_a_pr_on_the_validation_images_averaged_over_draws(suite):
    draws = Draws(n_draws=2, n_images=7, seed=5)
    bench = TuningBench(CPU, draws)
    cell = Cell(suite, "digits_vgg", "filters", "taylor")
    images = bench.images(cell.job(0))
    assert len(images.validation) == 70
    for configuration in ({"absolute": "image", "per_layer": "none", "target": "logit"}, {"absolute": "total"}):
        measured = Objective(cell, bench)(configuration).result
        criterion = dataclasses.replace(plugins.criteria().get("taylor"), **configuration)

        assert measured == pytest.approx(slow_a_pr(suite, criterion, draws.seeds, images.validation), abs=0.6 / 70)


def test_the_whole_space_is_tried_when_the_budget_allows_and_the_best_of_it_wins(suite, tmp_path):
    """Against brute force over the product, with the defaults first."""
    study = search(suite, "taylor", StudyStore(tmp_path / "runs"))
    space = {name: tuple(values) for name, values in study.settings["space"].items()}
    product = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
    tried = [json.loads(trial.parameters) for trial in study.trials]
    assert len(tried) == len(product) == study.space_size == 16
    assert all(configuration in tried for configuration in product)
    assert study.trials[0].proposed_by == "default"
    assert tried[0] == {"absolute": "total", "per_layer": "l2", "target": "loss"}
    objective = Objective(Cell(suite, "digits_vgg", "filters", "taylor"), TuningBench(CPU, DRAWS))
    brute = {as_text(configuration): objective(configuration).result for configuration in product}
    first_best = next(t for t in study.trials if t.value == max(brute.values()))

    assert {trial.parameters: trial.value for trial in study.trials} == brute
    assert study.outcome.winner == first_best.number
    assert study.outcome.value == max(brute.values()) > study.outcome.default_value == brute[as_text(tried[0])]
    assert study.outcome.searched == json.loads(first_best.parameters)
    assert study.tuned.n_images == 2 * 10 + 6 * 10
    assert study.tuned.n_trials == 16


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_a_known_best_configuration_is_found_without_trying_all(suite, tmp_path, extra_criteria, sampler):
    study = search(suite, "tunable", StudyStore(tmp_path), n_trials=20, sampler=sampler)

    assert study.space_size == 27
    assert len({trial.parameters for trial in study.trials}) == len(study.trials) == 20
    assert study.outcome.searched == {"first": "b", "second": "b", "third": "b"}
    assert next(iter(study.outcome.importances)) == "first"
    assert sum(study.outcome.importances.values()) == pytest.approx(1)


def test_defaults_outside_the_space_are_a_trial_of_their_own(suite, tmp_path, extra_criteria):
    study = search(suite, "tunable", StudyStore(tmp_path))

    assert json.loads(study.trials[0].parameters) == {"first": "a", "second": "a", "third": "default"}
    assert len(study.trials) == study.space_size + 1 == 28


@pytest.mark.parametrize("sampler", ["gp", "tpe", "grid"])
def test_an_interrupted_study_ends_like_an_uninterrupted_one(suite, tmp_path, extra_criteria, sampler):
    whole = search(suite, "tunable", StudyStore(tmp_path / "whole"), n_trials=16, sampler=sampler)
    store = StudyStore(tmp_path / "parts")
    for stop_after in (1, 11):
        part = search(suite, "tunable", store, n_trials=16, sampler=sampler, stop_after=stop_after)
        assert part.outcome is None
    resumed = search(suite, "tunable", store, n_trials=16, sampler=sampler)

    assert without_times(resumed.trials) == without_times(whole.trials)
    assert resumed.outcome.study == whole.outcome.study
    assert resumed.tuned == whole.tuned


def test_more_trials_continue_and_fewer_change_nothing(suite, tmp_path, extra_criteria):
    store = StudyStore(tmp_path)
    first = search(suite, "tunable", store, n_trials=3)
    longer = search(suite, "tunable", store, n_trials=12)
    assert longer.trials[:3] == first.trials
    assert len(longer.trials) == longer.outcome.n_trials == 12
    assert longer.outcome.study != first.outcome.study
    assert search(suite, "tunable", store, n_trials=3) == longer
    again = search(suite, "tunable", store, n_trials=3, fresh=True)

    assert len(again.trials) == 3
    assert without_times(again.trials) == without_times(first.trials)


def test_a_study_of_other_settings_is_set_aside_and_comes_back(suite, tmp_path, monkeypatch):
    store = StudyStore(tmp_path)
    first = search(suite, "magnitude", store)
    other = search(suite, "magnitude", store, draws=Draws(n_images=6, seed=1))
    assert other.settings_digest != first.settings_digest
    aside = sorted(path.name for path in (tmp_path / "small" / "tuning" / "superseded").iterdir())
    stem = f"magnitude.digits_vgg.filters.{first.settings_digest[:16]}"
    assert aside == [f"{stem}.json", f"{stem}.trials.csv"]
    assert search(suite, "magnitude", store) == first
    monkeypatch.setattr(plugins, "criterion_digest", lambda _criterion: "0" * 64)

    assert search(suite, "magnitude", store, stop_after=1).settings_digest not in (
        first.settings_digest,
        other.settings_digest,
    )


def test_validation_images_are_reference_images_of_no_seed_and_no_draw():
    suite = load_suite(suite_path("digits"))
    labels = open_dataset("digits").split("train").labels
    draws = Draws(n_draws=2, seed=9)
    images = draw_images(suite, labels, draws)
    validation = set(images.validation.tolist())
    for seed in suite.seeds:
        assert not validation & set(draw_reference(labels, max(suite.shots), seed).tolist())
    for seed, rows in zip(draws.seeds, images.reference, strict=True):
        assert rows.tolist() == draw_reference(labels, max(suite.shots), seed).tolist()
        assert not validation & set(rows.tolist())

    assert len(validation) == len(images.validation)
    assert len(set(np.bincount(labels[images.validation]))) == 1
    assert not set(draws.seeds) & set(suite.seeds)
    assert images.validation.tolist() != draw_images(suite, labels, Draws(n_draws=2, seed=8)).validation.tolist()


def test_images_that_are_not_left_are_refused_with_the_remedy(suite):
    labels = open_dataset("digits").split("train").labels
    message = (
        r"tuning on `small` must find 200 validation images per class in its split `train` that no seed and no draw "
        r"takes for reference, but a class has \d+ left; ask for fewer with `--images`"
    )
    with pytest.raises(SuiteError, match=message):
        draw_images(suite, labels, Draws(n_images=200))
    assert len(draw_images(suite, labels, Draws()).validation) == 500
    with pytest.raises(SuiteError, match="must find 1 validation images per class"):
        draw_images(dataclasses.replace(suite, shots=(112,)), labels, Draws())
    with pytest.raises(SuiteError, match="must measure accuracy on another split than it draws from"):
        draw_images(dataclasses.replace(suite, evaluation_split="train"), labels, Draws())


def test_the_evaluation_split_is_never_opened(suite, tmp_path, monkeypatch):
    opened = []
    split = Dataset.split

    def watched(self, name):
        opened.append(name)
        if name == "test":
            raise AssertionError("tuning must not see what it is judged by")
        return split(self, name)

    monkeypatch.setattr(Dataset, "split", watched)
    study = search(suite, "taylor", StudyStore(tmp_path), n_trials=4)

    assert study.outcome.status == "ok"
    assert set(opened) == {"train"}


def test_trials_that_differ_in_the_reduction_only_share_contributions(suite, monkeypatch):
    counted = []
    criterion = type(plugins.criteria().get("taylor"))
    contributions = criterion.contributions

    def counting(self, context, batch):
        counted.append(self.target)
        return contributions(self, context, batch)

    monkeypatch.setattr(criterion, "contributions", counting)
    draws = Draws(n_draws=2, n_images=6)
    places = ("none", "token", "image", "total")
    configurations = [
        {"absolute": absolute, "per_layer": per_layer, "target": target}
        for absolute, per_layer, target in itertools.product(places, ("none", "l2"), ("loss", "logit"))
    ]
    cell = Cell(suite, "digits_vgg", "filters", "taylor")
    sharing = Objective(cell, TuningBench(CPU, draws))
    shared = [sharing(configuration).result for configuration in configurations]
    assert sorted(counted) == ["logit", "logit", "loss", "loss"]
    counted.clear()
    forgetful = Objective(cell, TuningBench(CPU, draws), cache_bytes=0)
    alone = [forgetful(configuration).result for configuration in configurations]

    assert len(counted) == 32
    assert alone == shared


def test_a_trial_that_fails_is_recorded_and_the_study_goes_on(suite, tmp_path, extra_criteria):
    study = search(suite, "fragile", StudyStore(tmp_path))
    by_way = {}
    for trial in study.trials:
        by_way.setdefault(json.loads(trial.parameters)["way"], []).append(trial)
    assert len(study.trials) == 8
    assert {way: {t.status for t in trials} for way, trials in by_way.items()} == {
        "fine": {"ok"},
        "raises": {"failed"},
        "declines": {"unsupported"},
        "damages": {"failed"},
    }
    assert by_way["raises"][0].reason.startswith("ValueError: not this configuration (in `contributions`, line ")
    assert "must leave the model as it was" in by_way["damages"][0].reason
    assert study.outcome.searched["way"] == "fine"
    # What one trial did to the network, and to contributions that it was given, reaches no other trial.
    for trial in by_way["fine"]:
        fresh = Objective(Cell(suite, "digits_vgg", "filters", "fragile"), TuningBench(CPU, DRAWS))

        assert fresh(json.loads(trial.parameters)).result == trial.value


def test_a_criterion_that_declines_everything_has_an_outcome_and_no_winner(suite, tmp_path, extra_criteria):
    study = search(suite, "declining", StudyStore(tmp_path))

    assert (study.outcome.status, study.outcome.reason) == ("unsupported", "not on this network")
    assert study.outcome.winner is None
    assert study.tuned is None


def test_the_winner_is_measured_as_a_criterion_of_its_own(suite, tmp_path):
    study = search(suite, "taylor", StudyStore(tmp_path))
    job = dataclasses.replace(
        Cell(suite, "digits_vgg", "filters", "taylor").job(3), criterion="taylor_tuned", tuned=study.tuned
    )
    bench = Workbench(CPU)
    row = run_job(job, bench)[-1]
    untuned = dataclasses.replace(job, criterion="taylor", tuned=None)
    assert (row.criterion, row.status, row.tuned_trials, row.tuned_images) == ("taylor_tuned", "ok", 16, 80)
    assert row.tuning == study.outcome.study
    assert json.loads(row.parameters) == study.outcome.parameters
    assert row.key == bench.key(job) != bench.key(untuned)
    assert pickle.loads(pickle.dumps(job)) == job  # as it reaches a worker
    other = dataclasses.replace(job, tuned=dataclasses.replace(job.tuned, study="0" * 64))
    assert bench.key(other) != row.key
    stale = dataclasses.replace(job, tuned=Tuned(**{**dataclasses.asdict(job.tuned), "parameters": '{"gone": 1}'}))
    with pytest.raises(PruneboardError, match="the parameters of criterion `taylor_tuned` must be its fields"):
        run_job(stale, bench)


def test_no_registered_name_ends_like_a_tuned_one(tmp_path):
    source = (PLUGINS / "tunable.py").read_text()
    (tmp_path / "mine.py").write_text(source.replace('"tunable"', '"good_tuned"'))
    with pytest.raises(PruneboardError, match="must not end in `_tuned`, which marks tuned ones, got `good_tuned`"):
        plugins.description_of(Source(path=str(tmp_path / "mine.py")))


def test_a_space_counts_and_orders_its_configurations():
    space = Space({"a": (1, 2, 3), "b": (True, False), "c": ("x",)})
    expected = [dict(zip("abc", values, strict=True)) for values in itertools.product((1, 2, 3), (True, False), ("x",))]
    assert [space.at(i) for i in range(space.size)] == expected
    assert all(configuration in space for configuration in expected)
    assert {"a": 1, "b": 1, "c": "x"} not in space
    assert {"a": 1, "b": True} not in space
    tried = {as_text(configuration) for configuration in expected[:-1]}
    assert space.untried(tried, [0, 1]) == expected[-1]
    assert Space({}).size == 0


@pytest.mark.parametrize(
    ("searched", "message"),
    [
        (["a"], "a search space must map parameters to values, got a `list`"),
        ({"c": (1,)}, r"must name parameters, got 'c'; the criterion has a, b"),
        ({"a": ()}, r"the values of `a` must be a tuple of one or more distinct ones, got \(\)"),
        ({"a": [1, 2]}, "must be a tuple of one or more distinct ones"),
        ({"a": (1, 1)}, "must be a tuple of one or more distinct ones"),
        ({"a": (float("nan"),)}, "the values of `a` must be writable as JSON"),
        ({"a": (object(),)}, "the values of `a` must be writable as JSON"),
        ({"a": 1}, "the values of `a` must be writable as JSON"),
    ],
)
def test_a_wrong_space_is_refused(searched, message):
    with pytest.raises(CriterionError, match=message):
        make_space(searched, ("a", "b"))


def test_proposals_depend_on_the_table_and_the_seed_only():
    space = Space({"a": tuple(range(5)), "b": tuple("xyz")})

    def table(n, seed):
        trials = []
        for number in range(n):
            configuration, by = propose(space, {"a": 0, "b": "x"}, trials, sampler="gp", seed=seed)
            value = configuration["a"] / 10 + (configuration["b"] == "y")
            trials.append(
                Trial(
                    number=number,
                    proposed_by=by,
                    parameters=as_text(configuration),
                    status="ok",
                    value=value,
                    reason="",
                    seconds=0.0,
                )
            )
        return trials

    first = table(15, 0)

    assert first == table(15, 0)
    assert first != table(15, 1)
    assert len({trial.parameters for trial in first}) == 15 == space.size
    assert list(importances(space, first, 0)) == ["b", "a"]
    assert importances(space, first[:5], 0) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_trials": 0}, "`--trials` must be at least 1, got 0"),
        ({"draws": Draws(n_draws=0)}, "`--draws` must be at least 1, got 0"),
        ({"draws": Draws(n_images=-1)}, "`--images` must be at least 1, got -1"),
        ({"draws": Draws(seed=-1)}, "`--seed` must be at least 0, got -1"),
        ({"sampler": "dice"}, "`--sampler` must be one of gp, tpe, grid, got `dice`"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(PruneboardError, match=message):
        Budget(**options)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (".json", lambda text: text[:-20], "cannot be used: JSONDecodeError"),
        (".json", lambda text: text.replace('"format": 1', '"format": 2'), "its format is of another version"),
        (".json", lambda text: text.replace('"space_size"', '"size"'), "cannot be used: TypeError"),
        (".trials.csv", lambda text: text.replace("number,", "no,"), "cannot be used: KeyError"),
        (".trials.csv", lambda text: text.replace(",ok,", ",good,"), "a trial's status is 'good'"),
        (".trials.csv", lambda text: "\n".join(text.splitlines()[:1] + text.splitlines()[2:]), "numbered from 0"),
        (".trials.csv", None, "cannot be used: FileNotFoundError"),
    ],
)
def test_a_damaged_study_is_refused_by_name(suite, tmp_path, file, change, message):
    store = StudyStore(tmp_path)
    study = search(suite, "magnitude", store, n_trials=2)
    path = store.path(study).with_name(f"{study.name}{file}")
    if change is None:
        path.unlink()
    else:
        path.write_text(change(path.read_text()))
    with pytest.raises(StoreError, match=message) as caught:
        store.read("small")
    assert str(path) in str(caught.value)
    assert "delete both and tune again" in str(caught.value)


def test_a_failed_call_is_no_result(suite, extra_criteria):
    measured = Objective(Cell(suite, "digits_vgg", "filters", "fragile"), TuningBench(CPU, DRAWS))({"way": "raises"})

    assert isinstance(measured.result, NoResult)
    assert measured.result.status == "failed"


def test_a_search_says_when_it_has_ended(suite, tmp_path):
    bench = TuningBench(CPU, DRAWS)
    made = prepare(
        Cell(suite, "digits_vgg", "filters", "magnitude"), Budget(n_trials=2, draws=DRAWS), bench, "magnitude"
    )
    reports = list(run_search(made, StudyStore(tmp_path), bench))

    assert [report.ends for report in reports] == [False, False, False, False, True]
    assert isinstance(reports[-1], SearchEnded)
    assert is_done(made, reports[-1].study)
    assert reports[-1].study.outcome.n_trials == 2
