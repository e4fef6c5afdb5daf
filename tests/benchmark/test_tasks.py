"""Tasks: some classes of a data set, alone."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from commands import pruneboard_here, write_suite
from pruneboard.benchmark.data import draw_classes, draw_reference, open_dataset
from pruneboard.benchmark.errors import AssetError, SuiteError
from pruneboard.benchmark.evaluate import Answers, Evaluation, accuracies_under, measure, prepare_pruning
from pruneboard.benchmark.plugins import models
from pruneboard.benchmark.runner import Workbench, run_job
from pruneboard.benchmark.schema import Task
from pruneboard.benchmark.store import RunStore
from pruneboard.benchmark.suites import expand, load_suite
from pruneboard.benchmark.tune._images import Draws, draw_images
from pruneboard.benchmark.units import find_layers, masked

CPU = torch.device("cpu")
DIGITS = {"digits_vgg": ["filters"]}


def task_suite(folder, task, *, per_class=None, **options):
    options = {"models": DIGITS, "criteria": ["magnitude", "taylor"]} | options
    path = write_suite(folder, **options)
    text = path.read_text()
    if per_class is not None:
        text = text.replace("[protocol]", f"evaluation_per_class = {per_class}\n[protocol]")
    path.write_text(text.replace("[protocol]", f"[task]\n{task}\n[protocol]"))
    return path


def jobs_of(path):
    return expand(load_suite(path))


def by_hand(argmax, classes, rows):
    """Top-1, top-5 and cross-entropy of the unpruned VGG, from its logits in numpy."""
    plugin, split = models().get("digits_vgg"), open_dataset("digits").split("test")
    with torch.no_grad():
        logits = plugin.load()(plugin.prepare(split.stored(rows, size=(1, 8, 8)))).double().numpy()
    others = np.setdiff1d(np.arange(10), classes)
    if argmax == "task":
        logits[:, others] = -np.inf
    elif argmax == "zeroed":
        logits[:, others] = 0.0
    labels = split.labels[rows]
    own = logits[np.arange(len(rows)), labels]
    place = (logits > own[:, None]).sum(axis=1)
    entropy = np.log(np.exp(logits).sum(axis=1)) - own
    return (place == 0).mean(), (place < 5).mean(), entropy.mean()


@pytest.mark.parametrize("argmax", ["task", "all", "zeroed"])
def test_a_task_is_judged_on_its_classes_as_its_argmax_says(argmax, tmp_path):
    path = task_suite(tmp_path, f'classes = 3\nargmax = "{argmax}"', seeds=[0, 1])
    bench = Workbench(CPU)
    for job in jobs_of(path):
        rows = run_job(job, bench)
        classes = draw_classes(open_dataset("digits").split("train").labels, 3, job.seed)
        chosen = np.flatnonzero(np.isin(open_dataset("digits").split("test").labels, classes))
        expected = by_hand(argmax, classes, chosen)
        for row in (row for row in rows if row.rate == 0):
            assert row.n_images == len(chosen)
            assert (row.top1, row.top5, row.cross_entropy) == pytest.approx(expected, abs=1e-5)
            assert json.loads(row.task) == {"argmax": argmax, "n_classes": 3}


def test_a_criterion_sees_images_of_the_tasks_classes_alone(tmp_path):
    path = task_suite(tmp_path, 'classes = 3\nargmax = "task"', seeds=[0, 1, 2])
    bench, drawn = Workbench(CPU), set()
    for job in jobs_of(path):
        classes = bench.classes(job)
        batch = bench.reference(job, models().get(job.model))
        assert batch.labels.tolist() == [*classes, *classes]
        drawn.add(tuple(classes))

        # They are the same images that a larger task takes of these classes.
        labels = open_dataset("digits").split("train").labels
        everything = draw_reference(labels, 2, job.seed)
        assert bench.reference_rows(job).tolist() == [row for row in everything if labels[row] in classes]
    assert len(drawn) == 3


def test_larger_tasks_hold_smaller_ones_and_all_is_every_class():
    labels = np.repeat([3, 5, 8, 900], 2)

    assert draw_classes(labels, None, 0).tolist() == [3, 5, 8, 900]
    for seed in range(20):
        two, three = (draw_classes(labels, n, seed) for n in (2, 3))
        assert set(two) < set(three)
        assert list(three) == sorted(three)
    assert {int(draw_classes(labels, 1, seed)[0]) for seed in range(40)} == {3, 5, 8, 900}
    with pytest.raises(AssetError, match="no more classes than its data, 4, got 5"):
        draw_classes(labels, 5, 0)


def test_evaluation_takes_the_same_images_of_each_class_for_all_jobs(tmp_path):
    path = task_suite(tmp_path, 'classes = "all"\nargmax = "task"', per_class=7, seeds=[0, 1])
    bench = Workbench(CPU)
    labels = [bench.evaluation(job, models().get(job.model)).labels.tolist() for job in jobs_of(path)]

    assert all(one == labels[0] for one in labels)
    assert sorted(labels[0]) == sorted([*range(10)] * 7)
    rows = run_job(jobs_of(path)[0], bench)
    assert {row.n_images for row in rows} == {70}

    path = task_suite(tmp_path, 'classes = "all"\nargmax = "task"', per_class=900)
    with pytest.raises(AssetError, match="at least 900 images"):
        bench.evaluation(jobs_of(path)[0], models().get("digits_vgg"))


class Constant(nn.Module):
    """Gives logits that are stored in the images."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1)
        self.fc = nn.Linear(4, 6)

    def forward(self, images):
        return self.fc(torch.relu(self.conv(images)).mean(dim=(2, 3)))


