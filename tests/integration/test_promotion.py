"""Stages end to end: real MLflow, ledger and files on SQLite and PostgreSQL, real kills."""

import itertools
import shutil
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from registry.errors import BadParameter, Conflict, Corrupt, KronosError, NotFound
from registry.ledger import database
from registry.ledger.promotions import GENESIS, Decision, Ledger, Record, chain_hash, seal_of
from registry.promotion import audit, doctor, moves
from registry.promotion.opening import REGISTRY_TAG, open_ledger
from registry.settings import Settings
from registry.versions import connection, manifest
from registry.versions.manifest import MANIFEST_TAG
from serving.modes import choose

WHO = {"who": "ann@desk", "why": "better"}


def promote(bench, name, version, stage="Production"):
    return moves.promote(bench.store, bench.ledger, name, version, stage, **WHO)


def rollback(bench, name):
    return moves.rollback(bench.store, bench.ledger, name, **WHO)


def examine(bench, name, repair=False):
    return doctor.examine(bench.store, bench.ledger, name, repair=repair)


def codes(findings):
    return [finding.code for finding in findings]


def assert_in_line(bench, name):
    """Nothing to repair, a valid chain, and exactly one audit run for each row."""
    assert examine(bench, name) == []
    records = bench.ledger.records(name)
    assert all(record.completed_at for record in records)
    runs = bench.audit_runs(name)
    promotions = [run.data.tags["kronos.promotion"] for run in runs]
    assert sorted(promotions) == sorted(record.hash for record in records)
    run_ids = {run.info.run_id for run in runs}
    assert run_ids == {record.audit_run_id for record in records}
    assert {run.info.status for run in runs} <= {"FINISHED"}
    production = bench.aliases(name).get("production")
    expected = f"In Production: version {production}," if production else "Nothing is in Production"
    assert description(bench, name).startswith(expected)


def description(bench, name):
    return bench.store.client.get_registered_model(name).description or ""


# --- promote ----------------------------------------------------------------------------------


def test_promoting_moves_alias_tag_and_mlflow_stage_and_archives_the_rest(bench):
    name = bench.model(2)
    promote(bench, name, 1)
    record = promote(bench, name, 2)
    assert bench.aliases(name) == {"production": 2, "previous": 1}
    assert bench.mlflow_stages(name) == bench.tags(name) == {1: "Archived", 2: "Production"}
    assert (record.version, record.from_version) == (2, 1)
    assert (record.who, record.why) == ("ann@desk", "better")
    assert record.claimed_at <= record.moved_at <= record.completed_at
    assert_in_line(bench, name)


def test_descriptions_say_what_is_in_production_until_a_person_edits_them(bench):
    name, client = bench.model(2), bench.store.client
    found = client.get_experiment_by_name("forecasters")
    experiment = found.experiment_id if found else client.create_experiment("forecasters")

    def note():
        return client.get_experiment(experiment).tags["mlflow.note.content"]

    promote(bench, name, 1)
    line = "In Production: version 1, CRPS 0.005000, +2.00 % against fhs."
    assert description(bench, name).splitlines()[0] == line
    row = f"| {name} | version 1, CRPS 0.005000, +2.00 % against fhs |"
    assert row in note().splitlines()
    promote(bench, name, 2)
    assert description(bench, name).startswith("In Production: version 2,")
    rollback(bench, name)
    assert description(bench, name).startswith("In Production: version 1,")
    by_hand = description(bench, name).replace("CRPS", "Ann's CRPS", 1)
    client.update_registered_model(name, by_hand)
    client.set_experiment_tag(experiment, "mlflow.note.content", "Ann's")
    promote(bench, name, 2)
    assert (description(bench, name), note()) == (by_hand, "Ann's")
    client.set_experiment_tag(experiment, "mlflow.note.content", "")


def test_a_description_that_cannot_be_written_is_no_obstacle_and_the_next_promotion_writes_it(
    bench, monkeypatch, caplog
):
    name = bench.model(2)

    def refused(*_):
        raise MlflowException("read-only")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "update_registered_model", refused)
        assert promote(bench, name, 1).completed_at is not None
    assert f"the descriptions of {name} are not up to date: read-only" in caplog.text
    assert description(bench, name) == ""
    promote(bench, name, 2)
    assert_in_line(bench, name)


def test_what_its_run_measured_is_evidence(bench):
    record = promote(bench, "ewma", bench.template.version)
    evidence = record.to_json()["evidence"]
    metrics = {name: evidence[name] for name in moves.METRICS}
    assert metrics == {"crps": 0.005, "coverage_90": 0.91, "skill_vs_fhs": 0.02}
    assert evidence["manifest_sha256"] == bench.template.tags["manifest_sha256"]


