"""What CI runs, and what the system test says where it cannot run."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from registry.settings import CHECKOUT

RUN = CHECKOUT / "tests" / "system" / "run.py"


@pytest.mark.parametrize(
    ("tests", "system", "code"),
    [(0, 0, 0), (0, 77, 0), (2, 0, 1), (2, 77, 1), (0, 1, 1), (0, 143, 1), (77, 77, 1)],
)
def test_ci_is_red_unless_both_parts_pass_or_the_second_cannot_run(
    tmp_path: Path, tests: int, system: int, code: int
) -> None:
    """The script in a folder whose two parts end with the given codes."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(CHECKOUT / ".ci" / "run", tmp_path / ".ci")
    (tmp_path / "Makefile").write_text(f"test:\n\t@exit {tests}\nsetup:\n\t@true\n")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\necho ran $1\nexit {system}\n")
    python.chmod(0o755)
    done = subprocess.run(["bash", ".ci/run"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code
    assert "ran tests/system/run.py" in done.stdout  # even if the first part was red
    assert ("cannot run on this machine (77)" in done.stdout) == (system == 77)


def test_without_apt_the_system_test_says_so_in_one_line_and_ends_with_77(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(RUN)],
        env={"PATH": str(tmp_path), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 77
    [line] = done.stderr.splitlines()
    assert line.startswith("cannot run here: apt-get is missing")
    assert done.stdout == ""


def test_packages_that_are_installed_by_the_system_test_are_named_one_a_line() -> None:
    lines = (CHECKOUT / "apt.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["chromium", "mmdebstrap"]
