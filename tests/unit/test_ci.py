"""What the system test says where it cannot run."""

import subprocess
import sys
from pathlib import Path

from registry.settings import CHECKOUT

RUN = CHECKOUT / "tests" / "system" / "run.py"


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
