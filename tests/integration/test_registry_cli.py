"""`python -m registry`: every verb, its output and its exit code."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from registry import __main__ as program
from registry import terminal
from registry.versions import tracking
from registry.versions.manifest import MANIFEST_TAG
from registry.versions.scored import EVALUATIONS

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
    "prune",
    "push",
    "export",
    "ui",
)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example_and_its_exit_codes(verb):
    done = CliRunner().invoke(program.app, [verb, "--help"], env={"COLUMNS": "200"})
    assert done.exit_code == 0
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
        "origin": "kronos",
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
    columns = out.splitlines()[0].split("\t")[:8]
    assert columns == ["group", "rank", "model", "version", "stage", "aliases", "data", "crps"]


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

    def register(name, crps, tags, skill=None, origins=None, **params):
        client = bench.store.client
        with tracking.start(bench.settings, "train", name) as run:
            run.params(SCORED | params)
            run.tags(origins or {})
            run.metrics({"crps": crps} if crps else {"seconds": 1.0})
            if skill is not None:
                run.metrics({"skill_vs_fhs": skill})
        if name not in bench.store.names():
            client.create_registered_model(name)
        client.create_model_version(name, bench.template.source, run.run_id, tags=tags)

    return register


def test_compare_ranks_within_groups_that_were_scored_on_the_same_rows(scored, cli):
    """A worse CRPS can be the better forecast: 20 stocks move more than two indices."""
    origins = {"scored_rows": "20 series 3f"}
    scored("of_the_panel", 0.0113, {"data": "panel", "data_digest": "0a"}, origins=origins)
    for crps in (0.0065, None, 0.0061):
        scored("of_bars", crps, {"data": "bars", "data_digest": "1b"})
    scored("of_old_days", 0.0050, {})
    code, out, err = cli("compare", "of_the_panel", "of_old_days", "of_bars", "--json")
    keys = ("group", "rank", "data", "model", "crps")
    rows = [tuple(row[key] for key in keys) for row in json.loads(out)]
    assert code == 0
    assert rows == [
        (1, 1, "bars", "of_bars", 0.0061),
        (1, 2, "bars", "of_bars", 0.0065),
        (2, 1, "panel", "of_the_panel", 0.0113),
        (3, 1, None, "of_old_days", 0.0050),
        (None, None, "bars", "of_bars", None),
    ]
    period = (
        "sessions after 2019-12-31, up to the end of the data, origins 1 session(s) apart, "
        "5 session(s) ahead, at the levels 0.1,0.9"
    )
    assert err.splitlines() == [
        f"group 1: the data set bars, {period} (the scored rows were not recorded)",
        f"group 2: the data set panel, {period}",
        f"group 3: {period} (the scored rows were not recorded)",
        "the groups were scored on different rows (data, data_digest, scored_rows differ): compare "
        "within a group only; `python -m jobs evaluate` scores on equal rows",
    ]
    assert cli("compare", "of_bars")[2] == ""


@pytest.mark.parametrize("params", [{"report_every": "5"}, {"levels": "0.05,0.95"}])
def test_another_report_on_the_same_data_is_a_group_of_its_own(scored, cli, params):
    tags = {"data": "bars", "data_digest": "1b"}
    name = f"report_of_{next(iter(params))}"
    scored(name, 0.0065, tags)
    # `mlflow run` logs an empty `levels` first, and the job then adds `used_levels`.
    scored(name, 0.0064, tags, levels="''", used_levels=SCORED["levels"])
    scored(name, None, tags | {"data_digest": "2c"}, **params)  # without scores to compare
    assert cli("compare", name)[2] == ""
    scored(name, 0.0050, tags, **params)
    _, out, err = cli("compare", name, "--json")
    assert f" different rows ({next(iter(params))} differ): " in err
    rows = [row for row in json.loads(out) if row["group"]]
    ranks = {row["crps"]: row["rank"] for row in rows}
    assert ranks == {0.0050: 1, 0.0064: 1, 0.0065: 2}
    assert len({row["group"] for row in rows}) == 2


def test_promote_says_how_the_newcomer_stands_against_production_and_fhs(
    bench, scored, cli, answer
):
    name = "newcomers"
    tags = {"data": "bars", "data_digest": "1b", MANIFEST_TAG: bench.template.tags[MANIFEST_TAG]}
    scored(name, 0.0064, tags, skill=0.021)
    scored(name, 0.0060, tags, skill=-0.003)
    scored(name, 0.0050, tags, report_every="5")
    scored(name, None, tags)
    first = "newcomers/1 has CRPS 0.006400, 2.10% better than fhs"
    assert cli("promote", name, 1)[2] == f"{first}; nothing is in Production to compare it with\n"
    assert cli("promote", name, 1)[2] == ""
    second = (
        "newcomers/2 has CRPS 0.006000, 0.30% worse than fhs; on the same rows newcomers/1 in "
        "Production has 0.006400, so the newcomer is 6.25% better"
    )
    assert cli("promote", name, 2, "--dry-run")[2] == f"{second}\n"
    assert answer("promote", name, 2)["standing"] == second
    evaluate = "`python -m jobs evaluate newcomers/{} newcomers/2` scores on equal rows"
    assert cli("promote", name, 3, "--stage", "Staging")[2] == (
        "newcomers/3 has CRPS 0.005000; newcomers/2 in Production was scored on other rows "
        f"(report_every); {evaluate.format(3)}\n"
    )
    assert cli("promote", name, 4, "--stage", "Staging")[2] == (
        f"newcomers/4 was never scored; {evaluate.format(4)}\n"
    )
    for number, crps in ((2, 0.0040), (3, 0.0041)):
        evaluation(bench, name, number, crps)
    assert answer("promote", name, 3)["standing"] == (
        "newcomers/3 has CRPS 0.004100; on the same rows newcomers/2 in Production has 0.004000, "
        "so the newcomer is 2.50% worse"
    )


def test_promote_and_roll_back_say_which_data_set_is_forecast_now(bench, scored, cli):
    name = "of_several"
    for data, calendar in (("wide", "XNYS"), ("crypto", "24/7"), ("narrow", "XNYS")):
        tags = {"data": data, MANIFEST_TAG: bench.template.tags[MANIFEST_TAG]}
        scored(name, None, tags, origins={"calendar": calendar, "universe": "x@1"})
    assert cli("promote", name, 1)[1] == f"{name} version 1 (data wide) is in Production\n"
    never = f"{name}/2 was never scored; "
    err = cli("promote", name, 2)[2].splitlines()
    assert err[0] == never + "they are of other data sets (crypto, wide)"
    assert err[1].startswith(f"{name} now forecasts crypto in place of wide")
    _, out, err = cli("rollback", name)
    assert out.startswith(f"{name} version 1 (data wide) is in Production again")
    assert err.startswith(f"{name} now forecasts wide in place of crypto")
    assert f"evaluate {name}/3 {name}/1` scores" in cli("promote", name, 3, "--dry-run")[2]


def evaluation(bench, name, number, crps):
    """The run of an evaluation of a version."""
    version = bench.store.version(name, number)
    tags = {"model": name, "version": str(number), "source_run": version.run_id, "data": "panel"}
    with tracking.start(bench.settings, EVALUATIONS, version.reference, tags=tags) as run:
        run.params(SCORED)
        run.metrics({"crps": crps})


def test_words_of_users_are_escaped_where_they_are_printed(bench, cli, answer):
    name = bench.model(1)
    why = "line\nfeed\t\x1b[31mred\u202e"
    promoted = answer("promote", name, 1, "--why", why)
    bench.store.set_tag(name, 1, "note", why)
    escaped = "line\\nfeed\\t\\x1b[31mred\\u202e"
    for verb, reference in (("history", name), ("show", f"{name}/1")):
        code, out, _ = cli(verb, reference)
        assert code == 0
        assert escaped in out
        assert "\x1b" not in out
    assert promoted["why"] == why
    assert answer("history", name)[0]["why"] == why  # in JSON as it was written


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
