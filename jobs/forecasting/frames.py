"""Forecasts as long frames, JSON and files."""

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pandas as pd

from jobs.forecasting.forecast import Result
from registry import files
from registry.errors import BadParameter
from registry.forecast import names, rendering
from registry.forecast.arrays import Floats


def long_frame(result: Result) -> pd.DataFrame:
    """One row for each series and step.

    unique_id, step, ds; of the log return of the session: mean, q...; of the log return since the
    cutoff: cumulative_q...; where the data set has closes: `close`, the last one known, and
    close_q..., of the session's close; notes, if there are any.
    """
    frame = rendering.frame(result.forecast, result.sessions)
    notes = [frame.pop(name) for name in (names.NOTES,) if name in frame]
    parts = [frame, _quantiles("cumulative_", result, result.cumulative)]
    if result.closes is not None and result.prices is not None:
        closes = np.repeat(result.closes, result.forecast.horizon)
        parts.append(pd.DataFrame({"close": closes}))
        parts.append(_quantiles("close_", result, result.prices))
    return pd.concat([*parts, *notes], axis=1)


def summary(result: Result) -> dict[str, Any]:
    """What was forecast and what was refused, JSON-ready."""
    refused = []
    for series in result.refused:
        refused.append(
            {"unique_id": series.unique_id, "code": series.code, "message": series.message}
        )
    return {
        "model": result.version.name,
        "version": result.version.version,
        "data": result.data,
        "data_digest": result.digest,
        **({"as_of": result.as_of} if result.as_of else {}),
        "calendar": result.spec.calendar,
        "horizon": result.forecast.horizon,
        "levels": list(result.levels),
        "cumulative": result.method,
        "series": len(result.forecast.unique_id),
        "refused": refused,
        "notes": dict(result.forecast.notes),
    }


def as_json(result: Result) -> str:
    """The summary and all rows, as one line."""
    rows = _dated(long_frame(result)).to_dict(orient="records")
    return json.dumps({**summary(result), "rows": rows})


def as_csv(result: Result) -> str:
    text: str = _dated(long_frame(result)).to_csv(index=False)
    return text


def write_text(path: Path, text: str) -> None:
    """Replace a file. Raises KronosError (NO_SPACE, NOT_WRITABLE)."""
    write(path, lambda temporary: temporary.write_text(text))


def write_parquet(path: Path, result: Result) -> None:
    """Replace a file by the long frame. Raises KronosError (NO_SPACE, NOT_WRITABLE)."""
    frame = long_frame(result)
    write(path, lambda temporary: frame.to_parquet(temporary, index=False))


def write(path: Path, writer: Callable[[Path], object]) -> None:
    files.write_together({path: writer})


def _quantiles(prefix: str, result: Result, values: Floats) -> pd.DataFrame:
    """Columns of quantiles [N, H, Q]."""
    columns = [prefix + names.quantile_column(level) for level in result.levels]
    return pd.DataFrame(values.reshape(-1, len(columns)), columns=columns)


def _dated(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with dates as ISO text."""
    return frame.assign(**{names.DS: frame[names.DS].dt.strftime("%Y-%m-%d")})


def check_writable(path: Path) -> None:
    """Raise BadParameter unless a file can be written there: better before the forecast."""
    if path.is_dir():
        raise BadParameter(f"--to is {path}, a folder; name a file in it")
    if not path.parent.is_dir():
        raise BadParameter(f"--to is {path}, but there is no folder {path.parent}; make it first")
    try:
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise BadParameter(f"--to is {path}, which cannot be written: {error.strerror}") from error
