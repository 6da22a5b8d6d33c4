"""Forecasts by symbol from the ledger: calibrated, recorded, and asked by the client."""

from collections.abc import Iterator
from datetime import date

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest
from gateways import IDENTITY, Gateway, running, wait_until

from jobs.data.load import load
from registry.forecast import calendars
from registry.ledger import calibrations, requests
from registry.ledger.archive import Archive
from registry.ledger.states import Scope, States
from registry.ledger.track_record import TrackRecord
from registry.promotion.opening import open_ledger
from registry.settings import Settings
from registry.versions.store import Store
from serving.client import Client

LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
BIAS, SCALE = 0.25, 1.5
# A series of its own, whose last session is six later than that of the panel.
LATER = [f"{day:%Y-%m-%d}" for day in calendars.sessions("XNYS", "2022-09-01", "2023-01-06")]
SERIES = np.random.default_rng(0).normal(0.0, 0.01, len(LATER)).tolist()


@pytest.fixture(scope="module")
def settings(served_models: Settings) -> Settings:
    load(served_models, "panel")
    return served_models


@pytest.fixture(scope="module")
def calibrated(settings: Settings) -> Iterator[Gateway]:
    """A gateway with nbeats, which applies calibrations."""
    with running(settings, ["nbeats"], KRONOS_POLL_S="0.5") as gateway:
        yield gateway


@pytest.fixture(scope="module")
def scope(settings: Settings) -> Scope:
    with open_ledger(Store(settings)) as ledger:
        return Scope(registry=ledger.registry, model="nbeats", version=1, data="panel")


def publish(settings: Settings, scope: Scope, bias: float) -> int:
    """A calibration of all symbols at step 1."""
    states = States(
        keys=[("global", "")],
        steps=np.array([1]),
        bias=np.array([bias]),
        scale=np.array([SCALE]),
        offsets=np.zeros((1, len(LEVELS))),
    )
    with Archive(settings) as archive:
        return calibrations.publish(
            archive.engine,
            scope,
            method="ewma",
            learned_until=date(2022, 12, 28),
            levels=LEVELS,
            states=states,
            evidence={
                "verdicts": {"1": "calibrated", "2": "stale"},
                "learned_from": {"live": 1, "backfill": 130},
            },
        )


def number_of(gateway: Gateway) -> int | None:
    """The number of the calibration that is applied."""
    meta = gateway.forecast(symbol="AAPL", horizon=1).json()["meta"]
    number: int | None = meta["calibration"]["version"]
    return number


def test_a_calibration_applies_at_its_step_and_can_be_rolled_back(
    calibrated: Gateway, settings: Settings, scope: Scope
) -> None:
    raw = calibrated.forecast(symbol="AAPL").json()
    assert raw["meta"]["calibration"] == IDENTITY

    first = publish(settings, scope, BIAS)
    wait_until(lambda: number_of(calibrated) == first, 10)
    reply = calibrated.forecast(symbol="AAPL").json()
    before = np.array([*raw["q"]["1"].values()])
    median, width = before[5], before[-1] - before[0]
    expected = median + BIAS * width + SCALE * (before - median)
    npt.assert_allclose([*reply["q"]["1"].values()], expected, rtol=0, atol=1e-12)
    assert reply["q"]["2"] == raw["q"]["2"]  # it has no state of step 2
    assert reply["yhat"]["2"] == raw["yhat"]["2"]
    states = {}
    for step in (1, 2, 3):
        meta = calibrated.forecast(symbol="AAPL", horizon=[step]).json()["meta"]
        states[step] = meta["calibration"]["state"]
    assert states == {1: "calibrated", 2: "stale", 3: "uncalibrated"}
    assert reply["meta"]["calibration"] == {
        "version": first,
        "state": "uncalibrated",
        "learned_until": "2022-12-28",
        "learned_from": {"live": 1, "backfill": 130},
        "age": 0,
    }
    later = calibrated.forecast(symbol="AAPL", horizon=[1], series=SERIES, ds=LATER).json()
    said = later["meta"]["calibration"]
    assert (said["version"], said["age"], said["state"]) == (first, 6, "stale")
    assert calibrated.metric("kronos_calibration_number", model="nbeats") == first

    second = publish(settings, scope, 2 * BIAS)
    wait_until(lambda: number_of(calibrated) == second, 10)
    with Archive(settings) as archive:
        calibrations.roll_back(archive.engine, scope)
    wait_until(lambda: number_of(calibrated) == first, 10)
    assert calibrated.forecast(symbol="AAPL").json()["q"] == reply["q"]


def test_a_calibrated_forecast_is_recorded_raw_and_calibrated(
    calibrated: Gateway, settings: Settings, scope: Scope
) -> None:
    number = publish(settings, scope, BIAS)
    wait_until(lambda: number_of(calibrated) == number, 10)
    # No other test on this registry asks for this symbol.
    sent = {"symbol": "MSFT", "horizon": [1, 3]}
    headers = {"kronos-request-id": "recorded-1"}
    reply = calibrated.post("/forecast", sent, headers=headers).json()

    def recorded(*, after: bool) -> pd.DataFrame:
        with TrackRecord(settings) as record:
            return record.forecasts(calibrated=after, source="served", symbols=["MSFT"])

    wait_until(lambda: len(recorded(after=False)) == 3, 10)  # all steps up to the last one asked
    raw, moved = recorded(after=False), recorded(after=True)
    assert moved["q0.95"][0] == reply["q"]["1"]["p95"]
    assert raw["q0.95"][0] != moved["q0.95"][0]
    assert raw["q0.95"][2] == moved["q0.95"][2] == reply["q"]["3"]["p95"]
    assert set(moved["calibration"]) == {reply["meta"]["calibration"]["version"]}
    with Archive(settings) as archive:
        kept = requests.find(archive.engine, "recorded-1")
    assert kept.forecast_id == reply["meta"]["forecast_id"]
    assert b'"MSFT"' in kept.payload


def test_the_client_asks_by_symbol_with_series_and_in_batches(calibrated: Gateway) -> None:
    with Client(calibrated.url) as client:
        assert client.ready()
        forecast = client.forecast("AAPL", horizon=[1, 5])
        assert [*forecast.yhat] == [1, 5]
        assert forecast.meta.model == "nbeats"
        assert forecast.meta.cutoff == "2022-12-28"
        several = client.forecasts(["AAPL", "KO", "NOBODY"], horizon=1, levels=[0.5])
        assert [one.symbol for one in several.forecasts] == ["AAPL", "KO"]
        assert [one.place for one in several.refused] == [3]
        assert list(several.frame().columns) == ["unique_id", "step", "ds", "mean", "q0.5"]
