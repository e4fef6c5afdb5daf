"""What the criteria of this project declare, now and at the commits that rows name, read as text and never imported."""

import ast
import functools
import os
import re
import stat
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from pruneboard.benchmark.discovery import contents_digest

_ROOT = Path(__file__).resolve().parents[2]
_MOST_BYTES = 2**20
_COMMIT = re.compile(r"[0-9a-f]{40}")
_VERSION = re.compile(rb"^SCHEMA_VERSION = (\d+)$", re.MULTILINE)
_PLAIN = ("name", "version", "family", "needs", "source")


@dataclass(frozen=True)
class Declared:
    """What a criterion of this project says of itself.

    Attributes:
        version: version.
        family: family.
        needs: what it looks at.
        source: where it is published.
        digest: sha256 of its source.
    """

    version: int
    family: str
    needs: str
    source: str
    digest: str


@functools.cache
def present_criteria() -> Mapping[str, Declared]:
    """Return what the criteria of this checkout declare, by registered name, presets included."""
    return _declared(dict(_texts(_ROOT / "criteria")))


def package_faults() -> Iterator[tuple[Path, str]]:
    """Yield the files that would run whenever a criterion or a model is imported, whichever it is."""
    for folder in ("criteria", "models"):
        path = _ROOT / folder / "__init__.py"
        if path.exists() or path.is_symlink():
            yield (
                path,
                f"`{folder}/` must hold one file or folder for each plugin, but an `__init__.py` runs with every one; "
                "remove it.",
            )


def split_commits(commits: Collection[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Return which commits this checkout holds, and which it lacks.

    Nothing is known, and both are empty, without a checkout, in a shallow one, and in one that holds none of the
    commits, because its history is another.
    """
    # What is no commit's name is said elsewhere, and could be taken for another question.
    asked = sorted({commit for commit in commits if _COMMIT.fullmatch(commit)})
    try:
        if not asked or not (_ROOT / ".git").exists() or _git("rev-parse", "--is-shallow-repository") != b"false\n":
            return frozenset(), frozenset()
        answers = _git("cat-file", "--batch-check", given=[f"{commit}^{{commit}}" for commit in asked])
    except (OSError, subprocess.CalledProcessError):
        return frozenset(), frozenset()
    lines = zip(asked, answers.decode().splitlines(), strict=True)
    held = frozenset(commit for commit, line in lines if not line.endswith(" missing"))
    return held, frozenset(asked) - held if held else frozenset()


@functools.cache
def criteria_at(commit: str) -> Mapping[str, Declared]:
    """Return what the criteria declared at a commit that is held, by registered name."""
    listed = _git("ls-tree", "-r", "-z", "--full-tree", commit, "--", "criteria/").decode("utf-8", "replace")
    files = [line.split("\t", 1) for line in listed.split("\0") if line]
    kept = [(about.split(), PurePosixPath(name).relative_to("criteria")) for about, name in files]
    # Mode, kind and name of each object; links are no files of the project.
    oids = {path: about[2] for about, path in kept if about[0].startswith("100") and path.suffix == ".py"}
    return _declared({path: _blob(oid) for path, oid in oids.items()})


@functools.cache
def schema_version_at(commit: str) -> int:
    """Return the version of the schema at a commit that is held; 0 where it says none."""
    try:
        found = _VERSION.search(_blob(f"{commit}:benchmark/schema.py"))
    except subprocess.CalledProcessError:
        return 0
    return int(found[1]) if found else 0


@functools.cache
def _blob(name: str) -> bytes:
    return _git("cat-file", "blob", name)


def _git(*command: str, given: Iterable[str] = ()) -> bytes:
    # Git's own variables, which a hook sets for example, would point it to another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    text = "".join(f"{line}\n" for line in given).encode()
    return subprocess.run(
        ["git", "-C", str(_ROOT), *command], input=text, env=environment, capture_output=True, check=True
    ).stdout


def _texts(folder: Path) -> Iterator[tuple[PurePath, bytes]]:
    """Yield the Python files below a folder, but no links, devices or giants."""
    for path in sorted(folder.rglob("*.py")):
        found = path.lstat()
        if stat.S_ISREG(found.st_mode) and found.st_size <= _MOST_BYTES:
            yield path.relative_to(folder), path.read_bytes()


def _declared(files: Mapping[PurePath, bytes]) -> dict[str, Declared]:
    """Return what a tree of criteria declares, by registered name.

    As in `discovery`: a file stands with the helpers (`_name.py`) beside it, a folder with all of its files.
    """
    helpers = {path: text for path, text in files.items() if len(path.parts) == 1 and path.name.startswith("_")}
    declared: dict[str, Declared] = {}
    for path, text in files.items():
        top = path.parts[0]
        if top.startswith("_") or (len(path.parts) > 1 and path.parts[1:] != ("__init__.py",)):
            continue
        inside = {path: text, **helpers}
        if len(path.parts) > 1:
            inside = {each: content for each, content in files.items() if each.parts[0] == top}
        for names, values in _classes(text):
            declared |= dict.fromkeys(names, Declared(**values, digest=contents_digest(inside)))
    return declared


def _classes(text: bytes) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Yield the registered names of each criterion of a file, and what it declares in plain values."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        given = dict(_assigned(node))
        values = {name: _literal(given[name]) for name in _PLAIN if name in given}
        presets = given.get("presets")
        keys = presets.keys if isinstance(presets, ast.Dict) else []
        if len(values) == len(_PLAIN) and isinstance(name := values.pop("name"), str):
            yield [name, *(key for node in keys if isinstance(key := _literal(node), str))], values


def _assigned(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None:
            yield line.target.id, line.value
        elif isinstance(line, ast.Assign) and len(line.targets) == 1:
            target, value = line.targets[0], line.value
            if isinstance(target, ast.Name):
                yield target.id, value
            elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = zip(target.elts, value.elts, strict=False)
                yield from ((name.id, each) for name, each in pairs if isinstance(name, ast.Name))


def _literal(node: ast.expr | None) -> Any:
    try:
        return None if node is None else ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
