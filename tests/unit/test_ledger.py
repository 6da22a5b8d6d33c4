"""The ledger's rows: the stages that follow from them, and the detection of changes."""

import sqlite3
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from registry import processes
from registry.errors import BadConfig, Conflict, Corrupt, KronosError
from registry.ledger import claims, database
from registry.ledger.promotions import (
    GENESIS,
    RULE,
    Decision,
    Ledger,
    Record,
    chain_hash,
    check_chain,
    now,
    seal_of,
    sealed,
)
from registry.processes import Process
from registry.promotion import stages
from registry.promotion.stages import ARCHIVED, PRODUCTION, STAGING
from registry.settings import Settings

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
REGISTRY = "this registry"


def row(
    sequence: int,
    action: str,
    version: int,
    stage: str = PRODUCTION,
    previous: str = GENESIS,
    **fields,
) -> Record:
    at = NOON + timedelta(hours=sequence)
    values = {
        "id": sequence, "model": "nbeats", "sequence": sequence, "action": action, "stage": stage,
        "version": version, "from_version": None, "who": "ann@desk", "why": "better",
        "evidence": "{}", "claimed_at": at, "host": None, "pid": None, "process_started": None,
        "held_since": at, "moved_at": at, "completed_at": at, "audit_run_id": None,
        "previous_hash": previous, "registry": REGISTRY, "rule": RULE, **fields,
    }  # fmt: skip
    values["hash"] = chain_hash(values)
    return Record(**values, seal=seal_of(values))


def rows(*moves: tuple) -> list[Record]:
    """Rows of (action, version[, stage]) chained to each other."""
    records: list[Record] = []
    for sequence, move in enumerate(moves, start=1):
        records.append(row(sequence, *move, previous=records[-1].end if records else GENESIS))
    return records


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(var_dir=tmp_path)


# --- expected stages --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moves", "stack"),
    [
        ([], ()),
        ([("promote", 1)], (1,)),
        ([("promote", 1), ("promote", 2), ("promote", 3)], (1, 2, 3)),
        ([("promote", 1), ("promote", 2), ("promote", 3), ("rollback", 2)], (1, 2)),
        ([("promote", 1), ("promote", 2), ("promote", 3), ("rollback", 2), ("rollback", 1)], (1,)),
        ([("promote", 1), ("promote", 2), ("rollback", 1), ("promote", 3)], (1, 3)),
        ([("promote", 1), ("promote", 2), ("promote", 1)], (1, 2, 1)),
        ([("promote", 1), ("adopt", 5)], (1, 5)),
        ([("promote", 1), ("promote", 1)], (1,)),
        # version 2 had been deleted
        ([("promote", 1), ("promote", 2), ("promote", 3), ("rollback", 1)], (1,)),
        ([("promote", 1), ("promote", 2), ("gone", 2)], (1, 2, None)),
        ([("promote", 1), ("promote", 2), ("gone", 2), ("rollback", 1)], (1,)),
        ([("promote", 1), ("gone", 1, ARCHIVED)], ()),
        ([("promote", 1), ("gone", 1, ARCHIVED), ("promote", 2)], (2,)),
    ],
)
def test_promotions_push_and_roll_backs_pop(moves, stack):
    assert stages.expected(rows(*moves)).stack == stack


def test_previous_is_what_was_in_production_before():
    state = stages.expected(rows(("promote", 1), ("promote", 2), ("promote", 3), ("rollback", 2)))
    assert (state.production, state.previous) == (2, 1)
    assert state.stages == {1: ARCHIVED, 2: PRODUCTION, 3: ARCHIVED}


def test_a_promoted_version_leaves_staging_and_archiving_empties_it():
    moves = [("promote", 1), ("promote", 2, STAGING)]
    assert stages.expected(rows(*moves)).staging == 2
    assert stages.expected(rows(*moves, ("promote", 2))).staging is None
    archived = stages.expected(rows(*moves, ("promote", 2, ARCHIVED)))
    assert (archived.production, archived.staging, archived.stages[2]) == (1, None, ARCHIVED)


def test_a_withdrawn_claim_counts_for_nothing():
    gave_up = replace(rows(("promote", 1), ("promote", 2))[1], moved_at=None)
    assert stages.expected([row(1, "promote", 1), gave_up]).stack == (1,)


