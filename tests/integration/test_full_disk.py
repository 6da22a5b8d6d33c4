"""A disk that is full while a database is made: one line, and the next start begins anew."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from nights import blocks, issue, load, returns

from jobs.nightly.mature import mature
from registry.ledger import faults
from registry.ledger.promotions import Ledger
from registry.ledger.track_record import TrackRecord
from registry.settings import CHECKOUT, Settings
from registry.versions.store import Store

# Runs one statement as our programs do, with files of at most so many bytes.
PROGRAM = """
import resource, signal, sys
from registry import terminal
from jobs.nightly.mature import mature
from registry.ledger.promotions import Ledger
from registry.settings import Settings
from registry.versions.store import Store

def main():
    eval(sys.argv[2])

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
terminal.run(main)
"""


def run_with_files_of(limit: int, statement: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(limit), statement],
        env={**os.environ, "KRONOS_VAR_DIR": str(folder)},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("statement", "limit", "name"),
    [
        ("Store(Settings()).names()", 400_000, "mlflow.db"),
        ("Ledger(Settings(), 'id')", 8_000, "ledger.db"),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_no_half_made_database(
    statement: str, limit: int, name: str, tmp_path: Path
) -> None:
    done = run_with_files_of(limit, statement, tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    errors = done.stderr.splitlines()
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith("error: ")
    assert str(tmp_path / name) in errors[0]

    settings = Settings(var_dir=tmp_path)
    if name == "ledger.db":
        with Ledger(settings, "id") as ledger:
            assert ledger.models() == []
    else:
        assert Store(settings).names() == []


def test_scores_that_did_not_fit_on_a_disk_are_recorded_by_the_next_run(tmp_path: Path) -> None:
    settings = Settings(var_dir=tmp_path)
    load(settings, returns(310))
    with TrackRecord(settings) as record:
        for number in range(1, 301):
            issue(record, number, blocks(number))
    done = run_with_files_of(60_000, "mature(Settings())", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: LEDGER_UNAVAILABLE: "), done.stderr
    assert mature(settings).scored == {"mine": 300 * 9}
    with TrackRecord(settings) as record:
        assert faults.find(record.engine) == []
