"""The published ranking of a suite: `SUITE/leaderboard.ranks.csv` of a results folder, derived from the rows beside it.

It is written whenever rows are published, so that a pull request shows whom a criterion overtakes.
"""

from pathlib import Path

import pandas as pd

from pruneboard.benchmark.errors import StoreError
from pruneboard.benchmark.stats import area_under_curve, standings, summarise
from pruneboard.benchmark.store import atomic_file

DECIMALS = 6
"""Decimals of the numbers in the file."""

_KEYS = ["granularity", "criterion"]
_COLUMNS = [
    *_KEYS,
    *("rank", "rank_low", "rank_high", "win_rate", "complete", "n_cells", "n_cells_grid", "n_seeds"),
    *("a_pr_mean", "a_pr_low", "a_pr_high", "auc_trapz_mean", "top_pr_mean"),
]


def leaderboard(rows: pd.DataFrame) -> pd.DataFrame:
    """Rank the criteria within each granularity of one suite, over all of its networks; empty without measured rows.

    `rank` is the place by the mean, `rank_low` and `rank_high` the ranks that `stats.standings` leaves possible.

    Args:
        rows: a table with the columns of `schema.Row` that holds rows of one suite.

    Raises:
        TableError: the rows break a rule of `stats.area_under_curve`.
    """
    areas = area_under_curve(rows)
    if areas.empty:
        return pd.DataFrame(columns=_COLUMNS)
    possible = standings(areas, _KEYS)[[*_KEYS, "rank_low", "rank_high", "win_rate"]]
    possible = possible.astype({"rank_low": "Int64", "rank_high": "Int64"})
    table = summarise(areas, _KEYS).merge(possible, on=_KEYS, how="left", validate="one_to_one")
    return table[_COLUMNS].round(DECIMALS)


class LeaderboardStore:
    """The published rankings of a results folder.

    Args:
        folder: results folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, suite: str) -> Path:
        """Return the file of a suite's ranking."""
        # No criterion's name has a dot, so no table of a criterion has this name.
        return self.folder / suite / "leaderboard.ranks.csv"

    def write(self, suite: str, table: pd.DataFrame) -> Path:
        """Write a suite's ranking, and return the file.

        Raises:
            StoreError: the folder cannot be written.
        """
        with atomic_file(self.path(suite)) as temporary:
            table.to_csv(temporary, index=False, lineterminator="\n", float_format=f"%.{DECIMALS}f")
        return self.path(suite)

    def read(self, suite: str) -> pd.DataFrame | None:
        """Read a suite's ranking as texts; None when there is none.

        Raises:
            StoreError: the file is no CSV file.
        """
        return read_texts(self.path(suite))


def read_texts(path: Path) -> pd.DataFrame | None:
    """Read a CSV file as texts; None when there is none.

    Raises:
        StoreError: the file is no CSV file.
    """
    if not path.exists():
        return None
    try:
        return pd.read_csv(path, dtype="str", keep_default_na=False)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise StoreError(
            f"a derived table must be a CSV file, but `{path}` is not: {error}; publish it again."
        ) from error
