"""Whether the curves of a table are those of another criterion, another seed or other shots under a new name."""

import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd

_MOST_EQUAL_CURVES = 0.1
"""Share of a criterion's curves on one network that may equal others to all digits: nearly all units can be useless. In
tables that were honestly measured it is at most 0.08."""

_MOST_EQUAL_POINTS = 0.75
"""Share of the points at which two criteria may agree to all digits; in tables that were honestly measured 0.47."""

_NETWORK = ["model", "granularity"]


def copy_faults(points: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Yield whose curves equal curves that were drawn on other images or by another source, with the table's criterion.

    Criteria that need no image may agree, as norms do on a network; so may presets and tuned forms of one source. All
    others see different images with each seed, and cross-entropies that agree to all digits then stand for the same
    units in the same order.

    Args:
        points: points at rates above 0 of jobs that are ok, of one suite, with the column `table`.
    """
    seeing = points[points["criterion_needs"] != "nothing"]
    if seeing.empty:
        return
    measured = seeing.sort_values(["key", "shots", "rate"], kind="stable")
    measured = measured.assign(value=pd.factorize(pd.MultiIndex.from_frame(measured[["top1", "cross_entropy"]]))[0])
    # A curve is the tuple of its values over the rates.
    by = [*_NETWORK, "table", "criterion_digest", "seed", "shots"]
    curves = measured.groupby(by, observed=True)["value"].agg(tuple).reset_index(name="curve")
    alike = curves.groupby([*_NETWORK, "curve"], observed=True)
    own = curves.groupby([*_NETWORK, "table", "curve"], observed=True)
    within = curves.groupby([*_NETWORK, "table", "seed", "curve"], observed=True)
    for what, copied in (
        ("another criterion", alike["criterion_digest"].transform("nunique") > 1),
        ("another seed", own["seed"].transform("nunique") > 1),
        ("other shots", within["shots"].transform("nunique") > 1),
    ):
        share = copied.groupby([curves[name] for name in ("table", *_NETWORK)], observed=True).mean()
        for line in share[share > _MOST_EQUAL_CURVES].reset_index(name="share").to_dict("records"):
            yield (
                str(line["table"]),
                _message(
                    f"{line['share']:.0%} of the curves on {line['model']} / {line['granularity']} are those of {what}"
                ),
            )
    for (model, granularity), network in measured.groupby(_NETWORK, observed=True, sort=True):
        columns = network.pivot_table(index=["seed", "shots", "rate"], columns="table", values="value", aggfunc="first")
        sources = network.groupby("table", observed=True)["criterion_digest"].first()
        values = {str(table): columns[table].to_numpy() for table in columns}
        for one, other in itertools.combinations(values, 2):
            if sources[one] == sources[other]:
                continue
            equal = float(np.mean(values[one] == values[other]))
            if equal > _MOST_EQUAL_POINTS:
                yield (
                    str(one),
                    _message(f"{equal:.0%} of the points on {model} / {granularity} are those of `{other}`"),
                )


def _message(what: str) -> str:
    return (
        f"a criterion that looks at images must have curves of its own, but {what}, to all digits; measure it again, "
        "or hand in the one that it equals."
    )
