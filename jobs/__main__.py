"""python -m jobs <verb>: compile data; train, tune, evaluate and forecast; run the quick start."""

import gc
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from jobs import tables
from jobs.running.progress import bar_per_label, one_bar
from registry import terminal
from registry.errors import BadConfig, BadParameter
from registry.rows import emit, emit_facts

if TYPE_CHECKING:  # pydantic takes a tenth of a second; --help must be fast
    from registry.settings import Settings

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)


class OfModel(TyperCommand):
    """A command with a model among its words: `MODEL --help` shows the keys of its config."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta["words"] = tuple(args)
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        from jobs.training import configs, families

        models = families.all_models()
        for name in [word for word in ctx.meta["words"] if word in models][:1]:
            tables.print_settings(name, configs.settings_of(models[name]))


def whole_number(text: str) -> int | None:
    """A number; None for no text, which is what `mlflow run` gives for a parameter left out."""
    return int(text) if text else None


Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DataName = Annotated[str, typer.Argument(help="Name of a data set.")]
EXTRA = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command("compile", epilog=terminal.EXIT_CODES)
def compile_data(
    source: Annotated[
        str, typer.Option(help="builtin: prices of installed packages; csv, parquet, sql: yours.")
    ] = "builtin",
    location: Annotated[
        list[str] | None,
        typer.Option("--from", help="Files, folders or globs, or the URI of a database."),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the data set, for --data; a-z, 0-9, _.")] = "",
    mapping: Annotated[
        str,
        typer.Option(
            "--map", help='Your columns by key, as symbol=ticker,ds=Date,adj_close="Adj Close".'
        ),
    ] = "",
    symbol: Annotated[str, typer.Option(help="The symbol of data without a symbol column.")] = "",
    query: Annotated[str, typer.Option(help="For sql: a query or a table.")] = "",
    calendar: Annotated[
        str, typer.Option(help="Exchange, as XNYS, XLON, XTKS; 24/7 for crypto; default: XNYS.")
    ] = "",
    kind: Annotated[
        str, typer.Option(help="returns, closes or bars; default: what the columns allow.")
    ] = "",
    adjusted: Annotated[
        str,
        typer.Option(help="yes: prices are adjusted for splits, dividends; no: they are raw."),
    ] = "",
    index: Annotated[
        str, typer.Option(help="Symbol whose return is the market's; default: the members' mean.")
    ] = "",
    sectors: Annotated[str, typer.Option(help="CSV file with the columns symbol and sector.")] = "",
    currency: Annotated[str, typer.Option(help="A label, as EUR.")] = "",
    fit_until: Annotated[
        str, typer.Option("--fit_until", help="Last session that models are fitted on.")
    ] = "",
    choose_until: Annotated[
        str,
        typer.Option("--choose_until", help="Last session of choices; later are reported."),
    ] = "",
    append: Annotated[
        bool, typer.Option("--append", help="Add new sessions to the set of this name.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the report only, not the data set.")
    ] = False,
    force: Annotated[
        bool, typer.Option(help="For builtin: write the files even when they are up to date.")
    ] = False,
) -> None:
    """Compile prices into a data set that models are trained and run on.

    A report, var/logs/qa_NAME.json and .txt, says what was read, dropped and looks suspicious.

    Example: python -m jobs compile --source csv --from prices.csv --name mystocks --adjusted yes
    """
    from jobs.data.own import report
    from jobs.data.own.append import append_own
    from jobs.data.own.compile import compile_own
    from jobs.data.own.options import Options, yes_or_no
    from jobs.data.sources.mapping import parse_map
    from jobs.data.sources.source import Source
    from registry.settings import Settings

    settings = Settings()
    places = tuple(place for place in location or () if place)
    if source == "builtin":
        of_own = {
            "--from": places, "--name": name, "--map": mapping, "--symbol": symbol,
            "--query": query, "--calendar": calendar, "--kind": kind, "--adjusted": adjusted,
            "--index": index, "--sectors": sectors, "--currency": currency,
            "--fit_until": fit_until, "--choose_until": choose_until, "--append": append,
            "--dry-run": dry_run,
        }  # fmt: skip
        _check_unused(of_own, "prices of your own; add --source csv, parquet or sql")
        _compile_builtin(settings, force=force)
        return
    _check_unused({"--force": force}, "--source builtin; leave it out")
    prices = Source(
        source,
        places,
        mapping=parse_map(mapping),
        symbol=symbol,
        query=query,
        cells="y" if kind == "returns" else "close",  # of a wide table
    )
    options = Options(
        name=name,
        kind=kind,
        calendar=calendar,
        adjusted=yes_or_no(adjusted, "--adjusted"),
        index=index,
        sectors=sectors,
        currency=currency,
        fit_until=fit_until,
        choose_until=choose_until,
    )
    compiled = append_own if append else compile_own
    with one_bar() as (advance, say):
        found = compiled(settings, prices, options, dry_run=dry_run, progress=advance, say=say)
    terminal.tag_project_run({f"data_digest.{name}": found["digest"]})
    print(json.dumps({key: found[key] for key in report.SHOWN}))


data = typer.Typer(
    no_args_is_help=True, help="Data sets: list, show, export, load, unload, remove."
)
app.add_typer(data, name="data")


@data.command("list", epilog=terminal.EXIT_CODES)
def list_data(as_json: Json = False) -> None:
    """List all data sets, the built-in ones first.

    Example: python -m jobs data list
    """
    from jobs.data import overview
    from registry.settings import Settings

    emit(overview.all_sets(Settings()), as_json)


@data.command("show", epilog=terminal.EXIT_CODES)
def show_data(name: DataName, as_json: Json = False) -> None:
    """Show a data set: period, symbols, columns, dates, digest, and the report of its compile.

    Example: python -m jobs data show panel
    """
    from jobs.data import overview
    from registry.settings import Settings

    emit_facts(overview.one_set(Settings(), name), as_json)


@data.command("export", epilog=terminal.EXIT_CODES)
def export_data(
    name: DataName,
    to: Annotated[Path, typer.Option(help="The file: .csv or .parquet.")],
    symbols: Annotated[str, typer.Option(help="Only these, as AAPL,IBM.")] = "",
) -> None:
    """Write a data set's prices (returns, where it has no prices) in long form.

    Example: python -m jobs data export bars --symbols AAPL,IBM --to prices.csv
    """
    from jobs.data import export
    from registry.settings import Settings

    chosen = terminal.items_of(symbols, "--symbols")
    print(json.dumps(export.export(Settings(), name, to, chosen)))


@data.command("load", epilog=terminal.EXIT_CODES)
def load_data(name: DataName) -> None:
    """Load a data set into the ledger, which keeps what was known when.

    The first load takes values to be known from their session's close; what a later one changes is
    known from that load on. The same data set again changes nothing; a load that was cut goes on.

    Example: python -m jobs data load mystocks
    """
    from jobs.data import load
    from registry.settings import Settings

    with bar_per_label() as advance:
        done = load.load(Settings(), name, progress=advance)
    print(json.dumps(done))


@data.command("unload", epilog=terminal.EXIT_CODES)
def unload_data(name: DataName) -> None:
    """Remove a data set from the ledger with all its past; its files stay.

    A removal that was cut goes on; until it is complete, the data set cannot be loaded.

    Example: python -m jobs data unload mystocks
    """
    from jobs.data import load
    from registry.settings import Settings

    with bar_per_label() as advance:
        done = load.unload(Settings(), name, progress=advance)
    print(json.dumps(done))


@data.command("remove", epilog=terminal.EXIT_CODES)
def remove_data(name: DataName) -> None:
    """Delete a data set that you compiled, and its report; versions trained on it stay.

    What the ledger knows of it stays, too, until `data unload`.

    Example: python -m jobs data remove mystocks
    """
    from jobs.data import overview
    from registry.settings import Settings

    print(json.dumps(overview.remove(Settings(), name)))


def _check_unused(options: Mapping[str, object], of: str) -> None:
    """Raise BadParameter for an option that was given and would be ignored."""
    for option, value in options.items():
        if value:
            raise BadParameter(f"{option} is for {of}")


def _compile_builtin(settings: "Settings", *, force: bool) -> None:
    from jobs.data.compile import compile_builtin

    with bar_per_label() as advance:
        summary = compile_builtin(settings, force=force, progress=advance)
    digests = {f"data_digest.{data}": digest for data, digest in summary["digests"].items()}
    terminal.tag_project_run({**digests, "skipped": str(summary["skipped"]).lower()})
    print(json.dumps({key: summary[key] for key in ("skipped", "files", "digests")}))


@app.command("train", cls=OfModel, context_settings=EXTRA, epilog=terminal.EXIT_CODES)
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
        bool, typer.Option(help="Return an existing version with the same recipe, if any.")
    ] = False,
) -> None:
    """Train, evaluate, log and register a model; every key of its config is an option.

    `python -m jobs train MODEL --help` lists the keys, with defaults and meanings.

    Example: python -m jobs train nbeats --horizon 5 --levels 0.05,0.5,0.95 --max_steps 200
    """
    from jobs.training import planning, train
    from jobs.training.references import References
    from registry.settings import Settings

    settings = Settings()
    plan = planning.plan(settings, model, _pairs(context.args), seed=seed, tiny=tiny)
    _warn(plan.leakage)
    with bar_per_label() as advance:
        result = train.train(settings, plan, References(), reuse=reuse, progress=advance)
    print(json.dumps(result.summary()))


@app.command("tune", cls=OfModel, context_settings=EXTRA, epilog=terminal.EXIT_CODES)
def tune_model(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A config under mlprojects/*/configs, e.g. nbeats.")],
    trials: Annotated[int, typer.Option(help="Total number of trials.")] = 20,
    jobs: Annotated[int, typer.Option(help="Trials at a time; they share the cores.")] = 1,
    executor: Annotated[
        str,
        typer.Option(
            help="local: processes here (one job: this process); "
            "ray: a Ray cluster, here or at RAY_ADDRESS."
        ),
    ] = "local",
    timeout_s: Annotated[
        float,
        typer.Option("--timeout_s", help="Start no trial after this many seconds; 0: no limit."),
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the search and of every training.")] = 0,
    tiny: Annotated[
        bool, typer.Option(help="The config's `tiny` override: seconds, for tests.")
    ] = False,
) -> None:
    """Search a model's hyperparameters on its choice period.

    Each config key is an option; setting it excludes it from the search. `MODEL --help` lists
    them. The same command continues the study after an interruption and joins it while it runs.
    The last line on stdout is one JSON object; the study's MLflow run holds best.yaml.

    Example: python -m jobs tune nbeats --trials 20 --jobs 2
    """
    from jobs.tuning import tune
    from registry.settings import Settings

    settings = Settings()
    search = tune.plan(settings, model, _pairs(context.args), seed=seed, tiny=tiny)
    _warn(search.plan.leakage)
    with one_bar() as (advance, say):
        result = tune.tune(
            settings,
            search,
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
        str,
        typer.Option(help="Name of a data set; default: that of the first version."),
    ] = "",
    horizon: Annotated[
        int | None,
        typer.Option(
            parser=whole_number,
            metavar="N",
            help="Sessions ahead; default: the most that all versions can, up to 5.",
        ),
    ] = None,
    fit_until: Annotated[
        str, typer.Option("--fit_until", help="Last session that the references are fitted on.")
    ] = "",
    choose_until: Annotated[
        str, typer.Option("--choose_until", help="Sessions after this one are reported.")
    ] = "",
    report_until: Annotated[
        str, typer.Option("--report_until", help="Last session that is reported.")
    ] = "",
    report_every: Annotated[
        int, typer.Option("--report_every", help="Forecast from every n-th session only.")
    ] = 1,
    allow_leakage: Annotated[
        bool,
        typer.Option(
            "--allow-leakage", help="Report sessions that a version was trained on, with a remark."
        ),
    ] = False,
) -> None:
    """Score registered versions on the same rows, beside fhs, har and naive.

    The references are fitted on the same data. A version whose code differs from this
    checkout's runs in its own process. The last line on stdout is one JSON object.

    Example: python -m jobs evaluate har/1 har/2 nbeats --report_every 5
    """
    from jobs.training import evaluate
    from jobs.training.references import References
    from registry.settings import Settings

    options = {
        "data": data,
        "horizon": horizon,
        "fit_until": fit_until,
        "choose_until": choose_until,
        "report_until": report_until,
        "report_every": report_every,
    }
    overrides = {key: value for key, value in options.items() if value not in ("", None)}
    words = ",".join(word.strip(",") for word in versions)
    references = terminal.items_of(words, "MODEL[/VERSION]...")
    with bar_per_label() as advance:
        result = evaluate.evaluate(
            Settings(),
            references,
            overrides,
            References(),
            allow_leakage=allow_leakage,
            progress=advance,
        )
    tables.print_evaluation(result.summary())
    print(json.dumps(result.summary()))


@app.command("forecast", epilog=terminal.EXIT_CODES)
def forecast_latest(
    model: Annotated[
        str,
        typer.Argument(
            help="As in nbeats (Production), har/3, nbeats@staging. With --issue, none is all in "
            "Production."
        ),
    ] = "",
    data: Annotated[
        str, typer.Option(help="Name of a data set; default: that of the version.")
    ] = "",
    symbols: Annotated[str, typer.Option(help="As in AAPL,KO; default: all.")] = "",
    horizon: Annotated[
        int | None,
        typer.Option(
            parser=whole_number,
            metavar="N",
            help="Sessions ahead; default: the most that the version can, up to 5.",
        ),
    ] = None,
    levels: Annotated[
        str, typer.Option(help="Quantile levels, as in 0.05,0.5,0.95; default: the version's.")
    ] = "",
    output: Annotated[
        str, typer.Option(help="table, csv, json, parquet, or png: a chart of up to 9 symbols.")
    ] = "table",
    to: Annotated[
        str,
        typer.Option(
            help="File to write; default: stdout; parquet and png: var/forecasts. With --issue, "
            "the last session to forecast from; default: the last one that is known."
        ),
    ] = "",
    issue: Annotated[
        bool,
        typer.Option(
            "--issue", help="Record in the ledger what is forecast, and show nothing of it."
        ),
    ] = False,
    since: Annotated[
        str,
        typer.Option("--from", help="With --issue, the first session to forecast from."),
    ] = "",
    as_of: Annotated[
        str,
        typer.Option(
            help="Forecast from what the ledger knew at the close of this date, or at a time like "
            "2022-06-30T21:00:00+00:00; `data load` fills the ledger. Default: what the files have."
        ),
    ] = "",
    seed: Annotated[int, typer.Option(help="Seed of sampled paths.")] = 0,
) -> None:
    """Forecast the sessions after the latest ones of a data set.

    Bad series are listed on stderr and in the JSON, the others are answered. Returns since the
    cutoff, and closes, come from paths; quantiles of single sessions are never added.

    With --issue, all symbols are forecast from what the ledger knew when the session closed; one
    that lacks the session is left out. A session that has a forecast is left alone.

    Example: python -m jobs forecast nbeats --symbols AAPL,KO --output png --to fan.png

    Example: python -m jobs forecast har --issue --from 2022-01-03 --to 2022-12-28
    """
    if issue:
        of_showing = {
            "--symbols": symbols, "--levels": levels, "--seed": seed,
            "--output": "" if output == "table" else output,
        }  # fmt: skip
        _check_unused(of_showing, "a forecast that is shown; leave it out, or --issue")
        _end(_issued(model, data, as_of, since, to, horizon))
        return
    _check_unused({"--from": since}, "forecasts that are issued; add --issue")
    if not model:
        raise BadParameter("no MODEL is named, as in har; only --issue takes all in Production")
    from jobs.forecasting import verb

    verb.run(
        model,
        data=data,
        symbols=symbols,
        horizon=horizon,
        levels=levels,
        output=output,
        to=to,
        seed=seed,
        as_of=as_of,
    )


@app.command("calibrate", epilog=terminal.EXIT_CODES)
def calibrate_versions(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL[/VERSION]]...",
            help="As in har, har/3; spaces or commas between; default: all in Production.",
        ),
    ] = None,
    data: Annotated[
        str, typer.Option(help="Name of a data set; default: that of the version.")
    ] = "",
    method: Annotated[
        str,
        typer.Option(help="tracking, ewma or aci; default: that of the last calibration."),
    ] = "",
    since: Annotated[
        str, typer.Option("--from", help="First session; default: the first not learned yet.")
    ] = "",
    until: Annotated[
        str, typer.Option("--to", help="Last session; default: the last with outcomes.")
    ] = "",
    as_of: Annotated[
        str,
        typer.Option(
            help="Learn from what the ledger knew at the close of this date, or at a time like "
            "2022-06-30T21:00:00+00:00. Default: now."
        ),
    ] = "",
    rollback: Annotated[
        bool,
        typer.Option("--rollback", help="Exchange the current calibration and the one before."),
    ] = False,
) -> None:
    """Learn from forecasts that came true, night by night, and publish calibrations of versions.

    Every night is published; of a range of more than 60 nights only the last. Each range is a run
    of the experiment `calibrations`. A calibration that makes the CRPS of the last 60 sessions
    more than 1 % worse is refused. That, and a verdict that falls, is said on stderr and in the
    JSON; neither is an error. What is done is not done again. A second start while another runs
    ends with exit code 0. The last line on stdout is one JSON object.

    Example: python -m jobs calibrate har --from 2020-01-02 --to 2022-12-28
    """
    _collect_rarely()
    from jobs.nightly import calibrate_verb

    references = terminal.items_of(",".join(word.strip(",") for word in models or ()), "MODEL")
    if rollback:
        options = {"--method": method, "--from": since, "--to": until, "--as-of": as_of}
        _check_unused(options, "learning; leave it out with --rollback")
        calibrate_verb.roll_back(references, data)
        return
    calibrate_verb.run(references, data=data, method=method, since=since, until=until, as_of=as_of)


@app.command("mature", epilog=terminal.EXIT_CODES)
def mature_forecasts(
    data: Annotated[
        str, typer.Option(help="Name of a data set; default: all that have forecasts.")
    ] = "",
    as_of: Annotated[
        str,
        typer.Option(help="Use only what was known at the close of this date, or at a time."),
    ] = "",
) -> None:
    """Score issued forecasts whose sessions have passed, and those of returns that were restated.

    Forecasts of all sources are scored by the return as it was first known. A restated return gets
    new scores, and is listed; the first ones stay in the ledger's past. A second run does nothing.

    Example: python -m jobs mature
    """
    _collect_rarely()
    from jobs.nightly import mature_verb

    _end(mature_verb.run(data=data, as_of=as_of))


def _issued(model: str, data: str, as_of: str, since: str, until: str, horizon: int | None) -> int:
    from jobs.nightly import issue_verb

    return issue_verb.run(model, data=data, as_of=as_of, since=since, until=until, horizon=horizon)


def _collect_rarely() -> None:
    """Imports and rows make many objects that stay; searching them for garbage takes a tenth."""
    gc.set_threshold(100_000)


def _end(code: int) -> None:
    """End with this exit code unless it is 0."""
    if code:
        raise typer.Exit(code)


@app.command("nightly", epilog=terminal.EXIT_CODES)
def run_nightly(
    data: Annotated[
        str, typer.Option(help="Name of a data set; default: all that Production was trained on.")
    ] = "",
    as_of: Annotated[
        str,
        typer.Option(help="As known at the close of this date, or at a time; default: now."),
    ] = "",
    sessions: Annotated[
        int, typer.Option(help="Catch up at most this many of the last sessions.")
    ] = 60,
) -> None:
    """Issue forecasts of what is in Production, mature, calibrate, and make the standings.

    For cron: what is done already is left alone, missed sessions are caught up in order, and while
    another nightly job runs it says so and ends with 0. What fails is listed, the rest is done,
    and the exit code is 1. Every job adds a line to var/logs/nightly.jsonl.

    Example: python -m jobs nightly --as-of 2022-12-28
    """
    from jobs.nightly import nightly_verb

    _end(nightly_verb.run(data=data, as_of=as_of, sessions=sessions))


@app.command("standings", epilog=terminal.EXIT_CODES)
def show_standings(
    data: Annotated[
        str, typer.Option(help="Name of a data set; default: all that have forecasts.")
    ] = "",
    as_of: Annotated[
        str,
        typer.Option(help="As known at the close of this date, or at a time; default: now."),
    ] = "",
    output: Annotated[
        str, typer.Option(help="table, csv, json, or html: the page, which is always written.")
    ] = "table",
    to: Annotated[str, typer.Option(help="File to write; default: stdout.")] = "",
) -> None:
    """Score issued forecasts beside fhs and naive of the same nights; live and backfill apart.

    Writes reports/standings.html, and one run of the experiment `standings` for each data set and
    night; the same standings again change nothing. With --data or --as-of the page has only that.

    Example: python -m jobs standings --output csv --to standings.csv
    """
    from jobs.nightly import showing

    _end(showing.run(data=data, as_of=as_of, output=output, to=to))


@app.command("quickstart", epilog=terminal.EXIT_CODES)
def quick_start(
    seed: Annotated[int, typer.Option(help="Seed of every training.")] = 0,
    data: Annotated[str, typer.Option(help="Name of a data set; default: the built-in one.")] = "",
) -> None:
    """Compile, train the baselines and N-BEATS, promote, serve, ask; on real prices, offline.

    With --data, on your own compiled data set; models that it cannot train are left out.

    The last line on stdout is a JSON object that names the file of the whole report.
    Example: python -m jobs quickstart
    """
    from jobs import quickstart
    from registry.settings import Settings

    settings = Settings()
    with bar_per_label() as advance:
        result = quickstart.quickstart(
            settings, quickstart.MODELS, quickstart.SERVED, seed, advance, data
        )
    tables.print_quickstart(result)
    report = str(quickstart.report_path(settings))
    print(json.dumps({"report": report, "seconds": result["seconds"]}))


def _warn(leakage: str) -> None:
    if leakage:
        print(f"warning: leakage: {leakage}", file=sys.stderr)


def _pairs(arguments: list[str]) -> dict[str, str]:
    """Config settings from `--key value` or `--key=value`. Empty values are dropped."""
    words: list[str] = []
    for argument in arguments:
        words += argument.split("=", 1) if argument.startswith("--") else [argument]
    keys, values = words[::2], words[1::2]
    if len(keys) != len(values) or not all(key.startswith("--") for key in keys):
        raise BadConfig(f"settings are given as --key value, found {' '.join(arguments)[:200]}")
    pairs = {}
    for key, value in zip(keys, values, strict=True):
        if value:
            pairs[key.removeprefix("--").replace("-", "_")] = value
    return pairs


if __name__ == "__main__":
    terminal.run(app, on_error=terminal.tag_run)
