"""The start of a training and its record: fine-tuned weights, simulators, data."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from jobs import __main__ as jobs_main
from jobs.training import evaluate, planning, train
from jobs.training.references import References
from registry import terminal
from registry.errors import BadConfig, BadInput, BadParameter, Conflict, NotFound
from registry.files import locked
from registry.settings import CHECKOUT, Settings
from registry.versions.environments import of_programs
from registry.versions.manifest import MANIFEST_TAG
from registry.versions.store import Store
from registry.versions.version import Version

SHORT: dict[str, Any] = {"report_until": "2011-03-31", "report_every": 20}


@pytest.fixture(scope="module")
def settings(
    new_registry: Callable[[Path], Settings], tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """A registry of its own over the compiled data."""
    return new_registry(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def reference() -> References:
    return References()


def plan(settings: Settings, model: str, **overrides: Any) -> planning.Plan:
    return planning.plan(settings, model, SHORT | overrides, seed=0, tiny=True)


@pytest.fixture(scope="module")
def versions(settings: Settings, reference: References) -> dict[str, Version]:
    """A barely trained kronos and its simulator."""
    return {
        name: train.train(settings, plan(settings, name), reference).version
        for name in ("kronos", "kronos_simulated")
    }


def run_of(settings: Settings, version: Version) -> Any:
    return Store(settings).client.get_run(version.run_id).data


def test_what_training_measured_is_logged_to_its_run(
    settings: Settings, versions: Mapping[str, Version]
) -> None:
    run = run_of(settings, versions["kronos"])
    assert {"choice_nats", "choice_nats_untrained", "bars_corrected", "rank_ic"} <= set(run.metrics)
    assert run.params["data"] == "bars"
    assert Store(settings).facts(versions["kronos"])["universe"].startswith("us-index-2@")


def test_a_simulator_says_so_wherever_it_is_looked_at(
    settings: Settings, versions: Mapping[str, Version], reference: References
) -> None:
    run = run_of(settings, versions["kronos_simulated"])
    assert versions["kronos_simulated"].tags["simulated"] == run.tags["simulated"] == "true"
    assert run.metrics["simulated"] == 1
    evaluation = evaluate.evaluate(settings, ["kronos_simulated/1"], SHORT, reference)
    assert evaluation.summary()["versions"][0]["simulated"] is True
    assert run_of(settings, versions["kronos"]).metrics.get("simulated") is None
    assert "simulated" not in versions["kronos"].tags


def test_fine_tuning_starts_from_a_verified_version_and_says_from_which(
    settings: Settings, versions: Mapping[str, Version], reference: References
) -> None:
    store = Store(settings)
    start = versions["kronos"]
    store.set_tag("kronos", 1, "pretrained_until", "2024-06-30")
    fine_tuning = plan(settings, "kronos", start_from="kronos/1")
    assert fine_tuning.recipe != plan(settings, "kronos").recipe
    tuned = train.train(settings, fine_tuning, reference).version
    facts, tags = store.facts(tuned), tuned.tags
    assert facts["weight_source"] == "fine-tuned from kronos/1 (trained here@none)"
    assert facts["weight_revision"] == start.tags[MANIFEST_TAG]
    assert tags["pretrained_until"] == "2024-06-30"
    assert tags["leakage"] == "pretrained until 2024-06-30; reported are sessions after 2010-12-31"
    params = run_of(settings, tuned).params
    assert (params["start_from"], params["kind"]) == ("kronos/1", "fine_tuning")
    assert (params["predictor.d_model"], params["tokenizer.s1_bits"]) == ("16", "4")
    assert "width" not in params
    evaluation = evaluate.evaluate(settings, [f"kronos/{tuned.version}"], SHORT, reference)
    assert evaluation.versions[0].leakage == tags["leakage"]


def test_pretraining_on_the_report_period_is_said_aloud(
    settings: Settings,
    versions: Mapping[str, Version],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    """On stderr, in the result, and in the first line of the version's description."""
    Store(settings).set_tag("kronos", versions["kronos"].version, "pretrained_until", "2024-06-30")
    options = [word for key, value in SHORT.items() for word in (f"--{key}", str(value))]
    command = ["jobs", "train", "kronos", "--tiny", "--start_from", "kronos/1", "--reuse"]
    monkeypatch.setenv("KRONOS_VAR_DIR", str(settings.var_dir))
    monkeypatch.setattr(sys, "argv", [*command, *options])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        terminal.run(jobs_main.app)
    out, err = capsys.readouterr()
    assert not ended.value.code, err
    leakage = "pretrained until 2024-06-30; reported are sessions after 2010-12-31"
    assert f"warning: leakage: {leakage}\n" in err
    result = json.loads(out)
    assert result["leakage"] == leakage
    version = Store(settings).version("kronos", result["version"])
    described = Store(settings).client.get_model_version("kronos", str(version.version))
    assert f"Leakage: {leakage}." in described.description.splitlines()[0]


def test_the_recipe_is_that_of_the_version_that_the_start_names_now(
    settings: Settings, versions: Mapping[str, Version], reference: References
) -> None:
    store = Store(settings)
    store.set_alias("kronos", "staging", versions["kronos"].version)
    first = plan(settings, "kronos", start_from="kronos@staging").recipe
    other = train.train(settings, plan(settings, "kronos", clip=4.0), reference).version
    store.set_alias("kronos", "staging", other.version)
    assert plan(settings, "kronos", start_from="kronos@staging").recipe != first


