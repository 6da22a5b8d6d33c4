"""A company's MLflow server: models of other teams, and more rows than one page of a search."""

import json
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import pytest

from registry.errors import BadParameter, Conflict, NotFound
from registry.ledger import database as ledger_database
from registry.promotion import doctor, moves
from registry.settings import Settings
from registry.versions.manifest import MANIFEST_TAG
from registry.versions.store import Store
from registry.versions.tracking import PAGE
from serving.modes import choose

WHO = {"who": "ann@desk", "why": "better"}
# What differs between the databases is tested on both, the rest on one.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
ODD_NAMES = ("Foreign-Model", 'a "b" it\'s', "Größe 50%_\\'")


def register(bench: Any, name: str, **tags: str) -> int:
    """A version as another program registers it; its number."""
    return int(mlflow.register_model(bench.template.source, name, tags=tags).version)


def described(bench: Any, name: str) -> list[Any]:
    """All that MLflow knows about a model."""
    model = dict(bench.store.client.get_registered_model(name))
    versions = [version.__dict__ for version in bench.store.versions(name)]
    return [model["aliases"], model["tags"], model["last_updated_timestamp"], versions]


# --- models of others -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_model_of_another_team_is_listed_as_foreign_and_left_alone(
    bench: Any, cli: Any, answer: Any, name: str
) -> None:
    number = register(bench, name, stage="Production", team="churn")
    bench.store.set_alias(name, "production", number)
    before = described(bench, name)
    [row] = [row for row in answer("list") if row["model"] == name]
    assert (row["versions"], row["production"], row["origin"]) == (1, 1, "foreign")
    [shown] = answer("show", name)
    assert (shown["version"], shown["foreign"]) == (1, True)
    assert answer("show", f"{name}/1")["tags"]["team"] == "churn"
    assert answer("compare", name)[0]["model"] == name
    assert answer("history", name) == []
    assert answer("doctor", name, "--repair") == []
    assert "it is left alone" in cli("doctor", name)[2]
    assert name not in {finding["model"] for finding in json.loads(cli("doctor", "--json")[1])}
    code, out, _ = cli("verify", name, "--json")
    assert (code, json.loads(out)[0]["ok"]) == (1, False)
    assert described(bench, name) == before


@on_sqlite
@pytest.mark.parametrize("name", ["churn", "Foreign-Churn"])
def test_no_command_moves_a_model_of_another_team(bench: Any, cli: Any, name: str) -> None:
    bench.store.set_alias(name, "production", register(bench, name))
    before = described(bench, name)
    for arguments in (
        ("promote", name, "1"),
        ("promote", name, "1", "--stage", "Archived"),
        ("promote", name, "1", "--dry-run"),
        ("rollback", name),
        ("push", name, "--version", "1", "--repo", "acme/kronos"),
    ):
        code, out, err = cli(*arguments)
        assert (code, out) == (2, "")
        last = err.splitlines()[-1]
        assert last.startswith("error: NOT_FOUND: "), last
        assert "was not logged by Kronos Registry" in last
    for ask in (
        lambda: choose(bench.store, bench.ledger, name, "auto"),
        lambda: bench.store.load(f"{name}/1"),
    ):
        with pytest.raises(NotFound, match="was not logged by Kronos Registry"):
            ask()
    assert described(bench, name) == before
    assert bench.ledger.records(name) == []


def test_a_foreign_version_inside_a_model_of_ours_is_passed_over(
    bench: Any, cli: Any, answer: Any
) -> None:
    name = bench.model(1)
    number = register(bench, name, stage="Production", recipe="r")
    bench.store.set_alias(name, "staging", number)
    moves.promote(bench.store, bench.ledger, name, 1, **WHO)
    assert bench.aliases(name) == {"production": 1, "staging": 2}
    assert bench.tags(name) == {1: "Production", 2: "Production"}  # the tag of 2 is its owner's
    assert [record.action for record in bench.ledger.records(name)] == ["promote"]
    assert [row["origin"] for row in answer("list") if row["model"] == name] == ["mixed"]
    assert [(row["version"], row["foreign"]) for row in answer("show", name)] == [
        (2, True),
        (1, False),
    ]
    assert [row["ok"] for row in answer("verify", name)] == [None, True]
    assert cli("verify", f"{name}/2")[0] == 1
    assert bench.store.find(name, {"recipe": "r"}) is None
    assert doctor.examine(bench.store, bench.ledger, name, repair=True) == []
    assert bench.aliases(name) == {"production": 1, "staging": 2}


