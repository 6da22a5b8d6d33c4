"""Forecasts as tables for people."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Column, Table

from jobs.forecasting.forecast import Result
from registry.forecast.arrays import Floats
from registry.text import printable

DETAILED = 3  # series with a table of all steps each; more get a line each
SHOWN = 40  # lines of series


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
    """All steps of one series: returns of each session, then returns or closes since the cutoff."""
    forecast, bands = result.forecast, pairs(result.levels)
    names = [f"{mass:.0%}" for mass, _, _ in bands]
    returns = _steps("mean, %", *(f"{name}, %" for name in names), title=_title(result, i))
    since = "close" if result.prices is not None else "since cutoff, %"
    cumulated = _steps(*(f"{since} {name}" for name in names), title="")
    for step in range(forecast.horizon):
        session = [str(step + 1), _date(result.sessions[i, step])]
        mean = f"{100 * forecast.mean[i, step]:+.2f}"
        row = [_band(100 * forecast.quantiles[i, step], low, high) for _, low, high in bands]
        returns.add_row(*session, mean, *row)
        cumulated.add_row(*session, *(_since(result, i, step, low, high) for _, low, high in bands))
    yield returns
    if bands:
        yield cumulated


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
    since = "close" if result.prices is not None else "since cutoff, %"
    table = _table(
        Column("symbol", no_wrap=True),
        Column("cutoff", no_wrap=True),
        *([Column("last close", justify="right")] if result.closes is not None else []),
        Column("step 1: mean, %", justify="right"),
        Column(f"{name}band, %", justify="right"),
        Column(f"step {horizon}: {since} {name}band", justify="right"),
        title=printable(f"{result.version.reference} on {result.data}, log returns"),
    )
    for i in range(min(len(forecast.unique_id), SHOWN)):
        close = [] if result.closes is None else [f"{result.closes[i]:,.2f}"]
        table.add_row(
            printable(forecast.unique_id[i]),
            _date(forecast.cutoffs[i]),
            *close,
            f"{100 * forecast.mean[i, 0]:+.2f}",
            _band(100 * forecast.quantiles[i, 0], low, high),
            _since(result, i, horizon - 1, low, high),
        )
    return table


def _title(result: Result, i: int) -> str:
    forecast = result.forecast
    cutoff = _date(forecast.cutoffs[i])
    title = f"{result.version.reference} on {result.data}: {forecast.unique_id[i]} after {cutoff}"
    if result.closes is not None:
        title += f", close {result.closes[i]:,.2f}"
    return printable(title)


def _since(result: Result, i: int, step: int, low: int, high: int) -> str:
    """Band of the close or, without closes, of the log return since the cutoff, in per cent."""
    if result.prices is not None:
        prices = result.prices[i, step]
        return f"{prices[low]:,.2f} to {prices[high]:,.2f}"
    return _band(100 * result.cumulative[i, step], low, high)


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
