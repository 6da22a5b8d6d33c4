"""Kronos behind the stock `mlflow models serve`: bars in; quantiles, prices and paths out."""

import base64
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest

from jobs.data import catalog
from jobs.training import planning, train
from jobs.training.references import References
from registry.errors import Corrupt, KronosError
from registry.forecast import names
from registry.promotion import moves
from registry.promotion.opening import open_ledger
from registry.settings import Settings
from registry.versions import environments
from registry.versions.store import Store
from serving.scorer import Scorer

COLUMNS = [*names.HISTORY, *names.BAR]


@dataclass(frozen=True)
class Served:
    url: str
    store: Store
    history: pd.DataFrame

    def post(self, frame: pd.DataFrame, **params: Any) -> httpx.Response:
        dated = frame.assign(ds=frame["ds"].dt.strftime("%Y-%m-%d"))
        split = {"columns": list(frame.columns), "data": dated.to_numpy(dtype=object).tolist()}
        text = json.dumps({"dataframe_split": split, "params": params})
        headers = {"Content-Type": "application/json"}
        return httpx.post(f"{self.url}/invocations", content=text, headers=headers, timeout=60)

    def rows(self, frame: pd.DataFrame, **params: Any) -> pd.DataFrame:
        reply = self.post(frame, **params)
        assert reply.status_code == 200, reply.text
        return pd.DataFrame(reply.json()["predictions"])


