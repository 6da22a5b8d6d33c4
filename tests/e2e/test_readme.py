"""The READMEs: their commands run in order in a clean copy; tables and reply are up to date."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from registry.scoring.learning.learner import METHODS
from registry.settings import CHECKOUT

# Their commands run in this order in one copy, so a document may use results of earlier ones.
DOCUMENTS = (
    "README.md",
    "registry/README.md",
    "mlprojects/README.md",
    "serving/README.md",
    "jobs/README.md",
)
MARKED = re.compile(r"<!-- (test|slow)( background (\S+))? -->\n```bash\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^):]+)\)")  # without a scheme: within this repository
VERBS = re.compile(r"`(python -m \w+ [a-z]+)|^(python -m \w+ [a-z]+|make [a-z-]+)", re.MULTILINE)
SKIPPED = ("make test",)  # it would run this test again


@dataclass(frozen=True)
class Block:
    """A fenced block of a document: `test` or `slow`.

    `ready` is the URL that a background command answers, empty for any other command.
    """

    kind: str
    ready: str
    text: str

    @property
    def commands(self) -> str:
        lines = [line for line in self.text.splitlines() if not line.startswith(SKIPPED)]
        return "\n".join(lines)


def text_of(document: str) -> str:
    return (CHECKOUT / document).read_text()


def blocks(kind: str) -> list[Block]:
    """The blocks of one kind, in the order of the documents."""
    selected = []
    for document in DOCUMENTS:
        for match in MARKED.finditer(text_of(document)):
            if match[1] == kind:
                selected.append(Block(kind, match[3] or "", match[4]))
    return selected


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a clone, with the environment that `make` has installed already.

    The mark of `make setup` is set here: without it `make demo` would install everything anew.
    """
    target = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (CHECKOUT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, target / name)
    (target / ".venv").mkdir()
    for part in (CHECKOUT / ".venv").iterdir():
        (target / ".venv" / part.name).symlink_to(part)
    subprocess.run(["make", "-s", "--touch", "setup"], cwd=target, env=environment(), check=True)
    return target


def environment() -> dict[str, str]:
    """A user's shell: no variable of this test run is set, no environment is activated."""
    removed = ("KRONOS_", "MLFLOW_", "_MLFLOW", "VIRTUAL_ENV", "PYTHONPATH", "MAKE", "MFLAGS")
    variables = {key: value for key, value in os.environ.items() if not key.startswith(removed)}
    activated = str(CHECKOUT / ".venv" / "bin")
    folders = variables["PATH"].split(os.pathsep)
    variables["PATH"] = os.pathsep.join(folder for folder in folders if folder != activated)
    variables["PYTHON"] = sys.executable
    return variables


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        assert process.poll() is None, "the background command ended"
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    pytest.fail(f"{url} did not answer")


def wait_until_closed(url: str) -> None:
    for _ in range(60):
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except OSError:
            return
        time.sleep(0.5)
    pytest.fail(f"{url} still answers after it was stopped")


@pytest.fixture(scope="module")
def outputs(copy: Path) -> list[str]:
    """The stdout of each `test` block. Later blocks see the exports of earlier ones."""
    printed, exports = [], ""
    background: dict[str, subprocess.Popen[bytes]] = {}  # by the URL that it answers
    try:
        for block in blocks("test"):
            if block.ready:
                wait_until_closed(block.ready)  # or another server would answer in its place
                process = subprocess.Popen(
                    ["bash", "-c", exports + block.commands],
                    cwd=copy,
                    env=environment(),
                    start_new_session=True,
                )
                background[block.ready] = process
                wait_for(block.ready, process)
                printed.append("")
                continue
            script = f"set -euo pipefail\n{exports}{block.commands}"
            done = subprocess.run(
                ["bash", "-c", script],
                cwd=copy,
                env=environment(),
                capture_output=True,
                text=True,
                timeout=600,
            )
            assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"
            printed.append(done.stdout)
            for line in block.text.splitlines():
                if line.startswith("export "):
                    exports += f"{line}\n"
    finally:
        for url, process in background.items():
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)
            wait_until_closed(url)
    return printed


