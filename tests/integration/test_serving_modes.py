"""The version that `python -m serving scorer kronos` serves under each KRONOS_MODE."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest

from mlprojects.baselines import model as baselines
from mlprojects.kronos import model as kronos
from mlprojects.kronos import simulated, specs
from registry.errors import Corrupt, NotFound
from registry.forecast import calendars, names
from registry.forecast.forecast import Forecaster
from registry.forecast.spec import ModelSpec
from registry.ledger.promotions import Ledger
from registry.promotion.opening import open_ledger
from registry.settings import CHECKOUT, Settings
from registry.versions import tracking
from registry.versions.store import Store, example_history
from registry.versions.version import Version
from serving.modes import Choice, choose

NAMES = ("kronos", "kronos_simulated")
MODES = ("auto", "kronos", "simulated")
TOKEN = "hf_secret_of_a_test"


def history(spec: ModelSpec) -> pd.DataFrame:
    """Bars of one series over two years."""
    ds = calendars.sessions(spec.calendar, "2020-01-02", "2021-12-31")
    y = np.random.default_rng(0).normal(0.0, 0.01, len(ds))
    close = 100 * np.exp(np.cumsum(y))
    bar = {"open": close * np.exp(-y), "high": close * 1.1, "low": close * 0.9, "close": close}
    return pd.DataFrame({"unique_id": "A", "ds": ds, "y": y} | bar)


@pytest.fixture(scope="module")
def store(
    new_registry: Callable[[Path], Settings], tmp_path_factory: pytest.TempPathFactory
) -> Store:
    """A version of kronos_simulated, and one named `kronos`. No test loads the latter, so it is
    of a smaller family."""
    store = Store(new_registry(tmp_path_factory.mktemp("modes")))
    stand_in = ModelSpec("kronos", "baselines", min_context=60, max_context=1000, max_horizon=5)
    simulator = specs.simulator_spec("kronos_simulated", 5, names.LEVELS)
    _log(store, baselines, baselines.Ewma(stand_in))
    _log(store, kronos, simulated.Simulator(simulator))
    return store


def _log(store: Store, family: Any, forecaster: Forecaster) -> None:
    spec = forecaster.spec
    with tracking.start(store.settings, "train", spec.name):
        store.log(
            spec,
            lambda folder: family.save(forecaster, folder),
            requirements=family.REQUIREMENTS,
            example=example_history(history(spec), spec),
            tags={"family": spec.family},
        )


@contextmanager
def corrupt(store: Store, version: Version) -> Iterator[None]:
    """Flips one bit in the files of a version."""
    path = store.fetch(version) / "artifacts" / "model" / "config.json"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        yield
    finally:
        path.write_bytes(content)


State = Callable[[str, str], None]  # states of kronos and of kronos_simulated
Verb = Callable[..., tuple[int, str, str]]  # the fixture of conftest.py


@pytest.fixture(scope="module")
def ledger(store: Store) -> Iterator[Ledger]:
    with open_ledger(store) as opened:
        yield opened


@pytest.fixture
def state(store: Store) -> Iterator[State]:
    """Put each of the two in a state: 'good', 'corrupt' or 'none' (nothing in Production)."""
    with ExitStack() as stack:

        def put(*states: str) -> None:
            for name, state in zip(NAMES, states, strict=True):
                if state == "none":
                    store.delete_alias(name, "production")
                    continue
                store.set_alias(name, "production", 1)
                if state == "corrupt":
                    stack.enter_context(corrupt(store, store.version(name, 1)))

        yield put


# --- which version it is ----------------------------------------------------------------------


@pytest.mark.parametrize("simulator", ["good", "corrupt", "none"])
@pytest.mark.parametrize("mode", ["auto", "kronos"])
def test_kronos_is_served_where_it_is_good(
    store: Store, ledger: Ledger, state: State, mode: Any, simulator: str
) -> None:
    state("good", simulator)
    choice = choose(store, ledger, "kronos", mode)
    assert (choice.version.uri, choice.instead) == ("models:/kronos/1", None)
    assert choice.facts() == {"asked": "kronos", "mode": "kronos"}


@pytest.mark.parametrize(
    ("kronos", "kind", "why"),
    [
        ("none", NotFound, "kronos has nothing in production"),
        ("corrupt", Corrupt, "config.json differs from what was registered"),
    ],
)
def test_auto_serves_the_simulator_where_kronos_is_not_good_and_knows_why(
    store: Store, ledger: Ledger, state: State, kronos: str, kind: type[Exception], why: str
) -> None:
    state(kronos, "good")
    choice = choose(store, ledger, "kronos", "auto")
    assert choice.version.uri == "models:/kronos_simulated/1"
    assert choice.facts() == {"asked": "kronos", "mode": "simulated"}
    assert type(choice.instead) is kind
    assert why in str(choice.instead)


@pytest.mark.parametrize(("kronos", "kind"), [("none", NotFound), ("corrupt", Corrupt)])
def test_mode_kronos_lets_nothing_else_answer(
    store: Store, ledger: Ledger, state: State, kronos: str, kind: type[Exception]
) -> None:
    state(kronos, "good")
    message = r"; KRONOS_MODE=kronos lets nothing else answer in its place$"
    with pytest.raises(kind, match=message) as caught:
        choose(store, ledger, "kronos", "kronos")
    assert type(caught.value) is kind


@pytest.mark.parametrize("kronos", ["good", "corrupt", "none"])
def test_mode_simulated_serves_the_simulator_whatever_kronos_is(
    store: Store, ledger: Ledger, state: State, kronos: str
) -> None:
    state(kronos, "good")
    choice = choose(store, ledger, "kronos", "simulated")
    assert (choice.version.uri, choice.instead) == ("models:/kronos_simulated/1", None)
    assert choice.facts() == {"asked": "kronos", "mode": "simulated"}


@pytest.mark.parametrize("mode", MODES)
def test_a_reference_that_names_a_version_is_never_rerouted(
    store: Store, ledger: Ledger, state: State, mode: Any
) -> None:
    state("good", "good")
    references = ("kronos/1", "kronos@production", "kronos/latest", "models:/kronos/Production")
    for reference in references:
        assert choose(store, ledger, reference, mode) == Choice(store.version("kronos", 1))
    with pytest.raises(NotFound, match="kronos has no version 9"):
        choose(store, ledger, "kronos/9", mode)
    state("corrupt", "good")
    with pytest.raises(Corrupt):
        choose(store, ledger, "kronos/1", mode)


@pytest.mark.parametrize("mode", MODES)
def test_other_models_do_not_depend_on_the_mode(
    store: Store, ledger: Ledger, state: State, mode: Any
) -> None:
    state("good", "good")
    choice = choose(store, ledger, "kronos_simulated", mode)
    assert choice == Choice(store.version("kronos_simulated", 1))
    assert choice.facts() == {}
    state("good", "none")
    with pytest.raises(NotFound, match="kronos_simulated has nothing in production"):
        choose(store, ledger, "kronos_simulated", mode)


@pytest.mark.parametrize(
    ("kronos", "simulator", "kind"),
    [("none", "none", NotFound), ("corrupt", "none", Corrupt), ("none", "corrupt", Corrupt)],
)
def test_where_neither_is_good_the_error_names_both_and_what_to_run(
    store: Store, ledger: Ledger, state: State, kronos: str, simulator: str, kind: type[Exception]
) -> None:
    state(kronos, simulator)
    both = r"^neither kronos nor kronos_simulated can be served: "
    with pytest.raises(kind, match=both) as caught:
        choose(store, ledger, "kronos", "auto")
    assert type(caught.value) is kind
    why = {"none": "{} has nothing in production", "corrupt": "differs from what was registered"}
    why_kronos = why[kronos].format("kronos")
    why_simulator = why[simulator].format("kronos_simulated")
    message = str(caught.value)
    assert message.index(why_kronos) < message.rindex(why_simulator)
    assert "`python -m jobs train kronos_simulated`" in message
    assert "`python -m registry promote kronos_simulated VERSION`" in message


def test_mode_simulated_without_a_simulator_says_what_to_run(
    store: Store, ledger: Ledger, state: State
) -> None:
    state("good", "none")
    message = r"^kronos_simulated has nothing in production; .*jobs train kronos_simulated"
    with pytest.raises(NotFound, match=message):
        choose(store, ledger, "kronos", "simulated")


# --- python -m serving ------------------------------------------------------------------------


@contextmanager
def serving(
    settings: Settings, *arguments: str, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """python -m serving; terminated at the end, if it still runs."""
    env = {**os.environ, "KRONOS_VAR_DIR": str(settings.var_dir), **environment}
    with subprocess.Popen(
        [sys.executable, "-m", "serving", *arguments],
        cwd=CHECKOUT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)


def predictions(url: str, rows: dict[str, Any], **params: Any) -> list[dict[str, Any]]:
    body = {"dataframe_split": rows, "params": params}
    reply = httpx.post(f"{url}/invocations", json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    answer: list[dict[str, Any]] = reply.json()["predictions"]
    return answer


def test_a_corrupt_kronos_is_replaced_loudly_and_every_row_says_simulated(
    store: Store, state: State
) -> None:
    state("corrupt", "good")
    bars = history(specs.simulator_spec("kronos_simulated", 5, names.LEVELS))
    dated = bars.assign(ds=bars["ds"].dt.strftime("%Y-%m-%d"))
    rows = {"columns": list(dated.columns), "data": dated.to_numpy(dtype=object).tolist()}
    variables = {"HF_TOKEN": TOKEN, "KRONOS_DEVICE": "cpu"}
    with serving(store.settings, "scorer", "kronos", "--port", "0", **variables) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        ready = json.loads(process.stdout.readline())
        frame = predictions(ready["url"], rows, seed=3, num_samples=50)
        prices = predictions(ready["url"], rows, seed=3, num_samples=50, output="prices")
        environment = Path(f"/proc/{ready['pid']}/environ").read_text().split("\0")
        process.send_signal(signal.SIGTERM)
        err = process.stderr.read()
        assert process.wait(30) == 143
    facts = {"model": "kronos_simulated", "version": 1, "asked": "kronos", "mode": "simulated"}
    assert {key: ready[key] for key in ready if key not in ("url", "pid")} == facts
    with store.load("kronos_simulated") as version:
        direct = version.forecast(bars, seed=3, num_samples=50)
    npt.assert_allclose([row["q0.95"] for row in frame], direct["q0.95"], rtol=0, atol=1e-12)
    for row in frame + prices:
        assert row["notes"].startswith("simulated: filtered bootstrap of past bars, not Kronos")
    assert all(row["low"] <= min(row["open"], row["close"]) for row in prices)
    assert "warning: kronos cannot be served: " in err
    assert "config.json differs from what was registered" in err
    warning = (
        "warning: serving models:/kronos_simulated/1 for kronos (KRONOS_MODE=auto): "
        "simulated, not Kronos"
    )
    assert warning in err
    assert "KRONOS_DEVICE=cpu" in environment
    assert TOKEN not in "".join(environment) + err


def test_the_request_printed_for_kronos_is_one_that_its_stand_in_answers(
    store: Store, state: State, verb: Verb
) -> None:
    state("none", "good")
    code, out, _ = verb(store.settings, "serving", "request", "kronos")
    assert code == 0
    request = json.loads(out)["dataframe_split"]
    assert request["columns"] == ["unique_id", "ds", "y", "open", "high", "low", "close"]
    assert len(request["data"]) == 120


def test_mode_kronos_without_kronos_ends_with_one_line(
    store: Store, state: State, verb: Verb
) -> None:
    state("none", "good")
    arguments = ("serving", "scorer", "kronos", "--port", "0")
    code, out, err = verb(store.settings, *arguments, KRONOS_MODE="kronos")
    assert (code, out) == (2, "")
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: NOT_FOUND: kronos has nothing in production")
    assert "KRONOS_MODE=kronos lets nothing else answer" in err


def test_an_empty_registry_ends_with_one_line_that_names_both(
    new_registry: Callable[[Path], Settings], tmp_path: Path, verb: Verb
) -> None:
    empty = new_registry(tmp_path)
    code, out, err = verb(empty, "serving", "scorer", "kronos", "--port", "0")
    assert (code, out) == (2, "")
    last = err.strip().splitlines()[-1]
    assert last.startswith(
        "error: NOT_FOUND: neither kronos nor kronos_simulated can be served: no model 'kronos' is"
    )
    assert "no model 'kronos_simulated' is registered" in last


def test_a_registry_out_of_reach_is_no_reason_to_simulate(settings: Settings, verb: Verb) -> None:
    unreachable = {
        "KRONOS_TRACKING_URI": "http://127.0.0.1:9",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    code, out, err = verb(settings, "serving", "scorer", "kronos", "--port", "0", **unreachable)
    assert (code, out) == (1, "")
    assert "error: TRACKING_UNAVAILABLE: " in err
    assert "simulated" not in err
