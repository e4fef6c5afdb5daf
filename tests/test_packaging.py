"""What is shipped, what is pinned, and how the set-up behaves when something is missing."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
PYTHONS = ("3.11", "3.12", "3.13")

PIN = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>[0-9][0-9a-z.]*)(?: ; (?P<marker>[^#]+))?")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def files_of(folder: Path) -> Iterator[Path]:
    """Yield the files to ship that stand in a folder itself: neither its README nor what tools leave there."""
    return (p for p in folder.iterdir() if p.is_file() and p.name != "README.md" and not p.name.startswith("."))


def package_folders() -> dict[str, Path]:
    """Return the folders that hold something to ship, by the names of the packages that they have to be."""
    tops = {name: ROOT / folder for name, folder in SETUPTOOLS["package-dir"].items()}
    folders = {}
    for package, top in tops.items():
        for folder in (top, *(path for path in top.rglob("*") if path.is_dir() and path.name != "__pycache__")):
            if any(files_of(folder)):
                folders[".".join((package, *folder.relative_to(top).parts))] = folder
    return folders


def lock_entries() -> list[list[str]]:
    """Return the requirements of the lock: the pin, then its hashes."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", "")
    return [re.split(r" {2,}", line.strip()) for line in text.splitlines()]


def pins(python: str) -> dict[str, list[str]]:
    """Return the pinned versions that apply to a Python on Linux."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    found: dict[str, list[str]] = {}
    for entry in lock_entries():
        pin = PIN.fullmatch(entry[0])
        assert pin, entry[0]
        if pin["marker"] is None or Marker(pin["marker"]).evaluate(environment):
            found.setdefault(pin["name"], []).append(pin["version"])
    return found


def run(*command: str | Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command without what a surrounding make or pip configuration would add to it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PIP_"))}
    return subprocess.run(
        [os.fspath(part) for part in command],
        cwd=folder,
        env={**kept, "PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def pip(*arguments: str | Path, folder: Path) -> None:
    done = run(sys.executable, "-m", "pip", *arguments, "--no-index", "--no-deps", "--quiet", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy so that the working tree stays as it is."""
    source = tmp_path_factory.mktemp("source")
    for folder in SETUPTOOLS["package-dir"].values():
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    out = tmp_path_factory.mktemp("wheel")
    pip("wheel", source, "--no-build-isolation", "--wheel-dir", out, folder=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def shipped(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if name.startswith("pruneboard/")}


def test_every_folder_is_a_package_of_pyproject() -> None:
    assert sorted(SETUPTOOLS["packages"]) == sorted(package_folders())


def test_the_wheel_ships_every_file(shipped: set[str]) -> None:
    folders = package_folders()
    expected = {f"{name.replace('.', '/')}/{path.name}" for name, at in folders.items() for path in files_of(at)}
    assert shipped == expected


@pytest.mark.parametrize(
    "pattern",
    [
        r"benchmark/py\.typed",
        r"benchmark/claims/claims\.toml",
        r"benchmark/data/datasets\.toml",
        r"benchmark/suites/digits\.toml",
        r"benchmark/suites/toy\.published\.csv",
        r"models/digits_\w+\.safetensors",
        r"site/templates/.+\.html",
        r"site/assets/.+\.css",
    ],
)
def test_the_wheel_ships_what_is_not_code(shipped: set[str], pattern: str) -> None:
    assert any(re.fullmatch(f"pruneboard/{pattern}", name) for name in shipped)


def test_the_wheel_has_no_module_that_hides_another(shipped: set[str]) -> None:
    assert "pruneboard/site/__init__.py" not in shipped
    assert "pruneboard/__init__.py" not in shipped


def test_the_wheel_carries_the_licence_and_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (entry_points,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in archive.namelist())
        assert "pruneboard = pruneboard.benchmark.cli:main" in archive.read(entry_points).decode()


def test_an_installed_wheel_works_in_another_folder(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip("install", wheel, "--no-compile", "--target", target, folder=elsewhere)
    code = """
import pathlib, sys
import pruneboard.benchmark.cli as cli

assert pathlib.Path(sys.argv.pop(1)) in pathlib.Path(cli.__file__).parents, cli.__file__
cli.main()
"""

    def pruneboard(*arguments: str) -> str:
        done = run(sys.executable, "-c", code, target, *arguments, folder=elsewhere, PYTHONPATH=str(target))
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "Handwritten digits" in pruneboard("list", "suites")
    # A wheel ships no published tables, but everything that a criterion of one's own needs.
    pruneboard("new", "mine", "--kind", "weights")
    pruneboard("run", "digits", "--model", "digits_vgg", "--criterion", "./mine.py", "--workers", "0")
    pruneboard("site", "build", "--runs", "runs", "--local", "--out", "site")
    assert "Handwritten digits" in (elsewhere / "site/index.html").read_text(encoding="utf-8")


def test_the_lock_holds_pins_and_hashes_and_no_address() -> None:
    for pin, *hashes in lock_entries():
        assert PIN.fullmatch(pin), pin
        assert hashes, pin
        assert all(HASH.fullmatch(value) for value in hashes), pin


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_has_one_version_of_everything_we_ask_for(python: str) -> None:
    locked = pins(python)
    assert not {name: versions for name, versions in locked.items() if len(versions) > 1}
    asked = [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"]]
    for requirement in map(Requirement, asked):
        (version,) = locked.get(canonicalize_name(requirement.name), [""])
        assert requirement.specifier.contains(version), f"`make lock` has not been run since: {requirement}"


def test_one_version_everywhere() -> None:
    version = PROJECT["project"]["version"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [version]
    assert re.findall(r"^## (\S+)", changelog, re.MULTILINE)[0] == version


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def set_up(venv: Path, python: Path) -> subprocess.CompletedProcess[str]:
    return run("make", "setup", f"VENV={venv}", f"PYTHON={python}", folder=ROOT)


def executable(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@needs_make
def test_set_up_names_the_python_that_is_too_old(tmp_path: Path) -> None:
    old = executable(tmp_path / "python3.9", "exit 1")
    done = set_up(tmp_path / "venv", old)
    assert done.returncode != 0
    assert f"Python 3.11 or newer with venv is needed, but none of these is: {old};" in done.stderr
    assert not (tmp_path / "venv").exists()


@needs_make
def test_a_set_up_that_fails_is_tried_again(tmp_path: Path) -> None:
    python = executable(tmp_path / "venv/bin/python", 'case "$*" in *install*) exit 1;; esac')
    assert set_up(tmp_path / "venv", python).returncode != 0
    assert not (tmp_path / "venv/.set-up").exists()
    executable(python, f'echo "$*" >> {tmp_path}/calls')
    assert set_up(tmp_path / "venv", python).returncode == 0
    assert (tmp_path / "calls").read_text().count("install") == 2


@needs_make
def test_set_up_is_done_once_and_again_when_the_lock_is_newer(tmp_path: Path) -> None:
    python = executable(tmp_path / "venv/bin/python", f'echo "$*" >> {tmp_path}/calls')
    assert set_up(tmp_path / "venv", python).returncode == 0
    once = (tmp_path / "calls").read_text()
    assert set_up(tmp_path / "venv", python).returncode == 0
    assert (tmp_path / "calls").read_text() == once
    os.utime(tmp_path / "venv/.set-up", (0, 0))
    assert set_up(tmp_path / "venv", python).returncode == 0
    assert (tmp_path / "calls").read_text() == once * 2
