"""A criterion from elsewhere changes nothing but its own scores, whatever it does: it runs in processes of its own."""

import os
import random
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch

from commands import EXTRA, pruneboard, pruneboard_here, write_suite
from hostile_criteria import SUITE, Victim, attacks
from pruneboard.benchmark import plugins
from pruneboard.benchmark.discovery import FILES_VARIABLE, Source
from pruneboard.benchmark.errors import ForeignError, PluginError, Unsupported
from pruneboard.benchmark.foreign import Reply, read_reply, write_reply
from pruneboard.benchmark.foreign._server import ForkServer, fork_server
from pruneboard.benchmark.process import ProcessState
from pruneboard.benchmark.runner import Workbench, run_job
from pruneboard.benchmark.store import RunStore
from pruneboard.benchmark.suites import load_suite

TIMES = ["score_seconds", "score_peak_bytes", "job_seconds", "time_utc"]
OTHERS = ["magnitude", "random", "taylor"]
WAYS = ("settings", "wanders", "engine", "floods", "patches", "changes_model")

QUICK = (
    "library/argsort/import",
    "library/default_device/score",
    "engine/seen/score",
    "interpreter/late_exit/score",
    "process/exit_0/import",
    "process/kill_parent/score",
    "process/close_loop/score",
    "exceptions/exit_text/score",
    "scores/lazy/score",
    "reply/pipe/score",
)


def rows_of(folder):
    rows = RunStore(folder / "runs").read("small").drop(columns=TIMES)
    rows = rows[rows["criterion"].isin(OTHERS)].reset_index(drop=True)
    return rows.astype({name: "str" for name, kind in rows.dtypes.items() if kind == "category"})


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    path = tmp_path_factory.mktemp("victim") / "small.toml"
    path.write_text(SUITE)
    return Victim(load_suite(path))


@pytest.mark.parametrize("name", QUICK)
def test_an_attack_reaches_nothing_but_the_scores_of_its_own(victim, tmp_path, name):
    ((kind, full, source),) = attacks(name)
    (tmp_path / "hostile.py").write_text(source)
    result = victim.suffer(kind, full, tmp_path / "hostile.py")

    assert result.escaped == ""
    assert result.outcome.startswith(("ok", "failed", "refused"))


@pytest.mark.slow
def test_no_attack_of_hundreds_escapes(victim, tmp_path):
    results = []
    for number, (kind, full, source) in enumerate(attacks()):
        path = tmp_path / f"hostile_{number}.py"
        path.write_text(source)
        results.append(victim.suffer(kind, full, path))

    assert len(results) > 150
    assert [result for result in results if result.escaped] == []


@pytest.mark.slow
def test_other_jobs_of_the_same_worker_give_the_same_rows(tmp_path):
    """Random states, settings, folder, environment, the engine's own functions, torch's, the network, megabytes."""
    for folder in ("alone", "beside"):
        (tmp_path / folder).mkdir()
    write_suite(tmp_path / "alone", models={"digits_vgg": ["filters"]}, criteria=OTHERS, seeds=[0])
    pruneboard_here("run", "small.toml", "--workers", 0, cwd=tmp_path / "alone")
    criteria = [name for way in WAYS for name in (f"bad_{way}", *OTHERS)]
    write_suite(
        tmp_path / "beside", models={"digits_vgg": ["filters"]}, criteria=list(dict.fromkeys(criteria)), seeds=[0]
    )
    options = ("--workers", 1, "--threads", 1)
    done = pruneboard("run", "small.toml", *options, cwd=tmp_path / "beside", env=EXTRA)
    rows = RunStore(tmp_path / "beside" / "runs").read("small").drop_duplicates("key").set_index("criterion")
    logs = tmp_path / "beside" / "runs" / "small" / "logs"

    assert done.returncode == 1, done.stdout + done.stderr
    assert rows_of(tmp_path / "beside").equals(rows_of(tmp_path / "alone"))
    failed = {way for way in WAYS if rows.loc[f"bad_{way}", "status"] != "ok"}
    assert failed == {"patches", "changes_model"}, "they changed what they were to score"
    assert sum(path.stat().st_size for path in logs.iterdir()) < 5 * 2**20
    assert len(done.stdout) < 20_000


def test_a_process_of_its_own_gives_the_scores_of_this_one(tmp_path, monkeypatch):
    """Bit for bit, for a criterion that adds up images and one without data."""
    suite_file = tmp_path / "small.toml"
    suite_file.write_text(SUITE.replace("shots = [1]", "shots = [1, 2]"))
    suite = load_suite(suite_file)
    for own, name in (("gradient", "far_gradient"), ("random_scores", "far_random")):
        source = (plugins.discovery.ROOT / "criteria" / f"{own}.py").read_text()
        base = "random" if own == "random_scores" else own
        (tmp_path / f"{name}.py").write_text(
            source.replace(f'ClassVar[str] = "{base}"', f'ClassVar[str] = "{name}"', 1)
        )
    monkeypatch.setenv(FILES_VARIABLE, os.pathsep.join(map(str, sorted(tmp_path.glob("far_*.py")))))

    def accuracies(criterion):
        job = Victim.__new__(Victim)
        job._suite = suite
        rows = run_job(job._job(criterion), Workbench(torch.device("cpu")))
        return [(row.shots, row.rate, row.top1, row.cross_entropy, row.layers) for row in rows]

    assert accuracies("far_gradient") == accuracies("gradient")
    assert accuracies("far_random") == accuracies("random")


