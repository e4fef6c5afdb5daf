import dataclasses
import weakref
from collections import Counter

import numpy as np
import pytest
import torch

from commands import write_suite
from pruneboard.benchmark import plugins, protocols, runner
from pruneboard.benchmark.api import Batch, Context
from pruneboard.benchmark.data import draw_reference, open_dataset
from pruneboard.benchmark.data._splits import ImageSplit
from pruneboard.benchmark.errors import UnknownNameError
from pruneboard.benchmark.evaluate import Evaluation
from pruneboard.benchmark.ranking import n_removed
from pruneboard.benchmark.runner import LatestInputs, Workbench, run_job
from pruneboard.benchmark.schema import Job, JobIdentity
from pruneboard.benchmark.suites import expand, load_suite
from pruneboard.benchmark.units import find_layers, masked

CPU = torch.device("cpu")
TIMES = {"score_seconds", "score_peak_bytes", "job_seconds", "time_utc"}


@pytest.fixture
def suite(tmp_path):
    path = write_suite(
        tmp_path,
        models={"digits_vgg": ["filters"], "digits_vit": ["neurons", "heads"]},
        criteria=["random", "magnitude", "taylor", "activation", "bn_scale"],
        seeds=[0, 1],
    )
    return load_suite(path)


def job_of(suite, criterion, model="digits_vgg", granularity="filters", seed=0) -> Job:
    return Job(suite=suite, model=model, granularity=granularity, criterion=criterion, seed=seed)


def numbers(rows) -> list[dict]:
    """Rows without what no two runs share."""
    return [{k: v for k, v in dataclasses.asdict(row).items() if k not in TIMES} for row in rows]


def test_a_job_equals_a_slow_derivation_from_the_parts(suite):
    """Reference images, scores, order, masks and accuracy by hand, one image set per number of shots."""
    rows = run_job(job_of(suite, "taylor", seed=1), Workbench(CPU))
    plugin, dataset = plugins.models().get("digits_vgg"), open_dataset("digits")
    model, train, test = plugin.load(), dataset.split("train"), dataset.split("test")
    images = plugin.normalise(test.images(size=(1, 8, 8)).float() / 255)
    layers = find_layers(model, "filters", images[:1])
    criterion = plugins.criteria().get("taylor")
    assert [(row.shots, row.rate) for row in rows] == [(k, r) for k in suite.shots for r in suite.rates]
    for shots in suite.shots:
        chosen = draw_reference(train.labels, shots, 1)
        assert sorted(train.labels[chosen]) == sorted(list(range(10)) * shots)
        batch = Batch(
            plugin.normalise(train.images(chosen, size=(1, 8, 8)).float() / 255), torch.from_numpy(train.labels[chosen])
        )
        scores = criterion.score(
            Context(model=model, layers=layers, generator=torch.Generator(), data=batch, batch_size=3)
        )
        worst_first = sorted((float(value), name, i) for name, v in scores.items() for i, value in enumerate(v))
        for rate in suite.rates:
            removed = worst_first[: n_removed(rate, len(worst_first))]
            masks = {layer.name: torch.ones(layer.n_units, dtype=torch.bool) for layer in layers}
            for _, name, index in removed:
                masks[name][index] = False
            with torch.no_grad(), masked(model, layers, masks):
                right = (model(images).argmax(1).numpy() == test.labels).mean()
            row = next(row for row in rows if (row.shots, row.rate) == (shots, rate))
            assert row.n_units_removed == len(removed)
            assert row.top1 == pytest.approx(right, abs=2.5 / 599)


def test_the_same_job_twice_gives_equal_rows(suite):
    bench = Workbench(CPU)
    for criterion in ("random", "taylor"):
        job = job_of(suite, criterion, "digits_vit", "heads")
        assert numbers(run_job(job, bench)) == numbers(run_job(job, Workbench(CPU)))


def test_seeds_differ_and_rate_zero_is_the_unpruned_network(suite):
    bench = Workbench(CPU)
    first, second = (run_job(job_of(suite, "random", seed=seed), bench) for seed in (0, 1))

    assert [row.top1 for row in first] != [row.top1 for row in second]
    unpruned = {row.top1 for row in (*first, *second) if row.rate == 0}
    assert len(unpruned) == 1
    assert unpruned.pop() >= 0.97


