"""Remake the tables, the reply and the pictures of the five READMEs from what programs print.

make readme                              the demo's last line
make readme-kronos                       a line for each evaluation of kronos and its simulator
make readme-models                       a line for each training of every model of the panel, for both periods
make readme-errors                       nothing: the table of codes is made from registry/codes.py
python .readme/remake.py --check         exit 1 when a README differs from the .readme/*.json kept here
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from registry.codes import REQUEST, rows

HERE = Path(__file__).parent
ROOT = HERE.parent
READMES = [
    ROOT / folder / "README.md" for folder in (".", "registry", "mlprojects", "serving", "jobs")
]
DEMO, KRONOS, MODELS = HERE / "demo.json", HERE / "kronos.json", HERE / "models.json"
PERIODS = (
    "2019-12-31",
    "2014-12-31",
)  # what the two periods of the models' table were trained until
CHOSEN = ("ensemble", "mlp", "tft", "har", "nbeats", "itransformer", "fhs", "naive")
PICTURES = {
    "nbeats": ("figures/fan_chart.png", "fan_chart.png"),
    "kronos": ("figures/paths.png", "kronos_paths.png"),
}


def _p(p: float) -> str:
    return f"{p:.4f}" if p >= 0.0001 else "< 0.0001"


def p_value(row: dict[str, Any]) -> str:
    """The larger of the two."""
    return _p(max(row["dm_p_hln"], row["dm_p_bartlett"]))


def table(models: dict[str, Any]) -> str:
    lines = [
        "| model | CRPS | coverage 90 | skill vs fhs | p | version | stage |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in models.items():
        shown = "-" if name == "fhs" else p_value(row)
        skill = "0" if name == "fhs" else f"{100 * row['skill_vs_fhs']:+.2f} %"
        cells = (
            name,
            f"{row['crps']:.6f}",
            f"{row['coverage_90']:.3f}",
            skill,
            shown,
            row["version"],
            row["stage"],
        )
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return "\n".join(lines)


def reply(forecast: list[dict[str, Any]]) -> str:
    row = {
        key: round(value, 6) if isinstance(value, float) else value
        for key, value in forecast[0].items()
    }
    return (
        "```json\n"
        + json.dumps(row).replace(', "q0.2"', ',\n "q0.2"').replace(', "q0.7"', ',\n "q0.7"')
        + "\n```"
    )


def kronos_table(evaluations: list[dict[str, Any]]) -> str:
    """Every model of all evaluations once, best CRPS first."""
    rows = {
        name.split("/")[0]: row
        for evaluation in evaluations
        for name, row in evaluation["compared"].items()
    }
    heads = ("model", "CRPS", "coverage 50", "coverage 90", "direction", "rank IC", "skill vs fhs", "p",
             "skill vs random walk")  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, row in sorted(rows.items(), key=lambda item: item[1]["crps"]):
        p = "-" if name == "fhs" else p_value(row)
        shares = (
            f"{row[key]:.3f}" for key in ("coverage_50", "coverage_90", "direction", "rank_ic")
        )
        skills = [
            f"{100 * row[key]:+.2f} %" if row[key] else "0"
            for key in ("skill_vs_fhs", "skill_vs_naive")
        ]
        crps = f"{row['crps']:.6f}"
        lines.append(f"| {' | '.join([name, crps, *shares, skills[0], p, skills[1]])} |")
    return "\n".join(lines)


def _skill(name: str, row: dict[str, Any]) -> str:
    return "0" if name == "fhs" else f"{100 * row['skill_vs_fhs']:+.2f} %"


def _shown(name: str, p: float) -> str:
    return "-" if name == "fhs" else _p(p)


def models_table(trainings: list[dict[str, Any]]) -> str:
    """Every model once, best CRPS of the first period first, with its skill in the second period."""
    first, second = (
        {row["model"]: row for row in trainings if row["trained_until"] == until}
        for until in PERIODS
    )
    heads = ("model", "CRPS", "cover 50", "80", "90", "skill vs fhs", "p HLN", "p Bartlett", "2015-18", "p", "fit s",
             "parameters")  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, row in sorted(first.items(), key=lambda item: item[1]["crps"]):
        shares = (
            f"{row[key]:.3f}".lstrip("0") for key in ("coverage_50", "coverage_80", "coverage_90")
        )
        ps = [_shown(name, row[key]) for key in ("dm_p_hln", "dm_p_bartlett")]
        before = second[name]
        cells = [name, f"{row['crps']:.6f}", *shares, _skill(name, row), *ps, _skill(name, before),
                 _shown(name, max(before["dm_p_hln"], before["dm_p_bartlett"])), f"{row['fit_seconds']:.0f}",
                 f"{row['parameters']:,.0f}"]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def chosen_rows(table: str) -> str:
    """The table's head and its rows of CHOSEN, in their order there."""
    head, rule, *rows = table.splitlines()
    kept = [row for row in rows if row.split()[1] in CHOSEN]
    return "\n".join([head, rule, *kept])