def test_the_audit_run_says_who_moved_what_where_and_why(bench):
    name = bench.model(1)
    promote(bench, name, 1)
    (run,) = bench.audit_runs(name)
    move = {"model": name, "version": "1", "from": "none", "stage": "Production"}
    params = {**move, "who": "ann@desk", "why": "better"}
    assert params.items() <= run.data.params.items()
    assert [f.path for f in bench.store.client.list_artifacts(run.info.run_id)] == ["record.json"]


def test_promoting_what_is_there_already_writes_nothing(bench):
    name = bench.model(1)
    first = promote(bench, name, 1)
    assert promote(bench, name, 1) == first
    assert len(bench.ledger.records(name)) == len(bench.audit_runs(name)) == 1


def test_staging_is_a_place_of_its_own_and_promotion_leaves_it(bench):
    name = bench.model(3)
    promote(bench, name, 1)
    promote(bench, name, 2, "Staging")
    assert bench.aliases(name) == {"production": 1, "staging": 2}
    promote(bench, name, 3, "Staging")
    assert bench.mlflow_stages(name) == {1: "Production", 2: "Archived", 3: "Staging"}
    promote(bench, name, 3)
    assert bench.aliases(name) == {"production": 3, "previous": 1}
    assert_in_line(bench, name)


def test_archiving_empties_staging_and_is_refused_for_production(bench):
    name = bench.model(2)
    promote(bench, name, 1)
    promote(bench, name, 2, "Staging")
    promote(bench, name, 2, "Archived")
    assert bench.aliases(name) == {"production": 1}
    assert bench.mlflow_stages(name)[2] == "Archived"
    for stage in ("Archived", "Staging"):
        with pytest.raises(Conflict, match="version 1 is in Production"):
            promote(bench, name, 1, stage)
    assert_in_line(bench, name)


def test_unknown_things_are_refused(bench):
    name = bench.model(1)
    with pytest.raises(NotFound, match="has no version 9"):
        promote(bench, name, 9)
    with pytest.raises(NotFound, match="no model 'nobody'"):
        promote(bench, "nobody", 1)
    with pytest.raises(BadParameter, match="expected one of Production, Staging, Archived"):
        promote(bench, name, 1, "Prod")
    with pytest.raises(BadParameter, match="who is empty"):
        moves.promote(bench.store, bench.ledger, name, 1, who=" ", why="")
    assert bench.ledger.records(name) == []


@pytest.mark.parametrize(
    ("why", "hidden"),
    [
        ("as in postgresql://anna:pw1@db/x", "as in postgresql://***@db/x"),
        ("password=pw1 was wrong", "password=*** was wrong"),
    ],
)
def test_a_secret_in_why_is_refused_because_a_row_is_for_ever(bench, why, hidden):
    name = bench.model(1)
    with pytest.raises(BadParameter, match="leave out what is ") as refused:
        moves.promote(bench.store, bench.ledger, name, 1, who="anna@desk", why=why)
    assert refused.value.message.endswith(f"here: {hidden}")
    assert "pw1" not in refused.value.message
    assert bench.ledger.records(name) == []


# --- roll back and history --------------------------------------------------------------------


def test_rolling_back_goes_to_what_was_there_before_as_often_as_there_was_something(bench):
    name = bench.model(3)
    for version in (1, 2, 3):
        promote(bench, name, version)
    record = rollback(bench, name)
    assert (record.action, record.version, record.from_version) == ("rollback", 2, 3)
    assert bench.aliases(name) == {"production": 2, "previous": 1}
    assert bench.mlflow_stages(name) == {1: "Archived", 2: "Production", 3: "Archived"}
    assert rollback(bench, name).version == 1
    assert bench.aliases(name) == {"production": 1}
    with pytest.raises(Conflict, match="before 1"):
        rollback(bench, name)
    assert_in_line(bench, name)


def test_history_says_what_was_in_production_at_an_instant(bench):
    name = bench.model(2)
    first = promote(bench, name, 1).moved_at
    second = promote(bench, name, 2).moved_at
    back = rollback(bench, name).moved_at

    def at(instant):
        return [record.version for record in moves.history(bench.ledger, name, instant)]

    just_before = timedelta(microseconds=1)
    assert [at(instant - just_before) for instant in (first, second, back)] == [[], [1], [2]]
    assert [at(instant) for instant in (first, second, back)] == [[1], [2], [1]]
    assert at(second.replace(tzinfo=None)) == [2]  # naive times are UTC
    assert at(datetime.now(UTC)) == [1]
    actions = [record.action for record in moves.history(bench.ledger, name)]
    assert actions == ["promote", "promote", "rollback"]


