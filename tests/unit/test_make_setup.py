"""`make setup` where python3 is not 3.11: uv brings one, or one line says what to do."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from registry.settings import CHECKOUT

TOOLS = ("sh", "make", "printf", "tr", "grep", "paste", "cksum", "cut", "rm", "touch", "mkdir",
         "cat", "chmod", "pwd", "env")  # fmt: skip
NEWER = """#!/bin/sh
case "$1" in --version) echo 'Python 3.13.5';; *) exit 1;; esac
"""
# Makes an environment whose python writes down what it is asked for.
UV = """#!/bin/sh
echo "uv $*" >> calls
for folder; do :; done
mkdir -p "$folder/bin"
printf '#!/bin/sh\\necho "python $*" >> calls\\n' > "$folder/bin/python"
chmod +x "$folder/bin/python"
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A checkout of the Makefile, and a PATH whose python3 is 3.13."""
    shutil.copy(CHECKOUT / "Makefile", tmp_path)
    (tmp_path / "requirements.lock").write_text("numpy==2.4.6\n")
    programs = tmp_path / "programs"
    programs.mkdir()
    for tool in TOOLS:
        path = shutil.which(tool)
        if path is not None:  # some are built into the shell
            (programs / tool).symlink_to(path)
    install(programs / "python3", NEWER)
    return tmp_path


def install(path: Path, program: str) -> None:
    path.write_text(program)
    path.chmod(0o755)


def setup(machine: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", "setup"],
        cwd=machine,
        env={"PATH": str(machine / "programs"), "HOME": os.environ.get("HOME", "/")},
        capture_output=True,
        text=True,
    )


def test_without_python_311_and_uv_one_line_says_the_two_ways(machine: Path) -> None:
    kept = machine / ".venv" / "kept"
    kept.parent.mkdir()
    kept.touch()
    done = setup(machine)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert len(errors) == 1
    assert errors[0].startswith(
        "error: Python 3.11 is needed, found Python 3.13.5; install python3"
    )
    assert "PYTHON=/path/to/python3.11" in errors[0]
    assert "or install uv" in errors[0]
    assert kept.exists(), "an environment is not removed before another can be made"


def test_without_any_python_the_line_says_so(machine: Path) -> None:
    (machine / "programs" / "python3").unlink()
    assert "error: Python 3.11 is needed, found none; install" in setup(machine).stderr


def test_uv_brings_python_311(machine: Path) -> None:
    install(machine / "programs" / "uv", UV)
    done = setup(machine)
    assert done.returncode == 0, done.stderr
    calls = (machine / "calls").read_text().splitlines()
    assert calls[0] == "uv venv --quiet --seed --python 3.11 .venv"
    assert calls[1].startswith("python -m pip install ")
    assert calls[1].endswith("-r requirements.lock")
    assert list((machine / ".venv").glob("installed-*"))