def errors_table() -> str:
    """Codes of requests, their status and when they are raised."""
    lines = ["| code | status | when |", "|---|---|---|"]
    lines += [f"| `{code}` | {status} | {when} |" for code, status, when in rows(REQUEST)]
    return "\n".join(lines)


def contents() -> dict[str, str]:
    """What stands between a mark and its end, by mark."""
    demo, kronos, models = (json.loads(path.read_text()) for path in (DEMO, KRONOS, MODELS))
    all_models = models_table(models)
    return {
        "table: make readme": table(demo["models"]),
        "reply: make readme": reply(demo["forecast"]),
        "chosen: make readme-models": chosen_rows(all_models),
        "table: make readme-models": all_models,
        "table: make readme-kronos": kronos_table(kronos),
        "table: make readme-errors": errors_table(),
    }


def remade() -> dict[Path, str]:
    """Every README with everything that the kept JSON files say. Each mark stands in one of them, once."""
    texts = {path: path.read_text() for path in READMES}
    for mark, content in contents().items():
        within = r"(?:(?!<!-- end -->).)*"  # never beyond its own end
        pattern = re.compile(rf"(<!-- {mark} -->\n){within}(<!-- end -->)", re.DOTALL)
        places = [path for path, text in texts.items() for _ in pattern.findall(text)]
        if len(places) != 1:
            raise SystemExit(f"the READMEs have {len(places)} places for {mark}, expected 1")
        [path] = places
        texts[path] = pattern.sub(
            lambda m, content=content: f"{m[1]}{content}\n{m[2]}", texts[path]
        )
    return texts


def write() -> None:
    for path, text in remade().items():
        path.write_text(text)


def fetch_picture(model: str) -> None:
    """What the run of the version in Production logged."""
    from registry.settings import Settings
    from registry.versions.store import Store

    store = Store(Settings())
    logged, kept = PICTURES[model]
    found = Path(store.client.download_artifacts(store.resolve(model).run_id, logged))
    (HERE / kept).write_bytes(found.read_bytes())


def check() -> None:
    """Exit with 1 and name the READMEs that differ."""
    differing = [
        str(path.relative_to(ROOT)) for path, text in remade().items() if path.read_text() != text
    ]
    if differing:
        sys.exit(
            f"{', '.join(differing)}: run `make readme`, `readme-kronos`, `readme-models` or `readme-errors`"
        )


def main() -> None:
    if sys.argv[1:] == ["--check"]:
        check()
        return
    if sys.argv[1:] == ["--errors"]:
        write()
        return
    said = [json.loads(line) for line in sys.stdin if line.startswith("{")]
    evaluations = [line for line in said if "compared" in line]
    trainings = [line for line in said if "fit_seconds" in line]
    if trainings:
        MODELS.write_text(json.dumps(trainings, indent=1) + "\n")
    elif evaluations:
        KRONOS.write_text(json.dumps(evaluations, indent=1) + "\n")
        fetch_picture("kronos")
    else:
        DEMO.write_text(json.dumps(said[-1], indent=1) + "\n")
        fetch_picture("nbeats")
    write()


if __name__ == "__main__":
    main()