# --- bytes ------------------------------------------------------------------------------------


@pytest.fixture
def damaged(bench, tmp_path):
    """A model with version 1 in Production and damaged files; they are restored afterwards."""
    name = bench.model(2)
    promote(bench, name, 1)
    root = bench.store.fetch(bench.template)
    shutil.copytree(root, tmp_path / "kept")
    victim = Path(root) / "artifacts" / "model" / "config.json"
    flipped = bytearray(victim.read_bytes())
    flipped[3] ^= 1
    victim.write_bytes(bytes(flipped))
    yield name, root
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(tmp_path / "kept", root)


def test_a_version_with_a_flipped_byte_is_not_promoted_and_nothing_changes(bench, damaged):
    name, _ = damaged
    with pytest.raises(Corrupt, match=r"config\.json differs"):
        promote(bench, name, 2)
    assert bench.aliases(name) == {"production": 1}
    assert len(bench.ledger.records(name)) == 1


def test_doctor_reports_damaged_and_missing_files_and_cannot_repair_them(bench, damaged):
    name, root = damaged
    assert codes(examine(bench, name, repair=True)) == ["BAD_FILES", "BAD_FILES"]
    shutil.rmtree(root)
    findings = examine(bench, name, repair=True)
    assert codes(findings) == ["BAD_FILES", "BAD_FILES"]
    assert not any(finding.repaired for finding in findings)


def test_a_dead_claim_on_a_version_that_went_bad_is_withdrawn(bench, promoter):
    name = bench.model(3)
    promote(bench, name, 1)
    assert promoter(killed_after_step=0, name=name, version=2) == 137
    bench.store.client.delete_model_version(name, "2")
    assert promote(bench, name, 3).from_version == 1
    assert [r.moved_at is None for r in bench.ledger.records(name)] == [False, True, False]
    assert bench.aliases(name) == {"production": 3, "previous": 1}


def test_a_dead_claim_whose_alias_was_moved_outside_since_gives_way(bench, promoter):
    name = bench.model(4)
    promote(bench, name, 1)
    assert promoter(killed_after_step=0, name=name, version=2) == 137  # before the alias moved
    bench.store.set_alias(name, "production", 3)
    examine(bench, name, repair=True)
    assert promoter(killed_after_step=1, name=name, version=4) == 137  # after it moved
    bench.store.set_alias(name, "production", 1)
    examine(bench, name, repair=True)
    records = bench.ledger.records(name)
    assert [(record.action, record.version, record.moved_at is not None) for record in records] == [
        ("promote", 1, True),
        ("promote", 2, False),
        ("adopt", 3, True),
        ("promote", 4, True),
        ("adopt", 1, True),
    ]
    assert bench.aliases(name) == {"production": 1, "previous": 4}
    assert examine(bench, name) == []


# --- killed and contended ---------------------------------------------------------------------


def assert_serves(bench, name, versions):
    """The alias and MLflow's stage each name exactly one of these versions."""
    assert bench.store.resolve(name).version in versions
    stages = bench.mlflow_stages(name).items()
    (production,) = [version for version, stage in stages if stage == "Production"]
    assert production in versions


def test_a_promotion_killed_before_any_write_serves_old_or_new_and_is_completed_by_the_next(
    bench, promoter
):
    name = bench.model(2)
    promote(bench, name, 1)
    for n in itertools.count(1):
        old = bench.store.resolve(name).version
        new = 3 - old
        code = promoter(killed_before_write=n, name=name, version=new)
        assert_serves(bench, name, {old, new})
        if code == 0:
            break
        assert code == 137
        promote(bench, name, new)
        assert bench.aliases(name) == {"production": new, "previous": old}
        assert len(bench.audit_runs(name)) == len(bench.ledger.records(name))
    assert n > 2 * len(moves.STEPS)
    assert_in_line(bench, name)


def test_a_roll_back_killed_after_any_step_serves_old_or_new_and_doctor_completes_it(
    bench, promoter
):
    name = bench.model(2)
    promote(bench, name, 1)
    for n in range(len(moves.STEPS)):
        promote(bench, name, 2)
        assert promoter(killed_after_step=n, name=name, version=0) == 137
        assert_serves(bench, name, {1, 2})
        assert codes(examine(bench, name, repair=True))[0] == "UNFINISHED"
        assert bench.aliases(name) == {"production": 1}
        assert len(bench.audit_runs(name)) == len(bench.ledger.records(name))
    assert_in_line(bench, name)


