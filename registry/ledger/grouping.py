"""Coverage and CRPS of groups of forecasts, in SQL."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa

from registry.errors import BadParameter
from registry.forecast import names
from registry.ledger import observations
from registry.ledger.forecasts import forecasts
from registry.ledger.observations import symbols
from registry.ledger.scores import scores
from registry.ledger.selection import Known

_OF_FORECAST = (
    "registry", "model", "version", "data", "source", "levels", "calibration", "forecast_id",
)  # fmt: skip
_ALIKE = ("registry", "levels")  # all forecasts of a group have the same
_OF_SYMBOL = ("symbol", names.SECTOR)
GROUPS = (*_OF_FORECAST, "cutoff", "month", "year", names.STEP, *_OF_SYMBOL)
_PERIODS = {"month": ("%Y-%m", "YYYY-MM"), "year": ("%Y", "YYYY")}  # on SQLite and PostgreSQL
_MEANS = {"crps": "crps"} | {f"covered_{band}": f"coverage_{band}" for band in (50, 80, 90)}


def frame(connection: sa.Connection, known: Known, by: Sequence[str]) -> pd.DataFrame:
    """One row for each group of scored forecasts, sorted by group.

    `by` are some of GROUPS; month and year are those of the cutoff, sector that of today. Sources
    are always told apart, because a backfill is no live forecast. Columns: those of `by`; n rows
    and the number of cutoffs; crps, coverage_50, coverage_80, coverage_90, and each of them
    `_calibrated`: of the calibrated quantiles, or of the raw ones where no calibration was applied,
    which is the share `uncalibrated` of the rows. Raises BadParameter for another group, and if a
    group would mix registries, or levels, on which CRPS depends.
    """
    groups = _groups(by)
    query = _query(connection, known, groups)
    rows = connection.execute(query).all()
    found = pd.DataFrame(rows, columns=list(query.selected_columns.keys()))
    for name in _ALIKE:
        if (found.pop(_number_of(name)) > 1).any():
            raise BadParameter(
                f"a group mixes forecasts of different {name}: add {name!r} to `by`, "
                "or choose forecasts by conditions"
            )
    counts, means = ["n", "cutoffs"], list(found.columns[len(groups) + 2 :])
    found = found.astype(dict.fromkeys(counts, np.int64) | dict.fromkeys(means, np.float64))
    if "cutoff" in found:
        found["cutoff"] = pd.to_datetime(found["cutoff"]).astype("datetime64[ns]")
    return found.sort_values(groups, na_position="last", ignore_index=True)


def _groups(by: Sequence[str]) -> list[str]:
    if isinstance(by, str):
        raise BadParameter(f"by is the text {by[:64]!r}, expected several, as ['model', 'step']")
    for name in by:
        if name not in GROUPS:
            raise BadParameter(f"no group {name[:64]!r}, expected some of {', '.join(GROUPS)}")
    return list(dict.fromkeys([*by, "source"]))


def _query(connection: sa.Connection, known: Known, groups: Sequence[str]) -> sa.Select[Any]:
    sums = _sums(connection, known, by_symbol=bool(set(groups) & set(_OF_SYMBOL))).subquery()
    issued = known.forecasts.subquery()
    joined = sums.join(issued, issued.c.id == sums.c.forecast)
    if "symbol_id" in sums.c:
        joined = joined.join(symbols, symbols.c.id == sums.c.symbol_id)
    labels = [_group(connection, name, sums, issued).label(name) for name in groups]
    number = sa.cast(sa.func.sum(sums.c.n), sa.BigInteger)
    cutoffs = sa.func.count(issued.c.cutoff.distinct())
    columns = [*labels, number.label("n"), cutoffs.label("cutoffs")]
    for score, name in _MEANS.items():
        raw, calibrated = sums.c[score], sums.c[f"{score}_calibrated"]
        columns.append(_mean(raw, sums.c.n).label(name))
        after = _mean(sa.func.coalesce(calibrated, raw), sums.c.n)
        columns.append(after.label(f"{name}_calibrated"))
    uncalibrated = sa.case((sums.c.crps_calibrated.is_(None), sums.c.n), else_=0)
    columns.append((sa.func.sum(uncalibrated) * 1.0 / number).label("uncalibrated"))
    for name in _ALIKE:
        columns.append(sa.func.count(issued.c[name].distinct()).label(_number_of(name)))
    return sa.select(*columns).select_from(joined).group_by(*labels)


def _number_of(name: str) -> str:
    return f"number of {name}"


def _group(
    connection: sa.Connection, name: str, sums: sa.Subquery, issued: sa.Subquery
) -> sa.ColumnElement[Any]:
    """The expression of a group."""
    if name in _OF_SYMBOL:
        return symbols.c[name]
    if name == names.STEP:
        return sums.c.step
    if name not in _PERIODS:
        return issued.c[name]
    if connection.dialect.name == "sqlite":
        seconds = sa.type_coerce(issued.c.cutoff, sa.Integer) * 86_400
        return sa.func.strftime(_PERIODS[name][0], seconds, "unixepoch")
    return sa.func.to_char(issued.c.cutoff, _PERIODS[name][1])


def _mean(total: Any, number: Any) -> sa.ColumnElement[Any]:
    """The mean over forecasts and steps that have a score."""
    return sa.func.sum(total) / sa.func.sum(sa.case((total.is_not(None), number)))


def _sums(connection: sa.Connection, known: Known, *, by_symbol: bool) -> sa.Select[Any]:
    """Sums of scores over the symbols of each forecast and step; empty if none has the score.

    The levels and the calibration are those of the forecast, so all its symbols have a score or
    none. The rows come in the order of their key, so the database need not sort them. `by_symbol`
    gives each symbol, and sums nothing.
    """
    c = scores.c
    key = [c.forecast, c.step]
    values = [c[name] for score in _MEANS for name in (score, f"{score}_calibrated")]
    of_forecasts = c.forecast.in_(known.forecasts.with_only_columns(forecasts.c.id))
    query = observations.as_of(scores, known.instant).where(of_forecasts)
    if known.selection.symbols:  # the steps too, for the index
        horizons = known.forecasts.with_only_columns(sa.func.max(forecasts.c.horizon))
        longest = connection.scalar(horizons) or 0
        query = query.where(c.step.in_(range(1, longest + 1)))
        query = query.where(*known.selection.of_symbols(c.symbol_id))
    if by_symbol:
        numbers = [sa.cast(value, sa.Double).label(value.name) for value in values]
        return query.with_only_columns(*key, c.symbol_id, sa.literal(1).label("n"), *numbers)
    totals = [sa.cast(sa.func.sum(value), sa.Double).label(value.name) for value in values]
    return query.with_only_columns(*key, sa.func.count().label("n"), *totals).group_by(*key)