@pytest.fixture(scope="module")
def served(
    new_registry: Callable[[Path], Settings], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A tiny kronos, served by its stage."""
    settings = new_registry(tmp_path_factory.mktemp("kronos"))
    overrides = {"report_until": "2011-03-31", "report_every": 20}
    plan = planning.plan(settings, "kronos", overrides, seed=0, tiny=True)
    version = train.train(settings, plan, References()).version
    store = Store(settings)
    with open_ledger(Store(settings)) as ledger:
        moves.promote(store, ledger, "kronos", version.version, who="tests", why="to be served")
    frame = catalog.BARS.load(settings).history
    history = frame[frame["unique_id"].isin(["AAPL", "IBM"])].groupby("unique_id").tail(36)[COLUMNS]
    scorer = Scorer(settings, version, store.fetch(version), host="127.0.0.1", port=0)
    command = scorer.launch.command
    command[command.index("-m", 3) + 1] = "models:/kronos/Production"
    scorer.launch.environment.update(environments.of_mlflow(settings))
    with scorer:
        scorer.wait_ready()
        yield Served(scorer.url, store, history.reset_index(drop=True))


def test_served_numbers_are_those_of_a_direct_predict(served: Served) -> None:
    params = {
        "horizon": 3,
        "levels": [0.01, 0.5, 0.99],
        "num_samples": 30,
        "temperature": 0.9,
        "top_p": 0.95,
        "seed": 4,
    }
    frame = served.rows(served.history, **params)
    with served.store.load("kronos") as version:
        direct = version.forecast(served.history, **params)
    numbers = ["mean", "q0.01", "q0.5", "q0.99"]
    columns = ["unique_id", "step", "ds", *numbers, "notes"]
    assert list(frame.columns) == list(direct.columns) == columns
    notes = set(frame["notes"])
    assert notes == set(direct["notes"])
    # A network that learnt nothing: most of its bars are corrected.
    assert all(note.endswith("kronos version 1") for note in notes)
    npt.assert_allclose(frame[numbers], direct[numbers], rtol=0, atol=1e-9)
    assert frame["ds"].str[:10].tolist()[:3] == ["2013-03-04", "2013-03-05", "2013-03-06"]


def test_packed_reply_holds_every_path_and_the_frame_follows_from_it(served: Served) -> None:
    reply = served.post(served.history, output="packed", num_samples=25, seed=4)
    packed = reply.json()["predictions"]
    block = packed["price_paths"]
    assert block["shape"] == [2, 25, 5, 6]
    flat = np.frombuffer(base64.b64decode(block["data"]), dtype=block["dtype"])
    paths = flat.reshape(block["shape"])
    close = paths[..., block["columns"].index("close")]
    last = served.history.groupby("unique_id")["close"].last().to_numpy()[:, None]
    median = np.median(np.log(close[:, :, 0] / last), axis=1)
    frame = served.rows(served.history, num_samples=25, seed=4)
    npt.assert_allclose(frame.loc[frame["step"] == 1, "q0.5"], median, rtol=0, atol=1e-9)
    assert set(packed["measured"]) == {"bars_corrected"}


def test_prices_are_possible_bars_with_the_quantiles_of_the_close(served: Served) -> None:
    prices = served.rows(served.history, output="prices")
    assert list(prices.columns)[:10] == ["unique_id", "step", "ds", *names.BAR, "mean"]
    assert (prices["low"] <= prices[["open", "close"]].min(axis=1)).all()
    assert (prices["high"] >= prices[["open", "close"]].max(axis=1)).all()
    npt.assert_allclose(prices["close"], prices["q0.5"], rtol=1e-12)


def test_missing_volume_is_said_in_every_row(served: Served) -> None:
    rows = served.rows(served.history.drop(columns=["volume", "amount"]))
    assert rows["notes"].str.contains("volume was missing and taken as 0").all()


def test_eight_clients_get_what_one_gets(served: Served) -> None:
    seeds = list(range(8))
    one_client = [served.rows(served.history, seed=seed) for seed in seeds]
    with ThreadPoolExecutor(8) as pool:
        eight_clients = pool.map(lambda seed: served.rows(served.history, seed=seed), seeds)
    for expected, frame in zip(one_client, eight_clients, strict=True):
        pd.testing.assert_frame_equal(expected, frame, check_exact=True)


@pytest.mark.parametrize(
    ("change", "params", "code"),
    [
        ({"open": -1.0}, {}, "BAD_PRICE"),
        ({"high": 0.001}, {}, "BAD_BAR"),
        ({"volume": -5.0}, {}, "BAD_VOLUME"),
        ({"y": 0.3}, {}, "PRICE_BASIS"),
        ({}, {"num_samples": 0}, "BAD_OPTION"),
        ({}, {"temperature": -1.0}, "BAD_OPTION"),
        ({}, {"top_p": 1.5}, "BAD_OPTION"),
        ({}, {"overflow": "wrap"}, "BAD_OPTION"),
        ({}, {"horizon": 6}, "BAD_HORIZON"),
        ({}, {"num_samples": None}, "BAD_OPTION"),
        ({}, {"num_samples": 2**70}, "BAD_OPTION"),
        ({}, {"num_samples": "30"}, "BAD_OPTION"),
        ({}, {"num_samples": [30]}, "BAD_OPTION"),
    ],
    ids=str,
)
def test_bad_input_is_a_400_with_our_code(
    served: Served, change: dict[str, float], params: dict[str, Any], code: str
) -> None:
    history = served.history
    broken = history[history["unique_id"] == history["unique_id"].iloc[0]].copy()
    for name, value in change.items():
        broken.loc[3, name] = value
    reply = served.post(broken, **params)
    assert reply.status_code == 400
    assert reply.json()["code"] == code


def test_a_device_that_is_not_there_is_named_when_the_server_cannot_start(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's last lines are about uvicorn; the error of the version is in its log."""
    settings = Settings(var_dir=served.store.settings.var_dir, device="cuda:7")
    # For this process; the server takes its device from the settings.
    monkeypatch.setenv("KRONOS_DEVICE", "cpu")
    version = served.store.resolve("kronos")
    folder = served.store.fetch(version)
    scorer = Scorer(settings, version, folder, host="127.0.0.1", port=0)
    with scorer, pytest.raises(KronosError, match=r"KRONOS_DEVICE is 'cuda:7'.*use auto or cpu"):
        scorer.wait_ready()


def test_a_flipped_byte_of_the_weights_is_not_served(served: Served) -> None:
    version = served.store.resolve("kronos")
    weights = served.store.fetch(version) / "artifacts/model/predictor/model.safetensors"
    content = weights.read_bytes()
    try:
        _flip(weights)
        with pytest.raises(Corrupt, match=r"model\.safetensors differs from what was registered"):
            served.store.load("kronos")
    finally:
        weights.write_bytes(content)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