def test_a_live_claim_of_another_process_is_a_conflict_and_a_dead_one_is_completed(bench, promoter):
    name = bench.model(3)
    promote(bench, name, 1)
    pid = promoter(held=2, name=name)
    while len(bench.ledger.records(name)) < 2:
        pass
    with pytest.raises(Conflict, match=rf"child@test is changing {name} since .* process {pid}"):
        promote(bench, name, 3)
    assert codes(examine(bench, name, repair=True)) == ["IN_PROGRESS"]
    assert promoter(kill=pid) == -9
    assert codes(examine(bench, name)) == ["UNFINISHED"]
    promote(bench, name, 3)
    assert [r.version for r in bench.ledger.records(name)] == [1, 2, 3]
    assert bench.aliases(name) == {"production": 3, "previous": 2}
    assert_in_line(bench, name)


def test_a_failing_step_lets_go_of_the_claim(bench, monkeypatch):
    name = bench.model(2)
    promote(bench, name, 1)

    def fails(_):
        raise OSError("the network is down")

    with monkeypatch.context() as patch:
        patch.setattr(moves, "STEPS", (*moves.STEPS[:2], fails))
        with pytest.raises(OSError, match="network"):
            promote(bench, name, 2)
    assert codes(examine(bench, name))[0] == "UNFINISHED"
    assert promote(bench, name, 2).sequence == 2
    assert_in_line(bench, name)


def test_processes_that_promote_at_once_come_one_after_the_other(bench, promoter):
    name = bench.model(3)
    assert promoter(raced=[1, 2, 3], name=name) == [0, 0, 0]
    records = bench.ledger.records(name)
    versions = [record.version for record in records]
    assert sorted(versions) == [1, 2, 3]
    assert [record.from_version for record in records] == [None, *versions[:-1]]
    assert bench.aliases(name) == {"production": versions[-1], "previous": versions[-2]}
    assert_in_line(bench, name)


def test_processes_that_open_a_new_ledger_at_once_all_find_it_migrated(bench, promoter, tmp_path):
    url = bench.ledger.engine.url
    if url.drivername == "sqlite":
        new_url = url.set(database=str(tmp_path / "fresh.db"))
    else:
        new_url = url.set(database="fresh")
        connection = bench.ledger.engine.connect()
        with connection.execution_options(isolation_level="AUTOCOMMIT"):
            connection.exec_driver_sql("create database fresh")
    uri = new_url.render_as_string(hide_password=False)
    assert promoter(opened=3, uri=uri) == [0, 0, 0]
    with Ledger(Settings(ledger_uri=uri), "a registry") as ledger:
        assert ledger.models() == []


# --- moved outside ----------------------------------------------------------------------------


@pytest.fixture
def moved(bench):
    """A model with 4 versions; version 1 was promoted, then version 2."""
    name = bench.model(4)
    promote(bench, name, 1)
    promote(bench, name, 2)
    return name


def test_two_versions_in_mlflow_production_are_repaired(bench, moved):
    with pytest.warns(FutureWarning, match="stages will be removed"):
        bench.store.client.transition_model_version_stage(
            moved, "3", "Production", archive_existing_versions=False
        )
    (finding,) = examine(bench, moved)
    assert (finding.code, finding.repair) == ("WRONG_STAGE", "move it to Archived")
    assert finding.message == "MLflow has version 3 in stage Production, the ledger in no stage"
    assert examine(bench, moved, repair=True)[0].repaired
    assert bench.mlflow_stages(moved) == {1: "Archived", 2: "Production", 3: "Archived", 4: "None"}
    assert_in_line(bench, moved)


def test_an_alias_moved_outside_is_adopted(bench, moved):
    bench.store.set_alias(moved, "production", 4)
    assert codes(examine(bench, moved)) == ["ALIAS_MOVED"]
    assert examine(bench, moved, repair=True)[0].repaired
    last = bench.ledger.records(moved)[-1]
    assert (last.action, last.version, last.from_version) == ("adopt", 4, 2)
    assert bench.aliases(moved) == {"production": 4, "previous": 2}
    assert_in_line(bench, moved)
    assert rollback(bench, moved).version == 2


def test_promoting_adopts_first_what_was_moved_outside(bench, moved):
    bench.store.set_alias(moved, "production", 4)
    assert promote(bench, moved, 3).from_version == 4
    actions = [record.action for record in bench.ledger.records(moved)]
    assert actions == ["promote", "promote", "adopt", "promote"]
    assert_in_line(bench, moved)