def test_deleted_versions_are_no_longer_gone_back_to():
    state = stages.expected(rows(("promote", 1), ("promote", 2), ("promote", 1), ("promote", 3)))
    assert state.among({1, 3}).stack == (1, 3)
    # The version in Production by the ledger stays, so that doctor can report it.
    assert state.among({1, 2}).stack == (1, 2, 1, 3)


def test_a_version_that_never_had_a_stage_may_be_archived_but_not_in_production():
    state = stages.expected(rows(("promote", 1), ("promote", 2)))
    in_mlflow = {1: "Production", 2: "Archived", 3: "Archived", 4: "None", 5: "Staging"}
    corrections = list(stages.corrections(state, in_mlflow, unmoved=ARCHIVED).items())
    assert corrections == [(2, PRODUCTION), (1, ARCHIVED), (5, ARCHIVED)]
    corrections = list(stages.corrections(state, in_mlflow, unmoved="").items())
    assert corrections == [(2, PRODUCTION), (1, ARCHIVED), (5, "")]


def test_nothing_is_in_production_after_its_version_was_deleted():
    state = stages.expected(rows(("promote", 1), ("promote", 2), ("gone", 2)))
    assert (state.production, state.previous) == (None, 2)
    assert state.among({1}).previous == 1
    assert PRODUCTION not in state.stages.values()


def test_a_tag_alone_puts_no_version_into_production():
    assert stages.shown(["champion", "production"], ARCHIVED) == PRODUCTION
    assert stages.shown([], PRODUCTION) is None
    assert stages.shown([], ARCHIVED) == ARCHIVED


def test_production_at_an_instant_is_the_last_row_that_had_moved():
    records = rows(("promote", 1), ("promote", 2), ("promote", 3, STAGING), ("rollback", 1))
    assert stages.in_production(records, NOON) is None
    for hour, version in ((1, 1), (2.5, 2), (3.5, 2), (9, 1)):
        record = stages.in_production(records, NOON + timedelta(hours=hour))
        assert record.version == version


@pytest.mark.parametrize("stage", [PRODUCTION, ARCHIVED])
def test_nothing_is_in_production_after_it_was_deleted_outside(stage):
    records = rows(("promote", 1), ("gone", 1, stage))
    assert stages.in_production(records, NOON + timedelta(hours=1.5)) == records[0]
    assert stages.in_production(records, NOON + timedelta(hours=9)) is None


# --- the chain --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"version": 9},
        {"who": "eve@desk"},
        {"why": "-"},
        {"evidence": '{"crps":0}'},
        {"claimed_at": NOON},
    ],
)
def test_a_tampered_row_is_detected(change):
    records = rows(("promote", 1), ("promote", 2), ("promote", 3))
    check_chain(records, REGISTRY)
    with pytest.raises(Corrupt, match="promotion 2 of nbeats was changed"):
        check_chain([records[0], replace(records[1], **change), records[2]], REGISTRY)


def test_a_rewritten_or_removed_row_is_detected():
    records = rows(("promote", 1), ("promote", 2), ("promote", 3))
    forged = row(2, "promote", 9, previous=records[0].end)
    with pytest.raises(Corrupt, match="promotion 3 of nbeats does not continue"):
        check_chain([records[0], forged, records[2]], REGISTRY)
    with pytest.raises(Corrupt, match="a row of the ledger is missing"):
        check_chain([records[0], records[2]], REGISTRY)


def test_the_process_that_held_a_row_is_not_part_of_its_hash():
    check_chain([replace(row(1, "promote", 1), pid=7, host="b", held_since=NOON)], REGISTRY)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        {"moved_at": NOON},
        {"moved_at": None},
        {"completed_at": NOON},
        {"completed_at": None},
        {"audit_run_id": "another"},
        {"seal": None},
        {"seal": GENESIS},
    ],
)
def test_a_completion_that_was_changed_is_detected(change, last):
    records = rows(("promote", 1), ("promote", 2), ("promote", 3))
    place = 2 if last else 1
    records[place] = replace(records[place], **change)
    with pytest.raises(Corrupt, match=f"promotion {place + 1} of nbeats was changed after it"):
        check_chain(records, REGISTRY)


def test_a_completion_that_was_sealed_anew_is_detected_by_the_next_row():
    records = rows(("promote", 1), ("promote", 2))
    records[0] = row(1, "promote", 1, moved_at=NOON)
    with pytest.raises(Corrupt, match="promotion 2 of nbeats does not continue"):
        check_chain(records, REGISTRY)


