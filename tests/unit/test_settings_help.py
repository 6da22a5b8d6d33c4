"""`jobs train MODEL --help`: every key of the model, with its default and meaning."""

import dataclasses
import sys

import pytest

import jobs.__main__
from jobs.training import configs, families
from registry import terminal, training

MODELS = sorted(families.all_models())


@pytest.mark.parametrize("name", MODELS)
def test_every_setting_has_a_line_on_its_meaning(name: str) -> None:
    model = families.find(name)
    settings = {setting.key: setting for setting in configs.settings_of(model)}
    config = configs.load_config(model, {})
    keys = {field.name for field in dataclasses.fields(config)} - {"kind"}
    assert set(settings) == keys
    assert set(training.meanings_of(type(config))) == keys, "a line names no setting"
    tiny, searched = model.stored()["tiny"], model.searched()
    for key, setting in settings.items():
        assert len(setting.meaning) > 5
        assert setting.default == getattr(config, key)
        assert setting.tiny == tiny.get(key)
        assert setting.searched == searched.get(key)


@pytest.mark.parametrize("verb", ["train", "tune"])
def test_help_of_a_model_lists_its_settings(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    lines = help_of(["jobs", verb, "nhits", "--help"], monkeypatch, capsys)
    assert lines["context"].split()[1:3] == ["120", "60"]
    assert "60, 120, 250" in lines["context"]
    assert lines["context"].endswith("sessions in a window.")
    assert "0.0003 to 0.01, log" in lines["learning_rate"]
    assert "choose_until" in lines


@pytest.mark.parametrize("words", [[], ["nobody"], ["--seed", "1"]])
def test_help_without_a_model_lists_no_settings(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = help_of(["jobs", "train", *words, "--help"], monkeypatch, capsys)
    assert "context" not in lines


def help_of(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> dict[str, str]:
    """Lines of a help, by their first word."""
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as ended:
        terminal.run(jobs.__main__.app)
    assert ended.value.code == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    return {line.split()[0]: line for line in lines if line}