def test_a_staging_alias_set_outside_is_adopted(bench, moved):
    bench.store.set_alias(moved, "staging", 4)
    examine(bench, moved, repair=True)
    assert bench.mlflow_stages(moved)[4] == "Staging"
    assert_in_line(bench, moved)


def test_deleted_aliases_and_wrong_tags_are_restored(bench, moved):
    bench.store.delete_alias(moved, "production")
    bench.store.set_alias(moved, "previous", 3)
    bench.store.set_tag(moved, 1, "stage", "Production")
    bench.store.delete_tag(moved, 2, "stage")
    expected = ["ALIAS_LOST", "WRONG_PREVIOUS", "WRONG_TAG", "WRONG_TAG"]
    assert codes(examine(bench, moved)) == expected
    assert codes(examine(bench, moved, repair=True)) == expected
    assert bench.aliases(moved) == {"production": 2, "previous": 1}
    assert bench.tags(moved) == {1: "Archived", 2: "Production", 3: None, 4: None}
    assert_in_line(bench, moved)


def test_a_deleted_production_version_is_reported_and_the_next_promotion_skips_it(bench, moved):
    bench.store.client.delete_model_version(moved, "2")
    assert codes(examine(bench, moved)) == ["VERSION_GONE"]
    promote(bench, moved, 3)
    assert bench.aliases(moved) == {"production": 3, "previous": 1}
    assert_in_line(bench, moved)
    assert rollback(bench, moved).version == 1


@pytest.mark.parametrize("change", ["why = 'forged'", "evidence = '{'"])
def test_a_broken_chain_is_said_and_nothing_is_appended_or_repaired(bench, moved, cli, change):
    forge = f"update promotions set {change} where model = '{moved}' and sequence = 1"
    with database.write(bench.ledger.engine) as connection:
        connection.exec_driver_sql(forge)
    bench.store.delete_alias(moved, "production")
    (finding,) = examine(bench, moved, repair=True)
    assert (finding.code, finding.repaired) == ("BROKEN_CHAIN", False)
    for act in (lambda: promote(bench, moved, 3), lambda: rollback(bench, moved)):
        with pytest.raises(Corrupt, match=f"promotion 1 of {moved} was changed") as caught:
            act()
        assert caught.value.code == "BROKEN_CHAIN"
    assert "production" not in bench.aliases(moved)
    code, _, err = cli("history", moved)
    assert code == 1
    assert err.startswith("error: BROKEN_CHAIN: ")


def test_a_time_that_is_none_is_refused_by_postgresql_and_a_finding_in_sqlite(bench, moved):
    forge = f"update promotions set moved_at = 'soon' where model = '{moved}' and sequence = 2"

    def act():
        with database.write(bench.ledger.engine) as connection:
            connection.exec_driver_sql(forge)

    if bench.ledger.engine.dialect.name == "postgresql":
        with pytest.raises(KronosError, match="invalid input syntax"):
            act()
        assert_in_line(bench, moved)
        return
    act()
    (finding,) = examine(bench, moved, repair=True)
    assert (finding.code, finding.repaired) == ("BROKEN_CHAIN", False)
    assert f"a promotion of {moved} cannot be read" in finding.message


# --- audit runs -------------------------------------------------------------------------------


def execute(bench, name, statement):
    """SQL on the rows of one model, as somebody with the ledger's file can do it."""
    with database.write(bench.ledger.engine) as connection:
        connection.exec_driver_sql(f"{statement} where model = '{name}'")


def hashed_anew(bench, name):
    """The whole chain of a model, forged: another reason in the first row, right hashes in all."""
    rows = sa.table("promotions", *(sa.column(key) for key in ("id", *Record.__annotations__)))
    previous = GENESIS
    for record in bench.ledger.records(name):
        forged = asdict(record) | {"previous_hash": previous, "why": "forged"}
        forged["hash"] = chain_hash(forged)
        previous = forged["seal"] = seal_of(forged)
        keys = ("why", "previous_hash", "hash", "seal")
        statement = sa.update(rows).where(rows.c.id == record.id)
        with database.write(bench.ledger.engine) as connection:
            connection.execute(statement.values({key: forged[key] for key in keys}))
    bench.ledger.verify_chain(name)  # the chain alone does not tell


def last_sealed_anew(bench, name):
    """An earlier completion of the last row, with the seal that fits it."""
    record = bench.ledger.records(name)[-1]
    forged = asdict(record) | {"completed_at": record.completed_at - timedelta(days=1)}
    changed = f"completed_at = '{forged['completed_at']:%Y-%m-%d %H:%M:%S.%f}'"
    if bench.ledger.engine.dialect.name == "postgresql":
        changed = f"completed_at = '{forged['completed_at'].isoformat()}'"
    execute(bench, name, f"update promotions set {changed}, seal = '{seal_of(forged)}'")
    bench.ledger.verify_chain(name)


