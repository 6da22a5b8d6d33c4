"""Tables `staged` as the readers of own data make them, from frames that tests write."""

from collections.abc import Sequence

import duckdb
import numpy as np
import pandas as pd

from jobs.data.own.derive import Derived, derive
from jobs.data.own.options import Options
from registry.forecast import calendars


def simulated(
    symbols: Sequence[str] = ("A", "B", "C"), calendar: str = "XNYS", length: int = 220
) -> pd.DataFrame:
    """unique_id, ds, close: random walks on the first sessions of 2019, the same in every run."""
    days = calendars.sessions(calendar, "2019-01-01", "2021-12-31")[:length]
    series = []
    for number, symbol in enumerate(symbols):
        steps = np.random.default_rng(number).normal(0, 0.01, length)
        close = 100 * np.exp(np.cumsum(steps))
        series.append(pd.DataFrame({"unique_id": symbol, "ds": days, "close": close}))
    return pd.concat(series, ignore_index=True)


def stage(connection: duckdb.DuckDBPyConnection, frame: pd.DataFrame) -> list[str]:
    """Make the table `staged`; its columns that carry data. Rows are those of a CSV file."""
    place = {"file": "prices.csv", "row": np.arange(len(frame)) + 2}
    placed = pd.DataFrame({**place, **frame})  # the frame's own file and row win
    connection.register("frame", placed)
    connection.execute(
        "CREATE OR REPLACE TABLE staged AS SELECT * REPLACE (ds::DATE AS ds) FROM frame"
    )
    connection.unregister("frame")
    return [name for name in frame.columns if name not in ("unique_id", "ds", "file", "row")]


def derived(
    connection: duckdb.DuckDBPyConnection, frame: pd.DataFrame, **options: object
) -> tuple[Derived, pd.DataFrame]:
    """What is derived from a frame, and its rows sorted by (unique_id, ds)."""
    columns = stage(connection, frame)
    result = derive(connection, columns, Options(name="mine", **options))
    return result, rows(connection)


def rows(connection: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    frame: pd.DataFrame = connection.sql("FROM rows ORDER BY unique_id, ds").df()
    return frame
