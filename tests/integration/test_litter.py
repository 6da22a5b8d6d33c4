"""What a killed process leaves: nothing of a living one is touched, the rest is swept."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from registry.promotion import litter
from registry.settings import CHECKOUT, Settings
from registry.versions.store import Store

LEFT = [
    "CHECKPOINT_LEFT",
    "LOCK_LEFT",
    "MODEL_LEFT",
    "RUN_LEFT",
    "RUN_LEFT",
    "TEMPORARY_LEFT",
    "TEMPORARY_LEFT",
]


def codes(store: Store, *, repair: bool = False) -> list[str]:
    return sorted(finding.code for finding in litter.examine(store, repair=repair))


def test_doctor_sweeps_what_a_killed_process_left_and_nothing_of_a_living_one(
    new_registry: Callable[[Path], Settings],
    environment_of: Callable[[Settings], dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = new_registry(tmp_path / "var")
    store = Store(settings)
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("leaver.py"))],
        cwd=CHECKOUT, env=environment_of(settings), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == "in the middle\n", process.communicate()[1]
        assert codes(store, repair=True) == []
        assert len(list(settings.state_dir.glob("*@*"))) == 1
        process.communicate("die\n")
    registered = settings.state_dir / "checkpoints" / "0123456789abcdef"
    (registered / "newer.ckpt").write_text("of a training that began since, and may be continued")
    assert "CHECKPOINT_LEFT" not in codes(store)
    (registered / "newer.ckpt").unlink()
    os.utime(registered, (0, 0))
    link = settings.state_dir / "checkpoints" / "link.lock"
    link.symlink_to(link)
    untagged = store.client.create_run("0", run_name="of somebody else").info.run_id
    assert codes(store) == LEFT
    assert codes(store) == LEFT  # to look changes nothing
    for key, value in environment_of(settings).items():
        monkeypatch.setenv(key, value)
    from registry.__main__ import app

    runner = CliRunner()
    looked = runner.invoke(app, ["doctor"])
    assert looked.exit_code == 1
    assert "RUN_LEFT" in looked.stdout
    assert runner.invoke(app, ["doctor", "ewma"]).exit_code == 0  # of one model
    assert runner.invoke(app, ["doctor", "--repair"]).exit_code == 0
    assert codes(store) == []
    experiment = store.client.get_experiment_by_name("train")
    assert experiment is not None
    runs = store.client.search_runs([experiment.experiment_id])
    statuses = {run.info.run_name: run.info.status for run in runs}
    assert statuses == {"complete": "FINISHED", "cut": "KILLED", "trial 0": "KILLED"}
    models = store.client.search_logged_models([experiment.experiment_id])
    assert sorted(str(model.status) for model in models) == ["FAILED", "READY"]
    assert store.client.get_run(untagged).info.status == "RUNNING"
    # What may be continued is kept.
    assert sorted(path.name for path in settings.state_dir.rglob("*")) == [
        "checkpoints",
        "fedcba9876543210",
        "link.lock",
    ]
    assert list(settings.logs_dir.iterdir()) == []