def withdrawn_anew(bench, name):
    """The last row, forged as one that moved nothing."""
    record = bench.ledger.records(name)[-1]
    seal = seal_of(asdict(record) | {"moved_at": None})
    execute(bench, name, f"update promotions set moved_at = null, seal = '{seal}'")
    bench.ledger.verify_chain(name)


def unfinished_at_another_time(bench, name):
    """The last row, forged as one of a killed process, with another time."""
    time = "'2020-01-01 00:00:00.000000'"
    values = f"moved_at = {time}, completed_at = null, seal = null, host = null"
    execute(bench, name, f"update promotions set {values}")
    bench.ledger.verify_chain(name)


def lost_by_a_forged_row(bench, name):
    """All rows replaced by a forged adoption which says that they were missing."""
    hashes = [record.hash for record in bench.ledger.records(name)]
    execute(bench, name, "delete from promotions")
    decision = Decision(
        model=name,
        action="adopt",
        stage="Archived",
        version=2,
        from_version=None,
        evidence={audit.LOST: hashes},
    )
    bench.ledger.withdraw(bench.ledger.claim(decision, None, who="eve@desk", why=""))


def update(change):
    return lambda bench, name: execute(bench, name, f"update promotions set {change}")


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (update("moved_at = completed_at"), "its seal differs"),
        (update("moved_at = null"), "its seal differs"),
        (update("audit_run_id = 'another'"), "its seal differs"),
        (update("completed_at = null"), "its seal differs"),
        (hashed_anew, "its hash differs from those of the audit runs"),
        (last_sealed_anew, "its audit run holds another seal"),
        (withdrawn_anew, "by its audit run, it moved"),
        (unfinished_at_another_time, "its audit run holds another time"),
    ],
    ids=[
        "moved",
        "not moved",
        "audit run",
        "unfinished",
        "hashed anew",
        "sealed anew",
        "withdrawn anew",
        "unfinished anew",
    ],
)
def test_an_edit_of_the_ledger_is_found_and_stops_promotions(bench, cli, forge, reason):
    name = bench.model(2)
    promote(bench, name, 1)
    forge(bench, name)
    (finding,) = examine(bench, name, repair=True)
    assert (finding.code, finding.repaired) == ("BROKEN_CHAIN", False)
    assert reason in finding.message
    rows = len(bench.ledger.records(name))
    for act in (lambda: promote(bench, name, 2), lambda: rollback(bench, name)):
        with pytest.raises(Corrupt, match=reason):
            act()
    with pytest.raises(Corrupt, match=reason):
        moves.plan(bench.store, bench.ledger, name, 2, "Production")
    assert len(bench.ledger.records(name)) == rows
    if forge is hashed_anew:
        code, _, err = cli("history", name)
        assert (code, "BROKEN_CHAIN" in err) == (1, True)


def test_rows_cut_off_at_the_end_are_found_and_their_loss_is_recorded(bench, moved):
    lost = bench.ledger.records(moved)[-1].hash
    execute(bench, f"{moved}' and sequence = '2", "delete from promotions")
    with pytest.raises(Corrupt, match=r"without a row in the ledger: 1; .*--repair"):
        promote(bench, moved, 3)
    (finding,) = examine(bench, moved)
    assert finding.code == "ROWS_MISSING"
    assert finding.message.endswith("1; the last is a promote of version 2 to Production")
    assert codes(examine(bench, moved, repair=True)) == ["ROWS_MISSING"]
    record = bench.ledger.records(moved)[-1]
    assert (record.action, record.version, record.from_version) == ("adopt", 2, 1)
    assert record.why == "rows of the ledger are missing; audit runs without a row: 1"
    assert record.facts == {"rows_missing": [lost]}
    assert examine(bench, moved) == []
    assert promote(bench, moved, 3).from_version == 2


def test_a_row_without_an_audit_run_explains_no_missing_rows(bench, moved):
    lost_by_a_forged_row(bench, moved)
    with pytest.raises(Corrupt, match="without a row in the ledger: 2"):
        promote(bench, moved, 3)
    assert codes(examine(bench, moved)) == ["ROWS_MISSING"]


