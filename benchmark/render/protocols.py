"""One network and criterion under several protocols, beside each other."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pruneboard.benchmark.render.estimates import Estimate
from pruneboard.benchmark.render.payload import SectionData
from pruneboard.benchmark.render.views import Section, SuiteView
from pruneboard.benchmark.schema import PROTOCOLS, Suite


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProtocolGroup:
    """A network that several suites prune under different protocols.

    Attributes:
        model: network.
        granularity: kind of unit.
        suites: the suites, in the order of the protocols.
        lines: criterion and its A_PR in each suite, None where it has no result.
        curves: for the page's script: criteria, rates, shots, and the curves of each protocol.
    """

    model: str
    granularity: str
    suites: tuple[Suite, ...]
    lines: tuple[tuple[str, tuple[Estimate | None, ...]], ...]
    curves: Mapping[str, Any]


def view_protocols(
    views: Sequence[SuiteView], data: Mapping[tuple[str, str], SectionData]
) -> tuple[ProtocolGroup, ...]:
    """Find the networks that were measured under more than one protocol.

    Suites are taken together when they prune the same kind of unit of a network at the same rates, with the same data
    sets to choose from; `data` holds their numbers by suite and granularity.
    """
    found: dict[tuple[object, ...], list[tuple[SuiteView, Section]]] = {}
    for view in views:
        for section in view.sections:
            for head in section.models:
                key = (head.name, section.granularity, view.suite.rates, view.suite.datasets_of(head.name))
                found.setdefault(key, []).append((view, section))
    groups = []
    for (model, granularity, *_), members in found.items():
        if len({view.suite.protocol for view, _ in members}) > 1:
            ordered = sorted(members, key=lambda member: PROTOCOLS.index(member[0].suite.protocol))
            groups.append(_group(str(model), str(granularity), ordered, data))
    return tuple(sorted(groups, key=lambda group: (group.model, group.granularity)))


def _group(
    model: str,
    granularity: str,
    members: Sequence[tuple[SuiteView, Section]],
    data: Mapping[tuple[str, str], SectionData],
) -> ProtocolGroup:
    measured: list[dict[str, Estimate]] = []
    curves = []
    for view, section in members:
        place = next(i for i, head in enumerate(section.models) if head.name == model)
        values = {line.criterion: line.by_model[place] for line in section.lines}
        measured.append({name: value for name, value in values.items() if value is not None})
        numbers = data[view.suite.name, granularity]
        curves.append(
            {
                "suite": view.suite.name,
                "protocol": view.suite.protocol,
                "criteria": numbers.criteria,
                "shots": numbers.shots,
                "curves": numbers.models[model],
            }
        )
    names = dict.fromkeys(name for values in measured for name in values)
    several = [name for name in names if sum(name in values for values in measured) > 1]
    several.sort(key=lambda name: -max(values[name].mean for values in measured if name in values))
    first = data[members[0][0].suite.name, granularity]
    return ProtocolGroup(
        model=model,
        granularity=granularity,
        suites=tuple(view.suite for view, _ in members),
        lines=tuple((name, tuple(values.get(name) for values in measured)) for name in several),
        curves={"model": model, "rates": first.rates, "criteria": several, "protocols": curves},
    )
