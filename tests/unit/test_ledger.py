"""The ledger's rows: the stages that follow from them, and the detection of changes."""

import sqlite3
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from registry import processes
from registry.errors import BadConfig, Conflict, Corrupt, KronosError
from registry.ledger import claims, database
from registry.ledger.promotions import (
    GENESIS,
    Decision,
    Ledger,
    Record,
    chain_hash,
    check_chain,
    metadata,
    now,
)
from registry.processes import Process
from registry.promotion import stages
from registry.promotion.stages import ARCHIVED, PRODUCTION, STAGING
from registry.settings import Settings

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


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
        "previous_hash": previous, **fields,
    }  # fmt: skip
    return Record(**values, hash=chain_hash(values))


def rows(*moves: tuple) -> list[Record]:
    """Rows of (action, version[, stage]) chained to each other."""
    records: list[Record] = []
    for sequence, move in enumerate(moves, start=1):
        records.append(row(sequence, *move, previous=records[-1].hash if records else GENESIS))
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
    corrections = list(stages.corrections(state, in_mlflow).items())
    assert corrections == [(2, PRODUCTION), (1, ARCHIVED), (5, ARCHIVED)]


def test_production_at_an_instant_is_the_last_row_that_had_moved():
    records = rows(("promote", 1), ("promote", 2), ("promote", 3, STAGING), ("rollback", 1))
    assert stages.in_production(records, NOON) is None
    for hour, version in ((1, 1), (2.5, 2), (3.5, 2), (9, 1)):
        record = stages.in_production(records, NOON + timedelta(hours=hour))
        assert record.version == version


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
    check_chain(records)
    with pytest.raises(Corrupt, match="promotion 2 of nbeats was changed"):
        check_chain([records[0], replace(records[1], **change), records[2]])


def test_a_rewritten_or_removed_row_is_detected():
    records = rows(("promote", 1), ("promote", 2), ("promote", 3))
    forged = row(2, "promote", 9, previous=records[0].hash)
    with pytest.raises(Corrupt, match="promotion 3 of nbeats does not continue"):
        check_chain([records[0], forged, records[2]])
    with pytest.raises(Corrupt, match="a row of the ledger is missing"):
        check_chain([records[0], records[2]])


def test_what_happens_to_a_row_later_is_not_part_of_its_hash():
    record = row(1, "promote", 1)
    check_chain(
        [replace(record, pid=7, host="b", moved_at=NOON, completed_at=NOON, audit_run_id="r")]
    )


def test_a_row_changed_in_the_database_is_detected(settings):
    with Ledger(settings) as ledger:
        ledger.complete(claim(ledger))
        ledger.verify_chain("nbeats")
        with database.write(ledger.engine) as connection:
            connection.execute(sa.text("update promotions set why = 'because'"))
        with pytest.raises(Corrupt) as caught:
            ledger.verify_chain("nbeats")
    assert caught.value.code == "BROKEN_CHAIN"


# --- claims -----------------------------------------------------------------------------------


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
    with Ledger(settings) as ledger:
        record = claim(ledger)
        message = r"ann@desk is changing nbeats since .*promote version 3 to Production"
        with pytest.raises(Conflict, match=message):
            claim(ledger)
        ledger.complete(record)
        with pytest.raises(Conflict, match="ann@desk changed nbeats first"):
            claim(ledger)
        assert claim(ledger, ledger.records("nbeats")[-1]).sequence == 2


def test_a_claim_is_abandoned_when_its_process_is_gone(settings):
    with Ledger(settings) as ledger:
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
    with Ledger(settings) as ledger:
        elsewhere = replace(claim(ledger), host="another-host")
    assert not elsewhere.abandoned
    assert replace(elsewhere, held_since=now() - claims.TIMEOUT - timedelta(seconds=1)).abandoned


def test_whoever_lost_its_claim_may_not_go_on(settings):
    with Ledger(settings) as ledger:
        first_claim = claim(ledger)
        second_claim = ledger.take(first_claim)
        for forbidden in (ledger.claims.check, ledger.moving, ledger.complete, ledger.take):
            with pytest.raises(Conflict):
                forbidden(first_claim)
        ledger.complete(second_claim)
        ledger.verify_chain("nbeats")


# --- the database -----------------------------------------------------------------------------


def test_migrations_make_the_tables_that_the_code_declares(settings):
    with Ledger(settings) as ledger, database.read(ledger.engine) as connection:
        options = {"version_table": database.VERSION_TABLE, "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []


def test_the_newest_migration_is_the_one_that_the_code_names():
    config = Config()
    config.set_main_option("script_location", str(database.MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == database.REVISION


def test_a_ledger_is_read_while_another_process_writes(settings, monkeypatch):
    with Ledger(settings) as ledger:
        claim(ledger)
    monkeypatch.setattr(database, "_BUSY_TIMEOUT_S", 0.1)
    with sqlite3.connect(settings.var_dir / "ledger.db", isolation_level=None) as writer:
        writer.execute("begin immediate")
        with Ledger(settings) as ledger:
            assert [record.sequence for record in ledger.records("nbeats")] == [1]
            with pytest.raises(KronosError, match="database is locked"):
                ledger.complete(ledger.record("nbeats", 1))
        writer.execute("rollback")
    writer.close()


def test_a_ledger_of_newer_code_is_refused(settings):
    with Ledger(settings) as ledger, database.write(ledger.engine) as connection:
        connection.execute(sa.text(f"update {database.VERSION_TABLE} set version_num = '9999'"))
    with pytest.raises(Conflict, match="newer code"):
        Ledger(settings)


@pytest.mark.parametrize(
    "uri", ["postgresql://u:secret@db/kronos", "mysql://db/kronos", "nonsense"]
)
def test_a_wrong_uri_is_refused_with_the_right_form(uri):
    with pytest.raises(BadConfig, match=r"postgresql\+psycopg2://|sqlite:///") as caught:
        Ledger(Settings(ledger_uri=uri))
    assert "secret" not in caught.value.message


def test_a_ledger_that_cannot_be_opened_is_one_clear_error():
    with pytest.raises(KronosError, match="unable to open database file") as caught:
        Ledger(Settings(ledger_uri="sqlite:////proc/ledger.db"))
    assert caught.value.code == "LEDGER_UNAVAILABLE"