def test_a_ledger_that_was_lost_is_said_and_settled_for_models_without_an_alias_too(bench):
    name = bench.model(1)
    promote(bench, name, 1, "Archived")
    execute(bench, name, "delete from promotions")
    assert codes(examine(bench, name, repair=True)) == ["ROWS_MISSING"]
    (record,) = bench.ledger.records(name)
    assert (record.action, record.stage, record.version) == ("adopt", "Archived", 1)
    assert examine(bench, name) == []


def test_an_audit_run_that_is_gone_is_a_finding_and_no_obstacle(bench):
    name = bench.model(2)
    run_id = promote(bench, name, 1).audit_run_id
    bench.store.client.delete_run(run_id)  # in the UI; the run can be restored
    assert examine(bench, name) == []
    bench.store.client._tracking_client.store._hard_delete_run(run_id)
    (finding,) = examine(bench, name, repair=True)
    assert (finding.code, finding.repaired) == ("AUDIT_GONE", False)
    assert promote(bench, name, 2).from_version == 1


def test_a_run_that_is_gone_and_a_row_that_was_lost_are_two_findings_and_no_forgery(bench, moved):
    first = bench.ledger.records(moved)[0]
    bench.store.client._tracking_client.store._hard_delete_run(first.audit_run_id)
    execute(bench, f"{moved}' and sequence = '2", "delete from promotions")
    assert codes(examine(bench, moved, repair=True)) == ["ROWS_MISSING", "AUDIT_GONE"]
    assert promote(bench, moved, 3).from_version == 2


@pytest.mark.parametrize(
    "garbled",
    ["why = x'00ff'", "moved_at = '5'", "version = 9e999", "evidence = 'null'", "rule = 'x'"],
)
def test_a_garbled_row_is_a_finding_and_other_models_are_served(bench, moved, garbled):
    of_another_type = garbled.partition(" ")[0] in ("moved_at", "version", "rule")
    if bench.ledger.engine.dialect.name == "postgresql" and of_another_type:
        with pytest.raises(KronosError):
            update(garbled)(bench, moved)
        assert_in_line(bench, moved)
        return
    other = bench.model(1)
    promote(bench, other, 1)
    update(garbled)(bench, moved)
    assert codes(examine(bench, moved, repair=True)) == ["BROKEN_CHAIN"]
    with pytest.raises(Corrupt):
        promote(bench, moved, 3)
    with open_ledger(bench.store) as ledger:
        assert choose(bench.store, ledger, other, "auto").version.version == 1


def test_an_experiment_that_was_renamed_or_tagged_anew_is_said_before_anything_moves(bench, moved):
    client, store = bench.store.client, bench.store
    experiment = client.get_experiment_by_name("promotions")
    client.rename_experiment(experiment.experiment_id, "audits")
    with pytest.raises(Corrupt, match="it was renamed or its tag was changed; undo that"):
        open_ledger(store)
    created = client.get_experiment_by_name("promotions")
    client.rename_experiment(created.experiment_id, f"empty {moved}")
    client.rename_experiment(experiment.experiment_id, "promotions")
    client.set_experiment_tag(experiment.experiment_id, REGISTRY_TAG, "another")
    with pytest.raises(Corrupt, match="it was renamed or its tag was changed; undo that"):
        open_ledger(store)
    client.set_experiment_tag(experiment.experiment_id, REGISTRY_TAG, bench.ledger.registry)
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(Conflict, match="mlflow experiments restore --experiment-id"):
        open_ledger(store)
    client.restore_experiment(experiment.experiment_id)
    open_ledger(store).close()
    assert_in_line(bench, moved)


# --- one ledger, several registries -----------------------------------------------------------


def connected(bench):
    """A process works on one registry at a time: MLflow's default is set again."""
    connection.connect(bench.settings)
    return bench


def test_two_registries_in_turn_on_one_ledger_both_stay_in_line(bench, second):
    name = connected(bench).model_of_its_own().name
    promote(bench, name, 1)
    connected(second).model_of_its_own(name)
    second.model_of_its_own(name)
    assert examine(second, name, repair=True) == []
    assert second.aliases(name) == {}
    promote(second, name, 2)
    promote(second, name, 1)
    promote(connected(bench), name, 1, "Production")
    rollback(connected(second), name)
    for registry, versions in ((bench, [1]), (second, [2, 1, 2])):
        assert_in_line(connected(registry), name)
        records = registry.ledger.records(name)
        assert [record.version for record in records] == versions
        assert [record.sequence for record in records] == list(range(1, len(versions) + 1))
    assert bench.ledger.registry != second.ledger.registry


