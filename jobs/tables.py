"""Tables that verbs print for people, on stdout."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Column, Table

from registry.text import printable

if TYPE_CHECKING:  # they import pandas, which takes half a second; --help must be fast
    from jobs.training.configs import Setting
    from registry.training import Range

# Columns of an evaluation: metric and its format.
EVALUATION = {
    "CRPS": ("crps", "{:.6f}"),
    "cover": ("coverage_90", "{:.3f}"),
    "hits": ("direction", "{:.3f}"),
    "rank IC": ("rank_ic", "{:+.3f}"),
    "vs fhs": ("skill_vs_fhs", "{:+.2%}"),
    "vs naive": ("skill_vs_naive", "{:+.2%}"),
}
FORECAST_COLUMNS = ("mean", "q0.05", "q0.5", "q0.95")  # columns of the forecast that are shown


def print_settings(model: str, settings: "Sequence[Setting]") -> None:
    """The keys of a model's config, as the last part of a help."""
    table = Table(
        Column("key", no_wrap=True),
        Column("default", overflow="fold"),
        "tiny",
        "searched",
        "meaning",
        title=f"Settings of {model}: --KEY VALUE",
        title_justify="left",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for setting in settings:
        tiny = "" if setting.tiny is None else _value(setting.tiny)
        searched = "" if setting.searched is None else _searched(setting.searched)
        table.add_row(setting.key, _value(setting.default), tiny, searched, setting.meaning)
    Console(highlight=False, markup=False).print(table)


def _value(value: Any) -> str:
    """A value as it is written after its key: as YAML."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return {"None": "none", "True": "true", "False": "false"}.get(str(value), str(value))


def _searched(values: "Range | tuple[Any, ...]") -> str:
    if isinstance(values, tuple):
        return ", ".join(map(_value, values))
    return f"{values.low:g} to {values.high:g}{', log' if values.log else ''}"


def print_quickstart(result: dict[str, Any]) -> None:
    """Scores, the served forecast, where to look next."""
    stdout = Console(highlight=False)
    columns = ("model", "CRPS", "cover 90", "vs fhs", "p", "version", "stage")
    title = "Report period, raw forecasts"
    if result["data"]:
        title = f"{result['data']}: report period, raw forecasts"
    scores = Table(*columns, title=title)
    for name, row in result["models"].items():
        scores.add_row(
            name,
            f"{row['crps']:.6f}",
            f"{row['coverage_90']:.3f}",
            f"{100 * row['skill_vs_fhs']:+.2f} %",
            f"{_larger_p(row):.4f}",
            str(row["version"]),
            row["stage"],
        )
    stdout.print(scores)
    for name, why in result["left_out"].items():
        stdout.print(printable(f"left out: {name}: {why}"), markup=False)
    rows = result["forecast"]
    title = f"{result['served']} on {rows[0]['unique_id']}: log returns in %"
    forecast = Table("step", "session", *FORECAST_COLUMNS, title=title)
    for row in rows:
        numbers = [f"{100 * row[name]:+.2f}" for name in FORECAST_COLUMNS]
        forecast.add_row(str(row["step"]), row["ds"][:10], *numbers)
    stdout.print(forecast)
    stdout.print(
        f"{result['seconds']} s. Look next: make ui (runs, figures, versions), make serve (an "
        "endpoint)"
    )


def print_evaluation(result: dict[str, Any]) -> None:
    """Scores, and remarks on each version that a reader must know."""
    stdout = Console(highlight=False)
    first, last, number = result["origins"].values()
    table = Table(
        Column("model", no_wrap=True),
        *EVALUATION,
        "p",
        title=f"{result['data']}, {number} origins {first} to {last}, raw forecasts",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name, row in result["compared"].items():
        cells = []
        for metric, number_format in EVALUATION.values():
            cells.append(number_format.format(row[metric]) if metric in row else "-")
        table.add_row(name, *cells, f"{_larger_p(row):.4f}")
    stdout.print(table)
    for version in result["versions"]:
        for line in _remarks(version):
            stdout.print(printable(line), markup=False)
    if result["refused"]["left_out"]:
        stdout.print(_left_out(result["refused"]))


def _larger_p(row: dict[str, float]) -> float:
    return max(row["dm_p_hln"], row["dm_p_bartlett"])


def _left_out(refused: dict[str, Any]) -> str:
    """How many pairs of series and origin have no score, and the codes of their checks."""
    codes = ", ".join(f"{code} {count}" for code, count in refused["codes"].items())
    number = refused["left_out"]
    return f"left out of all: {number} pairs of series and origin ({codes}); see tables/refused"


def _remarks(version: dict[str, Any]) -> list[str]:
    name = f"{version['model']}/{version['version']}"
    lines = []
    if not version["in_this_process"]:
        lines.append(f"{name} ran in its own process, with the code that it was registered with")
    if version["simulated"]:
        lines.append(f"simulated: {name} is a simulator of prices, not a trained model")
    if version["synthetic"]:
        columns = version["synthetic"]
        lines.append(f"synthetic: {name} was trained on made-up columns: {columns}")
    if version["leakage"]:
        lines.append(f"leakage: {name}: {version['leakage']}")
    return lines
