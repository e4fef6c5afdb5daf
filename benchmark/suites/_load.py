"""Reading, checking and expanding suite files.

A suite file is TOML; `digits.toml` beside this module is the one to copy.
"""

import dataclasses
import difflib
import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pruneboard.benchmark.errors import SuiteError
from pruneboard.benchmark.registry import unknown_name
from pruneboard.benchmark.schema import (
    ARGMAXES,
    GRANULARITIES,
    PROTOCOLS,
    SCOPES,
    FineTuning,
    Job,
    Suite,
    SuiteModel,
    Task,
)

_FOLDER = Path(__file__).resolve().parent
_FORMAT = 1
_LARGEST = 2**63 - 1
_LONGEST_SHOWN = 200

# Names become parts of paths; that of a suite, criterion or model is the name of a Python module as well.
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_DATASET = re.compile(r"\w[\w.-]*")
_TABLES: Mapping[str, tuple[str, ...]] = {
    "": ("format", "name", "version", "title", "description", "data", "task", "protocol", "grid", "models"),
    "data": ("datasets", "reference_split", "evaluation_split", "evaluation_per_class"),
    "task": ("classes", "argmax"),
    "protocol": ("name", "scope", "finetuning"),
    "grid": ("rates", "shots", "seeds", "criteria", "tuned_on"),
}
_OPTIONAL = ("task", "data.datasets", "data.evaluation_per_class", "protocol.finetuning", "grid.tuned_on")
_FINETUNING: Mapping[str, tuple[type, str, Callable[[Any], bool]]] = {
    "images": (str, "`shots` or `train`", lambda value: value in ("shots", "train")),
    "optimiser": (str, "`sgd` or `adamw`", lambda value: value in ("sgd", "adamw")),
    "learning_rate": (float, "a number above 0", lambda value: 0 < value < math.inf),
    "momentum": (float, "a number in [0, 1)", lambda value: 0 <= value < 1),
    "weight_decay": (float, "a number of at least 0", lambda value: 0 <= value < math.inf),
    "epochs": (int, "a whole number of at least 1", lambda value: 1 <= value <= _LARGEST),
    "batch_size": (int, "a whole number of at least 1", lambda value: 1 <= value <= _LARGEST),
    "batch_norms": (str, "`frozen` or `updated`", lambda value: value in ("frozen", "updated")),
}


def suite_names() -> tuple[str, ...]:
    """Return the names of the suites that come with pruneboard, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def suite_path(name: str) -> Path:
    """Return the file of a suite that comes with pruneboard, or the path itself when `name` is one to a TOML file.

    Raises:
        UnknownNameError: there is no such suite.
    """
    if name.endswith(".toml"):
        return Path(name)
    if name not in suite_names():
        raise unknown_name("suite", name, suite_names())
    return _FOLDER / f"{name}.toml"


def load_suite(path: Path) -> Suite:
    """Read a suite file.

    Raises:
        SuiteError: the file is unreadable, no TOML, or breaks a rule; the message names the field and its value.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SuiteError(f"a suite file must be readable, but `{path}` is not: {error.strerror}.") from error
    # Besides its own errors, tomllib lets those of integers with thousands of digits and of deep nesting through.
    except (ValueError, RecursionError) as error:
        raise SuiteError(f"a suite file must be valid TOML, but `{path}` is not: {error}.") from error
    return _SuiteReader(path, document).read()


def expand(suite: Suite, *, models: Sequence[str] = (), criteria: Sequence[str] = ()) -> tuple[Job, ...]:
    """List a suite's jobs, optionally only those of some models or criteria.

    Jobs come seed by seed, so that an interrupted run has whole seeds rather than whole criteria.

    Raises:
        UnknownNameError: a model or criterion is not in the suite.
    """
    for name in models:
        if name not in {model.name for model in suite.models}:
            raise unknown_name(f"model in suite `{suite.name}`:", name, (model.name for model in suite.models))
    for name in criteria:
        if name not in suite.criteria:
            raise unknown_name(f"criterion in suite `{suite.name}`:", name, suite.criteria)
    return tuple(
        Job(suite=suite, model=model.name, granularity=granularity, criterion=criterion, seed=seed)
        for model in suite.models
        if not models or model.name in models
        for seed in suite.seeds
        for granularity in model.granularities
        for criterion in suite.criteria
        if not criteria or criterion in criteria
    )


