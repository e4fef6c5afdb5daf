"""The numbers of a section, as the page's script and its tables of numbers take them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from pruneboard.benchmark.render.layers import layers_removed
from pruneboard.benchmark.render.links import slug
from pruneboard.benchmark.render.styles import Style
from pruneboard.benchmark.render.views import ALL_SHOTS, Section, for_each_shots
from pruneboard.benchmark.stats import CURVE_KEYS, checked_points, curves_of

_UNIT = 10_000  # fractions travel as whole hundredths of a percent, which is what is shown
_SIZES = ("params", "macs")


@dataclasses.dataclass(frozen=True)
class SectionData:
    """All numbers of one section, in whole hundredths of a percent where they are fractions.

    Attributes:
        criteria: displayed names, in the order of the ranking.
        rates: rates of the suite.
        shots: keys of `ranking`, `at` and of each network's curves: `all`, then the numbers of shots.
        ranking: for each key, columns over the criteria: `rank`, `a_pr`, `a_pr_low`, `a_pr_high`, `top_pr`, ...
        at: for each key, over criteria and rates: `top1`, `low`, `high`, `params` and `macs` left.
        models: for each network the same curves.
        costs: seconds and bytes of scoring, for each criterion; 0 bytes where most jobs saw nothing.
        machine: where these were measured.
        layers: what each criterion removes from each layer, for each network.
    """

    criteria: tuple[str, ...]
    rates: tuple[float, ...]
    shots: tuple[str, ...]
    ranking: Mapping[str, Mapping[str, list[Any]]]
    at: Mapping[str, Mapping[str, list[list[Any]]]]
    models: Mapping[str, Mapping[str, Mapping[str, list[list[Any]]]]]
    costs: Mapping[str, list[Any]]
    machine: str
    layers: Mapping[str, Mapping[str, Any]]

    def over_shots(self, criterion: int) -> list[Any]:
        """Return A_PR of a criterion at each number of shots."""
        return [self.ranking[key]["a_pr"][criterion] for key in self.shots if key != ALL_SHOTS]

    def without_layers(self, model: str) -> list[str]:
        """Return the criteria whose rows on a network do not say which layers they removed units from."""
        removed, curves = self.layers[model]["removed"], self.models[model][ALL_SHOTS]["top1"]
        return [
            name
            for name, shares, curve in zip(self.criteria, removed, curves, strict=True)
            if shares is None and any(value is not None for value in curve)
        ]

    def embedded(self, section: Section, suite: str, drawn: Sequence[Style], default_shots: int) -> Markup:
        """Return the section as JSON that can stand in a script element."""
        style_of = {style.criterion: style for style in drawn}
        twins = {name: group for group in section.twins for name in group}
        lines = {line.criterion: line for line in section.lines}
        return embed_json(
            {
                "suite": suite,
                "granularity": section.granularity,
                "criteria": [
                    {
                        "name": name,
                        "slug": slug(name),
                        "family": style_of[name].family,
                        "needs": lines[name].looks,
                        "light": style_of[name].light,
                        "dark": style_of[name].dark,
                        "dash": style_of[name].dash,
                        "twins": [other for other in twins.get(name, ()) if other != name],
                        "leads": twins.get(name, (name,))[0] == name,
                        "ranked": lines[name].rank is not None,
                    }
                    for name in self.criteria
                ],
                "rates": self.rates,
                "shots": self.shots,
                "default_shots": str(default_shots),
                "ranking": self.ranking,
                "at": self.at,
                "networks": [
                    {
                        "name": head.name,
                        "unpruned": hundredths(head.unpruned[0]),
                        "curves": self.models[head.name],
                        "layers": self.layers.get(head.name),
                    }
                    for head in section.models
                ],
                "costs": self.costs,
                "diagram": {
                    "criteria": section.diagram.criteria,
                    "ranks": [round(rank, 4) for rank in section.diagram.average_ranks],
                    "cliques": section.diagram.cliques,
                },
            }
        )


def section_data(rows: pd.DataFrame, areas: pd.DataFrame, section: Section, default_shots: int) -> SectionData:
    """Gather the numbers of a section.

    Args:
        rows: rows of one suite and granularity whose status is `ok`, with displayed names.
        areas: what `stats.area_under_curve` returns for them.
        section: the section.
        default_shots: number of shots whose layers are shown.
    """
    criteria = [line.criterion for line in section.lines]
    rates = [float(rate) for rate in sorted(rows["rate"].unique())]
    points = rows[[*CURVE_KEYS, "rate"]].assign(
        params=rows["params_left"].astype(float) / rows["params_total"].astype(float),
        macs=rows["macs_left"].astype(float) / rows["macs_total"].astype(float),
    )
    sizes_kept = areas.merge(
        points, left_on=[*CURVE_KEYS, "top_pr"], right_on=[*CURVE_KEYS, "rate"], how="left", validate="one_to_one"
    )
    measured, _ = checked_points(rows)
    by_shots, overall = (_by_shots(measured, points, by) for by in (("criterion",), ("model", "criterion")))
    keys = (ALL_SHOTS, *map(str, section.shots))
    kept = for_each_shots(lambda by: sizes_kept.groupby(list(by), sort=True)[list(_SIZES)].mean().reset_index())
    costs, machine = _costs(rows, criteria)
    return SectionData(
        criteria=tuple(criteria),
        rates=tuple(rates),
        shots=keys,
        ranking={key: _ranking(section.summaries[key], section.possible[key], kept[key], criteria) for key in keys},
        at={key: _grids(by_shots[key], criteria, rates) for key in keys},
        models={
            head.name: {
                key: _grids(overall[key].loc[overall[key]["model"] == head.name], criteria, rates) for key in keys
            }
            for head in section.models
        },
        costs=costs,
        machine=machine,
        layers=layers_removed(rows.loc[rows["shots"] == default_shots], criteria),
    )


def hundredths(fraction: float | None) -> int | None:
    """Return a fraction in whole hundredths of a percent, None for None and for nan."""
    return None if fraction is None or np.isnan(fraction) else int(np.rint(_UNIT * fraction))


def embed_json(value: Any) -> Markup:
    """Serialise a value so that it can stand inside a script element, whatever strings it holds."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _by_shots(measured: pd.DataFrame, points: pd.DataFrame, by: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return accuracies and sizes at each rate for all shots together and for each number of shots."""
    answer: dict[str, pd.DataFrame] = {}
    for keys in ([*by], [*by, "shots"]):
        accuracy = curves_of(measured, ("suite", "granularity", *keys))
        sizes = points.groupby([*keys, "rate"], sort=True)[list(_SIZES)].mean().reset_index()
        table = accuracy.rename(columns={"mean": "top1"}).merge(sizes, on=[*keys, "rate"], validate="one_to_one")
        if "shots" not in keys:
            answer[ALL_SHOTS] = table
        else:
            answer |= {str(shots): part for shots, part in table.groupby("shots", sort=True)}
    return answer