def test_a_criterion_whose_source_changes_while_a_run_goes_on_is_not_run(tmp_path, victim, monkeypatch):
    path = tmp_path / "hostile.py"
    source = next(attacks("exceptions/unsupported/score"))[2]
    path.write_text(source)
    monkeypatch.setenv(FILES_VARIABLE, str(path))
    plugins.criteria()
    path.write_text(source + "\n# changed\n")
    (row,) = run_job(victim._job("hostile"), Workbench(torch.device("cpu")))

    assert row.status == "failed"
    assert "must stay as it was when the run began, but that of `hostile` (file hostile.py) changed" in row.reason


def test_a_file_that_nobody_selects_is_never_imported_here(tmp_path):
    """Neither when criteria are listed, nor when others run."""
    path = tmp_path / "loud.py"
    (attack,) = attacks("library/argsort/import")
    path.write_text(attack[2] + f"\nopen({str(tmp_path / 'imported')!r}, 'a').write(str(os.getpid()) + ' ')\n")
    code = (
        "import os; from pruneboard.benchmark import plugins; plugins.criteria().get('magnitude'); print(os.getpid())"
    )
    environment = {**os.environ, FILES_VARIABLE: str(path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    assert done.stdout.strip() not in (tmp_path / "imported").read_text().split()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import os\nos._exit(0)\n",
            "is not: a plugin must return what it is asked for, but its process died with exit",
        ),
        ("import sys\nsys.exit(0)\n", "a plugin file must be importable, but .* is not: SystemExit: 0"),
        ("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n", "but it ended the one that started it"),
        ("while True: pass\n", "is not: a plugin must end within 2 s, but had not; look for an endless loop;"),
    ],
)
def test_what_importing_a_plugin_does_to_its_process_is_told_by_its_name(tmp_path, monkeypatch, text, message):
    monkeypatch.setattr("pruneboard.benchmark.foreign._description.IMPORT_SECONDS", 2.0)
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(PluginError, match=message) as caught:
        plugins.description_of(Source(path=str(path)))
    assert str(path) in str(caught.value)


def test_a_plugin_that_prints_when_it_is_imported_is_told_of(tmp_path, capfd):
    path = tmp_path / "mine.py"
    path.write_text(next(attacks("exceptions/unsupported/score"))[2] + "print('hello\x1b[31m')\n")
    plugins.description_of(Source(path=str(path)))

    assert "but file mine.py prints 'hello [31m'; move that into a function." in capfd.readouterr().err


def test_what_a_child_leaves_behind_is_ended_and_so_is_all_when_this_process_ends(tmp_path):
    server = ForkServer()
    try:
        (tmp_path / "request.json").write_text("{}")
        assert server.run(tmp_path, 60) == "exit code 0", "a child that cannot read its request has no reply"
        pid = server._process.pid
        assert psutil.Process(pid).children() == []
    finally:
        server.end()
    assert not psutil.pid_exists(pid)


def test_a_child_that_takes_too_long_is_ended_with_its_server_and_the_next_gets_another(tmp_path, monkeypatch):
    path = tmp_path / "mine.py"
    path.write_text("import time\ntime.sleep(100)\n")
    monkeypatch.setattr("pruneboard.benchmark.foreign._description.IMPORT_SECONDS", 1.0)
    server = fork_server()
    started = time.monotonic()
    with pytest.raises(PluginError, match="must end within 1 s"):
        plugins.description_of(Source(path=str(path)))

    assert time.monotonic() - started < 30
    assert not server.is_usable
    assert fork_server() is not server


def test_a_reply_is_read_as_data(tmp_path):
    assert read_reply(tmp_path, 10) is None
    write_reply(tmp_path, Reply(status="ok", content={"seconds": 1.5}, tensors={"1/a": torch.arange(3.0)}))
    reply = read_reply(tmp_path, 3)
    assert reply.content == {"seconds": 1.5}
    assert torch.equal(reply.tensors["1/a"], torch.arange(3.0))
    with pytest.raises(ForeignError, match="must be one that it was given to write"):
        (tmp_path / "reply.json").write_text('{"status": "ok", "unknown": 1}')
        read_reply(tmp_path, 3)
    with pytest.raises(ForeignError, match="must hold plain values"):
        (tmp_path / "reply.json").write_text('{"status": "ok", "reason": []}')
        read_reply(tmp_path, 3)


def test_a_search_space_comes_from_the_process_of_its_own(extra_criteria, victim):
    bench = Workbench(torch.device("cpu"))
    loaded = bench.model(victim._job("magnitude"))
    from pruneboard.benchmark.api import Context

    context = Context(model=loaded.network, layers=loaded.layers("filters"), generator=torch.Generator())
    space = plugins.criteria().get("tunable").search_space(context)
    assert space == dict.fromkeys(("first", "second", "third"), ("a", "b", "c"))
    with pytest.raises(Unsupported):
        data = bench.reference(victim._job("magnitude"), loaded.plugin)
        plugins.criteria().get("declining").score(
            Context(model=loaded.network, layers=loaded.layers("filters"), generator=torch.Generator(), data=data)
        )


def test_the_state_of_the_process_is_told_and_put_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = ProcessState()
    drawn = torch.rand(1), random.random(), np.random.rand()
    os.chdir("/")
    monkeypatch.setenv("MINE", "1")
    torch.set_float32_matmul_precision("medium")
    changes = state.changes()
    state.restore()

    assert changes == [
        "the random state of torch",
        "the random state of NumPy",
        "the random state of Python",
        "the precision of matrix products",
        "the present folder",
        "the environment",
    ]
    assert state.changes() == []
    assert (torch.rand(1), random.random(), np.random.rand()) == drawn
    state.restore()
