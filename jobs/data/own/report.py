"""What a compile found: the same facts as JSON for programs and as a page of text for people."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs.data.own.derive import Derived
from jobs.data.own.findings import KEPT, Finding
from jobs.data.own.findings import SHOWN as EXAMPLES
from jobs.data.sets import Facts
from jobs.data.sources.source import Staged
from registry.files import write_together
from registry.masking import masked
from registry.settings import Settings

_ON_PAGE = 20  # symbols
# What a report is of, beside a whole compile. No name of a set has a hyphen.
APPEND, DRY = "-append", "-dry"
REPORTS = ("", APPEND, DRY)
SHOWN = ("name", "kind", "rows", "period", "splits", "digest", "report", "page", "dry_run")


def report(
    settings: Settings,
    staged: Staged,
    derived: Derived,
    facts: Facts,
    *,
    appended: Mapping[str, Any] | None = None,
    dry_run: bool,
) -> dict[str, Any]:
    """Everything that a compile found, JSON-ready.

    Of an append, `appended` says which rows it added; findings and symbols are of these.
    """
    of = DRY if dry_run else APPEND if appended else ""
    universe = facts.universe
    return {
        "name": facts.name,
        "kind": facts.kind,
        "calendar": facts.calendar,
        "currency": facts.currency,
        "basis": derived.basis,
        "period": [facts.parts[0].first, facts.parts[-1].last],
        "rows_in": staged.rows,
        "rows": sum(part.rows for part in facts.parts),
        "digest": facts.digest,
        "splits": asdict(facts.splits),
        "market": {
            "universe": universe.tag,
            "members": len(universe.symbols),
            "index": facts.index,
        },
        "read": {
            "files": [masked(file) for file in staged.files],
            "layout": staged.layout,
            "columns": dict(staged.mapping),
            "guessed": list(staged.guessed),
            "ignored": list(staged.ignored),
            "empty_cells": dict(staged.missing),
            "dates": staged.dates,
        },
        "findings": [asdict(finding) for finding in (*_unended(staged), *derived.findings)],
        "symbols": {symbol.unique_id: dict(vars(symbol)) for symbol in derived.symbols},
        "restated": facts.restated,
        "appended": appended,
        "report": str(report_path(settings, facts.name, of)),
        "page": str(report_path(settings, facts.name, of).with_suffix(".txt")),
        "dry_run": dry_run,
    }


def _unended(staged: Staged) -> list[Finding]:
    """What says that CSV files may have been cut within their last line."""
    if not staged.unended:
        return []
    reason = "the last line of a file has no line end: the file may be cut"
    examples = tuple(masked(file) for file in staged.unended[:EXAMPLES])
    return [Finding(reason, len(staged.unended), examples, KEPT)]


def report_path(settings: Settings, name: str, of: str = "") -> Path:
    """The report as JSON; the page of text has the suffix .txt. `of` is one of REPORTS."""
    return settings.logs_dir / f"qa_{name}{of}.json"


def write(found: Mapping[str, Any]) -> None:
    """Write the report of a compile as JSON and as a page of text."""
    path = Path(found["report"])
    content = json.dumps(found) + "\n"  # an indent takes ten times as long
    text = page(found)
    write_together(
        {
            path.with_suffix(".txt"): lambda file: file.write_text(text),
            path: lambda file: file.write_text(content),
        }
    )


def mapping_line(staged: Staged) -> str:
    """Which of the user's columns is what, in one line."""
    pairs = []
    for key, column in staged.mapping.items():
        mark = " (guessed)" if key in staged.guessed else ""
        pairs.append(f"{key}={column}{mark}")
    line = f"{staged.layout}: {', '.join(pairs)}"
    return f"{line}; ignored: {', '.join(staged.ignored)}" if staged.ignored else line


def page(found: Mapping[str, Any]) -> str:
    """The page of text."""
    symbols = found["symbols"]
    lines = [
        *_heading(found),
        f"  prices: {found['basis']}",
        f"  fitted until {found['splits']['fit_until']}, chosen until "
        f"{found['splits']['choose_until']}, reported after it",
        f"  digest {found['digest']}",
        "",
        "read",
        *_reading(found["read"]),
        "",
        "found",
        *_findings(found["findings"]),
        "",
        f"{'symbol':<16}{'first':<12}{'last':<12}{'sessions':>9}{'missing':>9}{'dropped':>9}",
    ]
    for name, symbol in list(symbols.items())[:_ON_PAGE]:
        lines.append(
            f"{name:<16}{symbol['first']:<12}{symbol['last']:<12}"
            f"{symbol['sessions']:>9}{symbol['missing']:>9}{symbol['dropped']:>9}"
        )
    if len(symbols) > _ON_PAGE:
        lines.append(f"and {len(symbols) - _ON_PAGE} more, in the JSON file beside this one")
    return "\n".join(lines) + "\n"


def _heading(found: Mapping[str, Any]) -> list[str]:
    """What was compiled, or appended to what."""
    first, last = found["period"]
    members = found["market"]["members"] + bool(found["market"]["index"])
    of_set = f"{found['kind']} of {_symbols(members)}, sessions of {found['calendar']}"
    rows = f"{found['rows']} rows from {found['rows_in']}"
    lines = ["dry run: nothing was written"] if found["dry_run"] else []
    if appended := found["appended"]:
        begins, ends = appended["period"]
        lines.append(
            f"append to {found['name']}: {appended['rows']} rows of "
            f"{_symbols(appended['symbols'])}, sessions {begins} to {ends}; "
            "what is found is of these"
        )
        rows = f"{found['rows']} rows"
    return [*lines, f"data set {found['name']}: {of_set}", f"  {rows}, sessions {first} to {last}"]


def _symbols(number: int) -> str:
    return f"{number} symbol{'' if number == 1 else 's'}"


def _reading(read: Mapping[str, Any]) -> list[str]:
    files = read["files"]
    shown = ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
    lines = [f"  {shown} ({read['layout']}, dates {read['dates']})"]
    for key, column in read["columns"].items():
        mark = ", guessed" if key in read["guessed"] else ""
        lines.append(f"  {key:<10} from {column}{mark}{_empty(read, key)}")
    for key in read["empty_cells"]:
        if key not in read["columns"]:
            lines.append(f"  {key:<10} from the cells{_empty(read, key)}")
    if read["ignored"]:
        lines.append(f"  ignored: {', '.join(read['ignored'])}")
    return lines


def _empty(read: Mapping[str, Any], key: str) -> str:
    count = read["empty_cells"].get(key, 0)
    return f", {count} empty cells" if count else ""


def _findings(findings: list[Mapping[str, Any]]) -> list[str]:
    lines = []
    for finding in findings:
        lines.append(f"  {finding['action']}: {finding['reason']}: {finding['rows']}")
        if finding["examples"]:
            lines.append(f"    {'; '.join(finding['examples'])}")
    return lines or ["  nothing to remark"]
