"""Settings: wrong ones are refused in one line, and the token stays secret."""

import os
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from registry import terminal
from registry.settings import Settings
from registry.versions import environments

TOKEN = "hf_secret_of_a_test"


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12", "mps"])
def test_a_device_is_taken_as_it_is_named(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("KRONOS_DEVICE", device)
    assert Settings(var_dir=tmp_path).device == device


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("KRONOS_MODE", "Kronos", "Input should be 'auto', 'kronos' or 'simulated'"),
        ("KRONOS_MODE", "", "Input should be 'auto', 'kronos' or 'simulated'"),
        ("KRONOS_DEVICE", "gpu", "Input should be auto, cpu, cuda, cuda:N or mps"),
        ("KRONOS_DEVICE", "cuda:", "Input should be auto, cpu, cuda, cuda:N or mps"),
        ("KRONOS_DEVICE", "cpu\n", "Input should be auto, cpu, cuda, cuda:N or mps"),
        ("KRONOS_MAX_CONTEXT", "-1", "Input should be greater than or equal to 0"),
        ("KRONOS_CLIP", "0", "Input should be greater than 0"),
        ("KRONOS_CLIP", "inf", "Input should be a finite number"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line_that_names_it(
    name: str,
    value: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """Through the runner of all our programs; test_terminal runs the programs themselves."""
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(SystemExit) as ended:
        terminal.run(Settings)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"error: BAD_CONFIG: {name}: {message}; .env.example lists all settings\n"


def test_a_file_of_settings_that_is_no_text_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / ".env"
    file.write_bytes(b"KRONOS_MODE=auto # caf\xe9\n")
    monkeypatch.setitem(Settings.model_config, "env_file", file)
    with pytest.raises(SystemExit) as ended:
        terminal.run(Settings)
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: BAD_CONFIG: {file} cannot be read as UTF-8 text: ")


def test_the_token_comes_from_the_environment_or_a_file_under_the_name_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    file = tmp_path / ".env"
    file.write_text(f"HF_TOKEN={TOKEN}-of-file\n")
    assert Settings(_env_file=None).hf_token.get_secret_value() == ""
    assert Settings(_env_file=file).hf_token.get_secret_value() == f"{TOKEN}-of-file"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert Settings(_env_file=file).hf_token.get_secret_value() == TOKEN


def test_the_token_is_not_in_what_settings_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    settings = Settings(var_dir=tmp_path)
    printed = [
        repr(settings),
        str(settings),
        str(settings.model_dump()),
        settings.model_dump_json(),
    ]
    assert all("**********" in text and TOKEN not in text for text in printed)
    with pytest.raises(ValidationError) as caught:
        settings.hf_token = "another"
    assert TOKEN not in str(caught.value)


def test_the_folder_of_a_model_comes_from_the_environment_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / ".env"
    file.write_text("KRONOS_HAR_MODEL_DIR=of/file\nKRONOS_MY_OWN_2_MODEL_DIR=/srv/2\n")
    settings = Settings(_env_file=file)
    assert settings.model_dir("har") == Path("of/file")
    assert settings.model_dir("my_own_2") == Path("/srv/2")
    monkeypatch.setenv("KRONOS_HAR_MODEL_DIR", "of/environment")
    assert Settings(_env_file=file).model_dir("har") == Path("of/environment")
    assert Settings(_env_file=None).model_dir("har") == Path("of/environment")
    monkeypatch.setenv("KRONOS_HAR_MODEL_DIR", "")  # an empty variable wins, too
    assert Settings(_env_file=file).model_dir("har") is None


def test_the_folder_of_another_model_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = Settings(var_dir=tmp_path).model_dump()
    monkeypatch.setenv("KRONOS_HAR_MODEL_DIR", "/srv/har")
    settings = Settings(var_dir=tmp_path)
    assert settings.model_dump() == before
    assert settings.model_dir("nbeats") is None


def test_settings_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = Settings(var_dir=tmp_path)
    monkeypatch.setenv("KRONOS_HAR_MODEL_DIR", "/srv/har")
    assert settings.model_dir("har") is None


def test_the_uris_are_not_in_what_settings_print(tmp_path: Path):
    uri = "postgresql+psycopg2://kronos:secret@db/kronos"
    settings = Settings(var_dir=tmp_path, tracking_uri=uri, ledger_uri=uri)
    assert "secret" not in repr(settings)
    assert "secret" not in str(settings)


def test_hashes_of_keys_and_the_secret_of_webhooks_are_not_in_what_settings_print(tmp_path: Path):
    settings = Settings(var_dir=tmp_path, api_keys="a:0123", webhook_secret="swordfish")
    for text in (repr(settings), str(settings)):
        assert "0123" not in text
        assert "swordfish" not in text


SECRETS = (
    "KRONOS_API_KEYS",
    "KRONOS_WEBHOOK_SECRET",
    "KRONOS_LEDGER_URI",
    "KRONOS_TRACKING_URI",
    "KRONOS_POSTGRES_PASSWORD",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_BACKEND_STORE_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "PGPASSWORD",
    "DATABASE_URL",
    "HTTPS_PROXY",
    "https_proxy",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_ACCESS_KEY",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "A_SECRET_OF_ANOTHER_PROGRAM",
)


def test_a_process_with_a_versions_code_gets_no_store_and_no_secret(
    monkeypatch: pytest.MonkeyPatch,
):
    for name in SECRETS:
        monkeypatch.setenv(name, TOKEN)
    needed = ("HOME", "LC_ALL", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTHONHASHSEED")
    for name in (*needed, "KRONOS_DEVICE", "UVICORN_LOG_LEVEL"):
        monkeypatch.setenv(name, "needed")
    handed_on = environments.of_versions()
    assert set(SECRETS).isdisjoint(handed_on)
    assert TOKEN not in handed_on.values()
    assert {handed_on[name] for name in (*needed, "KRONOS_DEVICE")} == {"needed"}
    assert handed_on["UVICORN_LOG_LEVEL"] == "needed"
    assert handed_on["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert handed_on["PATH"].startswith(str(Path(sys.executable).parent))


@pytest.mark.parametrize("name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
def test_programs_that_we_start_get_the_device_and_not_the_token(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(name, TOKEN)
    monkeypatch.delenv("KRONOS_DEVICE", raising=False)
    file = tmp_path / ".env"
    file.write_text("KRONOS_DEVICE=cuda:1\n")
    handed_on = environments.of_programs(Settings(_env_file=file, var_dir=tmp_path))
    assert handed_on["KRONOS_DEVICE"] == "cuda:1"
    assert name not in handed_on
    assert TOKEN not in handed_on.values()
    assert set(os.environ) - {name} <= set(handed_on)
