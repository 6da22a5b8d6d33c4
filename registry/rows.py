"""Rows that a verb prints on stdout: JSON, a table on a terminal, else tab-separated text."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from registry.text import printable


def emit(rows: Sequence[Mapping[str, Any]], as_json: bool, *, empty: str = "") -> None:
    """Print rows with the same keys; without any, say `empty` on stderr."""
    if as_json:
        print(json.dumps(rows))
    elif not rows:
        say(empty)
    elif sys.stdout is not None and sys.stdout.isatty():
        table = Table(*rows[0])
        for row in rows:
            table.add_row(*map(_text, row.values()))
        Console(highlight=False, markup=False).print(table)
    else:
        print("\t".join(rows[0]))
        for row in rows:
            print("\t".join(map(_text, row.values())))


def emit_facts(facts: Mapping[str, Any], as_json: bool) -> None:
    """Print one thing: JSON, or a row for each fact."""
    if as_json:
        print(json.dumps(facts))
        return
    emit([{"": key, "value": value} for key, value in _flat(facts)], as_json)


def say(text: str) -> None:
    """Print a line for people on stderr."""
    if not text:
        return
    Console(stderr=True, highlight=False, soft_wrap=True).print(printable(text), markup=False)


def _flat(facts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Pairs of key and value; nested facts get keys like tags.family and metrics.crps."""
    pairs: list[tuple[str, Any]] = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            pairs += [(f"{key}.{name}", nested) for name, nested in sorted(value.items())]
        else:
            pairs.append((key, value))
    return pairs


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return printable(", ".join(map(str, value)))
    return "" if value is None else printable(str(value))
