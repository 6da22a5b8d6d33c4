"""Scores of each night by step, also beside those of a reference that was issued the same night.

A night is the cutoff of a forecast. The means over symbols are made in SQL, so that a year of
thousands of symbols is a small frame.
"""

from dataclasses import dataclass
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
_SAME = ("n", "ids", "squares")  # of a set of symbols
_PRIVATE = ["forecast", "ids", "squares"]
REFERENCE, REFERENCE_CALIBRATED = "crps_reference", "crps_reference_calibrated"


@dataclass(frozen=True, eq=False)
class Nights:
    """Means over the symbols of each forecast and step whose outcome is known."""

    connection: sa.Connection
    known: Known
    _sums: pd.DataFrame  # with the keys of forecasts, and what tells sets of symbols apart

    @classmethod
    def read(cls, connection: sa.Connection, known: Known) -> "Nights":
        scored = _scored(known, "scored")
        heads = known.forecasts.subquery("heads")
        sums = sa.select(scored.c.forecast, scored.c.step, *_symbols(scored), *_means(scored))
        sums = sums.where(scored.c.forecast.in_(sa.select(heads.c.id)))
        sums = sums.group_by(scored.c.forecast, scored.c.step)
        return cls(connection, known, _read(connection, heads, sums.subquery("means")))

    @property
    def frame(self) -> pd.DataFrame:
        """A row for each forecast and step, sorted by HEAD and step.

        Columns: those of HEAD, horizon, step, n symbols, the share `uncalibrated` (0 or 1), and the
        means of crps, covered_50, covered_80 and covered_90, each of them `_calibrated`, too: raw
        where no calibration was applied.
        """
        return self._sums.drop(columns=_PRIVATE)

    def beside(self, reference: str) -> pd.DataFrame:
        """As `frame`, of the symbols that a forecast and the reference of its night both have.

        `crps_reference` and `crps_reference_calibrated` are the means of the reference on these
        rows. Of several versions of the reference in one night, the highest counts. Reference and
        forecast have one source and the same levels, on which CRPS depends. The reference itself
        has no row.
        """
        joined = self._joined(reference)
        same = pd.Series(True, index=joined.index)
        for name in _SAME:
            same &= joined[name] == joined[f"{name}_reference"]
        columns = [*self._sums.columns.drop(_PRIVATE), REFERENCE, REFERENCE_CALIBRATED]
        parts = [joined.loc[same, columns]]
        for _, rows in joined[~same].groupby(["forecast", "forecast_reference"]):
            parts.append(self._common(rows)[columns])
        paired = pd.concat(parts, ignore_index=True)
        return paired.sort_values([*HEAD, names.STEP], ignore_index=True)

    def _joined(self, reference: str) -> pd.DataFrame:
        """Sums of forecasts beside those of their references, whatever symbols each has."""
        heads = self.known.forecasts.subquery("heads")
        rows = self.connection.execute(_pairs(heads, reference)).all()
        pairs = pd.DataFrame(rows, columns=["forecast", "forecast_reference"], dtype="int64")
        kept = ["forecast", names.STEP, *_SAME, "crps", "crps_calibrated"]
        others = self._sums[kept].add_suffix("_reference")
        renamed = {"step_reference": names.STEP, "crps_calibrated_reference": REFERENCE_CALIBRATED}
        others = others.rename(columns=renamed)
        joined = self._sums.merge(pairs, on="forecast")
        return joined.merge(others, on=["forecast_reference", names.STEP])

    def _common(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows of a forecast with the means over the symbols that its reference has, too."""
        forecast, reference = rows[["forecast", "forecast_reference"]].iloc[0].tolist()
        scored, other = _scored(self.known, "scored"), _scored(self.known, "other")
        calibrated = sa.func.coalesce(other.c.crps_calibrated, other.c.crps)
        columns = [
            *_means(scored),
            _mean(other.c.crps).label(REFERENCE),
            _mean(calibrated).label(REFERENCE_CALIBRATED),
        ]
        query = sa.select(scored.c.step, *columns).where(
            scored.c.forecast == forecast,
            other.c.forecast == reference,
            other.c.step == scored.c.step,
            other.c.symbol_id == scored.c.symbol_id,
        )
        by_step = self.connection.execute(query.group_by(scored.c.step)).all()
        means = pd.DataFrame(by_step, columns=[names.STEP, *[column.name for column in columns]])
        heads = rows[[*HEAD, HORIZON, names.STEP]]
        return heads.merge(_typed(means), on=names.STEP)


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


def _pairs(heads: sa.Subquery, reference: str) -> sa.Select[Any]:
    """Keys of forecasts and of the reference that stands beside each."""
    newest = sa.func.row_number().over(
        partition_by=[heads.c[name] for name in _ALIKE], order_by=heads.c.version.desc()
    )
    ranked = sa.select(heads, newest.label("place")).where(heads.c.model == reference)
    references = ranked.subquery("ranked")
    alike = [heads.c[name] == references.c[name] for name in _ALIKE]
    query = sa.select(heads.c.id, references.c.id)
    return query.where(references.c.place == 1, heads.c.id != references.c.id, *alike)


def _symbols(scored: sa.Subquery) -> "list[sa.ColumnElement[Any]]":
    """Sums of the ids and of their squares: with the number, they tell sets of symbols apart."""
    number = sa.cast(scored.c.symbol_id, sa.BigInteger)
    sums = {"ids": sa.func.sum(number), "squares": sa.func.sum(number * number)}
    return [sa.cast(total, sa.BigInteger).label(name) for name, total in sums.items()]


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


def _read(connection: sa.Connection, heads: sa.Subquery, means: sa.Subquery) -> pd.DataFrame:
    """Means with the heads of their forecasts, sorted."""
    of_heads = [heads.c[name] for name in (*HEAD, HORIZON)]
    query = (
        sa.select(*of_heads, *means.c)
        .select_from(means.join(heads, heads.c.id == means.c.forecast))
        .order_by(*of_heads[: len(HEAD)], means.c.step)
    )
    rows = connection.execute(query).all()
    columns = [column.name for column in query.selected_columns]
    return _typed(pd.DataFrame(rows, columns=columns))


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with whole numbers and means as such, even if it is empty."""
    whole = [name for name in (*_PRIVATE, HORIZON, names.STEP, "n") if name in frame]
    means = frame.columns.difference([*HEAD, *whole])
    return frame.astype(dict.fromkeys(means, "float64") | dict.fromkeys(whole, "int64"))
