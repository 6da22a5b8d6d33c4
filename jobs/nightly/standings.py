"""Standings: what issued forecasts were worth, beside references that were issued the same nights.

Forecasts that were issued live and those computed later are never in one table.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import pandas as pd
import sqlalchemy as sa

from jobs.nightly import page
from jobs.running.progress import Progress, silent
from registry.errors import NotFound
from registry.files import write_together
from registry.ledger import database, instants, pairing
from registry.ledger.archive import Archive
from registry.ledger.issue import BACKFILL, SERVED
from registry.ledger.pairing import Nights
from registry.ledger.selection import Selection
from registry.promotion.opening import open_ledger
from registry.scoring import standings as scoring
from registry.scoring.standings import ALL, Row
from registry.settings import Settings
from registry.versions import tracking
from registry.versions.store import Store

EXPERIMENT = "standings"
LIVE = "nightly"
REFERENCES = ("fhs", "naive")
LABELS = {
    LIVE: "live: issued before the session that they forecast had closed",
    BACKFILL: "backfill: computed later, from what was known then",
}
_JOB_KEY, _CONTENT = "job_key", "content"  # tags of a run


@dataclass(frozen=True)
class Table:
    """Forecasts of one source: LIVE or BACKFILL."""

    source: str
    nights: int  # cutoffs with a forecast, scored or not
    forecasts: int  # a version and a cutoff each
    rows: Sequence[Row]
    months: Sequence[Row]
    paired: Mapping[str, pd.DataFrame]  # nights beside each reference, for pictures

    @property
    def label(self) -> str:
        return LABELS[self.source]

    @property
    def kind(self) -> str:
        """live or backfill."""
        return self.label.partition(":")[0]


@dataclass(frozen=True)
class Standings:
    """Of a data set, as known after a session."""

    data: str
    night: date | None  # last session that was known
    tables: Sequence[Table]  # LIVE, then BACKFILL
    served: Sequence[Mapping[str, Any]]  # model, version, forecasts, nights: a count, no score

    @property
    def live_nights(self) -> int:
        return self.tables[0].nights

    @property
    def key(self) -> str:
        return f"{self.data} {self.night}"


def standings(
    settings: Settings, *, data: str = "", as_of: str = "", progress: Progress = silent
) -> list[Standings]:
    """Standings of each data set that this registry has forecasts of, or of the named one.

    `as_of` is a date or time, as in `registry.ledger.instants`. Writes `settings.reports_dir` /
    standings.html, and one run for a data set and night; the same standings again change nothing.
    Raises BadParameter, and NotFound for a named data set without a forecast.
    """
    instants.is_date(as_of or None)  # also refuses what is no time, where nothing was issued
    with open_ledger(Store(settings)) as ledger:
        registry = ledger.registry
        named = pairing.known_sets(ledger.engine, registry)
    if data and data not in named:
        raise NotFound(
            f"no forecast of {data} was issued; `python -m jobs forecast MODEL --data {data} "
            "--issue` issues one"
        )
    made = []
    for name in [data] if data else named:
        progress(f"standings of {name}", 0.0)
        made.append(_of_set(settings, registry, name, as_of))
    text = page.of(made)
    path = settings.reports_dir / page.NAME
    write_together({path: lambda temporary: temporary.write_text(text)})
    for each in made:
        progress(f"standings of {each.data}", 0.8)
        _record(settings, each)
    return made


def _of_set(settings: Settings, registry: str, data: str, as_of: str) -> Standings:
    with Archive(settings) as archive, archive.known(data, as_of or None) as known:
        last = known.last_session
        engine = archive.engine
        with database.read(engine) as connection:
            tables = [_table(connection, registry, data, source, as_of) for source in LABELS]
            selection = Selection(registry=registry, data=data, source=SERVED)
            served = pairing.issued(connection, selection.known(connection, as_of or None))
    night = None if last is None else last.date()
    counts = [dict(zip(served.columns, row, strict=True)) for row in served.values.tolist()]
    return Standings(data, night, tables, counts)


def _table(connection: sa.Connection, registry: str, data: str, source: str, as_of: str) -> Table:
    selection = Selection(registry=registry, data=data, source=source)
    known = selection.known(connection, as_of or None)
    forecasts, cutoffs = pairing.totals(connection, known)
    read = Nights.read(connection, known)
    nights = read.frame
    paired = {name: read.beside(name) for name in REFERENCES}
    return Table(
        source=source,
        nights=cutoffs,
        forecasts=forecasts,
        rows=scoring.rows(nights, paired, by_month=False) if len(nights) else [],
        months=scoring.rows(nights, paired, by_month=True) if len(nights) else [],
        paired=paired,
    )


# --- as rows and runs -------------------------------------------------------------------------


def flat(made: Sequence[Standings], *, months: bool = False) -> list[dict[str, Any]]:
    """A dictionary for each row of the tables: columns of the CSV file."""
    flattened = []
    for each in made:
        for table in each.tables:
            for row in table.months if months else table.rows:
                head = {"data": each.data, "source": table.source}
                flattened.append(head | _flat(row))
    return flattened


def _flat(row: Row) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "model": row.model,
        "version": row.version,
        "step": "all" if row.step == ALL else str(row.step),
        "month": row.month,
        "nights": row.nights,
        "outcomes": row.outcomes,
        "uncalibrated": row.uncalibrated,
    }
    for suffix, scored in (("", row.raw), ("_calibrated", row.calibrated)):
        columns[f"crps{suffix}"] = scored.crps
        for name, value in _coverage(scored.coverage_90).items():
            columns[f"coverage_90{name}{suffix}"] = value
        for reference in REFERENCES:
            against = scored.against.get(reference)
            for name in ("skill", "p", "nights", "verdict"):
                value = getattr(against, name) if against else None
                columns[f"{name}_vs_{reference}{suffix}"] = value
    return columns


def _coverage(coverage: Any) -> dict[str, Any]:
    names = {"": "share", "_low": "low", "_high": "high", "_interval": "method"}
    return {key: getattr(coverage, name) if coverage else None for key, name in names.items()}


def as_json(made: Sequence[Standings]) -> list[dict[str, Any]]:
    documents = []
    for each in made:
        tables = []
        for table in each.tables:
            tables.append(
                {
                    "source": table.source,
                    "label": table.label,
                    "nights": table.nights,
                    "forecasts": table.forecasts,
                    "rows": [_flat(row) for row in table.rows],
                    "months": [_flat(row) for row in table.months],
                }
            )
        night = str(each.night) if each.night else None
        served = list(each.served)
        head = {"data": each.data, "night": night, "live_nights": each.live_nights}
        documents.append({**head, "tables": tables, "served": served})
    return documents


def _record(settings: Settings, each: Standings) -> None:
    """The run of a data set and night, unless it has these very standings."""
    document = as_json([each])[0]
    content = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    key = {_JOB_KEY: each.key}
    if tracking.latest(settings, EXPERIMENT, {**key, _CONTENT: content}) is not None:
        return
    again = tracking.latest(settings, EXPERIMENT, key)
    tags = {**key, "data": each.data, "live_nights": str(each.live_nights), _CONTENT: "-"}
    with tracking.start(settings, EXPERIMENT, each.key, tags=tags, again=again) as run:
        run.metrics(dict(_metrics(each)))
        run.text(page.of([each]), page.NAME)
        run.table(pd.DataFrame(flat([each])), "standings")
        run.table(pd.DataFrame(flat([each], months=True)), "months")
        run.json(document, "standings.json")
        run.tags({_CONTENT: content})  # last: a run that was cut has no such tag


def _metrics(each: Standings) -> Iterator[tuple[str, float]]:
    """Metrics by model and step: live/har_1/crps_step_1."""
    yield "live_nights", each.live_nights
    for table in each.tables:
        for row in table.rows:
            step = "" if row.step == ALL else f"_step_{row.step}"
            for name, value in _flat(row).items():
                if isinstance(value, float):
                    yield f"{table.kind}/{row.model}_{row.version}/{name}{step}", value