def output_of(outputs: list[str], command: str) -> str:
    [index] = [i for i, block in enumerate(blocks("test")) if command in block.text]
    return outputs[index]


def report_of(output: str) -> Any:
    """The whole report of a demo, from the file that its last line names."""
    last = output.splitlines()[-1]
    assert len(last) < 200
    return json.loads(Path(json.loads(last)["report"]).read_text())


@pytest.fixture(scope="module")
def first_demo(outputs: list[str]) -> Any:
    """The report of the first demo, which a second one replaces."""
    return report_of(output_of(outputs, "make demo"))


def test_demo_ends_with_a_line_that_names_its_report(first_demo: Any, copy: Path) -> None:
    result = first_demo
    assert (copy / "var" / "logs" / "quickstart.json").is_file()
    assert set(result["models"]) == {"naive", "ewma", "fhs", "har", "nbeats"}
    for row in result["models"].values():
        assert row["version"] == 1
        assert row["stage"] == "Production"
        assert 0.0105 < row["crps"] < 0.0120
        assert 0.85 < row["coverage_90"] < 0.93
    assert result["models"]["fhs"]["skill_vs_fhs"] == 0
    assert result["models"]["har"]["skill_vs_fhs"] > 0.009
    assert result["models"]["naive"]["skill_vs_fhs"] < -0.01
    assert [row["step"] for row in result["forecast"]] == [1, 2, 3, 4, 5]
    days = [row["ds"][:10] for row in result["forecast"][:3]]
    assert days == ["2022-12-29", "2022-12-30", "2023-01-03"]
    assert result["seconds"] > 0


def test_second_demo_trains_nothing_again(first_demo: Any, copy: Path) -> None:
    again = subprocess.run(
        ["make", "demo"],
        cwd=copy,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    second = report_of(again.stdout)
    assert {row["trained"] for row in second["models"].values()} == {"before"}
    assert set(second["models"]) == set(first_demo["models"])
    for name, row in second["models"].items():
        assert row["crps"] == first_demo["models"][name]["crps"], name
    stages = again.stderr.splitlines()
    assert len(stages) == len(set(stages))
    assert "Ctrl-C" not in again.stdout + again.stderr


def test_forecast_answers_as_the_readme_shows(outputs: list[str]) -> None:
    output = output_of(outputs, '{"symbol": "AAPL", "horizon": [1]}')
    reply = json.loads(output.splitlines()[-1])  # after what the load printed
    printed = re.search(
        r"<!-- forecast: .*? -->\n```json\n(.*?)```", text_of("README.md"), re.DOTALL
    )
    assert printed is not None
    shown = json.loads(printed[1])
    assert {step: round(mean, 6) for step, mean in reply["yhat"].items()} == shown["yhat"]
    assert {key: round(q, 6) for key, q in reply["q"]["1"].items()} == shown["q"]["1"]
    assert {key: reply["meta"][key] for key in shown["meta"]} == shown["meta"]


def test_curl_answers_five_steps(outputs: list[str]) -> None:
    rows = json.loads(output_of(outputs, "127.0.0.1:8080/invocations"))["predictions"]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[0].keys() >= {"unique_id", "ds", "mean", "q0.05", "q0.5", "q0.95"}
    assert rows[0]["notes"].startswith("nbeats version ")


def test_promotion_block_tells_its_story(outputs: list[str]) -> None:
    output = output_of(outputs, "registry rollback")
    assert "fewer steps, to see what it costs" in output
    assert "it cost too much" in output


def test_kronos_or_its_stand_in_answers_and_says_which(outputs: list[str]) -> None:
    simulated = json.loads(output_of(outputs, "127.0.0.1:8082/invocations"))["predictions"]
    assert {row["notes"].partition(":")[0] for row in simulated} == {"simulated"}
    assert "kronos" in output_of(outputs, "registry promote kronos_simulated")


def test_everything_landed_under_var(outputs: list[str], copy: Path) -> None:  # noqa: ARG001
    assert not (copy / "mlruns").exists()
    assert not (copy / "mlflow.db").exists()
    assert (copy / "var" / "mlflow.db").is_file()


def test_every_command_and_target_that_a_document_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    named = {verb for document in DOCUMENTS for verb in VERBS.findall(text_of(document))}
    for quoted, plain in named:
        command = (quoted or plain).split()
        if command[0] == "make":
            assert command[1] in targets, command
            continue
        _, _, program, verb = command
        shown = CliRunner().invoke(import_module(f"{program}.__main__").app, [verb, "--help"])
        assert shown.exit_code == 0, command


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_bash_block_is_run_by_a_test(document: str) -> None:
    text = text_of(document)
    assert len(MARKED.findall(text)) == text.count("```bash\n")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_to_a_file_and_a_heading(document: str) -> None:
    for link in LINK.findall(text_of(document)):
        path, _, anchor = link.partition("#")
        target = (CHECKOUT / document).parent / path if path else CHECKOUT / document
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target.read_text()), link


