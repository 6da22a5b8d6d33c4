""".env.example: one table of all settings, with their defaults and meanings."""

import re
from pathlib import Path

import pytest

from registry.settings import CHECKOUT, Settings

MODEL_DIR = "KRONOS_NBEATS_MODEL_DIR"  # of any model, so no field of Settings
TABLE = (CHECKOUT / ".env.example").read_text()
LINE = re.compile(
    r"(?:^# (?P<meaning>.*)\n)?^(?P<comment># )?(?P<name>[A-Z0-9_]+)=(?P<value>.*)$", re.MULTILINE
)
SETTINGS = {
    str(field.validation_alias or f"KRONOS_{name.upper()}"): field
    for name, field in Settings.model_fields.items()
}


def table() -> dict[str, re.Match[str]]:
    return {line["name"]: line for line in LINE.finditer(TABLE)}


def compose_variables() -> set[str]:
    return set(re.findall(r"\$\{(\w+)", (CHECKOUT / "docker-compose.yml").read_text()))


def test_the_table_names_every_setting_and_every_variable_of_the_compose_file_and_no_other():
    assert set(table()) == set(SETTINGS) | compose_variables() | {MODEL_DIR}


def test_no_name_stands_in_the_table_twice():
    names = [line["name"] for line in LINE.finditer(TABLE)]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("name", SETTINGS)
def test_the_line_above_a_setting_is_its_description(name: str):
    assert table()[name]["meaning"] == SETTINGS[name].description


def test_settings_are_commented_out_and_only_the_password_is_asked_for():
    active = [name for name, line in table().items() if not line["comment"]]
    assert active == ["KRONOS_POSTGRES_PASSWORD"]
    assert table()["KRONOS_POSTGRES_PASSWORD"]["value"] == ""


def test_the_values_shown_are_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in table():
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / ".env"
    file.write_text("".join(f"{name}={line['value']}\n" for name, line in table().items()))
    settings = Settings(_env_file=file)
    default = Settings(_env_file=None)
    assert settings.model_fields_set == set(Settings.model_fields)
    # The path in the file is relative to the checkout, where programs run.
    assert CHECKOUT / settings.var_dir == default.var_dir
    assert settings.model_dump(exclude={"var_dir"}) == default.model_dump(exclude={"var_dir"})
    assert settings.model_dir("nbeats") is None


def test_a_changed_line_changes_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("KRONOS_SERVE_PORT", raising=False)
    changed = tmp_path / ".env"
    changed.write_text(TABLE.replace("# KRONOS_SERVE_PORT=5001", "KRONOS_SERVE_PORT=6001"))
    assert Settings(_env_file=changed).serve_port == 6001


def test_the_folder_of_a_model_is_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(MODEL_DIR, raising=False)
    changed = tmp_path / ".env"
    changed.write_text(TABLE.replace(f"# {MODEL_DIR}=", f"{MODEL_DIR}=/srv/nbeats"))
    assert Settings(_env_file=changed).model_dir("nbeats") == Path("/srv/nbeats")
