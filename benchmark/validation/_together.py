"""Rules that the tables of a suite keep together: the same networks, data and unpruned accuracy."""

from collections.abc import Iterator, Mapping

import pandas as pd

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

_UNPRUNED_TOLERANCE = 0.005
"""How far apart two devices may see the accuracy of the same unpruned network."""


def together_faults(tables: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, str]]:
    """Yield what tables of one suite disagree in, with the criterion whose table is in the minority.

    Args:
        tables: criterion to its rows, with the columns of `schema.Row`.
    """
    columns = ["key", "model", "granularity", "dataset", "device", "status", "shots", "rate", "top1"]
    columns += [column for column, _ in _SHARED if column not in columns]
    columns += [*_DECLARED, "parameters", "tuning"]
    parts = [rows[columns].assign(table=criterion) for criterion, rows in tables.items()]
    if not parts:
        return
    texts = ["device", "dataset", "parameters", "model_family", "layers", *_DECLARED]
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
    yield from _minority(unpruned, "top1", ("model", "dataset", "device"))
    for model, part in unpruned.groupby(["model", "dataset"], sort=True):
        spread = part["top1"].max() - part["top1"].min()
        if spread > _UNPRUNED_TOLERANCE:
            odd = part.iloc[int((part["top1"] - part["top1"].median()).abs().to_numpy().argmax())]
            yield (
                str(odd["table"]),
                f"the unpruned network `{model[0]}` must be as accurate everywhere, within {_UNPRUNED_TOLERANCE}, but "
                f"`top1` at rate 0 is {odd['top1']:g} here and {part['top1'].median():g} in most rows.",
            )


def _minority(rows: pd.DataFrame, column: str, within: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for where, part in rows.groupby(list(within), sort=True):
        tables = part.groupby(column)["table"].nunique().sort_values(kind="stable")
        if len(tables) < 2:
            continue
        odd, common = tables.index[0], tables.index[-1]
        criterion = str(part.loc[part[column] == odd, "table"].iloc[0])
        yield (
            criterion,
            f"all rows of {' / '.join(map(str, where))} must share one `{column}`, but it is {odd} here and "
            f"{common} in the tables of {tables.iloc[-1]} criteria; measure with the same data and weights.",
        )
