"""What foreign plugins there are, said by a process that imports them."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pruneboard.benchmark.discovery import Source
from pruneboard.benchmark.errors import ForeignError, PluginError
from pruneboard.benchmark.failures import printable
from pruneboard.benchmark.foreign._criterion import Facts, ForeignCriterion
from pruneboard.benchmark.foreign._exchange import Request, ask
from pruneboard.benchmark.schema import as_hashable

IMPORT_SECONDS = 120.0
"""Time that importing a plugin may take."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """The plugins of a source.

    Attributes:
        criteria: criteria by registered name.
        models: names of the networks.
        printed: beginning of what importing it printed.
    """

    criteria: Mapping[str, ForeignCriterion] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    printed: str = ""


def describe(source: Source) -> Description:
    """Have a child import a source, and return what it defines.

    Raises:
        PluginError: it cannot be imported, ends or hangs its process, or lacks a declaration.
    """
    digest = source.digest()
    try:
        content = ask(Request(task="describe", source=source), seconds=IMPORT_SECONDS).content
        criteria = {
            facts.registered: ForeignCriterion(facts, source, digest, parameters)
            for facts, parameters in map(_facts, content["criteria"])
        }
        models = tuple(map(str, content["models"]))
        return Description(criteria=criteria, models=models, printed=printable(str(content["printed"]), 200))
    except ForeignError as failure:
        if failure.replied:
            raise PluginError(str(failure)) from failure
        why = str(failure).rstrip(".")
        raise PluginError(
            f"a plugin must be importable, but {source.label} is not: {why}; mend it or move it away."
        ) from failure
    except (KeyError, TypeError, AttributeError) as error:
        raise PluginError(f"a plugin must declare plain values, but {source.label} does not: {error}.") from error


def _facts(document: Mapping[str, Any]) -> tuple[Facts, dict[str, Any]]:
    declared = dict(document)
    parameters = declared.pop("parameters")
    facts = Facts(**declared)
    for known in dataclasses.fields(Facts):
        if type(getattr(facts, known.name)) is not known.type:
            raise TypeError(f"`{known.name}` is {getattr(facts, known.name)!r:.80}")
    return facts, {str(name): as_hashable(value) for name, value in parameters.items()}
