"""Handing out tasks that do nothing, beside the pool of the standard library."""

from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from pruneboard.benchmark.workers import PoolOptions, run_in_pool
from tasks import Task, Tasks

N_TASKS = 5000


def idle(task):
    return task.name


def test_handing_out(compare, tmp_path):
    """Both start two processes, and give each task by itself and take its result as it comes."""
    tasks = [Task(f"idle:{number}", tmp_path) for number in range(N_TASKS)]

    def reference():
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            done = as_completed([pool.submit(idle, task) for task in tasks])
            assert sum(1 for _ in done) == N_TASKS

    def ours():
        options = PoolOptions(n_workers=2, log_of=lambda task: tmp_path / f"{task.name}.log")
        assert sum(said.ends for said in run_in_pool(tasks, Tasks(), options)) == N_TASKS

    compare(
        "handing out idle tasks",
        f"{N_TASKS} tasks, 2 processes",
        reference=reference,
        reference_name="concurrent.futures",
        ours=ours,
        rounds=3,
    )
