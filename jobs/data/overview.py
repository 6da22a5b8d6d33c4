"""What data sets there are: for `jobs data list`, `show` and `remove`."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from jobs.data import catalog, processed, sets
from jobs.data.catalog import Builtin
from jobs.data.compile import SOURCES
from jobs.data.own.report import REPORTS, report_path
from jobs.data.sources.builtin import STOCK_INDEX
from registry import compiled
from registry.errors import BadParameter, Corrupt, NotFound
from registry.sets import Part, check_files, verified
from registry.settings import Settings

BUILTIN = "built-in"
COMPILED = "compiled"  # a state
Check = Callable[[Settings, str, Sequence[Part]], object]  # of files; raises Corrupt


def all_sets(settings: Settings) -> list[dict[str, Any]]:
    """A row for each data set, the built-in ones first. A damaged one is listed with its fault."""
    rows = [_builtin_row(settings, dataset) for dataset in catalog.DATASETS]
    return rows + [_own_row(settings, name, check_files) for name in sets.names(settings)]


def one_set(settings: Settings, name: str) -> dict[str, Any]:
    """Everything that is known of a data set, without the report. Its files are read and compared.

    Raises NotFound, and Corrupt if not even its facts can be read.
    """
    dataset = catalog.Catalog(settings).find(name)
    facts: dict[str, Any] = {
        "data": name,
        "columns": list(dataset.columns),
        "calendar": dataset.calendar,
        "splits": asdict(dataset.splits),
        "universe": dataset.universe.tag,
        "symbols": list(dataset.universe.symbols),
        "synthetic": list(dataset.synthetic),
    }
    if isinstance(dataset, sets.Own):
        own = dataset.facts
        facts |= {
            "kind": own.kind,
            "currency": own.currency,
            "index": own.index,
            "source": own.source,
            "restated": own.restated,
            "report": str(report_path(settings, name).with_suffix(".txt")),
        }
    return _row_of(settings, name, verified) | facts


def remove(settings: Settings, name: str) -> dict[str, Any]:
    """Delete an own set and its reports. Raises BadParameter for a built-in one, NotFound."""
    if name in catalog.Catalog().names:
        raise BadParameter(f"{name} is built in and cannot be removed")
    sets.remove(settings, name)
    for of in REPORTS:
        path = report_path(settings, name, of)
        path.unlink(missing_ok=True)
        path.with_suffix(".txt").unlink(missing_ok=True)
    return {"removed": name}


def _row_of(settings: Settings, name: str, check: Check) -> dict[str, Any]:
    for dataset in catalog.DATASETS:
        if dataset.name == name:
            return _builtin_row(settings, dataset)
    return _own_row(settings, name, check)


def _own_row(settings: Settings, name: str, check: Check) -> dict[str, Any]:
    try:
        facts = sets.read_facts(settings, name)
    except Corrupt as error:
        return _row(name, state=f"damaged: {error.message}")
    return _row(
        name,
        kind=facts.kind,
        symbols=len(facts.universe.symbols),
        calendar=facts.calendar,
        first=facts.parts[0].first,
        last=facts.parts[-1].last,
        rows=sum(part.rows for part in facts.parts),
        digest=facts.digest,
        state=_state(settings, facts, check),
    )


def _state(settings: Settings, facts: sets.Facts, check: Check) -> str:
    try:
        check(settings, facts.name, facts.files)
    except Corrupt as error:
        return f"damaged: {error.message}"
    return COMPILED


def _builtin_row(settings: Settings, dataset: Builtin) -> dict[str, Any]:
    symbols = len(dataset.universe.symbols)
    try:
        content = compiled.read(settings, settings.logs_dir / processed.QA)
        summary = json.loads(content)
    except (Corrupt, NotFound) as error:
        state = f"not compiled: `{compiled.COMMAND}` does it"
        if isinstance(error, Corrupt):
            state = f"damaged: {error.message}"
        return _row(dataset.name, BUILTIN, symbols=symbols, calendar=dataset.calendar, state=state)
    spans: dict[str, Any] = {}
    for source, of in SOURCES.items():
        if of is dataset and source != STOCK_INDEX:  # its series is no series of the panel
            spans |= summary["sources"][source]["series"]
    return _row(
        dataset.name,
        BUILTIN,
        symbols=len(spans),
        calendar=dataset.calendar,
        first=min(span["first"] for span in spans.values()),
        last=max(span["last"] for span in spans.values()),
        rows=summary["files"][dataset.files[0]],
        digest=summary["digests"][dataset.name],
    )


def _row(
    name: str,
    kind: str = "",
    *,
    symbols: int | None = None,
    calendar: str = "",
    first: str = "",
    last: str = "",
    rows: int | None = None,
    digest: str = "",
    state: str = COMPILED,
) -> dict[str, Any]:
    return {
        "data": name,
        "kind": kind,
        "symbols": symbols,
        "calendar": calendar,
        "first": first,
        "last": last,
        "rows": rows,
        "digest": digest,
        "state": state,
    }
