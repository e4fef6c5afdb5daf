"""Pruning step by step, held to one-shot prunings of networks that are cut by hand."""

import copy
import dataclasses

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file
from torch import nn

from commands import write_suite
from networks import GRANULARITIES, images, tiny_network
from pruneboard.benchmark import plugins, protocols
from pruneboard.benchmark.api import Batch, Context
from pruneboard.benchmark.compact import agree
from pruneboard.benchmark.errors import CheckpointError, ModelError, SuiteError
from pruneboard.benchmark.evaluate import measure
from pruneboard.benchmark.physical import score
from pruneboard.benchmark.pruned import PrunedNetwork
from pruneboard.benchmark.runner import Workbench, run_job
from pruneboard.benchmark.schema import FineTuning
from pruneboard.benchmark.scoring import score_all_shots
from pruneboard.benchmark.suites import expand, load_suite
from pruneboard.benchmark.training import TrainingImages, finetune
from pruneboard.benchmark.tune import Draws
from pruneboard.benchmark.tune._images import draw_images
from pruneboard.benchmark.units import find_layers, masked

CPU = torch.device("cpu")
KINDS = tuple(GRANULARITIES)
RECIPE = FineTuning(
    images="shots",
    optimiser="sgd",
    learning_rate=0.01,
    momentum=0.9,
    weight_decay=1e-4,
    epochs=2,
    batch_size=8,
    batch_norms="frozen",
)
RESULT = ("shots", "rate", "n_units_removed", "top1", "top5", "cross_entropy", "params_left", "macs_left")


def suite_of(folder, protocol, recipe=None, **options):
    path = write_suite(folder, **{"models": {"digits_vgg": ["filters"]}, "criteria": ["taylor"]} | options)
    text = path.read_text().replace('name = "one_shot"', f'name = "{protocol}"')
    if recipe is not None:
        table = "\n".join(f"{key} = {value!r}" for key, value in dataclasses.asdict(recipe).items())
        text = text.replace("[grid]", f"[protocol.finetuning]\n{table}\n[grid]")
    path.write_text(text)
    return load_suite(path)


def run(suite, bench=None):
    (job,) = expand(suite)
    return run_job(job, bench or Workbench(CPU))


def results(rows):
    return [tuple(getattr(row, name) for name in RESULT) for row in rows]


@pytest.mark.parametrize("criterion", ["random", "magnitude", "activation", "taylor", "lrp_epsilon"])
@pytest.mark.parametrize("model", [{"digits_resnet": ["filters"]}, {"digits_vit": ["heads"]}])
def test_the_first_step_is_one_shot(tmp_path, criterion, model):
    options = {"models": model, "criteria": [criterion], "rates": [0.0, 0.3]}
    stepwise, at_once = (results(run(suite_of(tmp_path, name, **options))) for name in ("iterative", "one_shot"))

    assert len(stepwise) == 4
    assert stepwise == at_once


def cut_by_hand(model, layers, kept, inputs):
    """Zero the rows of removed filters, their norms, and the columns that read a chain's removed filters."""
    pruned = copy.deepcopy(model)
    with torch.no_grad():
        for layer in layers:
            for name in {layer.name, layer.tap}:
                for parameter in pruned.get_submodule(name).parameters(recurse=False):
                    parameter[~kept[layer.name]] = 0
        for layer, reader in zip(layers, [*(layer.name for layer in layers[1:]), inputs], strict=True):
            pruned.get_submodule(reader).weight[:, ~kept[layer.name]] = 0
    return pruned


@pytest.mark.parametrize("criterion", ["magnitude", "bn_scale", "taylor", "gradient", "lrp_epsilon", "lrp_zplus"])
def test_two_steps_are_two_prunings_with_scores_of_the_network_between_them(tmp_path, criterion):
    rates = [0.0, 0.25, 0.5]
    suite = suite_of(tmp_path, "iterative", criteria=[criterion], shots=[2], rates=rates)
    rows = run(suite)
    (job,) = expand(suite)
    bench = Workbench(CPU)
    loaded = bench.model(job)
    layers = loaded.layers("filters")
    data = bench.reference(job, loaded.plugin)
    n_units = sum(layer.n_units for layer in layers)
    kept = {layer.name: torch.ones(layer.n_units, dtype=torch.bool) for layer in layers}
    scorer = plugins.criterion_of(job)
    for rate, row in zip(rates[1:], rows[1:], strict=True):
        network = cut_by_hand(loaded.network, layers, kept, "head.fc")
        batch = None if scorer.needs == "nothing" else data
        context = Context(model=network, layers=layers, generator=torch.Generator(), data=batch)
        scores = scorer.score(context)
        # One unit at a time, the least of those that are left.
        while sum(int((~mask).sum()) for mask in kept.values()) < int(rate * n_units):
            left = [
                (float(scores[name][unit]), name, unit)
                for name, mask in kept.items()
                for unit in mask.nonzero().flatten().tolist()
            ]
            _, name, unit = min(left)
            kept[name][unit] = False
        expected = measure(cut_by_hand(loaded.network, layers, kept, "head.fc"), loaded.evaluation)
        assert row.top1 == pytest.approx(expected.top1, abs=1e-9)
        assert row.cross_entropy == pytest.approx(expected.cross_entropy, rel=1e-4)

    assert rows[0].top1 > rows[-1].top1
    one_shot = run(suite_of(tmp_path, "one_shot", criteria=[criterion], shots=[2], rates=rates))
    assert results(rows[:2]) == results(one_shot[:2])