@on_sqlite
def test_a_foreign_version_in_production_is_a_finding_until_ours_is_back(bench: Any) -> None:
    name = bench.model(1)
    moves.promote(bench.store, bench.ledger, name, 1, **WHO)
    bench.store.set_alias(name, "production", register(bench, name))
    codes = [f.code for f in doctor.examine(bench.store, bench.ledger, name, repair=True)]
    assert codes == ["ALIAS_MOVED", "FOREIGN_VERSION"]
    assert bench.aliases(name) == {"production": 2, "previous": 1}
    assert moves.rollback(bench.store, bench.ledger, name, **WHO).version == 1
    assert doctor.examine(bench.store, bench.ledger, name) == []
    assert bench.aliases(name) == {"production": 1}


@on_sqlite
@pytest.mark.parametrize("ours", [0, 1], ids=["foreign", "mixed"])
def test_the_aliases_of_foreign_versions_are_their_owners(bench: Any, cli: Any, ours: int) -> None:
    name = bench.model(1) if ours else "their_model"
    number = register(bench, name)
    for alias in ("Production", "previous"):
        bench.store.set_alias(name, alias, number)
    before = described(bench, name)
    assert cli("doctor", name, "--repair")[0] == 0
    assert described(bench, name) == before
    if ours:
        bench.store.check_free(name)
        moves.promote(bench.store, bench.ledger, name, 1, **WHO)
        assert bench.aliases(name)["previous"] == number
        return
    with pytest.raises(Conflict, match=f"the registered model {name} is another program's"):
        bench.store.check_free(name)


@on_sqlite
def test_a_foreign_version_that_we_never_moved_keeps_its_alias_and_stage(bench: Any) -> None:
    name = bench.model(1)
    number = register(bench, name, stage="Production")
    bench.store.set_alias(name, "production", number)
    bench.store.set_stage(name, number, "Production")
    assert doctor.examine(bench.store, bench.ledger, name, repair=True) == []
    assert bench.aliases(name) == {"production": number}
    moves.promote(bench.store, bench.ledger, name, 1, **WHO)
    assert [r.action for r in bench.ledger.records(name)] == ["adopt", "promote"]
    assert bench.mlflow_stages(name) == {1: "Production", 2: "Archived"}
    assert doctor.examine(bench.store, bench.ledger, name) == []


@on_sqlite
def test_a_model_without_versions_is_listed_and_refuses_promotion(
    bench: Any, cli: Any, answer: Any
) -> None:
    name = "empty_model"
    bench.store.client.create_registered_model(name)
    [row] = [row for row in answer("list") if row["model"] == name]
    assert (row["versions"], row["latest"], row["origin"]) == (0, None, "empty")
    assert answer("show", name) == answer("doctor", name) == []
    assert cli("promote", name, "1")[0] == cli("promote", name, "latest")[0] == 2
    assert cli("rollback", name)[0] == 2


@on_sqlite
def test_a_lost_manifest_tag_of_a_promoted_version_is_set_again(bench: Any, cli: Any) -> None:
    name = bench.model(2)
    moves.promote(bench.store, bench.ledger, name, 1, **WHO)
    bench.store.delete_tag(name, 1, MANIFEST_TAG)
    code, out, _ = cli("verify", name, "--json")
    assert (code, [row["ok"] for row in json.loads(out)]) == (1, [True, False])
    assert "doctor" in json.loads(out)[1]["message"]
    [finding] = doctor.examine(bench.store, bench.ledger, name, repair=True)
    assert (finding.code, finding.repaired) == ("TAG_LOST", True)
    assert cli("verify", name)[0] == 0
    assert doctor.examine(bench.store, bench.ledger, name) == []


# --- pages ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowded(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """More models than MLflow returns at once, 'zz' last, with more versions than that."""
    settings = Settings(var_dir=tmp_path_factory.mktemp("crowded"))
    shutil.copy(database, settings.var_dir)
    models = [(f"churn {number:04}",) for number in range(PAGE)] + [("zz",)]
    versions = [(name, 1) for (name,) in models[:-1]]
    versions += [("zz", number) for number in range(1, 10_002)]
    tags = [("zz", version, MANIFEST_TAG, "0" * 64) for version in (1, 10_001)]
    tags.append(("zz", 1, "recipe", "r"))
    with closing(sqlite3.connect(settings.var_dir / "mlflow.db")) as connection, connection:
        connection.executemany("insert into registered_models (name) values (?)", models)
        connection.executemany(
            "insert into model_versions (name, version, creation_time, current_stage, status) "
            "values (?, ?, 0, 'None', 'READY')",
            versions,
        )
        connection.executemany(
            "insert into model_version_tags (name, version, key, value) values (?, ?, ?, ?)", tags
        )
    return Store(settings)


