"""Workflows that run code of strangers have no secrets, and the one that may write runs no code of strangers."""

import json
import re
import shutil
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
def test_actions_are_pinned_by_commit_and_leave_no_token_behind(path):
    lines = [line.split("uses: ")[1] for line in path.read_text(encoding="utf-8").splitlines() if "uses: " in line]
    checkouts = [step for step in steps(read(path)) if step.get("uses", "").startswith("actions/checkout")]

    assert lines
    assert all(re.fullmatch(r"[a-z-]+/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line) for line in lines), lines
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_an_action_has_one_commit_everywhere():
    used = {step["uses"] for path in WORKFLOWS for step in steps(read(path)) if "uses" in step}

    assert len({name.partition("@")[0] for name in used}) == len(used)


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


def test_what_is_validated_is_touched_by_no_criterion():
    """A criterion that runs on the same machine could change the validator, so that its job runs none."""
    jobs = workflow("submission")["jobs"]
    scripts = {name: "\n".join(step.get("run", "") for step in job["steps"]) for name, job in jobs.items()}

    assert scripts.keys() == {"contract", "validation", "rerun"}
    assert "pruneboard validate results" in scripts["validation"]
    assert not re.search("check |--rerun|pip install", scripts["validation"])
    assert all("needs" not in job for job in jobs.values())


def test_what_is_published_is_validated_first():
    scripts = [step.get("run", "") for step in workflow("pages")["jobs"]["build"]["steps"]]
    validates = next(i for i, script in enumerate(scripts) if "pruneboard validate results" in script)
    builds = next(i for i, script in enumerate(scripts) if "pruneboard site build" in script)

    assert validates < builds
    assert "grep -Eq '^Valid, " in scripts[validates]


def test_artefacts_have_names_and_folders_of_their_own():
    """So that a job which runs a stranger's code writes nothing that another job is shown to say."""
    uploads = [
        step["with"]["name"] for step in steps(workflow("submission")) if "upload-artifact" in step.get("uses", "")
    ]
    download = next(step for step in steps(workflow("submission-comment")) if "download-artifact" in step["uses"])

    assert sorted(uploads) == ["outcome-contract", "outcome-rerun", "outcome-validation"]
    assert "merge-multiple" not in download["with"]


def test_the_commands_of_the_workflow_exist():
    text = "\n".join(step.get("run", "") for step in steps(workflow("submission")))
    used = set(re.findall(r"\.venv/bin/pruneboard (\w+)", text))
    cli = (ROOT / "benchmark" / "cli" / "__init__.py").read_text(encoding="utf-8")

    assert used == {"check", "table", "validate"}
    assert all(f"\ndef {command}(" in cli for command in used)


# Pairs of which at most one file changes below.
OTHERS = ["results/toy/mine.jobs.csv", "results/toy/mine.csv", "results/cifar10/carded.jobs.csv"]
VALID = "echo 'Valid, 3 warnings.'"


@pytest.fixture
def pull_request(tmp_path):
    """A repository with a pull request's changes, and a function that runs a script of the workflow in it."""

    def git(*command):
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        done = subprocess.run(["git", *identity, *command], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def write(names):
        for name, text in names.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        git("add", "--all")
        git("commit", "--quiet", "--message", "change")

    def run(script):
        variables = {"BASE": base, "SEED": "7", "PATH": "/usr/bin:/bin"}
        return subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, env=variables, capture_output=True, text=True)

    git("init", "--quiet")
    write(
        dict.fromkeys(
            ["criteria/old.py", "criteria/same.py", "criteria/gone.py", "results/digits/old.jobs.csv", *OTHERS], "1"
        )
    )
    base = git("rev-parse", "HEAD")
    (tmp_path / "criteria" / "gone.py").unlink()
    write(dict.fromkeys([f"criteria/{n}.py" for n in ("old", "new", "_helper", "lrp/__init__", "lrp/_rules")], "2"))
    changed = [
        "digits/mine.jobs.csv",
        "digits/mine.csv",
        "toy/mine.csv",
        "digits/speed.csv",
        "digits/tuning/a.trials.csv",
    ]
    write(dict.fromkeys([f"results/{name}" for name in changed], "2"))
    return write, run


def script_with(text):
    return next(step["run"] for step in steps(workflow("submission")) if text in step.get("run", ""))


def test_the_workflow_finds_the_criteria_that_changed(pull_request):
    """Its own shell, on a small repository: files and folders once each, no helpers, nothing that is gone."""
    _, run = pull_request
    checked = "mine: 69 checks passed on 7 networks, 0 failed."
    script = script_with("-- 'criteria/*.py'")
    done = run(script.replace(".venv/bin/pruneboard check", f"printf 'CHECK %s\\n{checked}\\n'"))
    silent = run(script.replace(".venv/bin/pruneboard check", "true"))
    none = run(
        script.replace(
            ".venv/bin/pruneboard check", "printf 'CHECK %s\\nmine: 0 checks passed on 0 networks, 0 failed.\\n'"
        )
    )

    assert done.returncode == 0, done.stderr
    assert re.findall("CHECK (.*)", done.stdout) == ["criteria/lrp", "criteria/new.py", "criteria/old.py"]
    assert silent.returncode == none.returncode == 1, "a process that ends with 0 and says nothing has checked nothing"


def test_the_workflow_asks_for_the_last_line_of_the_validation(pull_request):
    _, run = pull_request
    script = script_with("pruneboard validate results").replace(".venv/bin/pruneboard table", "echo TABLE")
    for said, code in (
        (VALID, 0),
        ("echo 'Invalid: 1 errors, 0 warnings.'", 1),
        ("true", 1),
        (f"{VALID}; echo more", 1),
    ):
        assert run(script.replace(".venv/bin/pruneboard validate results", f"({said})")).returncode == code


@pytest.mark.skipif(not shutil.which("jq"), reason="needs jq, as the workflow does")
def test_the_workflow_runs_jobs_of_the_very_tables_that_changed(pull_request):
    """With the package that a card names, and no other text of a card in a shell."""
    write, run = pull_request
    write({"results/digits/mine.card.json": json.dumps({"code": "package mine-1 0.2.0"})})
    write({"results/digits/evil.card.json": json.dumps({"code": "package x 1; touch pwned"})})
    write({"results/digits/option.card.json": json.dumps({"code": "package --index-url=evil 1"})})
    write({"results/cifar10/carded.card.json": "{}"})
    script = script_with("--rerun").replace(".venv/bin/python -m pip", "echo PIP")
    done = run(script.replace(".venv/bin/pruneboard", f'f() {{ echo PRUNEBOARD "$@"; {VALID}; }}; f'))
    failing = run(script.replace(".venv/bin/pruneboard", "false"))
    silent = run(script.replace(".venv/bin/pruneboard", "true"))

    assert done.returncode == 0, done.stderr
    assert re.findall("PIP .*", done.stdout) == ["PIP install --quiet --no-deps mine-1==0.2.0"]
    assert re.findall("PRUNEBOARD validate (.*) --rerun 5 --seed 7 --device cpu --embedded", done.stdout) == [
        f"results/{name}.jobs.csv" for name in ("cifar10/carded", "digits/mine", "toy/mine")
    ]
    assert failing.returncode == silent.returncode == 1


# What github-script gives a script, as far as this one asks.
_GITHUB = """
const asked = [];
const call = (name, data) => Object.assign(async (given) => { asked.push([name, given]); return { data }; }, { data });
const world = JSON.parse(process.argv[1]);
const github = {
  rest: {
    pulls: { list: call('list', world.pulls), listFiles: call('listFiles', world.files) },
    actions: { listJobsForWorkflowRun: call('listJobs', world.jobs) },
    issues: {
      listComments: call('listComments', world.comments),
      createComment: call('createComment'), updateComment: call('updateComment'),
    },
  },
  paginate: async (endpoint) => endpoint.data,
};
const context = { repo: { owner: 'o', repo: 'r' }, payload: { workflow_run: world.run } };
const core = { info: (text) => asked.push(['info', text]) };
(async () => {
SCRIPT
})().then(() => console.log(JSON.stringify(asked)));
"""
HEAD = {"sha": "a" * 40, "repo": {"id": 5}}
RUN = {"head_sha": "a" * 40, "head_branch": "mine", "conclusion": "success", "html_url": "https://example.org/run"}


def comment(folder, **world):
    """What the script asks GitHub to write, by the name of the request."""
    script = steps(workflow("submission-comment"))[-1]["with"]["script"]
    given = {"pulls": [{"number": 3, "head": HEAD}], "files": [], "comments": [], "jobs": []} | world
    given["run"] = RUN | {"head_repository": {"id": 5, "owner": {"login": "stranger"}}}
    command = ["node", "-e", _GITHUB.replace("SCRIPT", script), json.dumps(given)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.skipif(not shutil.which("node"), reason="needs Node, which runs the script")
def test_the_comment_shows_what_ran_as_text_and_says_what_changes_the_checks(tmp_path):
    outcome = {name: tmp_path / "outcome" / f"outcome-{name}" for name in ("contract", "validation", "rerun")}
    for folder in outcome.values():
        folder.mkdir(parents=True)
    (outcome["contract"] / "contract.txt").write_text("```\n@everyone <b>bold</b> ![x](https://example.org)\n")
    (tmp_path / "secret").write_text("of this machine")
    (outcome["validation"] / "validation.txt").symlink_to(tmp_path / "secret")
    (outcome["rerun"] / "rerun.txt").write_text("x" * 2_000_000)
    (outcome["rerun"] / "validation.txt").write_text("Valid, as another job says")
    asked = comment(
        tmp_path,
        files=[{"filename": "criteria/a.py"}, {"filename": ".github/workflows/submission.yml"}],
        jobs=[{"name": "validation", "conclusion": "failure"}, {"name": "contract", "conclusion": "success"}],
    )
    honest = comment(tmp_path, files=[{"filename": "criteria/a.py"}, {"filename": "results/digits/a.csv"}])
    body = asked["createComment"]["body"]

    assert asked["createComment"]["issue_number"] == 3
    assert "**This pull request changes what checks it**" in body
    assert ".github/workflows/submission.yml" in body
    assert body.count("```") == 8, "four blocks, none of which the text can end"
    assert "of this machine" not in body
    assert "as another job says" not in body
    assert "**contract: success**" in body
    assert "**validation: failure**" in body
    assert "**rerun: did not run**" in body
    assert "validation: did not run, or wrote too much" in body
    assert "rerun: did not run, or wrote too much" in body
    assert "changes what checks it" not in honest["createComment"]["body"]


@pytest.mark.skipif(not shutil.which("node"), reason="needs Node, which runs the script")
def test_a_comment_goes_to_the_pull_request_of_the_very_commit_and_replaces_only_its_own(tmp_path):
    mine = {"id": 9, "user": {"login": "github-actions[bot]"}, "body": "<!-- pruneboard submission -->\nold"}
    forged = {"id": 8, "user": {"login": "stranger"}, "body": "<!-- pruneboard submission -->"}
    moved = comment(tmp_path, pulls=[{"number": 3, "head": HEAD | {"sha": "b" * 40}}])
    other = comment(tmp_path, pulls=[{"number": 3, "head": HEAD | {"repo": None}}])
    again = comment(tmp_path, comments=[forged, mine])

    assert moved.keys() == other.keys() == {"list", "info"}
    assert again["updateComment"]["comment_id"] == 9
    assert again["list"]["head"] == "stranger:mine"


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
