import os
import signal
from collections.abc import Generator
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from commands import EXTRA

ROOT = Path(__file__).resolve().parents[1]


def _shared(variable: str, folder: str) -> Path:
    if named := os.environ.get(variable):
        return Path(named.split(os.pathsep)[0])
    beside = ROOT.parent / "shared" / folder
    if not beside.is_dir():
        pytest.skip(f"`{variable}` is not set, and there is no ../shared/{folder}")
    return beside


@pytest.fixture(scope="session")
def shared_data() -> Path:
    return _shared("PRUNEBOARD_DATA", "data")


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    return _shared("PRUNEBOARD_WEIGHTS", "weights")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """As a worker has it: results depend on the number of threads in the last bits."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _signals_heard() -> None:
    """Tests that were started by `nohup`, or in the background of a shell, are deaf to some, as are their children."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Replace what is no UTF-8 in what tests printed and logged, since reports travel between processes as that."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "replace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(autouse=True)
def _isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test meets the user's cache, the user's files, or the network."""
    monkeypatch.setenv("PRUNEBOARD_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def extra_criteria(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name the plugin files that only tests know, for one test."""
    for name, value in EXTRA.items():
        monkeypatch.setenv(name, value)