def _grids(table: pd.DataFrame, criteria: list[str], rates: list[float]) -> dict[str, list[list[Any]]]:
    """Arrange what a table says of each criterion and rate as grids of criteria (lines) and rates."""
    place = (
        pd.Index(criteria).get_indexer(pd.Index(table["criterion"])),
        pd.Index(rates).get_indexer(pd.Index(table["rate"])),
    )
    grids = {}
    for name in ("top1", "low", "high", *_SIZES):
        if table[name].notna().any():
            grid = np.full((len(criteria), len(rates)), np.nan)
            grid[place] = table[name].to_numpy(dtype=float)
            grids[name] = [_whole(line) for line in grid]
    return grids


def _ranking(
    summary: pd.DataFrame, possible: pd.DataFrame, kept: pd.DataFrame, criteria: list[str]
) -> dict[str, list[Any]]:
    summary, possible, kept = (table.set_index("criterion").reindex(criteria) for table in (summary, possible, kept))
    columns = {
        **{metric: summary[f"{metric}_mean"] for metric in ("a_pr", "top_pr")},
        **{f"{metric}_{end}": summary[f"{metric}_{end}"] for metric in ("a_pr", "top_pr") for end in ("low", "high")},
        **{f"{name}_kept": kept[name] for name in _SIZES},
        **{f"wins{end}": possible[f"win_rate{end}"] for end in ("", "_low", "_high")},
    }
    ranks = {
        name: [None if pd.isna(rank) else int(rank) for rank in values]
        for name, values in {"rank": summary["rank"], **possible[["rank_low", "rank_high"]]}.items()
    }
    return {**ranks, **{name: _whole(values.to_numpy(dtype=float)) for name, values in columns.items()}}


def _costs(rows: pd.DataFrame, criteria: list[str]) -> tuple[dict[str, list[Any]], str]:
    """Return mean seconds and median memory of scoring, on the machine that measured most jobs, and its name.

    Memory is what a job took beyond what its process held already. Where most jobs took none the median is 0, which
    says that nothing was seen, and not that scoring needs no memory.
    """
    jobs = rows.drop_duplicates("key")
    machines = jobs["device"].astype(str) + ", " + jobs["threads"].astype(str) + " threads"
    machine = str(machines.value_counts().sort_index().idxmax())
    here = jobs.loc[machines == machine].astype({"score_seconds": float, "score_peak_bytes": float})
    groups = here.groupby("criterion")
    seconds = groups["score_seconds"].mean().reindex(criteria)
    memory = groups["score_peak_bytes"].median().reindex(criteria)
    return (
        {
            "seconds": [None if pd.isna(value) else float(f"{value:.3g}") for value in seconds],
            "bytes": [None if pd.isna(value) else int(value) for value in memory],
        },
        machine.replace(", 1 threads", ", 1 thread"),
    )


def _whole(values: Sequence[float] | np.ndarray) -> list[int | None]:
    scaled = np.rint(_UNIT * np.asarray(values, dtype=float))
    return [None if np.isnan(value) else int(value) for value in scaled]
