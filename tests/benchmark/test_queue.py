"""The order in which workers get jobs."""

import heapq
import itertools
import random
import sys
from collections import Counter

import pytest
import torch

from commands import write_suite
from pruneboard.benchmark.cli._estimates import kind_of
from pruneboard.benchmark.executors import Task, affinity_of
from pruneboard.benchmark.suites import expand, load_suite
from pruneboard.benchmark.workers import TaskQueue

DATA_FREE = ("magnitude", "bn_scale")


def suite_of(folder, **options):
    models = {"digits_vgg": ["filters"], "digits_resnet": ["filters"]}
    criteria = ["random", *DATA_FREE, "taylor", "activation"]
    return load_suite(
        write_suite(folder, **{"models": models, "criteria": criteria, "seeds": [0, 1, 2, 3, 4]} | options)
    )


def tasks_of(suite, seconds=lambda job: 0.0):
    """The tasks of a suite of which nothing is done."""
    n = Counter()
    tasks = []
    for job in expand(suite):
        tasks.append(Task(job=job, key="", place=(n[kind_of(job)], seconds(job)), before=None))
        n[kind_of(job)] += 1
    return tasks


def queue_of(tasks):
    queue = TaskQueue()
    for task in tasks:
        queue.add(task, affinity_of(task), task.place)
    return queue


def simulate(tasks, n_workers, seconds):
    """Dispatch tasks as the pool does, each taking `seconds(job)`, and return each worker's jobs with their starts."""
    queue, done = queue_of(tasks), [[] for _ in range(n_workers)]
    free = [(0.0, worker) for worker in range(n_workers)]
    while queue:
        now, worker = heapq.heappop(free)
        job = queue.take(worker).job
        done[worker].append((now, job))
        heapq.heappush(free, (now + seconds(job), worker))
    return done


@pytest.mark.parametrize("n_workers", [1, 2, 3, 4, 8])
def test_seeds_of_a_data_free_criterion_are_one_workers_who_measures_their_masks_once(tmp_path, n_workers):
    tasks = tasks_of(suite_of(tmp_path))
    generator = torch.Generator().manual_seed(0)
    times = {str(task.job): 1 + float(torch.rand(1, generator=generator)) for task in tasks}
    done = simulate(tasks, n_workers, lambda job: times[str(job)])
    measured = Counter(
        (job.model, job.criterion)
        for worker in done
        for job in {(j.model, j.criterion): j for _, j in worker if j.criterion in DATA_FREE}.values()
    )

    assert set(measured.values()) == {1}
    assert sorted(str(job) for worker in done for _, job in worker) == sorted(str(task.job) for task in tasks)


@pytest.mark.parametrize("n_workers", [1, 2, 3, 4, 8])
def test_no_worker_waits_while_tasks_do_so_that_the_end_is_at_most_one_task_longer_than_an_even_share(
    tmp_path, n_workers
):
    tasks = tasks_of(suite_of(tmp_path))
    for slow in ("taylor", "magnitude", "digits_resnet"):
        times = {str(t.job): 10.0 if slow in (t.job.criterion, t.job.model) else 0.5 for t in tasks}
        done = simulate(tasks, n_workers, lambda job, times=times: times[str(job)])
        end = max(start + times[str(job)] for worker in done for start, job in worker)

        assert end <= sum(times.values()) / n_workers + 10


def test_a_worker_stays_with_its_network_until_no_job_of_it_is_left_in_the_round(tmp_path):
    done = simulate(tasks_of(suite_of(tmp_path)), 2, lambda job: 1.0)
    for worker in done:
        models = [job.model for _, job in worker]
        assert len(list(itertools.groupby(models))) == len(set(models)) == 1

    assert {worker[0][1].model for worker in done} == {"digits_vgg", "digits_resnet"}


def test_cells_get_their_first_seed_before_others_get_their_second(tmp_path):
    for n_workers in (1, 2, 3):
        done = simulate(tasks_of(suite_of(tmp_path)), n_workers, lambda job: 1.0)
        seeds = [job.seed for _, job in sorted(itertools.chain(*done), key=lambda entry: entry[0])]
        with_data = [
            job.seed
            for _, job in sorted(itertools.chain(*done), key=lambda entry: entry[0])
            if job.criterion not in DATA_FREE
        ]
        assert with_data == sorted(with_data)
        assert len(seeds) == 50


