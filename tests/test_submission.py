"""From an idea to a row on the leaderboard, by the commands of the page on submissions."""

import json
import os
import re
import shlex
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "submit.md"


def commands():
    """The commands of the page, one per line of its block."""
    block = re.search(r"## In nine commands.*?```\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [shlex.split(line) for line in block[1].strip().splitlines()]


def checkout(folder):
    """A clone of this project with a single commit, as a new user has it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() or (ROOT / name).is_symlink():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    for step in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "All"]):
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *step], cwd=folder, check=True)


def environment(folder, project):
    """A virtual environment with the packages of this one, in which `pruneboard` is that of a project."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    own = next((folder / "lib").glob("python*")) / "site-packages"
    others = [path for path in (*site.getsitepackages(), *sys.path) if path.endswith("site-packages")]
    (own / "shared.pth").write_text("\n".join([str(project / ".typing"), *dict.fromkeys(others)]))
    script = folder / "bin" / "pruneboard"
    script.write_text(f'#!/bin/sh\nexec {python} -m pruneboard.benchmark.cli "$@"\n')
    script.chmod(0o755)
    pip = folder / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec {python} -m pip "$@"\n')
    pip.chmod(0o755)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "GIT_", "PYTHONPATH"))},
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        # Nothing is fetched: what the package needs is there.
        **{"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_CONFIG_FILE": os.devnull},
        **{"COLUMNS": "500", "OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    }


def fill_in(package):
    """Replace the three texts of the skeleton that are refused on a card, as the page says."""
    for path, text, own in (
        (
            package / "pruneboard_my_taylor.py",
            "One line that `pruneboard list criteria` shows, with the formula",
            "Mine",
        ),
        (package / "pruneboard_my_taylor.py", "https://example.org/the-paper", "https://arxiv.org/abs/1611.06440"),
        (package / "pyproject.toml", "https://example.org/", "https://github.com/your-name/"),
    ):
        assert text in path.read_text()
        path.write_text(path.read_text().replace(text, own))


@pytest.mark.slow
@pytest.mark.skipif(
    not shutil.which("git") or not (ROOT / ".git").exists(), reason="needs git and a checkout of this project"
)
def test_a_criterion_in_a_package_of_its_own_gets_from_an_idea_to_the_site_by_the_commands_of_the_page(tmp_path):
    project = tmp_path / "pruneboard"
    project.mkdir()
    checkout(project)
    variables = environment(tmp_path / "env", project)
    printed = {}
    steps = commands()
    assert len(steps) < 10
    for step in steps:
        done = subprocess.run(step, cwd=project, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{shlex.join(step)}\n{done.stdout}\n{done.stderr}"
        printed[" ".join(step[:2])] = done.stdout
        if step[:2] == ["pruneboard", "new"]:
            fill_in(tmp_path / "pruneboard-my-taylor")
    card = json.loads((project / "results" / "digits" / "my_taylor.card.json").read_text())
    page = (project / "_site" / "digits" / "index.html").read_text() if (project / "_site" / "digits").is_dir() else ""
    pages = page or "".join(path.read_text() for path in (project / "_site").rglob("*.html"))

    assert (tmp_path / "pruneboard-my-taylor" / "pruneboard_my_taylor.py").is_file()
    assert "my_taylor" in printed["pruneboard list"]
    assert "package pruneboard-my-taylor 0.1.0" in printed["pruneboard list"]
    assert "my_taylor: 69 checks passed on 7 networks, 0 failed." in printed["pruneboard check"]
    assert "20 ok" in printed["pruneboard run"]
    assert "my_taylor" in printed["pruneboard table"]
    assert "20 jobs on digits, 20 done before, 0 to run." in printed["pruneboard submit"]
    assert "git switch --create submit-my-taylor-digits" in printed["pruneboard submit"]
    assert (card["author"], card["licence"], card["code"]) == (
        "Your Name",
        "BSD-3-Clause",
        "package pruneboard-my-taylor 0.1.0",
    )
    assert card["n_jobs"] == {"ok": 20}
    assert card["clean"] is True
    assert card["summary"].startswith("Mine")
    assert re.search(r"^Valid, [0-9]+ warnings?\.$", printed["pruneboard validate"], re.MULTILINE)
    assert "my_taylor" in pages