def test_rows_of_rule_1_are_checked_by_it_across_registries_and_continued_in_each():
    """By rule 1, registries that shared a ledger shared a chain, and no completion was covered."""
    old = {"rule": 1, "audit_run_id": "a"}
    first = row(1, "promote", 1, **old)
    second = row(2, "promote", 1, previous=first.hash, registry="another", **old)
    third = row(3, "promote", 2, previous=second.hash, **old)
    here = row(4, "promote", 3, previous=third.end)
    there = row(3, "promote", 4, previous=second.end, registry="another")
    check_chain([first, second, third, here], REGISTRY)
    check_chain([first, second, third, there], "another")
    not_sealed = replace(first, registry=None, seal=None)  # until its registry opens the ledger
    check_chain([replace(not_sealed, moved_at=NOON), second, third], REGISTRY)
    with pytest.raises(Corrupt, match="promotion 1 of nbeats was changed after it was completed"):
        check_chain([replace(first, moved_at=NOON), second, third], REGISTRY)
    with pytest.raises(Corrupt, match="promotion 2 of nbeats was changed"):
        check_chain([first, replace(second, version=9), third, here], REGISTRY)
    with pytest.raises(Corrupt, match="promotion 4 of nbeats follows promotion 2"):
        check_chain([first, second, third, here], "another")
    with pytest.raises(Corrupt, match="promotion 3 of nbeats"):
        check_chain([first, second, replace(third, rule=RULE)], REGISTRY)


def test_registries_that_share_a_ledger_do_not_see_each_others_rows(settings):
    with Ledger(settings, "one") as one, Ledger(settings, "two") as two:
        complete(one, claim(one))
        assert (two.models(), two.records("nbeats")) == ([], [])
        record = claim(two)
        assert (record.sequence, record.previous_hash) == (1, GENESIS)
        complete(two, record)
        assert complete(one, claim(one, one.records("nbeats")[-1])).sequence == 2
        for ledger in (one, two):
            ledger.verify_chain("nbeats")
            registries = {record.registry for record in ledger.records("nbeats")}
            assert registries == {ledger.registry}


def test_a_row_changed_in_the_database_is_detected(settings):
    with Ledger(settings, REGISTRY) as ledger:
        complete(ledger, claim(ledger))
        ledger.verify_chain("nbeats")
        with database.write(ledger.engine) as connection:
            connection.execute(sa.text("update promotions set why = 'because'"))
        with pytest.raises(Corrupt) as caught:
            ledger.verify_chain("nbeats")
    assert caught.value.code == "BROKEN_CHAIN"


# --- claims -----------------------------------------------------------------------------------


def complete(ledger: Ledger, record: Record) -> Record:
    at = now()
    ledger.complete(sealed(replace(record, moved_at=at, completed_at=at)))
    return ledger.record(record.model, record.sequence)


def claim(ledger: Ledger, last: Record | None = None) -> Record:
    decision = Decision(
        model="nbeats",
        action="promote",
        stage=PRODUCTION,
        version=3,
        from_version=None,
        evidence={"crps": 0.25},
    )
    return ledger.claim(decision, last, who="ann@desk", why="")


def test_one_of_two_claims_wins_and_the_other_is_told_who(settings):
    with Ledger(settings, REGISTRY) as ledger:
        record = claim(ledger)
        message = r"ann@desk is changing nbeats since .*promote version 3 to Production"
        with pytest.raises(Conflict, match=message):
            claim(ledger)
        complete(ledger, record)
        with pytest.raises(Conflict, match="ann@desk changed nbeats first"):
            claim(ledger)
        assert claim(ledger, ledger.records("nbeats")[-1]).sequence == 2


def test_a_claim_is_abandoned_when_its_process_is_gone(settings):
    with Ledger(settings, REGISTRY) as ledger:
        record = claim(ledger)
        assert not record.abandoned
        assert replace(record, process_started="an older process with this pid").abandoned
        child = subprocess.Popen([sys.executable, "-c", ""])
        this_process = processes.this_process()
        dead = Process(this_process.host, child.pid, "")
        child.wait()
        assert processes.lives(dead) is False
        assert replace(record, host=None, pid=None).abandoned


