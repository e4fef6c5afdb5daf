"""Running the real command line on small suites."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from pruneboard.benchmark import cli

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "tests" / "support" / "plugins"
EXTRA = {"PRUNEBOARD_PLUGINS": os.pathsep.join(str(path) for path in sorted(PLUGINS.glob("*.py")))}
"""Environment that names the criteria which only tests know."""


@dataclass(frozen=True)
class Finished:
    """What a command that ran in this process left."""

    returncode: int
    stdout: str
    stderr: str


def pruneboard(*arguments: object, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end and return what it printed."""
    return subprocess.run(
        _command(arguments), cwd=cwd, env=environment_of(env), capture_output=True, text=True, check=False, timeout=300
    )


def pruneboard_here(*arguments: object, cwd: Path, env: Mapping[str, str] | None = None) -> Finished:
    """Run the command line in this process, which spares the seconds that importing torch takes."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.dict(os.environ, environment_of(env)),
        mock.patch.object(sys, "argv", ["pruneboard", *map(str, arguments)]),
    ):
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
    return Finished(code, out.getvalue(), err.getvalue())


def start_pruneboard(*arguments: object, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start the command line in a process group of its own."""
    return subprocess.Popen(
        _command(arguments),
        cwd=cwd,
        env=environment_of(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def press_ctrl_c(process: "subprocess.Popen[str]") -> None:
    """Do what a terminal does: interrupt the whole process group."""
    os.killpg(process.pid, signal.SIGINT)


def wait_until(condition, seconds: float = 120) -> None:
    """Poll until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the condition did not come true in time")
        time.sleep(0.05)


def write_suite(
    folder: Path,
    *,
    models: Mapping[str, Sequence[str]],
    criteria: Sequence[str],
    seeds: Sequence[int] = (0,),
    shots: Sequence[int] = (1, 2),
    rates: Sequence[float] = (0.0, 0.3, 0.6),
    name: str = "small",
    datasets: Sequence[str] = ("digits",),
    splits: tuple[str, str] = ("train", "test"),
) -> Path:
    """Write a suite file and return its path."""
    table = "\n".join(f"{model} = {list(granularities)}" for model, granularities in models.items())
    path = folder / f"{name}.toml"
    path.write_text(
        f"""
format = 1
name = "{name}"
version = 1
title = "Small"
description = "For tests."
[data]
datasets = {list(datasets)}
reference_split = "{splits[0]}"
evaluation_split = "{splits[1]}"
[protocol]
name = "one_shot"
scope = "global"
[grid]
rates = {list(rates)}
shots = {list(shots)}
seeds = {list(seeds)}
criteria = {list(criteria)}
[models]
{table}
"""
    )
    return path


def _command(arguments: Sequence[object]) -> list[str]:
    return [sys.executable, "-m", "pruneboard.benchmark.cli", *map(str, arguments)]


def environment_of(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment that commands run in, wherever they run."""
    environment = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1", **(extra or {})}
    for variable in ("PRUNEBOARD_DATA", "PRUNEBOARD_WEIGHTS"):
        if variable in environment:
            environment[variable] = str(ROOT / environment[variable])
    return environment
