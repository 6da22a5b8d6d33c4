"""The verb `standings`: a table, or a file, and one line of JSON on stdout."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Column
from rich.table import Table as Printed

from jobs.forecasting import frames
from jobs.nightly import page
from jobs.nightly.standings import Standings, Table, as_json, flat, standings
from jobs.nightly.starting import unless_running
from jobs.running.progress import bar_per_label
from registry.errors import BadParameter
from registry.scoring.standings import ALL, OPEN, Row
from registry.settings import Settings

JOB = "standings"
TABLE, CSV, JSON, HTML = OUTPUTS = ("table", "csv", "json", "html")


def run(*, data: str, as_of: str, output: str, to: str) -> int:
    """Make and show the standings; the exit code. Raises their errors, and BadParameter."""
    if output not in OUTPUTS:
        raise BadParameter(f"output is {output!r}, expected one of {', '.join(OUTPUTS)}")
    if to and output == TABLE:
        raise BadParameter("a table goes to stdout; for a file add --output csv, json or html")
    if to:
        frames.check_writable(Path(to))
    settings = Settings()

    def work() -> int:
        with bar_per_label() as advance:
            made = standings(settings, data=data, as_of=as_of, progress=advance)
        _show(settings, made, output, to)
        return 0

    return unless_running(settings, JOB, work)


def _show(settings: Settings, made: Sequence[Standings], output: str, to: str) -> None:
    if output == TABLE:
        print_all(made)
        print(json.dumps(summary(settings, made)))
        return
    text = _text(made, output)
    if not to:
        print(text)
        return
    frames.write_text(Path(to), text + "\n")
    print(json.dumps({"file": to, **summary(settings, made)}))


def summary(settings: Settings, made: Sequence[Standings]) -> dict[str, Any]:
    """The line of JSON."""
    sets = {}
    for each in made:
        numbers = {f"{table.source}_nights": table.nights for table in each.tables}
        sets[each.data] = {"night": str(each.night) if each.night else None, **numbers}
    return {"page": str(settings.reports_dir / page.NAME), "sets": sets}


def _text(made: Sequence[Standings], output: str) -> str:
    if output == JSON:
        return json.dumps(as_json(made))
    if output == HTML:
        return page.of(made).rstrip("\n")
    rows = [*flat(made), *flat(made, months=True)]
    return pd.DataFrame(rows).to_csv(index=False).rstrip("\n")


# --- the table --------------------------------------------------------------------------------


def print_all(made: Sequence[Standings]) -> None:
    """Print the tables of each data set: all steps, and the first one where none is complete."""
    stdout = Console(highlight=False, markup=False, soft_wrap=True)
    if not made:
        stdout.print("0 live nights: nothing was issued yet")
    for each in made:
        stdout.print(f"{each.data}, after {each.night}: {page.live_words(each.live_nights)}")
        for table in each.tables:
            if table.nights:
                _print(table, stdout)
        for row in each.served:
            name = f"{row['model']}/{row['version']}"
            stdout.print(f"served on request: {row['forecasts']} forecasts of {name}")


def _print(table: Table, stdout: Console) -> None:
    columns = ("nights", "CRPS", "calib.", "cover", "calib.", "vs fhs", "p", "")
    printed = Printed(
        Column("version", no_wrap=True),
        *columns,
        title=f"{table.label}; {table.nights} nights",
        title_justify="left",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    whole = {(row.model, row.version) for row in table.rows if row.step == ALL}
    for row in table.rows:
        step = ALL if (row.model, row.version) in whole else 1
        if row.step == step:
            printed.add_row(*_cells(row))
    stdout.print(printed)


def _cells(row: Row) -> list[str]:
    coverages = []
    for scored in (row.raw, row.calibrated):
        covered = scored.coverage_90
        coverages.append(f"{covered.share:.3f}" if covered else "-")
    against = row.calibrated.against.get("fhs")
    return [
        f"{row.model}/{row.version}" + ("" if row.step == ALL else f", step {row.step}"),
        str(row.nights),
        f"{row.raw.crps:.6f}",
        f"{row.calibrated.crps:.6f}",
        *coverages,
        *([page.skill(against), page.p_value(against.p)] if against else ["-", "-"]),
        against.verdict if against and against.verdict != OPEN else "",
    ]