def test_a_killed_process_that_nobody_waited_for_is_dead():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    started = processes.started(child.pid)
    assert processes.lives(Process(processes.this_process().host, child.pid, started)) is True
    child.kill()
    while processes.started(child.pid):  # a zombie until wait() below
        pass
    assert processes.lives(Process(processes.this_process().host, child.pid, started)) is False
    child.wait()


def test_a_claim_of_another_host_is_abandoned_after_its_time(settings):
    with Ledger(settings, REGISTRY) as ledger:
        elsewhere = replace(claim(ledger), host="another-host")
    assert not elsewhere.abandoned
    assert replace(elsewhere, held_since=now() - claims.TIMEOUT - timedelta(seconds=1)).abandoned


def test_whoever_lost_its_claim_may_not_go_on(settings):
    with Ledger(settings, REGISTRY) as ledger:
        first_claim = claim(ledger)
        second_claim = ledger.take(first_claim)
        for forbidden in (ledger.claims.check, ledger.moving, ledger.complete, ledger.take):
            with pytest.raises(Conflict):
                forbidden(first_claim)
        complete(ledger, second_claim)
        ledger.verify_chain("nbeats")


# --- the database -----------------------------------------------------------------------------


def test_the_newest_migration_is_the_one_that_the_code_names():
    config = Config()
    config.set_main_option("script_location", str(database.MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == database.REVISION


def test_a_ledger_is_read_while_another_process_writes(settings, monkeypatch):
    with Ledger(settings, REGISTRY) as ledger:
        claim(ledger)
    monkeypatch.setattr(database, "_BUSY_TIMEOUT_S", 0.1)
    with sqlite3.connect(settings.var_dir / "ledger.db", isolation_level=None) as writer:
        writer.execute("begin immediate")
        with Ledger(settings, REGISTRY) as ledger:
            assert [record.sequence for record in ledger.records("nbeats")] == [1]
            with pytest.raises(KronosError, match="database is locked"):
                complete(ledger, ledger.record("nbeats", 1))
        writer.execute("rollback")
    writer.close()


def test_a_ledger_of_newer_code_is_refused(settings):
    with Ledger(settings, REGISTRY) as ledger, database.write(ledger.engine) as connection:
        connection.execute(sa.text(f"update {database.VERSION_TABLE} set version_num = '9999'"))
    with pytest.raises(Conflict, match="newer code"):
        Ledger(settings, REGISTRY)


@pytest.mark.parametrize(
    "uri", ["postgresql://u:secret@db/kronos", "mysql://db/kronos", "nonsense"]
)
def test_a_wrong_uri_is_refused_with_the_right_form(uri):
    with pytest.raises(BadConfig, match=r"postgresql\+psycopg2://|sqlite:///") as caught:
        Ledger(Settings(ledger_uri=uri), REGISTRY)
    assert "secret" not in caught.value.message


def test_a_ledger_that_cannot_be_opened_is_one_clear_error():
    with pytest.raises(KronosError, match=r"cannot write /proc/ledger\.db") as caught:
        Ledger(Settings(ledger_uri="sqlite:////proc/ledger.db"), REGISTRY)
    assert caught.value.code == "NOT_WRITABLE"


def test_a_file_that_is_no_database_is_one_clear_error(tmp_path):
    (tmp_path / "ledger.db").write_text("no database " * 100)
    with pytest.raises(KronosError, match="file is not a database") as caught:
        Ledger(Settings(var_dir=tmp_path), REGISTRY)
    assert caught.value.code == "LEDGER_UNAVAILABLE"


def test_a_password_that_would_be_taken_for_the_host_is_refused():
    uri = "postgresql+psycopg2://u:se@cret@127.0.0.1:9/kronos"
    with pytest.raises(BadConfig, match="%40") as caught:
        Ledger(Settings(ledger_uri=uri), REGISTRY)
    assert "cret" not in caught.value.message


def test_the_time_for_a_connection_is_ours_unless_the_user_chose_one(monkeypatch):
    uri = "postgresql+psycopg2://u:p@db/kronos"
    assert database.connect_timeout(sa.make_url(uri)) == {"connect_timeout": 8}
    assert database.connect_timeout(sa.make_url(f"{uri}?connect_timeout=60")) == {}
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "60")
    assert database.connect_timeout(sa.make_url(uri)) == {}
