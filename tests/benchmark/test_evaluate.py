import copy
import math
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise

import pytest
import torch
from torch import nn

from networks import GRANULARITIES, images, tiny_network
from pruneboard.benchmark import evaluate, plugins
from pruneboard.benchmark.compact import agree
from pruneboard.benchmark.data import open_dataset
from pruneboard.benchmark.evaluate import Accuracy, Evaluation, accuracy_curve, measure, prepare_pruning
from pruneboard.benchmark.ranking import masks_at, rank
from pruneboard.benchmark.units import find_layers

RATES = [0.0, 0.1, 0.25, 0.5, 0.75, 0.95]
KINDS = ("vgg", "resnet", "vit_neurons", "vit_heads")


class Given(nn.Module):
    """Answers with logits that are stored in the image."""

    def forward(self, stored):
        return stored.flatten(1)


def _labels(n):
    return torch.randint(10, (n,), generator=torch.Generator().manual_seed(6))


def _evaluation(n=24, **options):
    return Evaluation(images(n, seed=2), _labels(n), **options)


def _ranked(kind, seed=3):
    model = tiny_network(kind)
    layers = find_layers(model, GRANULARITIES[kind], images(1))
    generator = torch.Generator().manual_seed(seed)
    scores = {layer.name: torch.rand(layer.n_units, generator=generator) for layer in layers}
    return model, layers, rank(scores, "global", generator)


def _prepared(model, layers):
    return prepare_pruning(model, layers, images(4, seed=5))


def _slow_metrics(logits, labels):
    """By sorting Python pairs; of equal logits the lowest class comes first."""
    top1 = top5 = 0
    entropies = []
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda c: (-row[c], c))
        top1 += order[0] == label
        top5 += label in order[:5]
        entropies.append(math.log(math.fsum(math.exp(v - row[label]) for v in row)))
    return top1 / len(labels), top5 / len(labels), math.fsum(entropies) / len(labels)


def _zeroed(model, layers, masks, granularity):
    pruned = copy.deepcopy(model)
    with torch.no_grad():
        for layer in layers:
            tap = pruned.get_submodule(layer.tap)
            for unit, kept in enumerate(masks[layer.name].tolist()):
                if kept:
                    continue
                if granularity == "heads":
                    tap.weight[:, 6 * unit : 6 * unit + 6] = 0
                else:
                    tap.weight[unit] = 0
                    tap.bias[unit] = 0
    return pruned


@pytest.mark.parametrize("kind", KINDS)
def test_the_curve_is_that_of_copies_with_zeroed_weights(kind):
    model, layers, ranking = _ranked(kind)
    evaluation = _evaluation()
    curve = accuracy_curve(_prepared(model, layers), ranking, RATES, evaluation)
    n_units = sum(layer.n_units for layer in layers)
    entropies = []
    for rate, point in zip(RATES, curve, strict=True):
        masks = masks_at(ranking, rate)
        pruned = _zeroed(model, layers, masks, GRANULARITIES[kind])
        with torch.no_grad():
            logits = torch.cat([pruned(image[None]) for image in evaluation.inputs])
        top1, top5, entropy = _slow_metrics(logits, evaluation.labels)
        assert (point.rate, point.top1, point.top5, point.n_images) == (rate, top1, top5, 24)
        assert point.cross_entropy == pytest.approx(entropy, rel=1e-5)
        assert point.n_units_removed == math.floor(Decimal(str(rate)) * n_units)
        entropies.append(entropy)

    assert len(set(entropies)) > 3
    for before, after in pairwise(curve):
        assert before.n_units_removed <= after.n_units_removed
        assert before.params_left >= after.params_left
        assert before.macs_left >= after.macs_left
    assert curve[0].n_units_removed < curve[-1].n_units_removed


