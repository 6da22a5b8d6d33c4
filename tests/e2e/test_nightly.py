"""From prices in a CSV file to a calibrated forecast of the gateway, and back to the raw one.

Train, promote, issue, mature, calibrate, ask, roll back; on SQLite and PostgreSQL.
"""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.testing as npt
import pytest
from gateways import IDENTITY, Gateway, running, wait_until
from programs import environment
from typer.testing import CliRunner

from jobs.__main__ import app as jobs
from jobs.data.sources import builtin
from jobs.nightly.calibrate import calibrate, roll_back
from jobs.nightly.issue import issue
from jobs.nightly.mature import mature
from jobs.nightly.publishing import worst
from registry.__main__ import app as registry
from registry.ledger import calibrations
from registry.ledger.archive import Archive
from registry.ledger.states import Scope
from registry.ledger.track_record import TrackRecord
from registry.promotion.opening import open_ledger
from registry.settings import Settings
from registry.versions.store import Store

SYMBOLS = ("KO", "PEP", "XOM")
FIRST, LAST = "2022-06-01", "2022-12-27"  # cutoffs that are issued; the data end a session later
QUANTILES = tuple(f"p{level:02d}" for level in (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95))


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """An empty registry and ledger."""
    if request.param == "sqlite":
        return Settings(var_dir=tmp_path / "var")
    server = request.getfixturevalue("postgres")
    name = f"nightly_{uuid.uuid4().hex}"
    server.psql(f"CREATE DATABASE {name};")
    uri = server.get_uri(name, driver="psycopg2")
    return Settings(var_dir=tmp_path / "var", tracking_uri=uri, ledger_uri=uri)


@pytest.fixture
def call(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """call(program, *arguments): run a verb that succeeds."""
    for key, value in environment(settings).items():
        monkeypatch.setenv(key, value)

    def run(program: Any, *arguments: object) -> None:
        done = CliRunner().invoke(program, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output

    return run


def write_prices(path: Path) -> None:
    """Adjusted closes of three stocks, as a table of one symbol after the other."""
    prices = builtin.stock_prices()
    chosen = prices["unique_id"].isin(SYMBOLS) & (prices["ds"] >= "2017-01-01")
    renamed = {"unique_id": "ticker", "ds": "date"}
    prices[chosen].rename(columns=renamed).to_csv(path, index=False)


def scope_of(settings: Settings) -> Scope:
    with open_ledger(Store(settings)) as ledger:
        return Scope(registry=ledger.registry, model="har", version=1, data="mine")


def raw_of(gateway: Gateway, settings: Settings) -> dict[str, list[float]]:
    """Quantiles of KO by step, as MLflow's own protocol gives them: never calibrated."""
    columns = ["y", "market_abs_return"]
    with Archive(settings) as archive:
        history = archive.history("mine", ["KO"], columns=columns)
    spec = Store(settings).spec(Store(settings).resolve("har"))
    history = history[["unique_id", "ds", *[c for c in spec.columns if c in columns]]]
    split = history.assign(ds=history["ds"].dt.strftime("%Y-%m-%d")).to_dict(orient="split")
    body = {"dataframe_split": {"columns": split["columns"], "data": split["data"]}}
    rows = gateway.post("/invocations", body).json()["predictions"]
    levels = [f"q{int(name[1:]) / 100:g}" for name in QUANTILES]
    return {str(row["step"]): [row[level] for level in levels] for row in rows}


def asked(gateway: Gateway) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Quantiles of KO by step, and the calibration, of /forecast."""
    reply = gateway.forecast(symbol="KO").json()
    quantiles = {step: [q[name] for name in QUANTILES] for step, q in reply["q"].items()}
    return quantiles, reply["meta"]["calibration"]


def number_of(gateway: Gateway) -> int | None:
    number: int | None = asked(gateway)[1]["version"]
    return number


def expected(settings: Settings, raw: list[float], number: int, step: int) -> Any:
    """The formula of a calibration, by hand: q' = m + b w + s (q - m) + o w, sorted."""
    scope = scope_of(settings)
    with Archive(settings) as archive:
        states = calibrations.current(archive.engine, scope)
    assert states is not None
    assert states.number == number
    places = [place for place, key in enumerate(states.keys) if key == ("symbol", "KO")]
    [place] = [place for place in places if states.steps[place] == step]
    q = np.array(raw)
    median, width = q[5], q[-1] - q[0]
    moved = median + states.bias[place] * width + states.scale[place] * (q - median)
    return np.sort(moved + states.offsets[place] * width)


def test_what_came_true_changes_what_is_served_and_a_roll_back_undoes_it(
    settings: Settings, call: Callable[..., None], tmp_path: Path
) -> None:
    write_prices(tmp_path / "prices.csv")
    source = ("--source", "csv", "--from", tmp_path / "prices.csv", "--adjusted", "yes")
    splits = ("--fit_until", "2020-12-31", "--choose_until", "2021-12-31")
    call(jobs, "compile", *source, "--name", "mine", *splits)
    call(jobs, "train", "har", "--tiny", "--data", "mine", "--report_every", 50)
    call(registry, "promote", "har", "latest", "--why", "to be served")
    call(jobs, "data", "load", "mine")
    with running(settings, ["har"], KRONOS_POLL_S="0.5", KRONOS_QUEUE_S="20") as gateway:
        raw = raw_of(gateway, settings)
        quantiles, calibration = asked(gateway)
        assert calibration == IDENTITY
        for step, values in quantiles.items():
            npt.assert_allclose(values, raw[step], rtol=0, atol=1e-9)

        [issued] = issue(settings, ["har"], since=FIRST, until=LAST)
        assert issued.error is None
        number = len(issued.cutoffs)
        assert number > 120
        assert issued.sources == {"backfill": number}
        mature(settings)
        with TrackRecord(settings) as record:
            scored = record.scores(by=["step"], model="har", source="backfill")
        assert scored["n"].tolist() == [3 * (number - late) for late in range(5)]
        [learned] = calibrate(settings, ["har"], until=LAST)
        assert learned.error is None
        [first] = learned.published.numbers
        wait_until(lambda: number_of(gateway) == first, 20)
        former, calibration = asked(gateway)
        assert calibration == {
            "version": first,
            "state": worst(learned.published.verdicts),
            "learned_until": LAST,
            "learned_from": {"live": 0, "backfill": number - 1},
            "age": 1,
        }
        assert raw_of(gateway, settings) == raw
        for step, values in former.items():
            by_hand = expected(settings, raw[step], first, int(step))
            npt.assert_allclose(values, by_hand, rtol=0, atol=1e-12)
            assert np.abs(np.array(values) - raw[step]).max() > 1e-6
        assert gateway.metric("kronos_calibration_number", model="har") == first

        [learned] = calibrate(settings, ["har"])
        [second] = learned.published.numbers
        assert second == first + 1
        wait_until(lambda: number_of(gateway) == second, 20)
        assert asked(gateway)[0] != former
        assert roll_back(settings, "har")["number"] == first
        wait_until(lambda: number_of(gateway) == first, 20)
        assert asked(gateway) == (former, calibration)