@pytest.mark.parametrize("answers", [Answers(torch.tensor([1, 4])), Answers(torch.tensor([1, 4]), "zero")])
def test_compact_and_masked_networks_agree_whatever_competes(answers):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = Constant().eval()
        images, labels = torch.randn(64, 1, 3, 3), torch.tensor([1, 4]).repeat(32)
    layers = find_layers(network, "filters", images[:1])
    masks = [{layers[0].name: torch.tensor(mask, dtype=torch.bool)} for mask in ([1, 1, 0, 1], [0, 1, 0, 0])]
    evaluation = Evaluation(images, labels, answers=answers)
    pruning = prepare_pruning(network, layers, images[:8])
    assert pruning.how == "compact"
    for mask, found in zip(masks, accuracies_under(pruning, masks, evaluation), strict=True):
        with masked(network, layers, mask):
            slow = measure(network, evaluation)
            logits = network(images).detach()
        own, other = logits[range(64), labels], logits[range(64), 5 - labels]
        right = (own > other) if answers.others == "out" else (own > other) & (own > 0)
        assert (found.top1, found.top5) == (slow.top1, slow.top5)
        assert found.top1 == right.double().mean()


def test_a_task_decides_the_digest_of_a_suite_and_its_absence_does_not(tmp_path):
    plain = load_suite(write_suite(tmp_path, models=DIGITS, criteria=["magnitude"]))
    tasks = [None, *(Task(n_classes=n, argmax=a) for n in (None, 3) for a in ("task", "all", "zeroed"))]
    digests = {
        dataclasses.replace(plain, task=task, evaluation_per_class=n).digest for task in tasks for n in (None, 5)
    }

    assert len(digests) == 14
    assert plain.digest in digests


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("cifar10", "0867f352e3427a35d5f2440aa1ecc2c3c7ba67b567fc8d98cf64b3cd88b5e760"),
        ("digits", "6b21341b321c51ee653cfd1a1d321c8608235cfb79f4f383d42230c2a1daa8e8"),
        ("toy", "2cd5eedfb5fc78390a8a81f745caf20f8e6c8d03c03fcd1f448c1cadfe0d26ad"),
        ("cifar10_iterative", "714aded3e23b04378557c722a1deb4d43db293bf002d1e7d39ebfcf07e28c94d"),
        ("cifar10_finetune", "1be5a97880682753ec2852649ad7e8d05ee09e41dd653a04835fa83e8c768f93"),
    ],
)
def test_the_digests_of_suites_that_were_published_without_tasks_stay(name, digest):
    from pruneboard.benchmark.suites import suite_path

    assert load_suite(suite_path(name)).digest == digest


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ('classes = 1\nargmax = "task"', "`task.classes` must be `all`, or a whole number of at least 2, got 1"),
        ('classes = true\nargmax = "task"', "`task.classes` must be `all`"),
        ('classes = 3\nargmax = "best"', "`task.argmax` must be one of .*got 'best'"),
        ("classes = 3", "the field `task.argmax` is missing"),
        ('classes = 3\nargmax = "all"\nclass = 1', "there is no field `task.class` .* Did you mean `classes`"),
    ],
)
def test_bad_tasks_are_refused_by_their_field(task, message, tmp_path):
    with pytest.raises(SuiteError, match=message):
        load_suite(task_suite(tmp_path, task))
    with pytest.raises(SuiteError, match="`data.evaluation_per_class` must be"):
        load_suite(task_suite(tmp_path, 'classes = 3\nargmax = "all"', per_class=0))


def test_tuning_needs_a_task_of_all_classes(tmp_path):
    labels = open_dataset("digits").split("train").labels
    drawn = load_suite(task_suite(tmp_path, 'classes = 3\nargmax = "task"'))
    with pytest.raises(SuiteError, match="must have the same classes for all seeds, but `small` draws 3 anew"):
        draw_images(drawn, labels, Draws())
    whole = load_suite(task_suite(tmp_path, 'classes = "all"\nargmax = "task"'))
    assert len(draw_images(whole, labels, Draws(n_images=2)).validation) == 20


def test_tasks_run_from_the_command_line_and_say_so(tmp_path):
    path = task_suite(tmp_path, 'classes = 4\nargmax = "zeroed"', per_class=5)
    done = pruneboard_here("run", path, "--workers", 0, "--out", tmp_path / "runs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = RunStore(tmp_path / "runs").read("small")
    assert set(rows["n_images"]) == {20}
    assert set(rows["task"].map(str)) == {'{"argmax": "zeroed", "n_classes": 4}'}
    shown = pruneboard_here("show", path, cwd=tmp_path).stdout
    assert "4 classes, drawn by each seed; argmax: zeroed" in shown
    assert "5 images of each class" in shown


def test_a_class_without_reference_images_is_named(tmp_path):
    folder = tmp_path / "data" / "two"
    for split, n_images in (("train", 3), ("test", 1)):
        for number, name in enumerate("0123456789"):
            (folder / split / name).mkdir(parents=True)
            for i in range(n_images if number else 1):
                Image.new("L", (8, 8), 40 * i).save(folder / split / name / f"{i}.png")
    path = task_suite(tmp_path, 'classes = "all"\nargmax = "task"', datasets=["two"])
    env = {"PRUNEBOARD_DATA": str(tmp_path / "data")}
    done = pruneboard_here("run", path, "--workers", 0, "--out", tmp_path / "runs", cwd=tmp_path, env=env)

    assert done.returncode == 2
    assert "at least 2 images for 2 shots, but class 0 has 1" in done.stderr
