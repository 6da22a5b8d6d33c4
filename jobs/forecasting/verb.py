"""The verb `forecast`: options in; a table, text or file out; remarks on stderr."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from jobs.forecasting import frames, table
from jobs.forecasting.forecast import Result, forecast
from jobs.running.progress import bar_per_label
from registry.errors import BadParameter
from registry.settings import Settings
from registry.terminal import items_of
from registry.text import printable
from registry.versions.suitability import listed

TABLE, CSV, JSON, PARQUET, PNG = OUTPUTS = ("table", "csv", "json", "parquet", "png")
LISTED = 20  # refused series that are listed on stderr


def run(
    reference: str,
    *,
    data: str,
    symbols: str,
    horizon: int | None,
    levels: str,
    output: str,
    to: str,
    seed: int,
    as_of: str,
) -> None:
    """Forecast and show. Raises the errors of `forecast`, and those of a file."""
    if output not in OUTPUTS:
        raise BadParameter(f"output is {output!r}, expected one of {', '.join(OUTPUTS)}")
    if to and output == TABLE:
        raise BadParameter("a table goes to stdout; for a file add --output csv, json or parquet")
    if to:
        frames.check_writable(Path(to))
    settings = Settings()
    asked = items_of(symbols, "--symbols")
    with bar_per_label() as advance:
        result = forecast(
            settings,
            reference,
            data=data,
            symbols=asked,
            horizon=horizon,
            levels=_levels(levels),
            bands=output in (TABLE, PNG),
            seed=seed,
            as_of=as_of,
            progress=advance,
        )
    stderr = Console(stderr=True, highlight=False, soft_wrap=True)
    _remark(result, asked, stderr)
    shown = _show(result, output, _target(settings, result, output, to))
    number = len(result.forecast.unique_id)
    if shown < number:
        stderr.print(
            f"{shown} of {number} series are shown; name others with --symbols, or get all with "
            "--output csv, json or parquet"
        )


def _levels(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(level) for level in items_of(text, "--levels"))
    except ValueError as error:
        raise BadParameter(
            f"levels are numbers like 0.05,0.5,0.95, found {text[:80]!r}", code="BAD_LEVELS"
        ) from error


def _remark(result: Result, asked: Sequence[str], stderr: Console) -> None:
    """Say which series are refused and what the reply notes.

    Series that have ended are one line, unless they were asked for by name.
    """
    grouped = () if asked else ("STALE",)
    ended = [series for series in result.refused if series.code in grouped]
    others = [series for series in result.refused if series.code not in grouped]
    if ended:
        symbols = listed([series.unique_id for series in ended])
        line = (
            f"refused: STALE: {len(ended)} of {result.data} ended before its last session, "
            f"{result.last:%Y-%m-%d}: {symbols}"
        )
        stderr.print(printable(line), markup=False)
    for series in others[:LISTED]:
        line = f"refused: {series.code}: {series.message}"
        stderr.print(printable(line), markup=False)
    if len(others) > LISTED:
        more = len(others) - LISTED
        stderr.print(f"refused: {more} more series; --output json lists all")
    if reason := _seen(result):
        stderr.print(printable(f"note: {reason}"), markup=False)
    for text in result.forecast.notes.values():
        stderr.print(printable(f"note: {text}"), markup=False)


def _seen(result: Result) -> str:
    """What to say of a forecast as of a day that the version was trained on; empty: nothing."""
    until = result.version.tags.get("trained_until", "")
    cutoff = str(result.forecast.cutoffs.max().astype("datetime64[D]"))
    if not result.as_of or cutoff > until:
        return ""
    return (
        f"{result.version.name}/{result.version.version} was trained until {until}, so it has seen "
        f"what came after {cutoff}: this is no forecast out of sample"
    )


def _target(settings: Settings, result: Result, output: str, to: str) -> Path | None:
    """The file to write; None for stdout."""
    if to:
        return Path(to)
    if output in (PARQUET, PNG):
        name = f"{result.version.folder_name}-{result.data}.{output}"
        return settings.var_dir / "forecasts" / name
    return None


def _show(result: Result, output: str, path: Path | None) -> int:
    """Print or write the result; how many series of it are shown."""
    number = len(result.forecast.unique_id)
    if output == TABLE:
        return table.print_result(result, Console(highlight=False))
    if path is None:
        print(frames.as_json(result) if output == JSON else frames.as_csv(result).rstrip("\n"))
        return number
    if output == PNG:
        from jobs.forecasting import chart  # Matplotlib takes a second

        figure = chart.fans(result)
        frames.write(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))
        number = min(number, chart.PANELS)
    elif output == PARQUET:
        frames.write_parquet(path, result)
    else:
        text = frames.as_json(result) + "\n" if output == JSON else frames.as_csv(result)
        frames.write_text(path, text)
    print(json.dumps({"file": str(path), **frames.summary(result)}))
    return number
