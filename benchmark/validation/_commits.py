"""Whether the commits that rows name are there for others to measure them again with."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

_ROOT = Path(__file__).resolve().parents[2]


def unknown_commits(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """Return the criteria whose rows name a commit that this checkout does not hold, with the first such commit.

    Nothing is said without a checkout, in a shallow one, and in one that holds none of the commits, because its history
    is another.

    Args:
        tables: criterion to its rows, with the columns of `schema.Row`.
    """
    named = {criterion: sorted(set(rows["commit"].astype(str))) for criterion, rows in tables.items()}
    missing = _missing(sorted(set().union(*named.values())))
    return {
        criterion: next(commit for commit in commits if commit in missing)
        for criterion, commits in named.items()
        if missing.intersection(commits)
    }


def _missing(commits: list[str]) -> set[str]:
    # What is no commit's name is said elsewhere, and could be taken for another question.
    asked = [commit for commit in commits if len(commit) == 40 and commit.isalnum() and commit.isascii()]
    try:
        if not asked or not (_ROOT / ".git").exists() or _git("rev-parse", "--is-shallow-repository") != "false":
            return set()
        answers = _git("cat-file", "--batch-check", given="".join(f"{commit}^{{commit}}\n" for commit in asked))
    except (OSError, subprocess.CalledProcessError):
        return set()
    missing = {commit for commit, line in zip(asked, answers.splitlines(), strict=True) if line.endswith(" missing")}
    return missing if len(missing) < len(asked) else set()


def _git(*command: str, given: str = "") -> str:
    # Git's own variables, which a hook sets for example, would point it to another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", "-C", str(_ROOT), *command], input=given, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