class _SuiteReader:
    """One suite file while it is checked; every method raises SuiteError with the file and the field."""

    def __init__(self, path: Path, document: dict[str, Any]) -> None:
        self._path = path
        self._document = document

    def _fail(self, field: str, rule: str, value: object) -> SuiteError:
        return SuiteError(f"`{field}` must be {rule}, got {_shown(value)} in suite file `{self._path}`.")

    def read(self) -> Suite:
        for table, keys in _TABLES.items():
            if table in self._document or table not in _OPTIONAL:
                self._check_keys(table, keys)
        if type(self._document["format"]) is not int or self._document["format"] != _FORMAT:
            raise self._fail("format", f"{_FORMAT}, the only one this version reads", self._document["format"])
        data, protocol, grid = (self._document[name] for name in ("data", "protocol", "grid"))
        name = self._name("name", self._document["name"], _NAME)
        if name != self._path.stem:
            raise self._fail("name", f"the stem of its file, `{self._path.stem}`", name)
        if protocol["name"] not in PROTOCOLS:
            raise self._fail("protocol.name", f"one of {PROTOCOLS}", protocol["name"])
        if protocol["scope"] not in SCOPES:
            raise self._fail("protocol.scope", f"one of {SCOPES}", protocol["scope"])
        reference_split = self._text("data.reference_split", data["reference_split"])
        evaluation_split = self._text("data.evaluation_split", data["evaluation_split"])
        if evaluation_split == reference_split:
            rule = "another split than `data.reference_split`, so that no criterion sees an image it is judged by"
            raise self._fail("data.evaluation_split", rule, evaluation_split)
        datasets = self._names("data.datasets", data["datasets"], _DATASET) if "datasets" in data else ()
        return Suite(
            name=name,
            version=self._integers("version", [self._document["version"]], least=1)[0],
            title=self._text("title", self._document["title"]),
            description=self._text("description", self._document["description"]),
            datasets=datasets,
            reference_split=reference_split,
            evaluation_split=evaluation_split,
            protocol=protocol["name"],
            scope=protocol["scope"],
            rates=self._rates(grid["rates"]),
            shots=self._integers("grid.shots", grid["shots"], least=1),
            seeds=self._integers("grid.seeds", grid["seeds"], least=0),
            criteria=self._names("grid.criteria", grid["criteria"], _NAME),
            models=self._models(self._document["models"], has_datasets=bool(datasets)),
            finetuning=self._finetuning(protocol),
            tuned_on=self._name("grid.tuned_on", grid["tuned_on"], _NAME) if "tuned_on" in grid else "",
            task=self._task(self._document["task"]) if "task" in self._document else None,
            evaluation_per_class=self._per_class(data.get("evaluation_per_class")),
        )

    def _task(self, table: Mapping[str, Any]) -> Task:
        classes, argmax = table["classes"], table["argmax"]
        if classes != "all" and (type(classes) is not int or not 2 <= classes <= _LARGEST):
            raise self._fail("task.classes", "`all`, or a whole number of at least 2", classes)
        if argmax not in ARGMAXES:
            raise self._fail("task.argmax", f"one of {ARGMAXES}", argmax)
        return Task(n_classes=None if classes == "all" else classes, argmax=argmax)

    def _per_class(self, value: object) -> int | None:
        if value is None:
            return None
        return self._integers("data.evaluation_per_class", [value], least=1)[0]

    def _finetuning(self, protocol: Mapping[str, Any]) -> FineTuning | None:
        given, wanted = protocol.get("finetuning"), protocol["name"] == "iterative_finetune"
        if not wanted:
            if given is not None:
                raise self._fail("protocol.finetuning", "left out, as the protocol does not train", given)
            return None
        names = tuple(field.name for field in dataclasses.fields(FineTuning))
        if not isinstance(given, dict) or set(given) != set(names):
            raise self._fail("protocol.finetuning", f"a table of exactly {names}", given)
        for field, (kind, rule, holds) in _FINETUNING.items():
            value = given[field]
            valid = type(value) is kind or (kind is float and type(value) is int)
            if not valid or not holds(value):
                raise self._fail(f"protocol.finetuning.{field}", rule, value)
        return FineTuning(**{name: _FINETUNING[name][0](given[name]) for name in names})

    def _check_keys(self, table: str, keys: tuple[str, ...]) -> None:
        content = self._document[table] if table else self._document
        prefix = f"{table}." if table else ""
        if not isinstance(content, dict):
            raise self._fail(table, "a table", content)
        for key in content:
            if key not in keys:
                near = difflib.get_close_matches(key, keys, n=1)
                hint = f" Did you mean `{near[0]}`?" if near else ""
                raise SuiteError(f"there is no field `{prefix}{key}` in suite file `{self._path}`.{hint}")
        for key in keys:
            if key not in content and f"{prefix}{key}" not in _OPTIONAL:
                raise SuiteError(f"the field `{prefix}{key}` is missing in suite file `{self._path}`; add it.")

    def _text(self, field: str, value: object) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self._fail(field, "a text that is not empty", value)
        return value

    def _name(self, field: str, value: object, pattern: re.Pattern[str]) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise self._fail(field, f"a name of the form {pattern.pattern}", value)
        return value

    def _names(self, field: str, value: object, pattern: re.Pattern[str]) -> tuple[str, ...]:
        if not isinstance(value, list) or not value:
            raise self._fail(field, "a list of distinct names", value)
        names = tuple(self._name(field, name, pattern) for name in value)
        if len(set(names)) != len(names):
            raise self._fail(field, "a list of distinct names", value)
        return names

    def _integers(self, field: str, value: object, *, least: int) -> tuple[int, ...]:
        valid = isinstance(value, list) and value and all(type(v) is int and least <= v <= _LARGEST for v in value)
        if not valid or not isinstance(value, list) or value != sorted(set(value)):
            raise self._fail(field, f"increasing whole numbers, each at least {least} and below 2**63", value)
        return tuple(value)

    def _rates(self, value: object) -> tuple[float, ...]:
        valid = isinstance(value, list) and value and all(type(v) in (int, float) and 0 <= v < 1 for v in value)
        if not valid or not isinstance(value, list) or value != sorted(set(value)) or value[0] != 0:
            raise self._fail("grid.rates", "increasing numbers in [0, 1) that begin with 0", value)
        return tuple(float(v) for v in value if math.isfinite(v))

    def _models(self, value: object, *, has_datasets: bool) -> tuple[SuiteModel, ...]:
        if not isinstance(value, dict) or not value:
            raise self._fail("models", "a table of model names to granularities", value)
        models = []
        for name, entry in value.items():
            self._name("models", name, _NAME)
            own = isinstance(entry, dict) and entry.keys() == {"granularities", "datasets"}
            granularities = entry["granularities"] if own else entry
            known = isinstance(granularities, list) and granularities and all(g in GRANULARITIES for g in granularities)
            if not known or len(set(granularities)) != len(granularities):
                rule = f"a list of some of {GRANULARITIES}, or a table of such `granularities` and `datasets`"
                raise self._fail(f"models.{name}", rule, entry)
            if not own and not has_datasets:
                raise self._fail(
                    f"models.{name}", "a table that names `datasets`, as `data.datasets` is missing", entry
                )
            datasets = self._names(f"models.{name}.datasets", entry["datasets"], _DATASET) if own else ()
            models.append(SuiteModel(name=name, granularities=tuple(granularities), datasets=datasets))
        return tuple(models)


def _shown(value: object) -> str:
    """Return a value as an error message shows it, which has to be short and to work for every value."""
    try:
        text = repr(value)
    # An integer written in hexadecimal may have more digits than Python converts; dotted keys may nest without end.
    except (ValueError, RecursionError):
        return f"a `{type(value).__name__}` that is too large to show"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
