"""The market columns of a history: their universe, and how they follow from its returns."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from registry.errors import BadHistory
from registry.forecast import names
from registry.sets import universe_tag

MEMBERS = "market_members"  # of an own data set: members of the universe that trade that session


@dataclass(frozen=True)
class Universe:
    """The symbols that `market_abs_return` averages. Name and digest are a tag of a version."""

    name: str
    symbols: tuple[str, ...]

    @property
    def digest(self) -> str:
        """sha256 (hex) over the symbols, one a line."""
        return hashlib.sha256("\n".join(self.symbols).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "digest": self.digest, "symbols": list(self.symbols)}

    @property
    def tag(self) -> str:
        return universe_tag(self.name, self.digest)


def sp500_universe(symbols: Sequence[str]) -> Universe:
    """Universe of S&P 500 stocks, named by their number: `sp500-20`."""
    distinct = tuple(sorted(set(symbols)))
    return Universe(f"sp500-{len(distinct)}", distinct)


def market_daily(
    panel: pd.DataFrame, index_returns: pd.DataFrame, universe: Universe
) -> pd.DataFrame:
    """ds, market_abs_return (mean |y| over the whole universe), index_return, universe (its name).

    Raises BadHistory when a session lacks a symbol or the index: the mean over fewer symbols is
    another quantity.
    """
    returns = panel.pivot(index=names.DS, columns=names.UNIQUE_ID, values=names.Y)
    returns = returns.reindex(columns=list(universe.symbols))
    index = index_returns.set_index(names.DS)[names.Y].reindex(returns.index)
    incomplete = returns.isna().any(axis=1) | index.isna()
    if incomplete.any():
        first = f"{returns.index[incomplete][0]:%Y-%m-%d}"
        raise BadHistory(
            f"{incomplete.sum()} sessions lack a symbol of {universe.name} or the index, "
            f"first {first}",
            code="BAD_SOURCE",
        )
    columns = {names.MARKET_ABS_RETURN: returns.abs().mean(axis=1), names.INDEX_RETURN: index}
    universe_name = pd.Series(universe.name, index=returns.index, dtype="str")
    return pd.DataFrame(columns).assign(universe=universe_name).reset_index()


def with_market(history: pd.DataFrame, market: pd.DataFrame) -> pd.DataFrame:
    """`history` with the market columns of each session.

    Raises BadHistory when the market lacks a session of `history`.
    """
    lacking = history.loc[~history[names.DS].isin(market[names.DS]), [names.UNIQUE_ID, names.DS]]
    if len(lacking):
        name, day = lacking.iloc[0]
        raise BadHistory(
            f"the market ({market['universe'].iloc[0]}) lacks {len(lacking)} sessions, "
            f"first {name} {day:%Y-%m-%d}; every series needs the market columns",
            code="BAD_SOURCE",
        )
    columns = market.drop(columns="universe")
    return history.merge(columns, on=names.DS, how="left", validate="many_to_one")