def test_rows_of_the_older_rule_take_the_registry_of_their_audit_run(bench, second):
    """As commit 9dc887b left them: one chain for both registries, no registry, no seal."""
    name = connected(bench).model_of_its_own().name
    connected(second).model_of_its_own(name)
    rows = []
    for registry in (bench, second):
        promote(connected(registry), name, 1)
        rows += registry.ledger.records(name)
    previous = GENESIS
    for sequence, (registry, record) in enumerate(zip((bench, second), rows, strict=True), 1):
        older = {"sequence": sequence, "previous_hash": previous, "rule": 1}
        previous = older["hash"] = chain_hash(asdict(record) | older)
        values = ", ".join(f"{key} = '{value}'" for key, value in older.items())
        statement = f"update promotions set {values}, registry = null, seal = null"
        execute(bench, f"{name}' and hash = '{record.hash}", statement)
        client = connected(registry).store.client
        client.set_tag(record.audit_run_id, audit.PROMOTION_TAG, older["hash"])
        client.delete_tag(record.audit_run_id, audit.SEAL_TAG)
    for sequence, registry in enumerate((bench, second), 1):
        with open_ledger(connected(registry).store) as ledger:
            (record,) = ledger.records(name)
            assert (record.sequence, record.rule) == (sequence, 1)
            assert doctor.examine(registry.store, ledger, name) == []
            moves.promote(registry.store, ledger, name, 1, "Production", **WHO)
    assert promote(connected(second), name, second.model_of_its_own(name).version).sequence == 3
    assert examine(second, name) == []


# --- bytes of a promoted version --------------------------------------------------------------


def test_a_lost_alias_is_not_given_back_to_a_version_of_other_bytes(bench, exchanged):
    bench.store.delete_alias(exchanged.name, "production")
    findings = examine(bench, exchanged.name, repair=True)
    lost = next(finding for finding in findings if finding.code == "ALIAS_LOST")
    assert lost.repair.startswith("none: promote another version; ")
    assert "is not what promotion 1 saw" in lost.repair
    assert lost.repaired is False
    assert "production" not in bench.aliases(exchanged.name)


# --- evidence ---------------------------------------------------------------------------------


@pytest.fixture
def exchanged(bench):
    """A promoted version whose files, manifest and tag were then exchanged together."""
    version = bench.model_of_its_own()
    promote(bench, version.name, 1)
    root = bench.store.fetch(version)
    (root / "artifacts" / "model" / "config.json").write_text('{"kind": "naive"}\n')
    bench.store.set_tag(version.name, 1, MANIFEST_TAG, manifest.seal(root))
    return bench.store.version(version.name, 1)


def test_an_exchanged_version_deceives_the_registry_but_not_the_ledger(bench, exchanged, cli):
    name = exchanged.name
    bench.store.fetch(exchanged)  # files, manifest and tag agree
    message = f"{exchanged.uri} is not what promotion 1 saw"
    for stage in ("Production", "Staging"):
        with pytest.raises(Corrupt, match=message):
            promote(bench, name, 1, stage)
    with pytest.raises(Corrupt, match=message):
        choose(bench.store, bench.ledger, name, "auto")
    [finding] = examine(bench, name)
    assert (finding.code, finding.repaired) == ("BAD_FILES", False)
    assert message in finding.message
    code, out, _ = cli("verify", name)
    assert code == 1
    assert "is not what promotion 1 saw" in " ".join(out.split())


def test_a_roll_back_to_an_exchanged_version_is_refused(bench):
    name = bench.model(versions=2)
    promote(bench, name, 1)
    promote(bench, name, 2)
    bench.store.set_tag(name, 1, MANIFEST_TAG, "0" * 64)
    with pytest.raises(Corrupt):
        rollback(bench, name)
    assert bench.aliases(name)["production"] == 2


def test_a_model_that_was_deleted_and_registered_anew_starts_anew(bench):
    """Rows of the ledger are of the version before; the new one of its number may be promoted."""
    old = bench.model_of_its_own()
    name = old.name
    promote(bench, name, 1)
    bench.store.client.delete_registered_model(name)
    new = bench.model_of_its_own(name)
    assert (new.version, new.tags[MANIFEST_TAG] != old.tags[MANIFEST_TAG]) == (1, True)
    (finding,) = examine(bench, name, repair=True)
    assert (finding.code, finding.repaired) == ("VERSION_GONE", True)
    assert "its model was deleted" in finding.message
    assert bench.aliases(name) == {}
    assert examine(bench, name) == []
    assert promote(bench, name, 1).sequence == 3
    assert bench.aliases(name) == {"production": 1}
    assert choose(bench.store, bench.ledger, name, "auto").version.version == 1