def test_published_weights_on_real_photographs(tmp_path, monkeypatch, shared_data, shared_weights):
    """The unpruned accuracy is the published one, and removing what is small beats removing at random."""
    monkeypatch.setenv("PRUNEBOARD_DATA", str(shared_data))
    monkeypatch.setenv("PRUNEBOARD_WEIGHTS", str(shared_weights))
    path = write_suite(
        tmp_path,
        models={"cifar_resnet20": ["filters"]},
        criteria=["random", "magnitude"],
        shots=[1],
        rates=[0.0, 0.1],
        datasets=["cifar10-lossless", "cifar10"],
    )
    bench = Workbench(CPU)
    random, magnitude = (run_job(job, bench) for job in expand(load_suite(path)))

    assert random[0].dataset == "cifar10-lossless"
    assert (random[0].top1, random[0].n_images, random[0].n_units) == (0.9150, 1000, 688)
    assert (random[0].params_left, random[0].macs_left) == (269_722, 40_551_040)
    assert 0.1 < random[1].top1 < magnitude[1].top1 < 0.9150


def test_data_free_scores_serve_every_number_of_shots(suite):
    rows = run_job(job_of(suite, "magnitude"), Workbench(CPU))
    by_shots = [[row.top1 for row in rows if row.shots == k] for k in suite.shots]

    assert by_shots[0] == by_shots[1]


def test_a_row_says_where_it_comes_from(suite):
    row = run_job(job_of(suite, "taylor"), Workbench(CPU))[-1]

    assert (row.suite, row.dataset, row.criterion_needs, row.status, row.reason) == (
        "small",
        "digits",
        "labels",
        "ok",
        "",
    )
    assert row.parameters == '{"absolute": "total", "per_layer": "l2", "target": "loss"}'
    assert (row.tuned_trials, row.tuned_images, row.tuning) == (None, None, "")
    assert row.suite_digest == suite.digest
    assert row.n_units == 200
    assert row.n_units_removed == 120
    assert row.n_images == 599
    assert 0 < row.params_left < row.params_total
    assert 0 < row.macs_left < row.macs_total
    assert row.score_seconds > 0
    assert row.job_seconds > row.score_seconds
    assert row.time_utc.endswith("+00:00")


def test_what_a_criterion_declines_is_a_row_with_the_reason(suite):
    (row,) = run_job(job_of(suite, "bn_scale", "digits_vit", "neurons"), Workbench(CPU))

    assert (row.status, row.shots, row.rate, row.top1) == ("unsupported", None, None, None)
    assert row.reason.startswith("needs a batch norm with a scale behind every layer; `blocks.0.mlp.fc1`")


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("nan", "CriterionError: scores must be finite, but 1 of "),
        ("shape", r"CriterionError: scores of `features.0` must be float32 \("),
        ("missing", r"CriterionError: every layer and nothing else must be scored; missing: \['features.0'\]"),
        ("changes_model", "CriterionError: a criterion must leave the model as it was, but features.0.weight changed"),
        ("leaves_hook", "CriterionError: a criterion must leave the model as it was, but module `` changed"),
        ("raises", r"ValueError: not today \(in `score`, line "),
    ],
)
def test_a_misbehaving_criterion_is_a_failed_row_and_spoils_nothing(suite, extra_criteria, way, reason):
    bench = Workbench(CPU)
    before = numbers(run_job(job_of(suite, "taylor"), bench))
    (row,) = run_job(job_of(suite, f"bad_{way}"), bench)

    assert row.status == "failed"
    assert __import__("re").match(reason, row.reason), row.reason
    assert numbers(run_job(job_of(suite, "taylor"), bench)) == before


def test_what_a_declining_criterion_damaged_is_found_and_mended(suite, extra_criteria):
    bench = Workbench(CPU)
    before = numbers(run_job(job_of(suite, "taylor"), bench))
    (row,) = run_job(job_of(suite, "bad_declines"), bench)

    assert row.status == "failed"
    assert row.reason.startswith("CriterionError: a criterion must leave the model as it was, but module `` changed")
    assert numbers(run_job(job_of(suite, "taylor"), bench)) == before


