"""The page of standings: one file, without anything from elsewhere."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np

from jobs.nightly import svg
from registry.ledger.pairing import REFERENCE_CALIBRATED
from registry.scoring.coverage import BOOTSTRAP, FEW, Coverage
from registry.scoring.standings import ALL, OPEN, Against, Row, Scored

if TYPE_CHECKING:
    from jobs.nightly.standings import Standings, Table

NAME = "standings.html"
_TEMPLATE = Path(__file__).with_name(NAME)
_DASH = "–"
_HEAD = (  # title and number of columns
    ("CRPS", ("raw", "calibrated")),
    ("coverage of the 90 % band", ("raw", "calibrated")),
    ("skill vs fhs", ("raw", "calibrated")),
    ("skill vs naive", ("raw", "calibrated")),
)
NOTHING = "Nothing was issued yet: <code>python -m jobs nightly</code> issues forecasts."


def of(made: "Sequence[Standings]") -> str:
    """The page of some data sets."""
    sections = "\n".join(_section(each) for each in made) or f"<p>{NOTHING}</p>"
    return Template(_TEMPLATE.read_text()).substitute(sections=sections, few=FEW)


def live_words(nights: int) -> str:
    """As 0 live nights."""
    return f"{nights} live night{'' if nights == 1 else 's'}"


def _section(each: "Standings") -> str:
    night = f" after {each.night}" if each.night else ""
    parts = [f"<h2>{escape(each.data)}{night}: {live_words(each.live_nights)}</h2>"]
    for table in each.tables:
        parts += _of_table(table)
    for row in each.served:
        name = f"{row['model']}/{row['version']}"
        number, nights = row["forecasts"], row["nights"]
        text = f"served on request: {number} forecasts of {name} after {nights} cutoffs, not scored"
        parts.append(f'<p class="quiet">{escape(text)} here</p>')
    return "\n".join(parts)


def _of_table(table: "Table") -> Iterator[str]:
    meaning = table.label.partition(": ")[2]
    yield f"<h3>{table.kind.capitalize()}</h3>"
    counts = f"{table.forecasts} forecasts after {table.nights} nights"
    yield f'<p class="quiet">{escape(meaning)}. {counts if table.nights else "None."}</p>'
    if not table.rows:
        return
    yield from _pictures(table)
    yield _rows(table.rows, ())
    yield "<details><summary>By month of the cutoff</summary>"
    yield _rows(table.months, ("month",))
    yield "</details>"


# --- tables -----------------------------------------------------------------------------------


def _rows(rows: Sequence[Row], more: Sequence[str]) -> str:
    lines = [_head(("version", *more, "step", "nights"))]
    before = ""
    for row in rows:
        name = f"{row.model}/{row.version}"
        first = ' class="first"' if name != before else ""
        lines.append(f"<tr{first}>{''.join(_cells(row, name, bool(more)))}</tr>")
        before = name
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _head(first: Sequence[str]) -> str:
    """Two lines of titles."""
    above = [f'<th rowspan="2">{title}</th>' for title in first]
    below = []
    for title, parts in _HEAD:
        above.append(f'<th colspan="{len(parts)}">{title}</th>')
        below += [f"<th>{part}</th>" for part in parts]
    return f"<thead><tr>{''.join(above)}</tr><tr>{''.join(below)}</tr></thead>"


def _cells(row: Row, name: str, by_month: bool) -> Iterator[str]:
    texts = [escape(name), *([row.month] if by_month else [])]
    step = "all" if row.step == ALL else str(row.step)
    texts += [step, str(row.nights), f"{row.raw.crps:.6f}", _calibrated(row, row.calibrated.crps)]
    covered = row.calibrated.coverage_90
    texts += [interval(row.raw.coverage_90), interval(covered) if _differs(row) else _DASH]
    for text in texts:
        yield f"<td>{text}</td>"
    for reference in ("fhs", "naive"):
        for scored in (row.raw, row.calibrated):
            yield _against(scored, reference)


def _differs(row: Row) -> bool:
    """Whether any night was calibrated."""
    return row.uncalibrated < 1.0


def _calibrated(row: Row, crps: float) -> str:
    return f"{crps:.6f}" if _differs(row) else _DASH


def interval(coverage: Coverage | None) -> str:
    """As 0.893 [0.871, 0.912] b."""
    if coverage is None:
        return _DASH
    method = "b" if coverage.method == BOOTSTRAP else "w"
    return f"{coverage.share:.3f} [{coverage.low:.3f}, {coverage.high:.3f}] {method}"


def _against(scored: Scored, reference: str) -> str:
    against = scored.against.get(reference)
    if against is None:
        return f"<td>{_DASH}</td>"
    verdict = "" if against.verdict == OPEN else f"{against.verdict}, "
    kind = f' class="{against.verdict}"' if verdict else ""
    test = f"<small>{verdict}p {escape(p_value(against.p))}</small>"
    return f"<td{kind}>{skill(against)} {test}</td>"


def skill(against: Against) -> str:
    """As +1.08 %."""
    return f"{100 * against.skill:+.2f} %"


def p_value(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


# --- pictures ---------------------------------------------------------------------------------


def _pictures(table: "Table") -> Iterator[str]:
    named = dict.fromkeys(f"{row.model}/{row.version}" for row in table.rows)
    colours = svg.colours_of(list(named))
    if text := _advantage(table, colours):
        yield text
    marks = []
    for row in table.rows:
        if row.step == 1 and row.raw.coverage_90 and row.calibrated.coverage_90:
            name = f"{row.model}/{row.version}"
            marks.append(_whisker(name, colours[name], row.raw.coverage_90, hollow=True))
            marks.append(_whisker("", colours[name], row.calibrated.coverage_90, hollow=False))
    if marks:
        title = (
            f"{table.kind}: coverage of the 90 % band one session ahead, with its 95 % interval; "
            "hollow: raw, full: calibrated"
        )
        yield svg.whiskers(title, 0.9, marks)


def _whisker(name: str, colour: str, coverage: Coverage, *, hollow: bool) -> svg.Whisker:
    return svg.Whisker(name, colour, coverage.share, coverage.low, coverage.high, hollow)


def _advantage(table: "Table", colours: Mapping[str, str]) -> str:
    """CRPS saved against fhs one session ahead, added up over nights; empty with one night."""
    pairs = table.paired["fhs"]
    pairs = pairs[pairs["step"] == 1]
    days = sorted(pairs["cutoff"].unique())
    if len(days) < 2:
        return ""
    saved = pairs.assign(saved=pairs[REFERENCE_CALIBRATED] - pairs["crps_calibrated"])
    scale = 100 / saved[REFERENCE_CALIBRATED].mean() / len(days)
    series = {}
    for (model, version), group in saved.groupby(["model", "version"]):
        nightly = group.set_index("cutoff")["saved"].reindex(days, fill_value=0.0)
        series[f"{model}/{version}"] = [*(scale * np.cumsum(nightly.to_numpy()))]
    title = (
        f"{table.kind}: CRPS saved against fhs one session ahead, calibrated, added up over "
        "nights, in per cent of the whole CRPS of fhs; a falling line loses"
    )
    return svg.lines(title, [str(day) for day in days], series, colours)
