"""Compile a user's prices into a data set: read, judge, derive, write, report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from jobs.data import catalog, sets
from jobs.data.own import report, sector_file
from jobs.data.own.derive import derive
from jobs.data.own.options import Options
from jobs.data.sets import Facts
from jobs.data.sources.engine import open_connection
from jobs.data.sources.source import FRAME, Source
from jobs.data.sources.staging import stage
from jobs.running.progress import Progress, Say, silent
from registry.errors import Corrupt, NotFound
from registry.files import temporary_folder
from registry.masking import masked
from registry.settings import Settings


def compile_own(
    settings: Settings,
    source: Source,
    options: Options,
    *,
    dry_run: bool = False,
    progress: Progress = silent,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Write a data set and its report, or only the report with `dry_run`; return the report.

    Raises BadInput for what is wrong with the prices, KronosError (NO_SPACE) on a full disk,
    Conflict while another process writes the set; then the old set and its report stay as they
    were.
    """
    sets.check_name(options.name, [dataset.name for dataset in catalog.DATASETS])
    with (
        sets.lock(settings, options.name),
        temporary_folder(settings.state_dir, f"compile-{options.name}") as folder,
        open_connection(Path(folder)) as connection,
    ):
        replaced = _replaced(settings, options.name)
        if options.calendar and options.exchange != options.calendar:
            say(f"{options.calendar} is {options.exchange}")
        progress("reading", 0.0)
        staged = stage(connection, source)
        say(report.mapping_line(staged))
        columns = staged.columns
        if options.sectors:
            columns = sector_file.join(connection, options.sectors, columns)
        progress("checking prices", 0.4)
        derived = derive(connection, columns, options)
        facts = Facts(
            name=options.name,
            kind=derived.kind,
            columns=derived.columns,
            calendar=options.exchange,
            universe=derived.universe,
            splits=derived.splits,
            currency=options.currency,
            index=options.index,
            amount_given=derived.amount_given,
            source={"kind": source.kind, "from": _places(staged.files)},
        )
        if not derived.stated:
            say(f"prices: {derived.basis}")
        if replaced and (replaced.kind, replaced.calendar) != (facts.kind, facts.calendar):
            say(f"{'would replace' if dry_run else 'replaces'} {_described(replaced)}")
        progress("dry run" if dry_run else "writing", 0.7)
        if dry_run:
            facts = sets.rehearse(facts, connection, "rows", Path(folder), base="base")
        else:
            facts = sets.write(settings, facts, connection, "rows", base="base")
    found = report.report(settings, staged, derived, facts, dry_run=dry_run)
    report.write(found)
    progress("done", 1.0)
    return found


def _replaced(settings: Settings, name: str) -> Facts | None:
    """The set that has the name now, if it can be read."""
    try:
        return sets.read_facts(settings, name)
    except (Corrupt, NotFound):
        return None


def _described(facts: Facts) -> str:
    rows = sum(part.rows for part in facts.parts)
    what = f"{facts.kind}, {facts.calendar}, {rows} rows, digest {facts.digest[:12]}"
    return f"{facts.name} ({what})"


def _places(files: Sequence[str]) -> str:
    """Names of files, or a database, for people, without secrets."""
    shown = [Path(file).name if "://" not in file else file for file in files[:3]]
    more = [f"and {len(files) - 3} more"] if len(files) > 3 else []
    return masked(", ".join([*shown, *more]))


def compile_frame(
    frame: pd.DataFrame,
    *,
    name: str,
    settings: Settings | None = None,
    mapping: Mapping[str, str] | None = None,
    symbol: str = "",
    dry_run: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Compile a pandas frame, as `jobs compile` does a file; the report.

    `mapping` gives columns by key, as --map; `options` are those of `Options`, as in
    `compile_frame(frame, name="mystocks", calendar="XLON", adjusted=True)`.
    """
    source = Source(FRAME, frame=frame, mapping=mapping or {}, symbol=symbol)
    return compile_own(settings or Settings(), source, Options(name, **options), dry_run=dry_run)
