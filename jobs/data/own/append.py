"""Add sessions to a data set: only the years that change are written anew.

The new file may give sessions again that the set has. Those with other values are restated: the new
values count, and the report lists them. The rows are judged together with the set's own, and the
set is then what one compile of all prices gives.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb

from jobs.data import sets
from jobs.data.own import prices, report
from jobs.data.own.basis import ADJ_CLOSE, DIVIDEND, SPLIT, Basis, choose
from jobs.data.own.derive import Derived, derive
from jobs.data.own.findings import KEPT, SHOWN, Finding, column, one
from jobs.data.own.options import Options
from jobs.data.own.previous import Previous, open_previous
from jobs.data.sets import Facts
from jobs.data.sources.engine import open_connection
from jobs.data.sources.source import KEYS, Source, Staged
from jobs.data.sources.staging import stage
from jobs.running.progress import Progress, Say, silent
from registry.errors import BadHistory, BadParameter
from registry.files import temporary_folder
from registry.forecast import names
from registry.settings import Settings

# Sessions that are given again, SQL.
_AGAIN = "old JOIN merged ON old.unique_id::symbol = merged.symbol AND old.ds = merged.ds AND given"


def append_own(
    settings: Settings,
    source: Source,
    options: Options,
    *,
    dry_run: bool = False,
    progress: Progress = silent,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Add the rows of a source to the set `options.name`; the report.

    Calendar, kind, index, currency and dates are those of the set. Raises BadInput for rows that do
    not fit it, and as `compile_own`; then the set stays as it was.
    """
    sets.check_name(options.name)
    with (
        sets.lock(settings, options.name),
        temporary_folder(settings.state_dir, f"append-{options.name}") as folder,
        open_connection(Path(folder)) as connection,
    ):
        facts = sets.read_facts(settings, options.name)
        options = _options(options, facts)
        progress("reading", 0.0)
        staged = stage(connection, source)
        say(report.mapping_line(staged))
        progress("checking prices", 0.4)
        columns = _columns(staged, facts)
        previous = _previous(settings, connection, choose(columns, options), facts)
        derived = derive(connection, columns, options, previous=previous)
        derived, facts = _compared(connection, derived, facts)
        appended = _appended(connection)
        progress("dry run" if dry_run else "writing", 0.7)
        into = Path(folder) if dry_run else None
        facts = _write(settings, connection, facts, previous, into)
    found = report.report(settings, staged, derived, facts, appended=appended, dry_run=dry_run)
    report.write(found)
    progress("done", 1.0)
    return found


def _write(
    settings: Settings,
    connection: duckdb.DuckDBPyConnection,
    facts: Facts,
    previous: Previous,
    into: Path | None,
) -> Facts:
    """Write the set anew but for the years before the new rows, or rehearse it in a folder."""
    kept = [part for part in facts.parts if part.year < previous.year]
    if into:
        return sets.rehearse(facts, connection, "rows", into, base="base", keep=kept)
    return sets.write(settings, facts, connection, "rows", base="base", keep=kept)


# --- what fits the set ------------------------------------------------------------------------


def _previous(
    settings: Settings, connection: duckdb.DuckDBPyConnection, basis: Basis, facts: Facts
) -> Previous:
    """The set before. Raises BadHistory if the staged rows do not fit it."""
    _check_symbols(connection, facts)
    previous = open_previous(settings, connection, facts)
    _check_events(connection, basis, facts)
    _check_basis(basis, facts)
    return previous


def _check_compiled(facts: Facts) -> None:
    """Raise BadParameter for a set of prices without those of which no row follows."""
    if facts.kind != "returns" and facts.base is None:
        raise BadParameter(
            f"{facts.name} was compiled by an older version; compile it again, without --append"
        )


def _options(options: Options, facts: Facts) -> Options:
    """The options, as the set has them. Raises BadParameter."""
    _check_compiled(facts)
    _check_options(options, facts)
    return replace(options, kind=facts.kind, calendar=facts.calendar, index=facts.index)


def _check_options(options: Options, facts: Facts) -> None:
    """Raise BadParameter for an option that says otherwise than the set."""
    given = {
        "kind": (options.kind, facts.kind),
        "calendar": (options.calendar and options.exchange, facts.calendar),
        "index": (options.index, facts.index),
        "currency": (options.currency, facts.currency),
        "fit_until": (options.fit_until, facts.splits.fit_until),
        "choose_until": (options.choose_until, facts.splits.choose_until),
    }
    for name, (said, stored) in given.items():
        if said not in ("", stored):
            raise BadParameter(
                f"--{name} is {said[:64]!r}, that of {facts.name} is {stored!r}; leave it out, or "
                "compile the whole set anew without --append"
            )
    if options.sectors:
        raise BadParameter("--append keeps the sectors of the set; leave out --sectors")