def anchors(text: str) -> set[str]:
    """GitHub's anchors of the headings."""
    headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_tables_and_reply_are_those_of_the_committed_results() -> None:
    checked = subprocess.run(
        [sys.executable, ".readme/remake.py", "--check"],
        cwd=CHECKOUT,
        env=dict(os.environ) | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr
    demo = json.loads((CHECKOUT / ".readme" / "demo.json").read_text())
    assert set(demo) == {"models", "served", "forecast", "seconds"}
    columns = {"version", "stage", "crps", "coverage_90"}
    columns |= {"skill_vs_fhs", "dm_p_hln", "dm_p_bartlett"}
    for row in demo["models"].values():
        assert set(row) >= columns
    kronos = json.loads((CHECKOUT / ".readme" / "kronos.json").read_text())
    versions = [version for evaluation in kronos for version in evaluation["versions"]]
    assert [version["model"] for version in versions] == ["kronos_simulated", "kronos"]
    for evaluation, version in zip(kronos, versions, strict=True):
        name = f"{version['model']}/{version['version']}"
        assert set(evaluation["compared"]) == {name, "fhs", "har", "naive"}
        assert version["simulated"] == (version["model"] == "kronos_simulated")
    _check_calibration(json.loads((CHECKOUT / ".readme" / "calibration.json").read_text()))
    for picture in ("fan_chart.png", "kronos_paths.png"):
        assert (CHECKOUT / ".readme" / picture).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def _check_calibration(report: dict[str, Any]) -> None:
    """Every method stands beside the raw forecasts of every model, with all its figures."""
    methods = ("raw", *METHODS)
    labels = [f"{model} {method}" for model in ("fhs", "har", "ensemble") for method in methods]
    assert list(report["figures"]) == list(report["missed"]) == labels
    assert report["versions"] == {"fhs": 1, "har": 1, "ensemble": 10}
    scores = {"sessions", "crps", "crps_p", "coverage_step_1", "symbol_gap", "worst_window"}
    cases = {"break_recovered", "break_81_100", "bias_81_100", "bias_below_median"}
    for label, row in report["figures"].items():
        assert set(row) >= scores | cases, label
        assert label.endswith(" raw") or {"poison", "delisted"} <= set(row), label
        assert row["sessions"] > 2500, label


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("slow"), ids=lambda block: block.text.split("\n")[0])
def test_slow_block_of_a_document_runs(block: Block, copy: Path) -> None:
    done = subprocess.run(
        ["bash", "-euc", block.commands],
        cwd=copy,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=7200,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]).keys() & {"bench", "version", "crps"}