def test_a_start_that_cannot_be_is_refused_before_anything_is_trained(
    settings: Settings, versions: Mapping[str, Version], reference: References
) -> None:
    with pytest.raises(NotFound, match="kronos has no version 99"):
        plan(settings, "kronos", start_from="kronos/99")
    dates = {"fit_until": "2009-12-31", "choose_until": "2010-12-31"}
    train.train(settings, plan(settings, "ewma", data="bars", **dates), reference)
    message = r"start_from is models:/ewma/1 of family baselines, expected one of family kronos"
    with pytest.raises(BadConfig, match=message):
        plan(settings, "kronos", start_from="ewma/1")
    with pytest.raises(BadConfig, match="expected at most 40, the window of models:/kronos/1"):
        plan(settings, "kronos", start_from="kronos/1", max_context=41)
    with pytest.raises(BadConfig, match="start_from names a simulator"):
        plan(settings, "kronos", start_from="kronos_simulated/1")
    with pytest.raises(BadParameter, match="ewma has no setting start_from"):
        plan(settings, "ewma", start_from="ewma/1")
    earlier = {"fit_until": "2008-12-31", "choose_until": "2009-12-31"}
    with pytest.raises(BadInput) as caught:  # kronos/1 was chosen on 2010
        plan(settings, "kronos", start_from="kronos/1", **earlier)
    assert caught.value.code == "LEAKAGE"
    assert versions["kronos"].tags["trained_until"] == "2010-12-31"


def test_a_model_of_bars_is_not_trained_on_returns(settings: Settings) -> None:
    panel = {
        "data": "panel",
        "fit_until": "2018-12-31",
        "choose_until": "2019-12-31",
        "report_until": "2020-12-31",
    }
    with pytest.raises(BadInput) as caught:
        plan(settings, "kronos_simulated", **panel)
    assert caught.value.code == "MISSING_COLUMN"
    missing = "kronos_simulated needs ['open', 'high', 'low', 'close'], which panel lacks"
    assert missing in caught.value.message


# Long enough to be killed before the end.
LONGER: dict[str, Any] = {"tokenizer_steps": 9, "steps": 60, "patience": 99}


def program() -> list[str]:
    """`python -m jobs train kronos` with SHORT and LONGER."""
    options = [f"--{key}={value}" for key, value in (SHORT | LONGER).items()]
    return [sys.executable, "-m", "jobs", "train", "kronos", "--tiny", *options]


def environment(settings: Settings) -> dict[str, str]:
    return of_programs(settings) | {"KRONOS_VAR_DIR": str(settings.var_dir)}


def test_a_training_that_was_killed_goes_on_and_gives_the_same_weights(
    reference: References, new_registry: Callable[[Path], Settings], tmp_path: Path
) -> None:
    uninterrupted = new_registry(tmp_path / "uninterrupted")
    killed = new_registry(tmp_path / "killed")
    pattern = "checkpoints/*/predictor.safetensors"
    train.train(uninterrupted, plan(uninterrupted, "kronos", **LONGER), reference)
    with subprocess.Popen(
        program(),
        cwd=CHECKOUT,
        env=environment(killed),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 120
        while not list(killed.state_dir.glob(pattern)) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert Store(killed).names() == []
    [checkpoint] = killed.state_dir.glob(pattern)
    with safe_open(checkpoint, framework="pt") as file:
        assert 0 < json.loads(file.metadata()["state"])["step"] < 60
    train.train(killed, plan(killed, "kronos", **LONGER), reference)
    roots = []
    for registry in (uninterrupted, killed):
        store = Store(registry)
        roots.append(store.fetch(store.resolve("kronos/1")))
    for part in ("tokenizer", "predictor"):
        files = [root / "artifacts" / "model" / part / "model.safetensors" for root in roots]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert list(killed.state_dir.glob("checkpoints/*/")) == []  # nothing to resume


def test_the_same_training_twice_at_once_is_refused(
    settings: Settings, reference: References
) -> None:
    training = plan(settings, "kronos")
    lock = settings.state_dir / "checkpoints" / f"{training.recipe[:16]}.lock"
    with locked(lock), pytest.raises(Conflict) as caught:
        train.train(settings, training, reference)
    assert "is already being trained with the same settings" in caught.value.message


def test_window_and_clip_of_the_settings_are_frozen_into_a_version(compiled: Settings) -> None:
    settings = Settings(var_dir=compiled.var_dir, max_context=48, clip=3.0)
    config = planning.plan(settings, "kronos", SHORT, seed=0, tiny=True).config
    assert (getattr(config, "max_context", None), getattr(config, "clip", None)) == (48, 3.0)
    config = planning.plan(
        settings, "kronos", SHORT | {"max_context": 44}, seed=0, tiny=True
    ).config
    assert getattr(config, "max_context", None) == 44
    ewma = planning.plan(settings, "ewma", {}, seed=0, tiny=True).config
    assert not hasattr(ewma, "clip")  # it has no such setting