def _check_symbols(connection: duckdb.DuckDBPyConnection, facts: Facts) -> None:
    """Raise BadHistory for a symbol that the set lacks: the market would have another universe."""
    known = {*facts.universe.symbols, facts.index}
    symbols = column(connection, "SELECT DISTINCT unique_id FROM staged ORDER BY unique_id")
    unknown = [symbol for symbol in symbols if symbol not in known]
    if unknown:
        raise BadHistory(
            f"{facts.name} has no {', '.join(unknown[:SHOWN])} ({len(unknown)} such symbols); its "
            "market columns would be over others: compile the whole set anew, or remove the rows",
            code="UNIVERSE",
        )


def _columns(staged: Staged, facts: Facts) -> tuple[str, ...]:
    """Columns that count. That of splits or dividends may be empty in the new sessions."""
    events = (SPLIT, DIVIDEND) if prices.RAW_CLOSE in facts.columns else ()
    mapped = [key for key in events if key in staged.mapping]
    return tuple(key for key in KEYS if key in (*staged.columns, *mapped))


def _check_events(connection: duckdb.DuckDBPyConnection, basis: Basis, facts: Facts) -> None:
    """Raise BadHistory (PRICE_BASIS) for splits and dividends: they change all earlier prices.

    Those that a provider's adjusted close has already count on sessions that the set lacks only.
    """
    happen = {SPLIT: f"{SPLIT} > 0 AND {SPLIT} <> 1", DIVIDEND: f"{DIVIDEND} > 0"}
    condition = " OR ".join(happen[name] for name in basis.events) or "false"
    new = "ANTI JOIN old USING (unique_id, ds)" if ADJ_CLOSE in basis.needed else ""
    query = f"FROM staged {new} WHERE {condition}"
    (count,) = one(connection, f"SELECT count(*) {query}")
    if count:
        symbol, ds = one(connection, f"SELECT unique_id, ds {query} ORDER BY ds, unique_id LIMIT 1")
        raise BadHistory(
            f"the rows have a split or dividend ({symbol} {ds}; {count} in all), which changes all "
            f"earlier prices of its symbol: compile {facts.name} anew with all its sessions; if it "
            "has them already, append only sessions after it",
            code="PRICE_BASIS",
        )


def _check_basis(basis: Basis, facts: Facts) -> None:
    """Raise BadHistory (PRICE_BASIS) unless new prices make the columns of the set."""
    new = [*names.HISTORY, *prices.stored(basis)]
    old = facts.own_columns
    if new != old:
        raise BadHistory(
            f"these prices make the columns {', '.join(new)}; {facts.name} has {', '.join(old)}; "
            "give the same columns as when it was compiled",
            code="PRICE_BASIS",
        )
    if basis.gives_amount != facts.amount_given:
        here, there = ("with", "without") if basis.gives_amount else ("without", "with")
        raise BadHistory(
            f"these rows are {here} values of {names.AMOUNT}, {facts.name} was compiled {there} "
            "them; give the same columns as when it was compiled",
            code="PRICE_BASIS",
        )


# --- what the new rows did ------------------------------------------------------------------


def _compared(
    connection: duckdb.DuckDBPyConnection, derived: Derived, facts: Facts
) -> tuple[Derived, Facts]:
    """Both with what the new rows are beside the set's."""
    restated = _restated(connection, facts)
    findings = (*derived.findings, *restated, *_unchecked(connection, facts))
    count = facts.restated + sum(item.rows for item in restated)
    return replace(derived, findings=findings), replace(facts, restated=count)


def _restated(connection: duckdb.DuckDBPyConnection, facts: Facts) -> list[Finding]:
    """Rows of the set that get other values."""
    values = facts.own_columns[2:]
    if facts.kind != "returns":
        values.remove(names.Y)
    differ = " OR ".join(f"old.{name} <> merged.{name}" for name in values)
    query = f"FROM {_AGAIN} WHERE {differ}"
    (count,) = one(connection, f"SELECT count(*) {query}")
    if not count:
        return []
    examples = column(
        connection,
        f"SELECT old.unique_id || ' ' || old.ds || ' (' || CASE {_first_change(values)} END || ')' "
        f"{query} ORDER BY old.ds, old.unique_id LIMIT {SHOWN}",
    )
    return [Finding("restated: the new value counts", int(str(count)), tuple(examples), KEPT)]


def _first_change(columns: Sequence[str]) -> str:
    """SQL of the branches that say the first column that differs, with both values."""
    return " ".join(
        f"WHEN old.{name} <> merged.{name} THEN '{name} ' || old.{name} || ' -> ' || merged.{name}"
        for name in columns
    )


def _appended(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Rows, symbols and period of the user's rows with a price."""
    rows, symbols, first, last = one(
        connection,
        "SELECT count(*), count(DISTINCT symbol), min(ds)::VARCHAR, max(ds)::VARCHAR "
        "FROM merged WHERE given",
    )
    return {"rows": rows, "symbols": symbols, "period": [first, last]}


def _unchecked(connection: duckdb.DuckDBPyConnection, facts: Facts) -> list[Finding]:
    """Says so if no session of the set is given again."""
    (overlap,) = one(connection, f"SELECT count(*) FROM {_AGAIN}")
    if overlap or facts.kind == "returns":
        return []
    reason = (
        "no session of the set is given again, so nothing shows that no dividend or split has "
        "changed its earlier prices since"
    )
    return [Finding(reason, 0, (), KEPT)]