@pytest.mark.parametrize("kind", KINDS)
def test_units_left_are_those_of_each_layer_in_the_order_of_the_network(kind):
    model, layers, ranking = _ranked(kind)
    backwards = replace(ranking, layers=ranking.layers[::-1])
    masks = [masks_at(backwards, rate) for rate in RATES]
    curve = accuracy_curve(_prepared(model, layers), backwards, RATES, _evaluation())

    assert [*masks[0]] == [layer.name for layer in layers][::-1]
    assert [point.units_left for point in curve] == [
        " ".join(f"{len([kept for kept in one[layer.name].tolist() if kept])}" for layer in layers) for one in masks
    ]
    assert len({point.units_left for point in curve}) > 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_point_is_the_unpruned_network_bit_for_bit_which_is_restored(kind):
    model, layers, ranking = _ranked(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = measure(model, _evaluation())
    point = accuracy_curve(_prepared(model, layers), ranking, RATES, _evaluation())[0]

    assert (point.top1, point.top5, point.cross_entropy) == (expected.top1, expected.top5, expected.cross_entropy)
    assert point.params_left == sum(parameter.numel() for parameter in model.parameters())
    assert measure(model, _evaluation()) == expected
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_metrics_by_hand_with_ties():
    logits = torch.tensor(
        [
            [0.0, 2.0, 2.0, 1.0, 0.0, 0.0, 0.0],  # 1 and 2 tie: class 1 wins
            [0.0, 2.0, 2.0, 1.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],  # all equal: class 0 wins, the five best are 0 to 4
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0],
        ]
    )
    labels = torch.tensor([1, 2, 0, 4, 5, 5])
    accuracy = measure(Given(), Evaluation(logits, labels))
    e, e2 = math.e, math.e**2
    total = 4 + e + 2 * e2
    last = math.log(math.fsum(math.exp(v) for v in range(3, 10))) - 4
    entropy = (2 * (math.log(total) - 2) + 3 * math.log(7) + last) / 6

    assert accuracy == Accuracy(2 / 6, 4 / 6, accuracy.cross_entropy, 6)
    assert accuracy.cross_entropy == pytest.approx(entropy, rel=1e-7)
    assert (accuracy.top1, accuracy.top5) == _slow_metrics(logits, labels)[:2]


def test_fewer_than_five_classes():
    accuracy = measure(Given(), Evaluation(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 0])))

    assert (accuracy.top1, accuracy.top5) == (0.5, 1.0)


def test_cross_entropy_of_confident_errors_does_not_overflow():
    accuracy = measure(Given(), Evaluation(torch.tensor([[0.0, 1000.0]]), torch.tensor([0])))

    assert accuracy.cross_entropy == 1000.0


@pytest.mark.parametrize("kind", KINDS)
def test_the_batch_size_does_not_change_who_is_right(kind):
    model, layers, ranking = _ranked(kind)
    curves = [
        accuracy_curve(_prepared(model, layers), ranking, RATES, _evaluation(batch_size=batch_size))
        for batch_size in (1, 7, 24, 250)
    ]
    for curve in curves[1:]:
        for point, expected in zip(curve, curves[0], strict=True):
            assert (point.top1, point.top5, point.n_images) == (expected.top1, expected.top5, expected.n_images)
            assert point.cross_entropy == pytest.approx(expected.cross_entropy, rel=1e-5)


def test_equal_masks_are_measured_once(monkeypatch):
    model, layers, ranking = _ranked("vgg")
    calls, measured = [], evaluate._accuracy

    def counted(*arguments):
        calls.append(arguments)
        return measured(*arguments)

    monkeypatch.setattr(evaluate, "_accuracy", counted)
    evaluation = _evaluation()
    # floor(rate * 24): 0, 0, 1, 1, 12.
    first = accuracy_curve(_prepared(model, layers), ranking, [0.0, 0.04, 0.05, 0.06, 0.5], evaluation)
    assert len(calls) == 3
    again = accuracy_curve(_prepared(model, layers), ranking, [0.0, 0.04, 0.05, 0.06, 0.5], evaluation)
    assert len(calls) == 3
    assert again == first
    other = accuracy_curve(_prepared(model, layers), _ranked("vgg", seed=8)[2], [0.0, 0.5], evaluation)
    assert len(calls) == 4
    assert other[0] == first[0]
    assert other[1].cross_entropy != first[-1].cross_entropy