def test_settings_of_the_process_stay_as_they_are(suite, extra_criteria):
    bench, job = Workbench(CPU), job_of(suite, "bad_settings")
    # Loading the network initialises it from the global generator.
    bench.model(job)
    before = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(), torch.get_rng_state()
    rows = run_job(job, bench)
    after = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(), torch.get_rng_state()

    assert rows[0].reason == ""
    assert after[:3] == before[:3]
    assert torch.equal(after[3], before[3])


def test_scores_in_a_reused_buffer_and_overwritten_images_stay_apart(suite, extra_criteria):
    """The criterion reverses its order with the number of shots, so the curves must differ."""
    rows = run_job(job_of(suite, "bad_reuses"), Workbench(CPU))
    one, two = ([row.top1 for row in rows if row.shots == k] for k in (1, 2))

    assert one != two


def test_a_reason_is_one_short_printable_line(suite, extra_criteria):
    (row,) = run_job(job_of(suite, "bad_garbles"), Workbench(CPU))

    assert row.reason.startswith("ValueError: ? [31m second line")
    assert row.reason.isprintable()
    assert len(row.reason) < 600


def test_sys_exit_is_a_failure_like_any_other(suite, extra_criteria):
    (row,) = run_job(job_of(suite, "bad_exits"), Workbench(CPU))

    assert (row.status, row.reason.split(" (")[0]) == ("failed", "SystemExit: 7")


def test_images_without_labels_come_in_no_order_of_classes(suite, extra_criteria):
    """Labels could be read off their positions; without them each shot is shuffled, and k shots are still a prefix."""
    bench, job = Workbench(CPU), job_of(suite, "activation")
    plugin = plugins.models().get("digits_vgg")
    ordered = runner.reference_of(job, bench, plugin, plugins.criteria().get("taylor"))
    shuffled = runner.reference_of(job, bench, plugin, plugins.criteria().get("activation"))
    assert ordered.labels.tolist() == list(range(10)) * 2
    assert set(shuffled.labels.tolist()) == {-1}
    for shot in (slice(0, 10), slice(10, 20)):
        theirs = [image.tobytes() for image in shuffled.images[shot].numpy()]
        ours = [image.tobytes() for image in ordered.images[shot].numpy()]
        assert theirs != ours
        assert sorted(theirs) == sorted(ours)


def test_ties_do_not_depend_on_what_the_criterion_draws(suite):
    first = runner.generator_for(job_of(suite, "random"), "ties").initial_seed()
    assert first != runner.generator_for(job_of(suite, "random"), "criterion").initial_seed()
    assert first == runner.generator_for(job_of(suite, "taylor"), "ties").initial_seed()
    assert first != runner.generator_for(job_of(suite, "random", seed=1), "ties").initial_seed()


def test_a_criterion_that_declares_images_sees_no_labels(suite, extra_criteria):
    """Its scores would follow the labels; hidden ones are all -1, so two seeds give the same order."""
    bench = Workbench(CPU)
    first, second = (run_job(job_of(suite, "bad_labels", seed=seed), bench) for seed in (0, 1))

    assert first[0].status == second[0].status == "ok"
    assert [row.top1 for row in first] == [row.top1 for row in second]


def test_the_key_changes_with_everything_that_decides_the_result(suite, tmp_path, monkeypatch):
    bench = Workbench(CPU)
    job = job_of(suite, "taylor")
    key = bench.key(job)
    assert bench.key(job_of(suite, "taylor")) == key
    other_suite = load_suite(write_suite(tmp_path, models={"digits_vgg": ["filters"]}, criteria=["taylor"], shots=[1]))
    others = {
        "seed": bench.key(job_of(suite, "taylor", seed=1)),
        "criterion": bench.key(job_of(suite, "magnitude")),
        "preset": bench.key(job_of(suite, "taylor_logit")),
        "model": bench.key(job_of(suite, "taylor", "digits_resnet")),
        "granularity": bench.key(job_of(suite, "taylor", "digits_vit", "heads")),
        "suite": bench.key(job_of(other_suite, "taylor")),
    }
    monkeypatch.setattr(plugins, "criterion_digest", lambda _criterion: "0" * 64)
    others["source"] = bench.key(job)
    monkeypatch.undo()
    monkeypatch.setattr(plugins, "criterion_parameters", lambda _criterion: {"target": "other"})
    others["parameters"] = bench.key(job)
    monkeypatch.undo()
    monkeypatch.setitem(JobIdentity.__init__.__kwdefaults__, "engine", 2)
    others["engine"] = bench.key(job)
    monkeypatch.undo()
    model = plugins.models().get("digits_vgg")
    changed = dataclasses.replace(model, weights=dataclasses.replace(model.weights, digest="0" * 64))
    with monkeypatch.context() as patch:
        patch.setitem(plugins.models()._plugins, "digits_vgg", changed)
        others["weights"] = bench.key(job)
    other_data = Workbench(CPU)
    monkeypatch.setattr(other_data, "dataset", lambda _job: type("Other", (), {"digest": "0" * 64}))
    others["data"] = other_data.key(job)

    assert key not in others.values()
    assert len(set(others.values())) == len(others)


