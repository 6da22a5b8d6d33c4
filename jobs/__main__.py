"""python -m jobs <verb>: compile data, train, tune and evaluate models, run the quick start."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from registry import terminal
from registry.errors import BadConfig, BadParameter

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)
EXTRA = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command("compile", epilog=terminal.EXIT_CODES)
def compile_data(
    source: Annotated[
        str, typer.Option(help="Where prices come from; `builtin`: the installed wheels.")
    ] = "builtin",
    force: Annotated[
        bool, typer.Option(help="Write the files even when they are up to date.")
    ] = False,
) -> None:
    """Write the processed files and var/logs/qa_compile.json. Example: python -m jobs compile --source builtin"""
    from jobs.data.compile import compile_builtin
    from registry.settings import Settings

    if source != "builtin":
        raise BadParameter(f"source is {source!r}, expected builtin")
    settings = Settings()
    with _bar() as advance:
        summary = compile_builtin(
            settings, force=force, progress=lambda what, done, total: advance(what, done / total)
        )
    print(json.dumps({key: summary[key] for key in ("skipped", "files", "digests")}))


@app.command("train", context_settings=EXTRA, epilog=terminal.EXIT_CODES)
def train_model(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A config under mlprojects/*/configs, e.g. nbeats.")],
    seed: Annotated[
        int, typer.Option(help="Same commit, data and seed give the same weights on one machine.")
    ] = 0,
    tiny: Annotated[
        bool, typer.Option(help="The config's `tiny` override: seconds, for tests.")
    ] = False,
    reuse: Annotated[
        bool, typer.Option(help="Take a version that was trained from the same recipe.")
    ] = False,
) -> None:
    """Train, evaluate, log and register a model; every key of its config is an option.

    Example: python -m jobs train nbeats --horizon 5 --levels 0.05,0.5,0.95 --max_steps 200
    """
    from jobs.training import train
    from jobs.training.report import Reference
    from registry.settings import Settings

    settings = Settings()
    what = train.plan(settings, model, _pairs(context.args), seed=seed, tiny=tiny)
    with _bar() as advance:
        result = train.train(settings, what, Reference(), reuse=reuse, progress=advance)
    print(json.dumps(result.summary()))


@app.command("tune", context_settings=EXTRA, epilog=terminal.EXIT_CODES)
def tune_model(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A config under mlprojects/*/configs, e.g. nbeats.")],
    trials: Annotated[int, typer.Option(help="Total number of trials.")] = 20,
    jobs: Annotated[int, typer.Option(help="Trials at a time; they share the cores.")] = 1,
    executor: Annotated[
        str,
        typer.Option(
            help="local: processes here (one job: this process); ray: a Ray cluster, here or RAY_ADDRESS."
        ),
    ] = "local",
    timeout_s: Annotated[
        float,
        typer.Option("--timeout_s", help="No trial begins after so many seconds; 0: no limit."),
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the search and of every training.")] = 0,
    tiny: Annotated[
        bool, typer.Option(help="The config's `tiny` override: seconds, for tests.")
    ] = False,
) -> None:
    """Search a model's hyperparameters on its choice period.

    Each config key is an option; setting it excludes it from the search. The same command continues the study after
    an interruption and joins it while it runs. The last line on stdout is one JSON object; the study's MLflow run
    holds best.yaml. Example: python -m jobs tune nbeats --trials 20 --jobs 2
    """
    from jobs.tuning import tune
    from registry.settings import Settings

    settings = Settings()
    what = tune.plan(settings, model, _pairs(context.args), seed=seed, tiny=tiny)
    with _trials() as (advance, say):
        result = tune.tune(
            settings,
            what,
            trials,
            jobs=jobs,
            executor=executor,
            timeout_s=timeout_s,
            progress=advance,
            say=say,
        )
    print(json.dumps(result.summary()))


@app.command("evaluate", epilog=terminal.EXIT_CODES)
def evaluate_versions(
    versions: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL[/VERSION]...",
            help="As in kronos, har/3, nbeats@staging; spaces or commas between.",
        ),
    ],
    data: Annotated[
        str, typer.Option(help="bars or panel; by default what the first was trained on.")
    ] = "",
    horizon: Annotated[
        int, typer.Option(help="Sessions ahead; 0: as many as all of them can, up to 5.")
    ] = 0,
    fit_until: Annotated[
        str, typer.Option("--fit_until", help="The references are fitted up to here.")
    ] = "",
    choose_until: Annotated[
        str, typer.Option("--choose_until", help="Later sessions are reported.")
    ] = "",
    report_until: Annotated[str, typer.Option("--report_until", help="The last of them.")] = "",
    report_every: Annotated[
        int, typer.Option("--report_every", help="From every n-th session only.")
    ] = 1,
    allow_leakage: Annotated[
        bool,
        typer.Option(
            "--allow-leakage", help="Report sessions that a version was trained on, and say so."
        ),
    ] = False,
) -> None:
    """Score registered versions on the same rows, beside fhs, har and naive, fitted on the same data.

    A version of other code than this checkout's runs in a process of its own. The last line on
    stdout is one JSON object. Example: python -m jobs evaluate har/1 har/2 nbeats --report_every 5
    """
    from jobs.training import evaluate
    from jobs.training.report import Reference
    from registry.settings import Settings

    given = {
        "data": data,
        "horizon": horizon or None,
        "fit_until": fit_until,
        "choose_until": choose_until,
        "report_until": report_until,
        "report_every": report_every,
    }
    references = [name for argument in versions for name in argument.split(",") if name]
    with _bar() as advance:
        result = evaluate.evaluate(
            Settings(),
            references,
            {key: value for key, value in given.items() if value not in ("", None)},
            Reference(),
            allow_leakage=allow_leakage,
            progress=advance,
        )
    _show_compared(result.summary())
    print(json.dumps(result.summary()))


@app.command("quickstart", epilog=terminal.EXIT_CODES)
def quick_start(
    seed: Annotated[int, typer.Option(help="Seed of every training.")] = 0,
) -> None:
    """Compile, train the baselines and N-BEATS, promote, serve, ask: the whole path on real prices, offline.

    The last line on stdout is one JSON object. Example: python -m jobs quickstart
    """
    from jobs import quickstart
    from registry.settings import Settings

    settings = Settings()
    with _bar() as advance:
        result = quickstart.quickstart(
            settings, quickstart.MODELS, quickstart.SERVED, seed, advance
        )
    _show(result)
    print(json.dumps(result))


def _show(result: dict[str, Any]) -> None:
    """What was measured, what was answered, where to look next; on stdout."""
    out = Console(highlight=False)
    table = Table(
        "model",
        "CRPS",
        "cover 90",
        "vs fhs",
        "p",
        "version",
        "stage",
        title="Report period, raw forecasts",
    )
    for name, row in result["models"].items():
        p = max(row["dm_p_hln"], row["dm_p_bartlett"])
        skill = f"{100 * row['skill_vs_fhs']:+.2f} %"
        table.add_row(
            name,
            f"{row['crps']:.6f}",
            f"{row['coverage_90']:.3f}",
            skill,
            f"{p:.4f}",
            str(row["version"]),
            row["stage"],
        )
    out.print(table)
    rows = result["forecast"]
    shown = ("mean", "q0.05", "q0.5", "q0.95")
    answer = Table(
        "step",
        "session",
        *shown,
        title=f"{result['served']} on {rows[0]['unique_id']}: log returns in %",
    )
    for row in rows:
        answer.add_row(
            str(row["step"]), row["ds"][:10], *(f"{100 * row[name]:+.2f}" for name in shown)
        )
    out.print(answer)
    out.print(
        f"{result['seconds']} s. Look next: make ui (runs, figures, versions), make serve (an endpoint)"
    )


def _show_compared(result: dict[str, Any]) -> None:
    """The table of an evaluation and what else is to be known of it; on stdout."""
    out = Console(highlight=False)
    columns = {
        "CRPS": ("crps", "{:.6f}"),
        "cover": ("coverage_90", "{:.3f}"),
        "hits": ("direction", "{:.3f}"),
        "rank IC": ("rank_ic", "{:+.3f}"),
        "vs fhs": ("skill_vs_fhs", "{:+.2%}"),
        "vs naive": ("skill_vs_naive", "{:+.2%}"),
    }
    first, last, number = result["origins"].values()
    title = f"{result['data']}, {number} origins {first} to {last}, raw forecasts"
    model = Column("model", no_wrap=True)
    table = Table(
        model, *columns, "p", title=title, box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False
    )
    for name, row in result["compared"].items():
        cells = (shape.format(row[key]) if key in row else "-" for key, shape in columns.values())
        table.add_row(name, *cells, f"{max(row['dm_p_hln'], row['dm_p_bartlett']):.4f}")
    out.print(table)
    for version in result["versions"]:
        name = f"{version['model']}/{version['version']}"
        if not version["in_this_process"]:
            out.print(
                f"{name} ran in a process of its own, by the code that it was registered with"
            )
        if version["simulated"]:
            out.print(f"simulated: {name} is a simulator of prices, no trained model")
        if version["synthetic"]:
            out.print(
                f"synthetic: {name} was trained on columns that were made up: {version['synthetic']}"
            )
        if version["leakage"]:
            out.print(f"leakage: {name}: {version['leakage']}")


@contextmanager
def _bar() -> Iterator[Any]:
    """Progress on stderr: `advance(what, share)` shows what is being done and how much of it is done."""
    talk = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<32}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=talk) as progress:
        current: dict[str, Any] = {}

        def advance(what: str, share: float) -> None:
            if current.get("what") != what:
                if "id" in current:
                    progress.update(current["id"], completed=1.0)
                    if not talk.is_terminal:
                        talk.print(what)
                current.update(what=what, id=progress.add_task(what, total=1.0))
            progress.update(current["id"], completed=share)

        yield advance
        if "id" in current:
            progress.update(current["id"], completed=1.0)


@contextmanager
def _trials() -> Iterator[tuple[Any, Any]]:
    """One bar on stderr whose text changes, as `advance(what, share)`; and `say(line)` for lines above it."""
    talk = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=talk) as progress:
        bar = progress.add_task("starting", total=1.0)
        yield (
            lambda what, share: progress.update(bar, description=what, completed=share),
            talk.print,
        )


def _pairs(arguments: list[str]) -> dict[str, str]:
    """--key value pairs beyond the declared options: settings of the model's config. An empty value is no setting."""
    found: dict[str, str] = {}
    words = [
        part
        for word in arguments
        for part in (word.split("=", 1) if word.startswith("--") else [word])
    ]
    if len(words) % 2 or any(not key.startswith("--") for key in words[::2]):
        raise BadConfig(f"settings are given as --key value, found {' '.join(arguments)[:200]}")
    for key, value in zip(words[::2], words[1::2], strict=True):
        if value:
            found[key.removeprefix("--").replace("-", "_")] = value
    return found


if __name__ == "__main__":
    terminal.run(app, on_error=terminal.tag_run)
