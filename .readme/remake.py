"""Remake the README's table, reply and picture from the last line of `make demo`.

make readme                              runs the demo and this
python .readme/remake.py --check         exit 1 when the README differs from .readme/demo.json
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
DEMO = HERE / "demo.json"


def table(models: dict[str, Any]) -> str:
    lines = ["| model | CRPS | coverage 90 | skill vs fhs | p | version | stage |", "|---|---|---|---|---|---|---|"]
    for name, row in models.items():
        p = max(row["dm_p_hln"], row["dm_p_bartlett"])
        shown = "-" if name == "fhs" else f"{p:.4f}"
        skill = "0" if name == "fhs" else f"{100 * row['skill_vs_fhs']:+.2f} %"
        cells = (name, f"{row['crps']:.6f}", f"{row['coverage_90']:.3f}", skill, shown, row["version"], row["stage"])
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return "\n".join(lines)


def reply(forecast: list[dict[str, Any]]) -> str:
    row = {key: round(value, 6) if isinstance(value, float) else value for key, value in forecast[0].items()}
    return "```json\n" + json.dumps(row).replace(', "q0.2"', ',\n "q0.2"').replace(', "q0.7"', ',\n "q0.7"') + "\n```"


def remade(text: str, demo: dict[str, Any]) -> str:
    for mark, content in (("table", table(demo["models"])), ("reply", reply(demo["forecast"]))):
        pattern = re.compile(rf"(<!-- {mark}: make readme -->\n).*?(\n<!-- end -->)", re.DOTALL)
        text, found = pattern.subn(lambda m, content=content: m[1] + content + m[2], text)
        if found != 1:
            raise SystemExit(f"README.md has {found} places for {mark}, expected 1")
    return text


def fetch_picture() -> None:
    """The fan chart that the served version's run logged."""
    from registry.settings import Settings
    from registry.store import Store

    store = Store(Settings())
    run = store.resolve("nbeats").run_id
    found = Path(store.client.download_artifacts(run, "figures/fan_chart.png"))
    (HERE / "fan_chart.png").write_bytes(found.read_bytes())


def main() -> None:
    if sys.argv[1:] == ["--check"]:
        text = README.read_text()
        sys.exit(0 if remade(text, json.loads(DEMO.read_text())) == text else "README.md: run `make readme`")
    demo = json.loads(sys.stdin.read().splitlines()[-1])
    DEMO.write_text(json.dumps(demo, indent=1) + "\n")
    README.write_text(remade(README.read_text(), demo))
    fetch_picture()


if __name__ == "__main__":
    main()
