"""Add sessions to a data set: only the years that change are written anew.

The new file may give sessions again that the set has. Those with other values are restated: the new
values count, and the report lists them.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb

from jobs.data import sets
from jobs.data.market import MEMBERS
from jobs.data.own import market, report
from jobs.data.own.derive import Derived, derive
from jobs.data.own.findings import KEPT, SHOWN, Finding, column, one
from jobs.data.own.options import Options
from jobs.data.own.previous import Previous
from jobs.data.sets import Facts
from jobs.data.sources.engine import file_list, open_connection
from jobs.data.sources.source import Source
from jobs.data.sources.staging import stage
from jobs.running.progress import Progress, Say, silent
from registry.errors import BadHistory, BadParameter
from registry.files import temporary_folder
from registry.forecast import names
from registry.sets import Part, verified
from registry.settings import Settings

_DERIVED = (names.UNIQUE_ID, names.DS, *names.MARKET, MEMBERS, names.SECTOR)


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
    facts = sets.read_facts(settings, options.name)
    _check_options(options, facts)
    options = replace(options, kind=facts.kind, calendar=facts.calendar, index=facts.index)
    with (
        temporary_folder(settings.state_dir, f"append-{options.name}") as folder,
        open_connection(Path(folder)) as connection,
    ):
        progress("reading", 0.0)
        staged = stage(connection, source)
        say(report.mapping_line(staged))
        progress("checking prices", 0.4)
        _check_symbols(connection, facts)
        _create_last(settings, connection, facts)
        previous = Previous("last_rows", facts.universe, facts.splits)
        derived = derive(connection, staged.columns, options, previous=previous)
        _check_basis(derived, facts)
        changed = _changed_parts(connection, facts)
        _create_old(settings, connection, facts, changed)
        _check_first(connection, facts)
        restated = _restated(connection, facts)
        overlap = _overlaps(connection)
        _merge(connection, facts)
        market.create(connection, options, previous)
        _create_rows(connection, facts)
        facts = replace(facts, restated=facts.restated + sum(item.rows for item in restated))
        progress("writing", 0.7)
        kept = [part for part in facts.parts if part not in changed]
        if dry_run:
            facts = sets.rehearse(facts, connection, "merged", Path(folder), keep=kept)
        else:
            facts = sets.write(settings, facts, connection, "merged", keep=kept)
    findings = (*derived.findings, *restated, *_unchecked(facts, overlap))
    derived = replace(derived, findings=findings)
    found = report.report(staged, derived, facts)
    found |= {"report": str(report.report_path(settings, options.name)), "dry_run": dry_run}
    report.write(settings, found)
    progress("done", 1.0)
    return found


# --- what fits the set ------------------------------------------------------------------------


def _check_options(options: Options, facts: Facts) -> None:
    """Raise BadParameter for an option that says otherwise than the set."""
    given = {
        "kind": (options.kind, facts.kind),
        "calendar": (options.calendar, facts.calendar),
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


def _check_basis(derived: Derived, facts: Facts) -> None:
    """Raise BadHistory (PRICE_BASIS) unless new prices are on the basis of the set."""
    if derived.events:
        raise BadHistory(
            f"there are {derived.events} splits or dividends, which change all earlier prices of "
            f"their symbols; compile {facts.name} anew with all its sessions",
            code="PRICE_BASIS",
        )
    new = [name for name in derived.columns if name != names.SECTOR]
    old = [name for name in facts.columns if name != names.SECTOR]
    if new != old:
        raise BadHistory(
            f"these prices make the columns {', '.join(new)}; {facts.name} has {', '.join(old)}; "
            "give the same columns as when it was compiled",
            code="PRICE_BASIS",
        )


def _check_first(connection: duckdb.DuckDBPyConnection, facts: Facts) -> None:
    """Raise BadHistory (PRICE_BASIS) if a symbol's first session that is given again has another
    close: then a split or dividend since has changed the basis, and the return there is wrong.
    """
    if facts.kind == "returns":
        return
    rows = connection.execute(
        """
        SELECT f.symbol::VARCHAR, f.ds, old.close, f.close
        FROM (SELECT symbol, min(ds) AS ds, arg_min(close, ds) AS close
              FROM priced GROUP BY symbol) f
        JOIN old ON old.symbol = f.symbol AND old.ds = f.ds
        JOIN last_rows ON last_rows.unique_id = f.symbol::VARCHAR
        WHERE old.close <> f.close ORDER BY f.symbol
        """
    ).fetchall()
    if rows:
        symbol, ds, stored, close = rows[0]
        raise BadHistory(
            f"{symbol} {ds}: the close is {close:g}, that of {facts.name} is {stored:g} "
            f"({len(rows)} such symbols); a dividend or split since has changed earlier prices: "
            "compile the set anew with all its sessions",
            code="PRICE_BASIS",
        )


# --- the old rows and the new ones ------------------------------------------------------------


def _create_last(settings: Settings, connection: duckdb.DuckDBPyConnection, facts: Facts) -> None:
    """Make the table `last_rows`: the last row of each symbol before its first staged one.

    The newest files are read first, and older ones only if a symbol is not in them.
    """
    close = "" if facts.kind == "returns" else ", arg_max(close, ds) AS close"
    sector = ", arg_max(sector, ds) AS sector" if names.SECTOR in facts.columns else ""
    symbols = len(facts.universe.symbols) + bool(facts.index)
    count = 0
    for number in range(1, len(facts.parts) + 1):
        if count == symbols:
            return
        paths = verified(settings, facts.name, facts.parts[-number:])
        connection.execute(
            f"""
            CREATE OR REPLACE TABLE last_rows AS
            SELECT unique_id, max(ds) AS ds {close} {sector}
            FROM read_parquet({file_list([str(path) for path in paths])})
            LEFT JOIN (SELECT unique_id, min(ds) AS first FROM staged GROUP BY unique_id)
                USING (unique_id)
            WHERE first IS NULL OR ds < first
            GROUP BY unique_id
            """
        )
        (count,) = one(connection, "SELECT count(*) FROM last_rows")


def _changed_parts(connection: duckdb.DuckDBPyConnection, facts: Facts) -> Sequence[Part]:
    """Files of the years from the first new row on."""
    (year,) = one(connection, "SELECT year(min(ds)) FROM priced")
    return [part for part in facts.parts if part.year >= int(str(year))]


def _create_old(
    settings: Settings,
    connection: duckdb.DuckDBPyConnection,
    facts: Facts,
    parts: Sequence[Part],
) -> None:
    """Make the table `old` of these files, with symbols of the type `symbol`."""
    columns = ", ".join(name for name in facts.columns if name != names.UNIQUE_ID)
    if parts:
        paths = [str(path) for path in verified(settings, facts.name, parts)]
        source = f"read_parquet({file_list(paths)})"
    else:
        [path] = verified(settings, facts.name, facts.parts[-1:])
        source = f"read_parquet({file_list([str(path)])}) WHERE false"
    connection.execute(
        f"CREATE TABLE old AS SELECT unique_id::symbol AS symbol, {columns} FROM {source}"
    )


def _restated(connection: duckdb.DuckDBPyConnection, facts: Facts) -> list[Finding]:
    """Rows of the set that get other values."""
    values = [name for name in facts.columns if name not in _DERIVED]
    if facts.kind != "returns":
        values.remove(names.Y)
    differ = " OR ".join(f"old.{name} <> priced.{name}" for name in values)
    shown = "close" if "close" in values else names.Y
    query = (
        f"FROM old JOIN priced ON old.symbol = priced.symbol AND old.ds = priced.ds WHERE {differ}"
    )
    (count,) = one(connection, f"SELECT count(*) {query}")
    if not count:
        return []
    examples = column(
        connection,
        f"SELECT old.symbol || ' ' || old.ds || ' ({shown} ' || old.{shown} || ' -> ' || "
        f"priced.{shown} || ')' {query} ORDER BY old.ds, old.symbol LIMIT {SHOWN}",
    )
    return [Finding("restated: the new value counts", int(str(count)), tuple(examples), KEPT)]


def _merge(connection: duckdb.DuckDBPyConnection, facts: Facts) -> None:
    """Put the old rows into the table `priced`, too, without those that are given again.

    A return whose own close or the close before it is new is derived again.
    """
    values = [name for name in facts.columns if name not in (*_DERIVED, names.Y)]
    listed = ", ".join(["symbol", names.DS, names.Y, *values])
    y = names.Y
    if facts.kind != "returns":
        changed = "lag(close) OVER s IS NOT NULL AND (new OR lag(new) OVER s)"
        y = f"CASE WHEN {changed} THEN ln(close / lag(close) OVER s) ELSE y END"
    others = "".join(f", {name}" for name in values)
    connection.execute("DROP VIEW rows")
    connection.execute("DROP TABLE market")
    connection.execute("ALTER TABLE priced RENAME TO priced_new")
    connection.execute(
        f"""
        CREATE TABLE priced AS SELECT symbol, ds, {y} AS y {others} FROM (
            SELECT {listed}, false AS new FROM old ANTI JOIN priced_new USING (symbol, ds)
            UNION ALL SELECT {listed}, true FROM priced_new
        ) WINDOW s AS (PARTITION BY symbol ORDER BY ds)
        """
    )


def _create_rows(connection: duckdb.DuckDBPyConnection, facts: Facts) -> None:
    """Make the view `merged` with the columns of the set."""
    source = "priced JOIN market USING (ds)"
    if names.SECTOR in facts.columns:
        connection.execute(
            "CREATE TABLE sector_of AS SELECT symbol, max(sector) AS sector FROM ("
            "SELECT symbol, sector FROM old UNION ALL "
            "SELECT unique_id::symbol, sector FROM last_rows) GROUP BY symbol"
        )
        source += " JOIN sector_of USING (symbol)"
    others = ", ".join(name for name in facts.columns if name != names.UNIQUE_ID)
    connection.execute(
        f"CREATE VIEW merged AS SELECT symbol::VARCHAR AS unique_id, {others} FROM {source}"
    )


def _overlaps(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether a session of the set is given again."""
    (count,) = one(connection, "SELECT count(*) FROM old SEMI JOIN priced USING (symbol, ds)")
    return bool(count)


def _unchecked(facts: Facts, overlap: bool) -> list[Finding]:
    if overlap or facts.kind == "returns":
        return []
    reason = (
        "no session of the set is given again, so nothing shows that no dividend or split has "
        "changed its earlier prices since"
    )
    return [Finding(reason, 0, (), KEPT)]
