"""KRONOS_VAR_DIR of any name: databases and artifacts are where it says."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from registry.forecast.spec import ModelSpec
from registry.promotion import moves
from registry.promotion.opening import open_ledger
from registry.settings import Settings
from registry.versions.store import Store
from registry.versions.version import Version


@pytest.mark.parametrize("name", ["a b;c#d", "köpfe?x=1&y", "100%", "a'b\"c\\d"])
def test_a_folder_of_any_name_holds_databases_and_artifacts(
    name: str, database: Path, tmp_path: Path, log_a_version: Callable[..., Version]
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    shutil.copy(database, folder)
    settings = Settings(var_dir=folder)
    store = Store(settings)
    log_a_version(settings, store, {"crps": 0.005})
    with open_ledger(store) as ledger:
        moves.promote(store, ledger, "ewma", 1, who="a@b", why="")
    with store.load("ewma") as loaded:
        assert isinstance(loaded.spec, ModelSpec)
    parts = {path.name for path in folder.iterdir()}
    assert {"mlflow.db", "ledger.db", "artifacts"} <= parts


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("file", "Input should be a folder, and a file has this path"),
        ("file/below", "Input should be a folder, and a file has this path"),
        ("p%25c", "Input should be a folder without % codes like %25"),
    ],
)
def test_a_path_that_can_be_no_folder_is_refused(path: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValidationError, match=message):
        Settings(var_dir=tmp_path / path)
