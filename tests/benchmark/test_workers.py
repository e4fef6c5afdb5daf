import heapq
import itertools
from collections import Counter

import pytest
import torch

from commands import write_suite
from pruneboard.benchmark.executors._local import _Jobs
from pruneboard.benchmark.store import RunStore
from pruneboard.benchmark.suites import expand, load_suite
from pruneboard.benchmark.workers import best_position

DATA_FREE = ("magnitude", "bn_scale")


def suite_of(folder, **options):
    models = {"digits_vgg": ["filters"], "digits_resnet": ["filters"]}
    criteria = ["random", *DATA_FREE, "taylor", "activation"]
    return load_suite(
        write_suite(folder, **{"models": models, "criteria": criteria, "seeds": [0, 1, 2, 3, 4]} | options)
    )


def simulate(jobs, affinity, n_workers, seconds):
    """Dispatch jobs as the pool does, each taking `seconds(job)`, and return each worker's jobs with their starts."""
    waiting, last, done = list(jobs), [()] * n_workers, [[] for _ in range(n_workers)]
    free = [(0.0, worker) for worker in range(n_workers)]
    while waiting:
        now, worker = heapq.heappop(free)
        others = [keys for other, keys in enumerate(last) if other != worker]
        job = waiting.pop(best_position([affinity(j) for j in waiting], last[worker], others))
        last[worker] = affinity(job)
        done[worker].append((now, job))
        heapq.heappush(free, (now + seconds(job), worker))
    return done


@pytest.mark.parametrize("n_workers", [1, 2, 3, 4, 8])
def test_seeds_of_a_data_free_criterion_are_one_workers_who_measures_their_masks_once(tmp_path, n_workers):
    suite = suite_of(tmp_path)
    jobs, affinity = expand(suite), _Jobs(RunStore(tmp_path), "cpu").affinity
    generator = torch.Generator().manual_seed(0)
    times = {str(job): 1 + float(torch.rand(1, generator=generator)) for job in jobs}
    done = simulate(jobs, affinity, n_workers, lambda job: times[str(job)])
    measured = Counter(
        (job.model, job.criterion)
        for worker in done
        for job in {(j.model, j.criterion): j for _, j in worker if j.criterion in DATA_FREE}.values()
    )
    # Nobody waits while there is something to do, so more workers than cells split some.
    assert n_workers == 8 or set(measured.values()) == {1}
    assert sorted(str(job) for worker in done for _, job in worker) == sorted(map(str, jobs))


@pytest.mark.parametrize("n_workers", [1, 2, 3, 4, 8])
def test_no_worker_waits_while_tasks_do_so_that_the_end_is_at_most_one_task_longer_than_an_even_share(
    tmp_path, n_workers
):
    jobs, affinity = expand(suite_of(tmp_path)), _Jobs(RunStore(tmp_path), "cpu").affinity
    for slow in ("taylor", "magnitude", "digits_resnet"):
        times = {str(job): 10.0 if slow in (job.criterion, job.model) else 0.5 for job in jobs}
        done = simulate(jobs, affinity, n_workers, lambda job, times=times: times[str(job)])
        end = max(start + times[str(job)] for worker in done for start, job in worker)

        assert end <= sum(times.values()) / n_workers + 10


def test_a_worker_stays_with_its_network_until_no_job_of_it_is_left(tmp_path):
    jobs, affinity = expand(suite_of(tmp_path)), _Jobs(RunStore(tmp_path), "cpu").affinity
    done = simulate(jobs, affinity, 2, lambda job: 1.0)
    for worker in done:
        models = [job.model for _, job in worker]
        assert len(list(itertools.groupby(models))) == len(set(models)) == 1

    assert {worker[0][1].model for worker in done} == {"digits_vgg", "digits_resnet"}


def test_one_worker_keeps_the_order_but_for_what_it_has_measured(tmp_path):
    suite = suite_of(tmp_path, seeds=[0, 1], models={"digits_vgg": ["filters"]})
    (done,) = simulate(expand(suite), _Jobs(RunStore(tmp_path), "cpu").affinity, 1, lambda job: 1.0)

    assert [(job.criterion, job.seed) for _, job in done] == [
        ("random", 0),
        ("magnitude", 0),
        ("magnitude", 1),
        ("bn_scale", 0),
        ("bn_scale", 1),
        ("taylor", 0),
        ("activation", 0),
        ("random", 1),
        ("taylor", 1),
        ("activation", 1),
    ]


def test_what_is_finer_is_shared_only_with_all_that_is_coarser():
    assert best_position([("a", 1), ("b", 2)], ("b", 1), []) == 1
    assert best_position([("a", 1), ("a", 2), ("b", 1)], (), [("a", 1)]) == 2
    assert best_position([("a", 1), ("a", 2)], (), [("a", 1)]) == 1
    assert best_position([("a",), ("a",)], ("a",), [("a",)]) == 0
