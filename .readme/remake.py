"""Remake the tables, the reply and the pictures of the five READMEs from the output of programs.

make readme                        reads the file that the demo's last line names
make readme-kronos                 reads a line for each evaluation of kronos and its simulator
make readme-models                 reads a line for each model of the panel and period
make readme-calibration            reads the line of the bench of calibrations
make readme-errors                 reads nothing: registry/codes.py has the table of codes
python .readme/remake.py --check   exits with 1 when a README differs from .readme/*.json
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from registry.codes import REQUEST, SERVING, rows

HERE = Path(__file__).parent
ROOT = HERE.parent
READMES = [
    ROOT / folder / "README.md" for folder in (".", "registry", "mlprojects", "serving", "jobs")
]
DEMO, KRONOS, MODELS = HERE / "demo.json", HERE / "kronos.json", HERE / "models.json"
CALIBRATION = HERE / "calibration.json"
NEVER = 1e9  # sessions
PERIODS = ("2019-12-31", "2014-12-31")  # `trained_until` of the two periods in the models' table
CHOSEN = ("ensemble", "mlp", "tft", "har", "nbeats", "itransformer", "fhs", "naive")
PICTURES = {
    "nbeats": ("figures/fan_chart.png", "fan_chart.png"),
    "kronos": ("figures/paths.png", "kronos_paths.png"),
}


def _p(p: float) -> str:
    return f"{p:.4f}" if p >= 0.0001 else "< 0.0001"


def p_value(row: dict[str, Any]) -> str:
    """The larger of a model's two p-values."""
    return _p(max(row["dm_p_hln"], row["dm_p_bartlett"]))


