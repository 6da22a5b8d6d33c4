"""What `python -m serving start` refuses before it becomes the gateway."""

import socket
from pathlib import Path

import pytest

from registry.errors import BadParameter
from registry.settings import Settings
from serving.start import _config, listen


def refused(settings: Settings, *models: str, stage: str = "Production", host: str = "127.0.0.1"):
    with pytest.raises(BadParameter) as caught:
        _config(settings, models, stage, host, 8080)
    return caught.value


def test_a_model_that_is_named_twice_is_refused_in_any_form(tmp_path: Path) -> None:
    settings = Settings(var_dir=tmp_path)
    assert "har is named twice" in refused(settings, "har", "har@staging").message
    assert "har is named twice" in refused(settings, "models:/har/2", "har").message


@pytest.mark.parametrize("reference", ["", "Har", "har/", "a/b/c", "../x", "har@\u202e", "h" * 65])
def test_what_can_name_no_version_is_refused(tmp_path: Path, reference: str) -> None:
    assert refused(Settings(var_dir=tmp_path), reference).code == "BAD_MODEL_NAME"


def test_an_unknown_stage_is_refused(tmp_path: Path) -> None:
    assert refused(Settings(var_dir=tmp_path), "har", stage="Prod").code == "BAD_STAGE"


def test_a_version_beside_an_exported_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KRONOS_HAR_MODEL_DIR", str(tmp_path))
    error = refused(Settings(var_dir=tmp_path), "har/3")
    assert "KRONOS_HAR_MODEL_DIR" in error.message


def test_without_a_key_it_listens_on_loopback_only(tmp_path: Path) -> None:
    error = refused(Settings(var_dir=tmp_path), "har", host="0.0.0.0")
    assert error.code == "NOT_LOOPBACK"
    assert "python -m serving key" in error.message
    with_key = Settings(var_dir=tmp_path, api_keys=f"desk:{'0' * 64}")
    assert _config(with_key, ["har"], "Production", "0.0.0.0", 8080).host == "0.0.0.0"


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BadParameter) as caught:
            listen("127.0.0.1", port)
    assert caught.value.code == "PORT_TAKEN"
    assert str(port) in caught.value.message
