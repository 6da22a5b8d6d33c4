"""Scores of each night by step, also beside those of a reference that was issued the same night.

A night is the cutoff of a forecast. The means over symbols are made in SQL, so that a year of
thousands of symbols is a small frame.
"""

from typing import Any

import pandas as pd
import sqlalchemy as sa

from registry.forecast import names
from registry.ledger import database, observations
from registry.ledger.forecasts import forecasts
from registry.ledger.scores import COVERED, scores
from registry.ledger.selection import Known

HEAD = ("model", "version", "data", "source", "cutoff")
HORIZON = "horizon"  # steps of the forecast
_ALIKE = ("registry", "data", "source", "cutoff", "levels")  # of a forecast and its reference
_MEANS = ("crps", *COVERED)
REFERENCE, REFERENCE_CALIBRATED = "crps_reference", "crps_reference_calibrated"


def nights(connection: sa.Connection, known: Known) -> pd.DataFrame:
    """A row for each forecast and step with a known outcome, sorted by HEAD and step.

    Columns: those of HEAD, horizon, step, n symbols, the share `uncalibrated` (0 or 1), and the
    means of crps, covered_50, covered_80 and covered_90, each of them `_calibrated`, too: raw where
    no calibration was applied.
    """
    heads = known.forecasts.subquery("heads")
    scored = _scored(known, "scored")
    sums = sa.select(scored.c.forecast, scored.c.step, *_means(scored))
    sums = sums.where(scored.c.forecast.in_(sa.select(heads.c.id)))
    return _read(connection, heads, sums.group_by(scored.c.forecast, scored.c.step))


def beside(connection: sa.Connection, known: Known, reference: str) -> pd.DataFrame:
    """As `nights`, of the symbols that a forecast and the reference of its night both have.

    `crps_reference` and `crps_reference_calibrated` are the means of the reference on these rows.
    Of several versions of the reference in one night, the highest counts. Reference and forecast
    have one source and the same levels, on which CRPS depends. The reference itself has no row.
    """
    heads = known.forecasts.subquery("heads")
    pairs = _pairs(heads, reference)
    scored, other = _scored(known, "scored"), _scored(known, "other")
    joined = (
        pairs.join(scored, scored.c.forecast == pairs.c.forecast)
        .join(other, (other.c.forecast == pairs.c.reference) & _same_outcome(scored, other))
    )  # fmt: skip
    calibrated = sa.func.coalesce(other.c.crps_calibrated, other.c.crps)
    columns = [
        *_means(scored),
        _mean(other.c.crps).label(REFERENCE),
        _mean(calibrated).label(REFERENCE_CALIBRATED),
    ]
    sums = sa.select(scored.c.forecast, scored.c.step, *columns).select_from(joined)
    return _read(connection, heads, sums.group_by(scored.c.forecast, scored.c.step))


def issued(connection: sa.Connection, known: Known) -> pd.DataFrame:
    """How many forecasts each version issued, scored or not, and after how many cutoffs, sorted."""
    heads = known.forecasts.subquery("heads")
    groups = [heads.c.model, heads.c.version]
    query = sa.select(*groups, *_counts(heads)).group_by(*groups).order_by(*groups)
    rows = connection.execute(query).all()
    return pd.DataFrame(rows, columns=["model", "version", "forecasts", "nights"])


def totals(connection: sa.Connection, known: Known) -> tuple[int, int]:
    """Number of forecasts and of their different cutoffs."""
    heads = known.forecasts.subquery("heads")
    counts = connection.execute(sa.select(*_counts(heads))).one()
    return int(counts[0]), int(counts[1])


def _counts(heads: sa.Subquery) -> "list[sa.ColumnElement[int]]":
    return [sa.func.count(heads.c.id), sa.func.count(heads.c.cutoff.distinct())]


def known_sets(engine: sa.Engine, registry: str) -> list[str]:
    """Data sets that a registry has forecasts of, sorted."""
    c = forecasts.c
    query = sa.select(c.data).where(c.registry == registry).distinct()
    with database.read(engine) as connection:
        return sorted(connection.scalars(query))


def _scored(known: Known, name: str) -> sa.Subquery:
    return observations.as_of(scores, known.instant).subquery(name)


def _same_outcome(scored: sa.Subquery, other: sa.Subquery) -> sa.ColumnElement[bool]:
    return (other.c.step == scored.c.step) & (other.c.symbol_id == scored.c.symbol_id)


def _pairs(heads: sa.Subquery, reference: str) -> sa.Subquery:
    """The forecast of a reference that stands beside each forecast."""
    newest = sa.func.row_number().over(
        partition_by=[heads.c[name] for name in _ALIKE], order_by=heads.c.version.desc()
    )
    ranked = sa.select(heads, newest.label("place")).where(heads.c.model == reference)
    references = ranked.subquery("ranked")
    alike = [heads.c[name] == references.c[name] for name in _ALIKE]
    query = sa.select(heads.c.id.label("forecast"), references.c.id.label("reference"))
    query = query.where(references.c.place == 1, heads.c.id != references.c.id, *alike)
    return query.subquery("pairs")


def _means(scored: sa.Subquery) -> "list[sa.ColumnElement[Any]]":
    columns: list[sa.ColumnElement[Any]] = [sa.func.count().label("n")]
    missing = sa.case((scored.c.crps_calibrated.is_(None), 1.0), else_=0.0)
    columns.append(_mean(missing).label("uncalibrated"))
    for name in _MEANS:
        raw, after = scored.c[name], scored.c[f"{name}_calibrated"]
        columns.append(_mean(raw).label(name))
        columns.append(_mean(sa.func.coalesce(after, raw)).label(f"{name}_calibrated"))
    return columns


def _mean(value: Any) -> sa.ColumnElement[Any]:
    return sa.func.avg(sa.cast(value, sa.Double))


def _read(connection: sa.Connection, heads: sa.Subquery, sums: sa.Select[Any]) -> pd.DataFrame:
    means = sums.subquery("means")
    columns = [column for column in means.c if column.name != "forecast"]
    query = (
        sa.select(*[heads.c[name] for name in (*HEAD, HORIZON)], *columns)
        .select_from(means.join(heads, heads.c.id == means.c.forecast))
        .order_by(*[heads.c[name] for name in HEAD], means.c.step)
    )
    rows = connection.execute(query).all()
    frame = pd.DataFrame(rows, columns=[column.name for column in query.selected_columns])
    counts = [HORIZON, names.STEP, "n"]
    numbers = frame.columns.difference([*HEAD, *counts])
    return frame.astype(dict.fromkeys(numbers, "float64") | dict.fromkeys(counts, "int64"))
