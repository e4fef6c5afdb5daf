"""Rules that the tables of a suite keep together: the same networks, data and unpruned accuracy."""

from collections.abc import Iterator, Mapping

import pandas as pd

from pruneboard.benchmark.validation._copies import copy_faults

_SHARED = (
    ("data_digest", ("dataset",)),
    ("weights_digest", ("model",)),
    ("n_units", ("model", "granularity")),
    ("params_total", ("model",)),
    ("macs_total", ("model",)),
    ("n_images", ("dataset",)),
    ("model_family", ("model",)),
    ("layers", ("model", "granularity")),
)

_DECLARED = ("criterion_version", "criterion_digest", "criterion_family", "criterion_needs", "criterion_source")

_POINT = ["top1", "top5", "cross_entropy", "params_left", "macs_left", "units_left"]

_SAME_NETWORK = ("model", "granularity", "units_left", "top1", "cross_entropy")
"""Rows that agree in these have the very same network left, and so the same sizes."""

_UNPRUNED_TOLERANCE = 0.005
"""How far apart two devices may see the accuracy of the same unpruned network."""


def together_faults(tables: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, str]]:
    """Yield what tables of one suite disagree in, with the criterion whose table is in the minority.

    Args:
        tables: criterion to its rows, with the columns of `schema.Row`.
    """
    columns = ["key", "model", "granularity", "dataset", "device", "status", "seed", "shots", "rate", *_POINT]
    columns += [column for column, _ in _SHARED if column not in columns]
    columns += [*_DECLARED, "parameters", "tuning"]
    parts = [rows[columns].assign(table=criterion) for criterion, rows in tables.items()]
    if not parts:
        return
    texts = ["device", "dataset", "parameters", "model_family", "layers", "units_left", *_DECLARED]
    rows = pd.concat([part.astype(dict.fromkeys(texts, "str")) for part in parts])
    # Rows before schema version 5 do not say their layers, nor do those without a result.
    rows["layers"] = rows["layers"].where(rows["layers"] != "")
    for column, within in _SHARED:
        yield from _minority(rows.dropna(subset=[column]), column, within)
    for criterion, part in rows.groupby("table", sort=True):
        for column in _DECLARED:
            values = sorted(set(part[column]))
            if len(values) > 1:
                yield str(criterion), f"a table must hold one `{column}`, got {' and '.join(values)}; measure it again."
        untuned = part.loc[part["tuning"] == "", "parameters"].unique()
        if len(untuned) > 1:
            yield str(criterion), f"an untuned criterion must have one set of `parameters`, got {len(untuned)}."
    unpruned = rows.loc[(rows["status"] == "ok") & (rows["rate"] == 0)]
    for column in ("top1", "top5"):
        yield from _minority(unpruned, column, ("model", "dataset", "device"))
    # Behind a layer without units nothing depends on the images, and other units may be left there.
    whole = rows[~rows["units_left"].str.contains(r"\b0\b") & (rows["units_left"] != "")]
    for column in ("params_left", "macs_left"):
        yield from _minority(whole, column, _SAME_NETWORK)
    yield from copy_faults(rows[(rows["status"] == "ok") & (rows["rate"] > 0)])
    for model, part in unpruned.groupby(["model", "dataset"], sort=True):
        for column in ("top1", "top5", "cross_entropy"):
            found = part[column].astype("float64")
            if found.max() - found.min() > _UNPRUNED_TOLERANCE:
                odd = int((found - found.median()).abs().to_numpy().argmax())
                yield (
                    str(part.iloc[odd]["table"]),
                    f"the unpruned network `{model[0]}` must be as accurate everywhere, within {_UNPRUNED_TOLERANCE}, "
                    f"but `{column}` at rate 0 is {found.iloc[odd]:g} here and {found.median():g} in most rows.",
                )


def _minority(rows: pd.DataFrame, column: str, within: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    spread = rows.groupby(list(within), sort=True, observed=True)[column].nunique()
    for where in spread.index[spread > 1]:
        names = zip(within, where if isinstance(where, tuple) else (where,), strict=True)
        part = rows
        for name, value in names:
            part = part[part[name] == value]
        tables = part.groupby(column, observed=True)["table"].nunique().sort_values(kind="stable")
        odd, common = tables.index[0], tables.index[-1]
        criterion = str(part.loc[part[column] == odd, "table"].iloc[0])
        shown = " / ".join(str(value)[:80] for value in (where if isinstance(where, tuple) else (where,)))
        yield (
            criterion,
            f"all rows of {shown} must share one `{column}`, but it is {odd} here and {common} in the tables of "
            f"{tables.iloc[-1]} criteria; measure with the same data and weights.",
        )
        if within == _SAME_NETWORK:
            return
