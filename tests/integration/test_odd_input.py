"""Every verb of every program, fed with odd words: one clear error, or what was asked for.

The verbs run in this process, on a registry with one real version and without data, so that none
trains, serves or reaches a network.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import jobs.__main__
import registry.__main__
import serving.__main__
from registry import terminal
from registry.settings import Settings

PROGRAMS = {"registry": registry.__main__, "jobs": jobs.__main__, "serving": serving.__main__}
ODD = (
    "",
    " ",
    "-1",
    "1e999",
    "²",
    "9" * 30,
    "1" * 5000,
    "x" * 5000,
    "[/red]",
    "[" * 3000,
    "a\nb\x1b[31m",
    "\udcff",
    "../..",
    "/tmp",
    "ewma/²",
    "ewma@\udcff",
    f"ewma/{'1' * 5000}",
    "ewma/[/red]",
    "2020-02-30",
)
# Words with which a verb gets far.
GOOD = {
    "reference": "ewma/1",
    "references": "ewma/1",
    "model": "ewma",
    "version": "1",
    "versions": "ewma/1",
    "repo": "acme/ewma",
    "model_id": "acme/ewma",
    "source": "csv",  # of `jobs compile`, whose default would make the data
}
SETTINGS = ("--fit_until", "--data", "--warmup")
WHOLE = [("jobs", "quickstart")]  # an empty option is its default, with which all is done
# The gateway waits for the promotion of a model that is not there, so these words are no errors.
WAITING, NAMES = [("serving", "start")], ("1e999", "9" * 30)
TRAINED = {("jobs", "train"): "har", ("jobs", "tune"): "har"}


VERBS = [
    (program, verb)
    for program, module in PROGRAMS.items()
    for verb in typer.main.get_command(module.app).commands
]


def command_lines(program: str, verb: str) -> Iterator[list[str]]:
    """Words after a verb, one of them odd."""
    command = typer.main.get_command(PROGRAMS[program].app).commands[verb]
    model = TRAINED.get((program, verb))
    words = [odd for odd in ODD if (program, verb) not in WAITING or odd not in NAMES]
    for odd in words[(program, verb) in WHOLE :]:
        for chosen in command.params:
            if not getattr(chosen, "is_flag", False):
                yield [
                    word for other in command.params for word in given(other, chosen, odd, model)
                ]
        yield [model or "ewma", f"--x{odd}"]
    for setting in SETTINGS if verb == "train" else ():
        for odd in ("²", "1" * 5000, "[/red]", "[" * 3000, "2020-02-30", "&a [*a]"):
            yield [str(model), setting, odd]


def given(parameter: Any, chosen: Any, odd: str, model: str | None) -> list[str]:
    """Words for one parameter: the odd one if it is chosen, else a good one if there is one."""
    good = model if model and parameter.name == "model" else GOOD.get(parameter.name)
    word = odd if parameter is chosen else good
    if word is None:
        return []
    return [parameter.opts[0], word] if parameter.opts[0].startswith("-") else [word]


@pytest.fixture(scope="module")
def variables(
    registered: Settings, environment_of: Callable[[Settings], dict[str, str]]
) -> dict[str, str]:
    return environment_of(registered) | {"HF_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(("program", "verb"), VERBS)
def test_an_odd_word_is_one_clear_error_and_no_traceback(
    program: str,
    verb: str,
    variables: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)  # some odd words are names of files and folders to write
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    for words in command_lines(program, verb):
        monkeypatch.setattr(sys, "argv", [program, verb, *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            terminal.run(PROGRAMS[program].app)
        out, err = capsys.readouterr()
        command = f"{program} {verb} {[word[:40] for word in words]}"
        assert ended.value.code in (0, 1, 2), command
        assert "Traceback" not in err, command
        if ended.value.code:
            assert is_one_error(err), f"{command}: {err}"
            assert out == "", command


def is_one_error(err: str) -> bool:
    """One line that begins with `error:` and comes last, or the box of a usage error."""
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    if "Usage: " in err:
        return not errors and err.count("Error") == 1
    return len(errors) == 1 and err.splitlines()[-1] == errors[0] and len(errors[0]) < 2100