def test_jobs_of_names_that_do_not_exist_are_refused(suite):
    with pytest.raises(UnknownNameError, match=r"no criterion `tailor`\. Did you mean `taylor`"):
        run_job(job_of(suite, "tailor"), Workbench(CPU))
    with pytest.raises(UnknownNameError, match="no model `digits_vg`"):
        run_job(job_of(suite, "taylor", "digits_vg"), Workbench(CPU))
    assert len(expand(suite)) == 30


@pytest.fixture
def decoded(monkeypatch):
    """Count the images that are decoded, by split and size."""
    counts = Counter()
    original = ImageSplit.images

    def counted(self, indices=None, *, size, framing):
        pixels = original(self, indices, size=size, framing=framing)
        counts[self._name, size] += len(pixels)
        return pixels

    monkeypatch.setattr(ImageSplit, "images", counted)
    return counts


def test_images_are_decoded_once_for_all_jobs_and_networks_that_take_the_same(suite, decoded):
    bench = Workbench(CPU)
    for model, granularity in (("digits_vgg", "filters"), ("digits_resnet", "filters"), ("digits_vit", "heads")):
        for criterion in ("random", "taylor", "activation"):
            run_job(job_of(suite, criterion, model, granularity), bench)

    assert decoded == {("`test` of `digits`", (1, 8, 8)): 599, ("`train` of `digits`", (1, 8, 8)): 20}


def test_only_the_latest_images_are_kept():
    latest, digits = LatestInputs(CPU), open_dataset("digits")
    rows = np.array([3, 1])
    plugin, splits = plugins.models().get("digits_vgg"), {name: digits.split(name) for name in ("train", "test")}
    first = latest.of(splits["test"], rows, plugin)
    assert first.dtype == torch.uint8
    assert latest.of(splits["test"], np.array([3, 1]), plugin) is first
    gone = weakref.ref(first)
    del first
    for split, chosen, size in (("train", rows, (1, 8, 8)), ("test", rows[:1], (1, 8, 8)), ("test", None, (3, 9, 7))):
        other = dataclasses.replace(plugin, input_size=size, mean=size[:1] * size[0], std=size[:1] * size[0])
        inputs = latest.of(splits[split], chosen, other)
        assert torch.equal(inputs, digits.split(split).stored(chosen, size=size))

    assert gone() is None


@pytest.fixture
def passes(monkeypatch):
    """Count the passes over all evaluation images; parts without a start are only looked at."""
    n_images = []
    original = Evaluation.batch

    def counted(self, part):
        images = original(self, part)
        if part.start is not None:
            n_images.append(len(images))
        return images

    monkeypatch.setattr(Evaluation, "batch", counted)
    return lambda: sum(n_images) / 599


def test_equal_masks_are_measured_once_over_shots_seeds_criteria_and_reloads(suite, extra_criteria, passes):
    bench = Workbench(CPU)
    run_job(job_of(suite, "magnitude"), bench)
    assert passes() == 3
    run_job(job_of(suite, "taylor"), bench)
    assert passes() == 3 + 2 * 2
    run_job(job_of(suite, "bad_raises"), bench)
    run_job(job_of(suite, "magnitude", "digits_resnet"), bench)
    assert passes() == 7 + 3
    first, second = (run_job(job_of(suite, "magnitude", seed=seed), bench) for seed in (0, 1))
    run_job(job_of(suite, "taylor"), bench)

    assert passes() == 10
    assert [row.top1 for row in first] == [row.top1 for row in second]