def test_one_worker_takes_what_is_missing_most_and_short_first_but_for_what_it_has_measured(tmp_path):
    suite = suite_of(tmp_path, seeds=[0, 1], models={"digits_vgg": ["filters"]})
    seconds = {"random": 3.0, "taylor": 1.0, "activation": 2.0, "magnitude": 4.0, "bn_scale": 5.0}
    (done,) = simulate(tasks_of(suite, lambda job: seconds[job.criterion]), 1, lambda job: 1.0)

    assert [(job.criterion, job.seed) for _, job in done] == [
        ("taylor", 0),
        ("activation", 0),
        ("random", 0),
        ("magnitude", 0),
        ("magnitude", 1),
        ("bn_scale", 0),
        ("bn_scale", 1),
        ("taylor", 1),
        ("activation", 1),
        ("random", 1),
    ]


def test_without_times_the_order_is_that_of_the_suite(tmp_path):
    suite = suite_of(tmp_path, seeds=[0], models={"digits_vgg": ["filters"]})
    (done,) = simulate(tasks_of(suite), 1, lambda job: 1.0)

    assert [job.criterion for _, job in done] == list(suite.criteria)


def test_a_group_whose_holder_died_is_taken_on_by_another():
    queue = TaskQueue()
    for number in range(3):
        queue.add(number, ("a", "group"), (number, 0.0))
    queue.add("other", ("a",), (5, 0.0))
    assert queue.take("first") == 0
    assert queue.take("second") == "other", "the group is left to its holder while there is anything else"
    queue.leave("first")
    queue.add(0, ("a", "group"), (0, 0.0), first=True)

    assert [queue.take("second") for _ in range(3)] == [0, 1, 2]
    assert not queue


def test_the_last_group_is_shared_when_nothing_else_is_left():
    queue = TaskQueue()
    for number in range(4):
        queue.add(number, ("a", "group"), (number, 0.0))

    assert [queue.take(holder) for holder in ("first", "second", "first", "second")] == [0, 1, 2, 3]
    with pytest.raises(IndexError, match="no task waits"):
        queue.take("first")


def test_whatever_happens_each_task_is_taken_once():
    """Workers that take, die and bring back tasks in any order neither lose a task nor double one."""
    draw = random.Random(0)
    for _ in range(200):
        queue, tasks, taken, at = TaskQueue(), {}, [], {}
        for number in range(draw.randrange(1, 30)):
            affinity = draw.choice([("a",), ("b",), ("a", 1), ("a", 2), ("b", 1)])
            tasks[number] = affinity, (draw.randrange(3), float(draw.randrange(3)))
            queue.add(number, *tasks[number])
        while queue or at:
            holder = draw.randrange(4)
            if holder in at:
                number = at.pop(holder)
                if draw.random() < 0.3:
                    queue.leave(holder)
                    queue.add(number, *tasks[number], first=draw.random() < 0.5)
                else:
                    taken.append(number)
            elif queue:
                at[holder] = queue.take(holder)
        assert sorted(taken) == sorted(tasks)


@pytest.mark.parametrize("shape", ["networks", "seeds", "one group", "groups"])
def test_the_steps_per_task_do_not_grow_with_their_number(shape):
    """Counted as calls of functions, because times are noisy."""

    def steps(n):
        queue, n_calls = TaskQueue(), 0

        def count(_frame, event, _argument):
            nonlocal n_calls
            n_calls += event in ("call", "c_call")

        for number in range(n):
            affinity = {
                "networks": (number,),
                "seeds": ("a",),
                "one group": ("a", "group"),
                "groups": ("a", number // 5),
            }[shape]
            queue.add(number, affinity, (number if shape == "one group" else number % 5, 0.0))
        sys.setprofile(count)
        try:
            for turn in range(n):
                queue.take(turn % 8)
        finally:
            sys.setprofile(None)
        return n_calls / n

    assert steps(4_000) < 1.5 * steps(500)
