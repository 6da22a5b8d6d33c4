"""Forecasts as tables for people. Changes are simple ones, in per cent: +1.00 is 1.01 times."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Column, Table

from jobs.forecasting.forecast import Result, per_cent
from registry.forecast.arrays import Floats
from registry.text import printable

DETAILED = 3  # series with a table of all steps each; more get a line each
SHOWN = 40  # lines of series
MEDIAN = "median"
DECIMALS = ((10_000, 0), (1_000, 1), (1, 2), (0.01, 4))  # from which close on, decimals of prices


def print_result(result: Result, stdout: Console) -> int:
    """Print the first series; how many were printed."""
    number = len(result.forecast.unique_id)
    if number <= DETAILED:
        for i in range(number):
            for table in _of_series(result, i):
                stdout.print(table)
    else:
        stdout.print(_of_many(result))
    if result.forecast.horizon > 1:
        stdout.print(printable(f"since the cutoff: {result.method}"), markup=False)
    return min(number, SHOWN) if number > DETAILED else number


def pairs(levels: Sequence[float]) -> list[tuple[float, int, int]]:
    """Bands between levels at equal distance from the ends: (mass, place of low, place of high)."""
    rounded = [round(level, 9) for level in levels]
    bands = []
    for low, level in enumerate(rounded):
        opposite = round(1 - level, 9)
        if level < 0.5 and opposite in rounded:
            bands.append((round(opposite - level, 9), low, rounded.index(opposite)))
    return bands[::-1]  # the narrowest first


def _of_series(result: Result, i: int) -> Iterator[Table]:
    """All steps of one series: changes of each session, then closes or changes since the cutoff."""
    forecast, bands = result.forecast, pairs(result.levels)
    names = [f"{mass:.0%} band" for mass, _, _ in bands]
    median = [MEDIAN] if 0.5 in result.levels else []
    changes = _steps(*median, *names, title=f"{_title(result, i)}\nchange in the session, %")
    since = _steps(*names, title=since_title(result, "close at each session since the cutoff"))
    for step in range(forecast.horizon):
        session = [str(step + 1), _date(result.sessions[i, step])]
        quantiles = per_cent(forecast.quantiles[i, step])
        row = [_band(quantiles, low, high) for _, low, high in bands]
        changes.add_row(*session, *_median(result, quantiles), *row)
        since.add_row(*session, *(_since(result, i, step, low, high) for _, low, high in bands))
    if bands or median:
        yield changes
    if bands:
        yield since


def _median(result: Result, quantiles: Floats) -> list[str]:
    """The median, if it is among the levels."""
    return [f"{quantiles[result.levels.index(0.5)]:+.2f}"] if 0.5 in result.levels else []


def since_title(result: Result, close: str = "close") -> str:
    """What the bands since the cutoff are of: changes or, in the currency, closes."""
    if result.prices is None:
        return "change since the cutoff, %"
    return printable(f"{close}, {result.currency}" if result.currency else close)


def _steps(*names: str, title: str) -> Table:
    """A table with a row for each step."""
    columns = (Column(name, justify="right") for name in names)
    step, session = Column("step", justify="right"), Column("session", no_wrap=True)
    return _table(step, session, *columns, title=title)


def _of_many(result: Result) -> Table:
    """A line for each series: the first step, and the last one since the cutoff."""
    forecast, bands = result.forecast, pairs(result.levels)
    horizon = forecast.horizon
    mass, low, high = bands[-1] if bands else (0.0, 0, len(result.levels) - 1)
    name = f"{mass:.0%} " if bands else ""
    title = printable(f"{result.version.reference} on {result.data}")
    title += f"\nsession 1: change, %; session {horizon}: {since_title(result)}"
    median = [Column(f"1: {MEDIAN}", justify="right")] if 0.5 in result.levels else []
    table = _table(
        Column("symbol", no_wrap=True),
        Column("cutoff", no_wrap=True),
        *([Column("last close", justify="right")] if result.closes is not None else []),
        *median,
        Column(f"1: {name}band", justify="right"),
        Column(f"{horizon}: {name}band", justify="right"),
        title=title,
    )
    for i in range(min(len(forecast.unique_id), SHOWN)):
        close = [] if result.closes is None else [_price(result.closes[i], result.closes[i])]
        quantiles = per_cent(forecast.quantiles[i, 0])
        table.add_row(
            printable(forecast.unique_id[i]),
            _date(forecast.cutoffs[i]),
            *close,
            *_median(result, quantiles),
            _band(quantiles, low, high),
            _since(result, i, horizon - 1, low, high),
        )
    return table


def _title(result: Result, i: int) -> str:
    forecast = result.forecast
    cutoff = _date(forecast.cutoffs[i])
    title = f"{result.version.reference} on {result.data}: {forecast.unique_id[i]} after {cutoff}"
    if result.closes is not None:
        title += f", close {_price(result.closes[i], result.closes[i])}"
        title += f" {result.currency}" if result.currency else ""
    return printable(title)


def _since(result: Result, i: int, step: int, low: int, high: int) -> str:
    """Band of the close or, without closes, of the change since the cutoff, in per cent."""
    if result.prices is not None and result.closes is not None:
        ends = (_price(result.prices[i, step, end], result.closes[i]) for end in (low, high))
        return " to ".join(ends)
    return _band(per_cent(result.cumulative[i, step]), low, high)


def _price(price: float, close: float) -> str:
    """A price with the decimals that suit the last close: a row is to fit a line."""
    decimals = next((places for least, places in DECIMALS if close >= least), 6)
    return f"{price:,.{decimals}f}"


def _band(values: Floats, low: int, high: int) -> str:
    return f"{values[low]:+.2f} to {values[high]:+.2f}"


def _date(session: np.datetime64) -> str:
    return f"{pd.Timestamp(session):%Y-%m-%d}"


def _table(*columns: Column | str, title: str) -> Table:
    return Table(
        *columns,
        title=title,
        title_justify="left",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