@pytest.mark.parametrize(("size", "n_images"), [((1, 8, 8), 125), ((3, 32, 32), 125), ((3, 224, 224), 27)])
def test_a_pass_of_evaluation_on_a_cpu_holds_fewer_large_images(suite, monkeypatch, size, n_images):
    monkeypatch.setattr(LatestInputs, "of", lambda *_: torch.zeros(599, *size, dtype=torch.uint8))
    plugin = dataclasses.replace(
        plugins.models().get("digits_vgg"), input_size=size, mean=(0.0,) * size[0], std=(1.0,) * size[0]
    )

    assert Workbench(CPU).evaluation(job_of(suite, "taylor"), plugin).batch_size == n_images


@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        MemoryError,
        lambda: torch.empty(10**14),
    ],
    ids=["cuda", "python", "cpu"],
)
def test_when_memory_runs_out_fewer_images_at_once_give_the_same_accuracies(suite, monkeypatch, error):
    """It runs out while more than 20 images are scored at once, and while more than 3 are evaluated."""
    job = job_of(suite, "taylor", "digits_vit", "neurons")
    undisturbed = run_job(job, Workbench(CPU))
    score, curve = protocols.score_all_shots, protocols.accuracy_curve
    tried: dict[str, list[int]] = {"scored": [], "evaluated": []}

    def fail():
        raised = error()
        raise raised

    def small_score(criterion, context, *arguments):
        tried["scored"].append(context.batch_size)
        context.model.register_forward_hook(lambda *_: fail() if context.batch_size > 20 else None)
        if context.batch_size > 20:
            context.model(context.reference.images)
        context.model._forward_hooks.clear()
        return score(criterion, context, *arguments)

    def small_curve(pruning, ranking, rates, evaluation):
        tried["evaluated"].append(evaluation.batch_size)
        if evaluation.batch_size > 3:
            fail()
        return curve(pruning, ranking, rates, evaluation)

    monkeypatch.setattr(protocols, "score_all_shots", small_score)
    monkeypatch.setattr(protocols, "accuracy_curve", small_curve)
    rows = run_job(job, Workbench(CPU))
    exact = [{k: v for k, v in row.items() if k != "cross_entropy"} for row in numbers(rows)]

    assert tried == {"scored": [100, 62, 31, 15, 7, 3], "evaluated": [15, 7, 3, 3]}
    assert exact == [{k: v for k, v in row.items() if k != "cross_entropy"} for row in numbers(undisturbed)]
    assert [row.cross_entropy for row in rows] == pytest.approx([row.cross_entropy for row in undisturbed], rel=1e-5)


def test_a_job_that_fits_with_no_number_of_images_is_a_failed_row(suite, extra_criteria):
    (row,) = run_job(job_of(suite, "bad_never_fits"), Workbench(CPU))

    assert row.status == "failed"
    assert row.reason.startswith("memory ran out even with one image at once: RuntimeError: [enforce fail at alloc_cpu")


def test_a_criterion_that_needs_small_batches_gets_them(suite, extra_criteria):
    rows = run_job(job_of(suite, "bad_big_batch"), Workbench(CPU))

    assert {row.status for row in rows} == {"ok"}


def test_what_no_exception_clause_catches_is_a_failed_row(suite, extra_criteria, caplog):
    bench = Workbench(CPU)
    (row,) = run_job(job_of(suite, "bad_base"), bench)

    assert (row.status, row.reason.partition(" (in")[0]) == ("failed", "Unstoppable: whatever you catch")
    assert "Traceback" in caplog.text
    assert run_job(job_of(suite, "magnitude"), bench)[0].status == "ok"


def test_precision_is_in_the_key_and_the_row_and_changes_only_what_evaluation_computes(suite):
    job = job_of(suite, "taylor")
    exact, coarse = Workbench(CPU), Workbench(CPU, "bf16")
    rows, others = run_job(job, exact), run_job(job, coarse)

    assert exact.key(job) != coarse.key(job)
    assert exact.key(job) == Workbench(CPU, "float32").key(job)
    assert {row.evaluation for row in rows} == {"compact"}
    assert {row.evaluation for row in others} == {"compact in bf16"}
    for row, other in zip(rows, others, strict=True):
        # Scores are in float32 either way, so that the same units go.
        assert (row.params_left, row.macs_left) == (other.params_left, other.macs_left)
        assert row.cross_entropy != other.cross_entropy
        assert row.top1 == pytest.approx(other.top1, abs=0.05)