def test_models_and_versions_beyond_the_first_page_are_found(crowded: Store) -> None:
    assert len(crowded.names()) == PAGE + 1
    found = crowded.find("zz", {"recipe": "r"})
    assert found is not None
    assert found.version == 1
    assert [(version.name, version.version) for version in crowded.logged()] == [
        ("zz", 1),
        ("zz", 10_001),
    ]
    models = crowded.models()
    assert len(models) == PAGE + 1
    assert (models[-1].name, models[-1].origin, len(models[-1].versions)) == ("zz", "mixed", 10_001)
    assert models[-1].versions[0].version == 10_001


def test_a_name_that_nobody_has_is_refused(crowded: Store) -> None:
    for name in ("", "../etc", "a\nb", "\udcff", "x" * 300):
        with pytest.raises(BadParameter):
            crowded.aliases(name)
    with pytest.raises(NotFound):
        crowded.aliases("nobody")


# --- what happens to models of ours in MLflow -------------------------------------------------


def promote(bench: Any, name: str, version: int, stage: str = "Production") -> Any:
    return moves.promote(bench.store, bench.ledger, name, version, stage, **WHO)


def repaired(bench: Any, name: str) -> list[str]:
    """Codes of the findings of a model, which --repair settles: nothing is found afterwards."""
    findings = doctor.examine(bench.store, bench.ledger, name, repair=True)
    assert all(finding.repaired for finding in findings)
    assert doctor.examine(bench.store, bench.ledger, name) == []
    bench.ledger.verify_chain(name)
    return [finding.code for finding in findings]


@pytest.fixture
def promoted(bench: Any) -> str:
    """A model whose version 1 was in Production before version 2."""
    name: str = bench.model(2)
    promote(bench, name, 1)
    promote(bench, name, 2)
    return name


@on_sqlite
@pytest.mark.parametrize("target", ["", "_copied"], ids=["same model", "other model"])
def test_a_copied_stage_tag_is_told_from_a_promotion(
    bench: Any, answer: Any, promoted: str, target: str
) -> None:
    name = promoted + target
    copy = bench.store.client.copy_model_version(f"models:/{promoted}/2", name)
    number = int(copy.version)
    assert bench.tags(name)[number] == "Production"  # MLflow copied it
    assert answer("show", name)[0]["stage"] is None
    [finding] = doctor.examine(bench.store, bench.ledger, name)
    assert finding.code == "WRONG_TAG"
    assert f"version {number} was never promoted" in finding.message
    assert repaired(bench, name) == ["WRONG_TAG"]
    assert bench.tags(name)[number] is None
    assert bench.aliases(promoted) == {"production": 2, "previous": 1}
    bench.store.set_tag(name, number, "stage", "Production")
    promote(bench, name, number)  # a copy is a version like any other
    assert doctor.examine(bench.store, bench.ledger, name) == []


@on_sqlite
def test_an_alias_with_capitals_is_reached_and_never_taken_for_ours(
    bench: Any, promoted: str
) -> None:
    store = bench.store
    store.set_alias(promoted, "Champion", 1)
    assert store.resolve(f"{promoted}@Champion").version == 1
    assert store.resolve(f"{promoted}/Champion").version == 1
    with pytest.raises(NotFound, match=r"nothing in champion; it has Champion, previous"):
        store.resolve(f"{promoted}@champion")
    assert store.resolve(f"{promoted}@Production").version == 2
    assert doctor.examine(store, bench.ledger, promoted) == []
    store.set_alias(promoted, "Production", 1)
    assert store.resolve(f"{promoted}@Production").version == 1  # as models:/NAME@Production
    assert store.resolve(f"{promoted}/Production").version == 2  # as the stage of MLflow
    assert store.resolve(promoted).version == 2
    [finding] = doctor.examine(store, bench.ledger, promoted)
    assert finding.message.startswith("alias Production names version 1, production names version")
    assert repaired(bench, promoted) == ["ALIAS_CAPITALS"]
    assert bench.aliases(promoted) == {"Champion": 1, "production": 2, "previous": 1}


def test_a_deleted_model_is_recorded_as_gone_and_its_name_begins_anew(
    bench: Any, cli: Any, promoted: str
) -> None:
    last = bench.ledger.records(promoted)[-1]
    bench.store.client.delete_registered_model(promoted)
    assert cli("doctor", promoted)[0] == 1
    assert repaired(bench, promoted) == ["MODEL_GONE"]
    code, _, err = cli("doctor", promoted)
    assert (code, "its history is kept" in err) == (0, True)
    row = bench.ledger.records(promoted)[-1]
    assert (row.action, row.stage, row.version, row.from_version) == ("gone", "Archived", 2, 2)
    assert len(bench.audit_runs(promoted)) == 3
    assert moves.history(bench.ledger, promoted, last.moved_at)[0].version == 2
    assert moves.history(bench.ledger, promoted, row.moved_at) == []
    assert cli("history", promoted)[0] == 0
    assert register(bench, promoted, **{MANIFEST_TAG: bench.template.tags[MANIFEST_TAG]}) == 1
    assert doctor.examine(bench.store, bench.ledger, promoted) == []
    assert promote(bench, promoted, 1).from_version is None
    assert bench.aliases(promoted) == {"production": 1}
    assert doctor.examine(bench.store, bench.ledger, promoted) == []


