"""`python -m registry`: every verb, its output and its exit code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from registry import __main__ as program
from registry import terminal
from registry.versions import tracking

VERBS = (
    "list",
    "show",
    "compare",
    "promote",
    "rollback",
    "history",
    "verify",
    "doctor",
    "mirror",
    "push",
    "ui",
)


@pytest.fixture
def cli(bench, environment_of, capsys, monkeypatch):
    """Run a verb in this process, as `python -m registry` does: (exit code, stdout, stderr)."""
    for key, value in environment_of(bench.settings).items():
        monkeypatch.setenv(key, value)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["registry", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            terminal.run(program.app)
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def answer(cli):
    """Run a verb with --json that must succeed: the JSON on its stdout."""

    def run(*arguments):
        code, out, err = cli(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    return run


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example_and_its_exit_codes(verb):
    done = subprocess.run(
        [sys.executable, "-m", "registry", verb, "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={"COLUMNS": "200", "PATH": "/usr/bin:/bin"},
    )
    assert f"Example: python -m registry {verb}" in done.stdout
    assert terminal.EXIT_CODES in done.stdout


def test_no_verb_is_missing_from_the_help_test():
    commands = program.app.registered_commands
    verbs = [command.name or command.callback.__name__ for command in commands]
    assert sorted(VERBS) == sorted(verbs)


def test_promote_says_what_it_did_and_roll_back_undoes_it(bench, cli, answer):
    name = bench.model(2)
    code, out, _ = cli("promote", name, 1, "--why", "first")
    assert (code, out) == (0, f"{name} version 1 is in Production\n")
    done = answer("promote", name, "latest", "--stage", "production", "--why", "better")
    assert (done["changed"], done["why"]) == (True, "better")
    assert (done["version"], done["from_version"]) == (2, 1)
    assert "@" in done["who"]
    code, out, _ = cli("promote", name, 2)
    assert (code, out) == (0, f"{name} version 2 is in Production already: nothing was changed\n")
    code, out, _ = cli("rollback", name)
    assert (code, out) == (0, f"{name} version 1 is in Production again, instead of version 2\n")
    code, out, err = cli("rollback", name)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: NOTHING_BEFORE: nothing was in Production")


def test_what_is_in_staging_can_be_promoted_by_that_name(bench, answer):
    name = bench.model(1)
    answer("promote", name, 1, "--stage", "Staging")
    assert answer("promote", name, "staging")["version"] == 1
    assert bench.aliases(name) == {"production": 1}


def test_a_dry_run_checks_and_changes_nothing(bench, answer):
    name = bench.model(1)
    plan = answer("promote", name, 1, "--dry-run")
    assert (plan["changes"], plan["version"], plan["from_version"]) == (True, 1, None)
    assert bench.aliases(name) == {}
    assert bench.ledger.records(name) == []


def test_list_and_show_name_the_stages(bench, cli, answer):
    name = bench.model(2)
    answer("promote", name, 1)
    listed = {row["model"]: row for row in answer("list")}
    expected = {
        "model": name,
        "versions": 2,
        "latest": 2,
        "production": 1,
        "previous": None,
        "staging": None,
    }
    assert listed[name] == expected
    stages = [(row["version"], row["stage"]) for row in answer("show", name)]
    assert stages == [(2, None), (1, "Production")]
    assert answer("show", "ewma/1")["metrics"]["crps"] == 0.005
    code, out, _ = cli("show", "ewma/1")
    assert code == 0
    assert "tags.family\tbaselines" in out.splitlines()


def test_compare_puts_versions_side_by_side_and_marks_their_stage(bench, cli, answer):
    name = bench.model(1)
    answer("promote", name, 1)
    rows = answer("compare", name, "ewma/1")
    assert [row["crps"] for row in rows] == [0.005, 0.005]
    assert (rows[0]["stage"], rows[0]["aliases"]) == ("Production", ["production"])
    assert rows[0]["skill_vs_fhs"] == 0.02
    code, out, _ = cli("compare", name)
    assert code == 0
    columns = out.splitlines()[0].split("\t")[:6]
    assert columns == ["model", "version", "stage", "aliases", "data", "crps"]


SCORED = {
    "choose_until": "2019-12-31",
    "report_until": "None",
    "report_every": "1",
    "horizon": "5",
    "levels": "0.1,0.9",
}


@pytest.fixture
def scored(bench):
    """Register a version with a new run: crps None gives no metrics, `params` override SCORED."""

    def register(name, crps, tags, **params):
        client = bench.store.client
        with tracking.start(bench.settings, "train", name) as run:
            run.params(SCORED | params)
            run.metrics({"crps": crps} if crps else {"seconds": 1.0})
        if name not in bench.store.names():
            client.create_registered_model(name)
        client.create_model_version(name, bench.template.source, run.run_id, tags=tags)

    return register


def test_compare_sorts_by_data_set_and_warns_that_other_rows_give_other_numbers(scored, cli):
    """A worse CRPS can be the better forecast: 20 stocks move more than two indices."""
    scored("of_the_panel", 0.0113, {"data": "panel", "data_digest": "0a"})
    for crps in (0.0065, None, 0.0061):
        scored("of_bars", crps, {"data": "bars", "data_digest": "1b"})
    scored("of_old_days", 0.0050, {})
    code, out, err = cli("compare", "of_the_panel", "of_old_days", "of_bars", "--json")
    rows = [(row["data"], row["model"], row["crps"]) for row in json.loads(out)]
    assert code == 0
    assert rows == [
        ("bars", "of_bars", 0.0061),
        ("bars", "of_bars", 0.0065),
        ("bars", "of_bars", None),
        ("panel", "of_the_panel", 0.0113),
        (None, "of_old_days", 0.0050),
    ]
    assert err == (
        "warning: these versions were scored on different rows (data, data_digest differ), "
        "so their numbers cannot be compared, only skill_vs_fhs within one data set; "
        "`python -m jobs evaluate` scores on equal rows\n"
    )
    assert cli("compare", "of_bars")[2] == ""


@pytest.mark.parametrize("params", [{"report_every": "5"}, {"levels": "0.05,0.95"}])
def test_compare_warns_of_another_report_on_the_same_data(scored, cli, params):
    tags = {"data": "bars", "data_digest": "1b"}
    name = f"report_of_{next(iter(params))}"
    scored(name, 0.0065, tags)
    # `mlflow run` logs an empty `levels` first, and the job then adds `used_levels`.
    scored(name, 0.0064, tags, levels="''", used_levels=SCORED["levels"])
    scored(name, None, tags | {"data_digest": "2c"}, **params)  # without scores to compare
    assert cli("compare", name)[2] == ""
    scored(name, 0.0066, tags, **params)
    assert f" different rows ({next(iter(params))} differ), " in cli("compare", name)[2]


def test_history_answers_what_was_in_production_then(bench, cli, answer):
    name = bench.model(2)
    first = answer("promote", name, 1)
    second = answer("promote", name, 2)
    assert [row["version"] for row in answer("history", name)] == [1, 2]
    assert [row["version"] for row in answer("history", name, "--at", first["moved_at"])] == [1]
    assert [row["version"] for row in answer("history", name, "--at", second["moved_at"])] == [2]
    code, _, err = cli("history", name, "--at", "2001-01-01")
    assert code == 2
    last = err.splitlines()[-1]
    assert last == f"error: NOT_FOUND: nothing was in Production of {name} at 2001-01-01"
    assert cli("history", name, "--at", "yesterday")[0] == 2
    assert cli("history", bench.model(1), "--json")[:2] == (0, "[]\n")


def test_verify_fails_when_a_byte_differs(bench, cli, answer):
    name = bench.model(1)
    verified = {"model": name, "version": 1, "ok": True, "message": ""}
    assert answer("verify", f"{name}/1") == [verified]
    config = Path(bench.store.fetch(bench.template)) / "artifacts" / "model" / "config.json"
    content = config.read_bytes()
    config.write_bytes(content.replace(b"ewma", b"ewmb"))
    try:
        code, out, _ = cli("verify", name, "--json")
        assert cli("promote", name, 1)[0] == 1
    finally:
        config.write_bytes(content)
    assert (code, json.loads(out)[0]["ok"]) == (1, False)


def test_doctor_fails_while_something_is_out_of_line(bench, cli, answer):
    name = bench.model(2)
    answer("promote", name, 1)
    assert cli("doctor", name)[:2] == (0, "")
    bench.store.set_alias(name, "production", 2)
    code, out, _ = cli("doctor", name, "--json")
    assert (code, [finding["code"] for finding in json.loads(out)]) == (1, ["ALIAS_MOVED"])
    assert [finding["repaired"] for finding in answer("doctor", name, "--repair")] == [True]
    assert answer("doctor", name) == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("show", "nobody"), "NOT_FOUND"),
        (("show", "../etc"), "BAD_MODEL_NAME"),
        (("promote", "ewma", "99"), "NOT_FOUND"),
        (("promote", "ewma", "1", "--stage", "Prod"), "BAD_STAGE"),
        (("history", "nobody"), "NOT_FOUND"),
        (("doctor", "nobody"), "NOT_FOUND"),
        (("compare", "nobody"), "NOT_FOUND"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(cli, arguments, code):
    exit_code, out, err = cli(*arguments)
    assert (exit_code, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"error: {code}: ")
    assert "Traceback" not in err


def test_wrong_usage_is_exit_code_2(cli):
    assert cli("promote", "ewma")[0] == 2
    assert cli("promote", "ewma", "1", "--sage", "Production")[0] == 2


def test_an_mlflow_that_does_not_answer_is_one_line_and_exit_code_1(cli, monkeypatch):
    monkeypatch.setenv("KRONOS_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    code, out, err = cli("list")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith(
        "error: TRACKING_UNAVAILABLE: the MLflow server at http://127"
    )


def test_an_interrupted_verb_is_exit_code_130(cli, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "_store", interrupted)
    assert cli("list")[0] == 130