def table(models: dict[str, Any]) -> str:
    lines = [
        "| model | CRPS | coverage 90 | skill vs fhs | p | version | stage |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in models.items():
        scores = [f"{row['crps']:.6f}", f"{row['coverage_90']:.3f}", _skill(name, row)]
        p = "-" if name == "fhs" else p_value(row)
        lines.append(_line([name, *scores, p, str(row["version"]), row["stage"]]))
    return "\n".join(lines)


def reply(forecast: list[dict[str, Any]]) -> str:
    row = {}
    for key, value in forecast[0].items():
        row[key] = round(value, 6) if isinstance(value, float) else value
    text = json.dumps(row)
    for key in ("q0.2", "q0.7"):  # begin a new line
        text = text.replace(f', "{key}"', f',\n "{key}"')
    return f"```json\n{text}\n```"


def kronos_table(evaluations: list[dict[str, Any]]) -> str:
    """Every model of all evaluations once, best CRPS first."""
    rows = {}
    for evaluation in evaluations:
        for name, row in evaluation["compared"].items():
            rows[name.split("/")[0]] = row
    heads = ("model", "CRPS", "coverage 50", "coverage 90", "direction", "rank IC",
             "skill vs fhs", "p", "skill vs random walk")  # fmt: skip
    lines = [_line(heads), "|---" * len(heads) + "|"]
    for name, row in sorted(rows.items(), key=_crps):
        keys = ("coverage_50", "coverage_90", "direction", "rank_ic")
        shares = [f"{row[key]:.3f}" for key in keys]
        naive = row["skill_vs_naive"]
        skill_vs_naive = f"{100 * naive:+.2f} %" if naive else "0"
        p = "-" if name == "fhs" else p_value(row)
        cells = [name, f"{row['crps']:.6f}", *shares, _skill(name, row), p, skill_vs_naive]
        lines.append(_line(cells))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _crps(item: tuple[str, dict[str, Any]]) -> float:
    """Sort key of (model, row)."""
    crps: float = item[1]["crps"]
    return crps


def _skill(name: str, row: dict[str, Any]) -> str:
    return "0" if name == "fhs" else f"{100 * row['skill_vs_fhs']:+.2f} %"


def _shown(name: str, p: float) -> str:
    return "-" if name == "fhs" else _p(p)


def models_table(trainings: list[dict[str, Any]]) -> str:
    """Every model once, best CRPS of the first period first, with its skill in the second."""
    first, second = (_of_period(trainings, until) for until in PERIODS)
    heads = ("model", "CRPS", "cover 50", "80", "90", "skill vs fhs", "p HLN", "p Bartlett",
             "2015-18", "p", "fit s", "parameters")  # fmt: skip
    lines = [_line(heads), "|---" * len(heads) + "|"]
    for name, row in sorted(first.items(), key=_crps):
        keys = ("coverage_50", "coverage_80", "coverage_90")
        shares = [f"{row[key]:.3f}".lstrip("0") for key in keys]
        p_values = [_shown(name, row[key]) for key in ("dm_p_hln", "dm_p_bartlett")]
        other = second[name]
        other_p = _shown(name, max(other["dm_p_hln"], other["dm_p_bartlett"]))
        cells = [name, f"{row['crps']:.6f}", *shares, _skill(name, row), *p_values]
        cells += [_skill(name, other), other_p]
        cells += [f"{row['fit_seconds']:.0f}", f"{row['parameters']:,.0f}"]
        lines.append(_line(cells))
    return "\n".join(lines)


def _of_period(trainings: list[dict[str, Any]], until: str) -> dict[str, dict[str, Any]]:
    return {row["model"]: row for row in trainings if row["trained_until"] == until}


def chosen_rows(table: str) -> str:
    """The table's head and its rows of the models in CHOSEN, in the table's order."""
    head, rule, *rows = table.splitlines()
    chosen = [row for row in rows if row.split()[1] in CHOSEN]
    return "\n".join([head, rule, *chosen])


def calibration_table(report: dict[str, Any]) -> str:
    """Scores of issued forecasts by model and method."""
    heads = ("model", "calibrated by", "cover 90, step 1", "all steps", "farthest symbol",
             "worst 250 sessions", "CRPS", "p")  # fmt: skip
    lines = [_line(heads), "|---" * len(heads) + "|"]
    for label, row in report["figures"].items():
        model, method = label.split()
        missed = report["missed"][label]
        shares = [_share(row, key, missed) for key in ("coverage_lowest", "coverage_highest")]
        gap = f"{100 * row['symbol_gap']:.1f} points{_star('symbol_gap', missed)}"
        crps, p = f"{row['crps']:.6f}", "-"
        if method != "raw":
            crps = f"{100 * row['crps_change']:+.2f} %{_star('crps_change', missed)}"
            p = _p(row["crps_p"])
        cells = [model, "-" if method == "raw" else method]
        cells += [_share(row, "coverage_step_1", missed), " to ".join(shares), gap]
        lines.append(_line([*cells, _share(row, "worst_window", missed), crps, p]))
    return "\n".join(lines)


def calibration_sentence(report: dict[str, Any]) -> str:
    """What the default method does, in words."""
    by_model: dict[str, dict[str, Any]] = {}
    for label, row in report["figures"].items():
        model, method = label.split()
        by_model.setdefault(model, {})[method] = row
    parts = []
    for model, methods in by_model.items():
        raw, default = methods["raw"], methods[report["default"]]
        pairs = []
        for key in ("coverage_step_1", "worst_window"):
            pairs.append(f"{_share(raw, key, ())} to {_share(default, key, ())}")
        parts.append(f"`{model}` {', '.join(pairs)}, {100 * default['crps_change']:+.2f} %")
    return (
        f"Over 2013 to 2022 calibration by `{report['default']}` changes the 90 % coverage one\n"
        f"session ahead, that of the worst 250 sessions, and CRPS:\n{'; '.join(parts)}."
    )


def planted_table(report: dict[str, Any]) -> str:
    """Planted cases by model and method."""
    heads = ("model", "calibrated by", "break: sessions", "81-100", "101-140", "bias: cover 90",
             "below the median", "poisoned night", "delisted symbol")  # fmt: skip
    lines = [_line(heads), "|---" * len(heads) + "|"]
    for label, row in report["figures"].items():
        model, method = label.split()
        missed = report["missed"][label]
        sessions = row["break_recovered"]
        never = "never" if sessions == NEVER else f"{sessions:.0f}"
        cells = [model, "-" if method == "raw" else method]
        cells.append(f"{never}{_star('break_recovered', missed)}")
        for key in ("break_81_100", "break_101_140", "bias_81_100", "bias_below_median"):
            cells.append(_share(row, key, missed))
        for key in ("poison", "delisted"):
            cells.append(f"{100 * row[key]:.1f} points" if key in row else "-")
        lines.append(_line(cells))
    return "\n".join(lines)


def _share(row: dict[str, Any], key: str, missed: Sequence[str]) -> str:
    return f"{row[key]:.3f}".lstrip("0") + _star(key, missed)


def _star(key: str, missed: Sequence[str]) -> str:
    """A mark for a goal that is missed."""
    return r" \*" if key in missed else ""


def errors_table() -> str:
    """Codes of requests, their status and when they are raised."""
    lines = ["| code | status | when |", "|---|---|---|"]
    lines += [f"| `{code}` | {status} | {when} |" for code, status, when in rows(REQUEST, SERVING)]
    return "\n".join(lines)


def contents() -> dict[str, str]:
    """Text between a mark and its end, by mark."""
    paths = (DEMO, KRONOS, MODELS, CALIBRATION)
    demo, kronos, models, calibration = (json.loads(path.read_text()) for path in paths)
    all_models = models_table(models)
    return {
        "table: make readme": table(demo["models"]),
        "reply: make readme": reply(demo["forecast"]),
        "chosen: make readme-models": chosen_rows(all_models),
        "table: make readme-models": all_models,
        "table: make readme-kronos": kronos_table(kronos),
        "sentence: make readme-calibration": calibration_sentence(calibration),
        "table: make readme-calibration": calibration_table(calibration),
        "planted: make readme-calibration": planted_table(calibration),
        "table: make readme-errors": errors_table(),
    }


def remade() -> dict[Path, str]:
    """Every README with the content of the JSON files. Each mark stands in one README, once."""
    texts = {path: path.read_text() for path in READMES}
    for mark, content in contents().items():
        within = r"(?:(?!<!-- end -->).)*"  # never beyond its own end
        pattern = re.compile(rf"(<!-- {mark} -->\n){within}(<!-- end -->)", re.DOTALL)
        places = [(path, match) for path in READMES for match in pattern.finditer(texts[path])]
        if len(places) != 1:
            raise SystemExit(f"the READMEs have {len(places)} places for {mark}, expected 1")
        [(path, match)] = places
        before, after = texts[path][: match.end(1)], texts[path][match.start(2) :]
        texts[path] = f"{before}{content}\n{after}"
    return texts


def write() -> None:
    for path, text in remade().items():
        path.write_text(text)


def fetch_picture(model: str) -> None:
    """Fetch the picture that the run of the version in Production logged."""
    from registry.settings import Settings
    from registry.versions.store import Store

    store = Store(Settings())
    artifact, picture = PICTURES[model]
    run_id = store.resolve(model).run_id
    downloaded = Path(store.client.download_artifacts(run_id, artifact))
    (HERE / picture).write_bytes(downloaded.read_bytes())


def check() -> None:
    """Exit with 1 and name the READMEs that differ."""
    differing = []
    for path, text in remade().items():
        if path.read_text() != text:
            differing.append(str(path.relative_to(ROOT)))
    if differing:
        sys.exit(
            f"{', '.join(differing)} differ from .readme/*.json; run `make readme`, "
            "`readme-kronos`, `readme-models`, `readme-calibration` or `readme-errors`"
        )


def main() -> None:
    if sys.argv[1:] == ["--check"]:
        check()
        return
    if sys.argv[1:] == ["--errors"]:
        write()
        return
    results = [json.loads(line) for line in sys.stdin if line.startswith("{")]
    evaluations = [result for result in results if "compared" in result]
    trainings = [result for result in results if "fit_seconds" in result]
    if results and results[-1].get("bench") == "calibration":
        report = {key: value for key, value in results[-1].items() if key != "seconds"}
        CALIBRATION.write_text(json.dumps(report, indent=1) + "\n")
    elif trainings:
        MODELS.write_text(json.dumps(trainings, indent=1) + "\n")
    elif evaluations:
        KRONOS.write_text(json.dumps(evaluations, indent=1) + "\n")
        fetch_picture("kronos")
    else:
        DEMO.write_text(Path(results[-1]["report"]).read_text())
        fetch_picture("nbeats")
    write()


if __name__ == "__main__":
    main()
