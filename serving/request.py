"""The body of a request with the latest sessions of a user's data set."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from registry import sets
from registry.errors import BadHistory, BadParameter, NotFound
from registry.forecast import names
from registry.forecast.checks import check_history, refusal
from registry.forecast.history import Refused
from registry.forecast.spec import ModelSpec
from registry.settings import Settings
from registry.versions import suitability
from registry.versions.store import Store
from registry.versions.version import Version


def latest(
    settings: Settings, store: Store, version: Version, data: str, symbols: Sequence[str]
) -> dict[str, Any]:
    """Body of an /invocations request: the last sessions of these symbols, as the version needs.

    A model with a universe gets all of it. Raises NotFound, Corrupt, BadParameter, and
    BadHistory for what the server would refuse.
    """
    spec = store.spec(version)
    facts = _facts(settings, data)
    _check(version.reference, store.facts(version), spec, data, facts)
    if not symbols and spec.universe is None:
        raise BadParameter("name a symbol of the data set, as in --symbol AAPL")
    columns = [*spec.columns, *(name for name in spec.optional if name in facts["columns"])]
    parts = sets.parts_of(facts)
    last = pd.Timestamp(parts[-1].last)
    start = suitability.since(spec, last)
    frame = sets.read(settings, data, parts, columns, f"{start:%Y-%m-%d}")
    known = sorted({*frame[names.UNIQUE_ID].unique(), *facts["universe"]["symbols"]})
    needed = suitability.symbols_of(spec, data, known, symbols)
    late = suitability.stale(spec, frame, needed, last)
    suitability.check_fresh([one for one in late if _is_needed(one, spec, symbols)])
    fresh = set(needed) - {one.unique_id for one in late}
    frame = suitability.up_to_common(spec, frame[frame[names.UNIQUE_ID].isin(fresh)])
    rows = frame.groupby(names.UNIQUE_ID, observed=True).tail(spec.max_context)
    history = check_history(rows.reset_index(drop=True), spec)
    refused = tuple(one for one in history.refused if _is_needed(one, spec, symbols))
    if refused:
        raise refusal(replace(history, refused=refused))
    return _body(rows)


def _is_needed(series: Refused, spec: ModelSpec, symbols: Sequence[str]) -> bool:
    """Whether a request without the series is none: it is asked for, or the model needs it."""
    return series.unique_id in symbols or (spec.universe is not None and not spec.subset)


def _facts(settings: Settings, data: str) -> dict[str, Any]:
    try:
        return sets.stored_facts(settings, data)
    except NotFound as error:
        raise NotFound(
            f"no data set {data[:80]!r} of yours; --data takes one that `python -m jobs compile` "
            "made of your prices, no built-in one; without --data, it is the version's example"
        ) from error


def _check(
    reference: str, of_version: dict[str, str], spec: ModelSpec, data: str, facts: dict[str, Any]
) -> None:
    """Raise BadHistory unless the data set has the version's columns, calendar and universe."""
    missing = [name for name in spec.columns if name not in facts["columns"]]
    if missing:
        raise BadHistory(f"{reference} needs {missing}, which {data} lacks", code="MISSING_COLUMN")
    calendar, parts = facts["calendar"], sets.parts_of(facts)
    if spec.calendar != calendar:
        first, last = parts[0].first, parts[-1].last
        raise suitability.other_calendar(reference, spec.calendar, data, calendar, first, last)
    universe = facts["universe"]
    tag = sets.universe_tag(universe["name"], universe["digest"])
    suitability.check_universe(reference, of_version, spec, data, tag)


def _body(rows: pd.DataFrame) -> dict[str, Any]:
    dated = rows.assign(**{names.DS: rows[names.DS].dt.strftime("%Y-%m-%d")})
    table = {"columns": list(dated.columns), "data": dated.to_numpy(dtype=object).tolist()}
    return {"dataframe_split": table}
