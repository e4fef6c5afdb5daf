"""Workflows that run code of strangers have no secrets, and the one that may write runs no code of strangers."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def read(path):
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    # YAML takes the key `on` for a truth value.
    return {("on" if key is True else key): value for key, value in content.items()}


def workflow(name):
    return read(ROOT / ".github" / "workflows" / f"{name}.yml")


def steps(content):
    return [step for job in content["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_say_their_rights_and_end(path):
    content = read(path)

    assert set(content["permissions"].values()) <= {"read", "write"}
    assert all("timeout-minutes" in job for job in content["jobs"].values())
    assert not re.search(r"\bsecrets\.\w|secrets\[", path.read_text(encoding="utf-8"))
    assert "pull_request_target" not in content["on"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_text_of_a_stranger_is_put_into_a_script(path):
    """Titles, branches and the like reach scripts through the environment only."""
    for step in steps(read(path)):
        script = step.get("run", "") + step.get("with", {}).get("script", "")
        assert "${{" not in script


def test_what_checks_a_pull_request_can_only_read():
    content = workflow("submission")

    assert content["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in content["jobs"].values())
    checkout = next(step for step in steps(content) if step.get("uses", "").startswith("actions/checkout"))
    assert checkout["with"]["persist-credentials"] is False


def test_what_may_write_runs_nothing_of_the_pull_request():
    content = workflow("submission-comment")

    assert content["on"]["workflow_run"]["workflows"] == [workflow("submission")["name"]]
    assert content["permissions"] == {"actions": "read", "pull-requests": "write"}
    assert [step["uses"].partition("@")[0] for step in steps(content)] == [
        "actions/download-artifact",
        "actions/github-script",
    ]
    assert not any("run" in step for step in steps(content))


def test_the_commands_of_the_workflow_exist():
    text = "\n".join(step.get("run", "") for step in steps(workflow("submission")))
    used = set(re.findall(r"\.venv/bin/pruneboard (\w+)", text))
    cli = (ROOT / "benchmark" / "cli" / "__init__.py").read_text(encoding="utf-8")

    assert used == {"check", "validate"}
    assert all(f"\ndef {command}(" in cli for command in used)


def test_the_workflow_finds_the_criteria_that_changed(tmp_path):
    """Its own shell, on a small repository: files and folders once each, no helpers, nothing that is gone."""
    script = next(step["run"] for step in steps(workflow("submission")) if "git diff" in step.get("run", ""))
    script = script.replace(".venv/bin/pruneboard check", "echo CHECK")

    def git(*command):
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *command], cwd=tmp_path, check=True, capture_output=True)

    git("init", "--quiet")
    (tmp_path / "criteria" / "lrp").mkdir(parents=True)
    for name in ("old.py", "same.py", "gone.py"):
        (tmp_path / "criteria" / name).write_text("1\n")
    git("add", "--all")
    git("commit", "--quiet", "--message", "base")
    base = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True, check=True)
    for name in ("old.py", "new.py", "_helper.py", "lrp/__init__.py", "lrp/_rules.py"):
        (tmp_path / "criteria" / name).write_text("2\n")
    (tmp_path / "criteria" / "gone.py").unlink()
    git("add", "--all")
    git("commit", "--quiet", "--message", "change")
    variables = {"BASE": base.stdout.strip(), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, env=variables, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert "CHECK criteria/lrp criteria/new.py criteria/old.py\n" in done.stdout


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_forms_are_whole(path):
    content = read(path)
    if path.stem == "config":
        assert content == {"blank_issues_enabled": True}
        return
    fields = [field for field in content["body"] if field["type"] != "markdown"]

    assert {"name", "description", "title", "labels", "body"} == content.keys()
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_there_is_a_form_for_each_way_of_telling_us():
    assert {path.stem for path in FORMS} == {"submission", "re-evaluation", "correction", "config"}