def test_a_renamed_model_is_settled_under_both_names_and_back(bench: Any, promoted: str) -> None:
    client, new = bench.store.client, f"{promoted}_renamed"
    client.rename_registered_model(promoted, new)
    client.rename_registered_model(new, promoted)
    assert doctor.examine(bench.store, bench.ledger, promoted) == []
    client.rename_registered_model(promoted, new)
    [finding] = doctor.examine(bench.store, bench.ledger, promoted)
    assert (finding.code, f"{new} has its versions: it was renamed" in finding.message) == (
        "MODEL_GONE",
        True,
    )
    assert repaired(bench, promoted) == ["MODEL_GONE"]
    assert bench.ledger.records(promoted)[-1].why.endswith(f"was renamed outside, to {new}")
    assert repaired(bench, new) == ["ALIAS_MOVED"]
    assert bench.aliases(new) == {"production": 2}
    promote(bench, new, 1)
    client.rename_registered_model(new, promoted)
    assert repaired(bench, new) == ["MODEL_GONE"]
    assert repaired(bench, promoted)[0] == "ALIAS_MOVED"
    assert bench.aliases(promoted) == {"production": 1}
    assert promote(bench, promoted, 2).from_version == 1
    assert doctor.examine(bench.store, bench.ledger, promoted) == []


@on_sqlite
def test_a_model_renamed_without_a_version_in_production_is_settled(bench: Any) -> None:
    name = bench.model(1)
    promote(bench, name, 1, "Staging")
    renamed = f"{name}-Renamed"
    bench.store.client.rename_registered_model(name, renamed)
    [finding] = doctor.examine(bench.store, bench.ledger, name)
    assert f"nothing can be promoted under the name {renamed}" in finding.repair
    assert repaired(bench, name) == ["MODEL_GONE"]
    with pytest.raises(BadParameter, match="a model's name is"):
        promote(bench, renamed, 1)
    assert doctor.examine(bench.store, bench.ledger, renamed, repair=True) == []
    assert bench.ledger.records(renamed) == []


@on_sqlite
@pytest.mark.parametrize("step", [0, 6])
def test_a_promotion_killed_before_its_model_was_deleted_is_settled(
    bench: Any, promoter: Any, promoted: str, step: int
) -> None:
    assert promoter(killed_after_step=step, name=promoted, version=1) == 137
    bench.store.client.delete_registered_model(promoted)
    assert repaired(bench, promoted) == ["MODEL_GONE"]
    *_, killed, gone = bench.ledger.records(promoted)
    assert (killed.moved_at is None, gone.action) == (step == 0, "gone")
    assert gone.from_version == (2 if step == 0 else 1)


@on_sqlite
def test_rows_that_were_lost_with_their_model_are_named_by_its_last_row(
    bench: Any, promoted: str
) -> None:
    lost = bench.ledger.records(promoted)[-1].hash
    with ledger_database.write(bench.ledger.engine) as connection:
        connection.exec_driver_sql(
            f"delete from promotions where model = '{promoted}' and sequence = 2"
        )
    bench.store.client.delete_registered_model(promoted)
    assert repaired(bench, promoted) == ["MODEL_GONE"]
    assert bench.ledger.records(promoted)[-1].facts == {"rows_missing": [lost]}


@on_sqlite
def test_a_deleted_version_leaves_production_empty_and_roll_back_goes_below_it(
    bench: Any, promoted: str
) -> None:
    bench.store.client.delete_model_version(promoted, "2")
    [finding] = doctor.examine(bench.store, bench.ledger, promoted)
    assert (finding.code, "or promote another version" in finding.repair) == ("VERSION_GONE", True)
    assert repaired(bench, promoted) == ["VERSION_GONE"]
    assert bench.aliases(promoted) == {"previous": 1}
    assert moves.history(bench.ledger, promoted, datetime.now(UTC)) == []
    assert moves.rollback(bench.store, bench.ledger, promoted, **WHO).from_version is None
    assert bench.aliases(promoted) == {"production": 1}
    bench.store.client.delete_model_version(promoted, "1")
    assert repaired(bench, promoted) == ["VERSION_GONE"]
    with pytest.raises(NotFound, match="has no versions"):
        moves.rollback(bench.store, bench.ledger, promoted, **WHO)