def randomly(layers, fraction, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {layer.name: torch.rand(layer.n_units, generator=generator) >= fraction for layer in layers}


def pruned_network(kind):
    model = tiny_network(kind)
    return PrunedNetwork(model, find_layers(model, GRANULARITIES[kind], images(1)), images(4, seed=7))


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_give_the_logits_of_masks(kind):
    pruned = pruned_network(kind)
    original = copy.deepcopy(pruned.network)
    masks = randomly(pruned.layers, 0.4)
    pruned.remove(masks)
    with torch.no_grad(), masked(original, pruned.layers, masks):
        assert agree(pruned.network(images(6, seed=3)), original(images(6, seed=3)), 1e-5)

    first, second = (sum(int((p == 0).sum()) for p in m.parameters()) for m in (original, pruned.network))
    assert second > first


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
@pytest.mark.parametrize("batch_norms", ["frozen", "updated"])
@pytest.mark.parametrize("kind", KINDS)
def test_removed_units_stay_zero_while_the_rest_learns(kind, batch_norms, optimiser):
    pruned = pruned_network(kind)
    masks = randomly(pruned.layers, 0.4)
    pruned.remove(masks)
    before = copy.deepcopy(pruned.network)
    zero = {name: p == 0 for name, p in before.named_parameters()}
    recipe = dataclasses.replace(RECIPE, batch_norms=batch_norms, optimiser=optimiser, epochs=3)
    labels = torch.arange(16) % 10
    data = TrainingImages(images(16, seed=2), labels, lambda some: some)
    torch.manual_seed(1)
    seen = torch.random.get_rng_state()
    finetune(pruned, recipe, data, torch.Generator().manual_seed(0))

    assert torch.equal(torch.random.get_rng_state(), seen)
    assert not pruned.network.training
    after, earlier = dict(pruned.network.named_parameters()), dict(before.named_parameters())
    for name in of_removed_units(pruned):
        assert bool((after[name][zero[name]] == 0).all())
    assert sum(int((after[name] != earlier[name]).sum()) for name in after) > 100
    for layer in pruned.layers:
        removed, rows = ~masks[layer.name], (layer.name, layer.tap)
        if layer.granularity == "heads":
            # Rows of queries, keys and values, head by head.
            qkv = pruned.network.get_submodule(f"{layer.name}.qkv")
            assert bool((qkv.weight.view(3, layer.n_units, -1)[:, removed] == 0).all())
            continue
        for parameter in (p for name in rows for p in pruned.network.get_submodule(name).parameters(recurse=False)):
            assert bool((parameter[removed] == 0).all())
    with torch.no_grad(), masked(pruned.network, pruned.layers, masks):
        with_masks = pruned.network(images(5, seed=9))
    with torch.no_grad():
        assert torch.equal(pruned.network(images(5, seed=9)), with_masks)


def of_removed_units(pruned):
    """Weights; a shift may be zero without belonging to a removed unit, and learn."""
    return [name for name, _ in pruned.network.named_parameters() if name.endswith("weight")]


def test_training_is_repeatable_and_reaches_a_lower_loss():
    ends = []
    for _ in range(2):
        pruned = pruned_network("resnet")
        pruned.remove(randomly(pruned.layers, 0.3))
        data = TrainingImages(images(16, seed=2), torch.arange(16) % 10, lambda some: some)
        losses = [
            finetune(pruned, dataclasses.replace(RECIPE, epochs=n), data, torch.Generator().manual_seed(0))
            for n in (1, 20)
        ]
        ends.append((losses, {name: value.clone() for name, value in pruned.network.state_dict().items()}))

    assert ends[0][0] == ends[1][0]
    assert ends[0][0][1] < ends[0][0][0]
    assert all(torch.equal(value, ends[1][1][name]) for name, value in ends[0][1].items())


def test_a_unit_never_comes_back():
    pruned = pruned_network("vgg")
    masks = randomly(pruned.layers, 0.5)
    pruned.remove(masks)
    with pytest.raises(ModelError, match="a removed unit must not come back"):
        pruned.remove({name: torch.ones_like(mask) for name, mask in masks.items()})


def finetuned(folder, **options):
    chosen = {"rates": [0.0, 0.2, 0.4, 0.6], "shots": [1, 2]} | options
    return suite_of(folder, "iterative_finetune", chosen.pop("recipe", RECIPE), **chosen)


@pytest.mark.parametrize("images_of", ["shots", "train"])
def test_a_job_that_is_stopped_goes_on_behind_its_last_step(tmp_path, monkeypatch, images_of):
    suite = finetuned(tmp_path, recipe=dataclasses.replace(RECIPE, images=images_of, epochs=1, batch_size=256))
    expected = results(run(suite))
    assert results(run(suite)) == expected

    steps, save = [], protocols.Checkpoints.save

    def save_and_stop(*given):
        save(*given)
        steps.append(given)
        if len(steps) in (2, 5, 7):
            raise KeyboardInterrupt

    monkeypatch.setattr(protocols.Checkpoints, "save", save_and_stop)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run(suite, Workbench(CPU, run_folder=tmp_path))
    rows = run(suite, Workbench(CPU, run_folder=tmp_path))

    assert results(rows) == expected
    assert len(steps) == len(expected) == 8


def test_damaged_and_foreign_steps_count_as_none(tmp_path):
    suite = finetuned(tmp_path, shots=[1])
    bench = Workbench(CPU, run_folder=tmp_path)
    expected = results(run(suite, bench))
    (path,) = (tmp_path / "small" / "steps").glob("*.safetensors")
    whole = path.read_bytes()
    for content in (b"", whole[:-100], b"{}" * 50):
        path.write_bytes(content)
        assert results(run(suite, Workbench(CPU, run_folder=tmp_path))) == expected
        repaired = load_file(path)
        assert all(torch.equal(value, repaired[name]) for name, value in safetensors.torch.load(whole).items())


def test_a_step_that_cannot_be_kept_ends_the_run(tmp_path):
    (tmp_path / "small").write_text("no folder")
    with pytest.raises(CheckpointError, match="must be writable"):
        run(finetuned(tmp_path), Workbench(CPU, run_folder=tmp_path))


def test_training_never_sees_an_evaluation_image(tmp_path, monkeypatch):
    suite = finetuned(tmp_path, shots=[1], rates=[0.0, 0.3, 0.5])
    ends = []
    for poison in (False, True):
        bench = Workbench(CPU, run_folder=tmp_path / f"run {poison}")
        if poison:
            true = bench.evaluation

            def poisoned(job, plugin, true=true):
                images_of = true(job, plugin)
                return dataclasses.replace(images_of, inputs=255 - images_of.inputs, labels=(images_of.labels + 1) % 10)

            monkeypatch.setattr(bench, "evaluation", poisoned)
        rows = run(suite, bench)
        (path,) = (tmp_path / f"run {poison}" / "small" / "steps").glob("*.safetensors")
        ends.append((rows, load_file(path)))

    assert ends[0][0][-1].top1 != ends[1][0][-1].top1
    assert ends[0][1].keys() == ends[1][1].keys()
    assert any(name.startswith("state.") for name in ends[0][1])
    assert all(torch.equal(value, ends[1][1][name]) for name, value in ends[0][1].items())


def test_training_helps_where_it_has_images(tmp_path):
    recipe = dataclasses.replace(RECIPE, images="train", epochs=1, batch_size=32)
    options = {"criteria": ["magnitude"], "shots": [1], "rates": [0.0, 0.3, 0.6]}
    trained = run(suite_of(tmp_path, "iterative_finetune", recipe, **options))
    untrained = run(suite_of(tmp_path, "iterative", **options))

    assert trained[0].top1 == untrained[0].top1
    assert trained[-1].top1 > untrained[-1].top1 + 0.1


def test_a_training_that_diverges_is_a_failed_row(tmp_path):
    rows = run(finetuned(tmp_path, recipe=dataclasses.replace(RECIPE, learning_rate=1e6, epochs=20)))

    assert [row.status for row in rows] == ["failed"]
    assert "the loss of fine-tuning must be finite" in rows[0].reason


def test_layers_that_are_emptied_leave_a_network_that_answers_at_random(tmp_path):
    rows = run(finetuned(tmp_path, shots=[1], rates=[0.0, 0.6, 0.95, 0.99], criteria=["magnitude"]))

    assert [row.status for row in rows] == ["ok"] * 4
    assert rows[-1].top1 < 0.3


def test_data_free_criteria_take_their_steps_once_for_all_shots(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(PrunedNetwork, "remove", lambda self, masks: calls.append(masks))
    rows = run(suite_of(tmp_path, "iterative", criteria=["magnitude"], shots=[1, 2, 3], rates=[0.0, 0.2, 0.4]))

    assert len(calls) == 2
    assert len(rows) == 9


def test_the_recipe_and_the_protocol_decide_the_key(tmp_path):
    def key(*given):
        (job,) = expand(suite_of(tmp_path, *given))
        return Workbench(CPU).key(job)

    others = [dataclasses.replace(RECIPE, **{name: value}) for name, value in (("epochs", 3), ("learning_rate", 0.02))]
    keys = [key("one_shot"), key("iterative"), key("iterative_finetune", RECIPE)]
    keys += [key("iterative_finetune", other) for other in others]

    assert len(set(keys)) == 5


def test_batches_of_a_reference_are_cut_by_shots():
    data = Batch(torch.arange(20.0).view(20, 1), torch.arange(20) % 10)
    context = Context(model=nn.Identity(), layers=(), generator=torch.Generator(), data=data)

    assert protocols._first_shots(context, 1, 2).data.images.flatten().tolist() == list(range(10))


def test_a_network_that_was_pruned_step_by_step_is_not_cut_at_once_and_not_tuned_at_once(tmp_path):
    suite = suite_of(tmp_path, "iterative", criteria=["magnitude"])
    (job,) = expand(suite)
    with pytest.raises(SuiteError, match="suite `small` has the protocol `iterative`; choose a suite of"):
        score(job, 1, Workbench(CPU))
    labels = torch.arange(500).numpy() % 10
    with pytest.raises(SuiteError, match="must prune at once, but `small` has the protocol `iterative`"):
        draw_images(suite, labels, Draws(1, None, 0))


@pytest.mark.parametrize("protocol", ["one_shot", "iterative"])
def test_fewer_images_at_once_where_memory_runs_out(tmp_path, extra_criteria, protocol):
    rows = run(suite_of(tmp_path, protocol, criteria=["bad_big_batch"]))

    assert {row.status for row in rows} == {"ok"}


def test_removed_units_do_not_count_in_the_norm_of_their_layer(tmp_path):
    """In a residual network the gradient at a removed unit is that of the sum, and not zero."""
    suite = suite_of(tmp_path, "iterative", models={"digits_resnet": ["filters"]}, criteria=["gradient"], shots=[2])
    (job,) = expand(suite)
    bench = Workbench(CPU)
    loaded = bench.model(job)
    layers, criterion = loaded.layers("filters"), plugins.criterion_of(job)
    pruned = PrunedNetwork(loaded.network, layers, loaded.probe)
    pruned.remove(randomly(layers, 0.4))
    data = bench.reference(job, loaded.plugin)
    context = Context(model=pruned.network, layers=layers, generator=torch.Generator(), data=data)
    scores = score_all_shots(criterion, context, (1,), loaded.probe, kept=pruned.masks).by_shots[1]
    raw = dataclasses.replace(criterion, per_layer="none").score(context)

    assert any(float(raw[name][~mask].abs().sum()) > 0 for name, mask in pruned.masks.items())
    for name, mask in pruned.masks.items():
        left = raw[name][mask]
        torch.testing.assert_close(scores[name][mask], left / left.norm() if len(left) else left)


def test_the_time_of_a_job_counts_steps_that_were_taken_before(tmp_path, monkeypatch):
    suite = finetuned(tmp_path, shots=[1], rates=[0.0, 0.3, 0.5])
    whole = run(suite, Workbench(CPU, run_folder=tmp_path))
    again = run(suite, Workbench(CPU, run_folder=tmp_path))

    assert results(again) == results(whole)
    # What was kept is the time of the steps, without that of loading the network.
    assert again[0].job_seconds > 0.3 * whole[0].job_seconds


def test_steps_of_another_machine_are_taken_again(tmp_path, monkeypatch):
    suite = finetuned(tmp_path, shots=[1], rates=[0.0, 0.3, 0.5])
    run(suite, Workbench(CPU, run_folder=tmp_path))
    removed = []
    remove = PrunedNetwork.remove
    monkeypatch.setattr(PrunedNetwork, "remove", lambda self, masks: removed.append(1) or remove(self, masks))
    run(suite, Workbench(CPU, run_folder=tmp_path))
    assert len(removed) == 1
    monkeypatch.setattr(torch, "__version__", "0.0.1")
    run(suite, Workbench(CPU, run_folder=tmp_path))

    assert len(removed) == 1 + 2