def test_masks_that_differ_by_one_unit_are_not_confused():
    """Every single unit of every layer, removed alone, with the memory shared."""
    model, layers, _ = _ranked("vgg")
    pruning, evaluation, alone = _prepared(model, layers), _evaluation(8), []
    names = [(layer.name, unit) for layer in layers for unit in range(layer.n_units)]
    for name, unit in names:
        scores = {layer.name: torch.ones(layer.n_units) for layer in layers}
        scores[name][unit] = 0
        ranking = rank(scores, "global", torch.Generator())
        point = accuracy_curve(pruning, ranking, [0.05], evaluation)[0]
        expected = accuracy_curve(pruning, ranking, [0.05], _evaluation(8))[0]
        assert point == expected
        alone.append(point.cross_entropy)

    assert len(set(alone)) == len(names)


@pytest.mark.parametrize("model", ["digits_vgg", "digits_vit"])
def test_images_kept_as_bytes_are_the_same_values_batch_by_batch_as_all_at_once(model):
    plugin, split = plugins.models().get(model), open_dataset("digits").split("test")
    everything = plugin.normalise(split.images(size=plugin.input_size).float() / 255)
    labels = torch.from_numpy(split.labels)
    kept = Evaluation(split.stored(size=plugin.input_size), labels, plugin.prepare)
    assert (kept.inputs.dtype, kept.n_images) == (torch.uint8, 599)
    for size in (1, 8, 125, 1000):
        batches = [kept.batch(slice(start, start + size)) for start in range(0, 599, size)]
        assert torch.equal(torch.cat(batches), everything)
    network = plugin.load()

    assert measure(network, kept) == measure(network, Evaluation(everything, labels))


@pytest.mark.parametrize("kind", KINDS)
def test_less_precision_is_used_and_undone_and_its_predictions_are_those_of_the_compact_network(kind, monkeypatch):
    """On a CPU bf16 is real and TF32 changes nothing, which tells both apart from float32."""
    model, layers, ranking = _ranked(kind)
    pruning = _prepared(model, layers)
    exact = accuracy_curve(pruning, ranking, RATES, _evaluation())
    # In float32 the masked network would decide what is doubtful.
    monkeypatch.setattr(evaluate, "_is_doubtful", None)
    flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    kinds_of_logits = []
    monkeypatch.setattr(evaluate, "_accuracy", _noting(kinds_of_logits))
    coarse = {
        precision: accuracy_curve(pruning, ranking, RATES, _evaluation(precision=precision))
        for precision in ("tf32", "bf16")
    }

    n_different = len({point.n_units_removed for point in exact})
    assert kinds_of_logits == [torch.float32] * n_different + [torch.bfloat16] * n_different
    assert [p.cross_entropy for p in coarse["tf32"]] == pytest.approx([p.cross_entropy for p in exact], rel=1e-6)
    entropies = [point.cross_entropy for point in coarse["bf16"]]
    assert entropies == pytest.approx([point.cross_entropy for point in exact], rel=0.05)
    assert entropies != pytest.approx([point.cross_entropy for point in exact], rel=1e-6)
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == flags
    assert not torch.is_autocast_enabled("cpu")


def _noting(kinds_of_logits):
    accuracy_of = evaluate._accuracy

    def noting(logits, labels):
        kinds_of_logits.append(logits.dtype)
        return accuracy_of(logits, labels)

    return noting


@pytest.mark.parametrize("kind", KINDS)
def test_in_bf16_every_program_runs_and_is_held_to_the_masked_network(kind, monkeypatch):
    """A program that broke on mixed types would give way to masks, and nobody would notice but by the time it takes."""
    model, layers, ranking = _ranked(kind)
    tried, agreed = [], []
    monkeypatch.setattr(evaluate, "_tried", lambda predict: tried.append(predict()) or tried[-1])
    monkeypatch.setattr(evaluate, "agree", lambda *given: agreed.append(agree(*given)) or agreed[-1])
    curve = accuracy_curve(_prepared(model, layers), ranking, RATES, _evaluation(precision="bf16"))
    n_pruned = len({point.n_units_removed for point in curve}) - 1

    assert n_pruned >= 4
    assert len(tried) == n_pruned
    assert agreed == [True] * n_pruned
