"""The wrapper's answers: of a model that samples bars, and for a faulty model or request."""

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest

from registry.errors import BadHistory, BadParameter, NotAvailable
from registry.forecast import bars, calendars, names
from registry.forecast.answer import answer
from registry.forecast.forecast import Forecast
from registry.forecast.history import History
from registry.forecast.identity import Identity
from registry.forecast.spec import ModelSpec, Option, Request
from registry.versions import signature
from registry.versions.pyfunc import ForecastModel
from registry.versions.served import ServedError

SPEC = ModelSpec(
    name="faulty",
    family="tests",
    min_context=3,
    max_context=3,
    max_horizon=2,
    levels=(0.1, 0.5, 0.9),
)


class Faulty:
    """A forecaster that raises its exception or answers its quantiles [1, 2, 3]."""

    spec = SPEC

    def __init__(self, outcome: Exception | np.ndarray[Any, np.dtype[np.float64]]) -> None:
        self.outcome = outcome

    def predict(self, history: History, request: Request) -> Forecast:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        mean = np.zeros((1, request.horizon))
        return Forecast(history.ids, history.cutoffs, self.spec.levels, self.outcome, mean)


def ask(outcome: Any) -> Any:
    """Answer of a faulty model to a history of the series SECRET."""
    model = ForecastModel()
    model.forecaster = Faulty(outcome)
    ds = calendars.sessions("XNYS", "2022-12-23", "2022-12-28")
    history = pd.DataFrame({names.UNIQUE_ID: "SECRET", names.DS: ds, names.Y: 0.0123})
    return model.predict(None, history)


def test_whatever_a_model_raises_is_answered_without_its_words() -> None:
    with pytest.raises(ServedError) as caught:
        ask(RuntimeError("/home/somebody/model.py broke on SECRET 0.0123"))
    assert caught.value.get_http_status_code() == 500
    assert caught.value.json_kwargs == {"code": "INTERNAL"}
    assert caught.value.message == "faulty failed; the server's log says how"


@pytest.mark.parametrize(
    ("quantiles", "message"),
    [
        (np.full((1, 2, 3), np.nan), "faulty: the forecast holds a value that is not finite"),
        (np.array([[[0.1, 0.0, 0.2]] * 2]), "faulty: quantiles cross"),
        (np.zeros((1, 2, 2)), "faulty: quantiles have shape (1, 2, 2), expected (1, 2, 3)"),
    ],
)
def test_a_forecast_that_breaks_the_contract_is_not_answered(quantiles: Any, message: str) -> None:
    with pytest.raises(ServedError) as caught:
        ask(quantiles)
    assert caught.value.json_kwargs == {"code": "BAD_FORECAST"}
    assert caught.value.message == message


def test_the_message_of_a_served_error_cannot_be_replaced() -> None:
    with pytest.raises(ServedError) as caught:
        ask(RuntimeError("x"))
    # MLflow's scoring server sets such a message.
    caught.value.message = "Failed to predict data 'SECRET 0.0123'"
    assert "SECRET" not in caught.value.serialize_as_json()


# --- a model of prices --------------------------------------------------------------------------


PRICES = ModelSpec(
    name="bootstrap",
    family="tests",
    min_context=20,
    max_context=60,
    max_horizon=3,
    columns=(*names.HISTORY, *names.OHLC),
    optional=(names.VOLUME, names.AMOUNT),
    has_paths=True,
    has_prices=True,
    options=(Option("num_samples", "long", 7, minimum=1, maximum=50),),
)


@dataclass(frozen=True)
class Bootstrap:
    """Paths of past bars, drawn with replacement and joined; every series has its own seed."""

    spec: ModelSpec = PRICES

    def predict(self, history: History, request: Request) -> Forecast:
        filled, notes = bars.complete(history.columns)
        samples = request.options["num_samples"]
        sampled = []
        for i, name in enumerate(history.ids):
            past = filled[history.bounds[i] : history.bounds[i + 1]]
            seed = [request.seed, zlib.crc32(name.encode())]
            sampled.append(self._paths(past, seed, samples, request.horizon))
        paths, corrected = bars.correct(np.stack(sampled), history.last("close"))
        measured = {"bars_corrected": corrected}
        return Forecast.of_price_paths(history, self.spec, paths, notes=notes, measured=measured)

    def _paths(self, filled: np.ndarray, seed: list[int], samples: int, horizon: int) -> np.ndarray:
        """[S, H, 6]"""
        drawn = np.random.default_rng(seed).integers(1, len(filled), (samples, horizon))
        steps = filled[drawn, :4] / filled[drawn - 1, 3:4]  # prices over the close before
        growth = np.concatenate([np.ones((samples, 1)), steps[:, :-1, 3]], axis=1)
        before = filled[-1, 3] * np.cumprod(growth, axis=1)
        return np.concatenate([steps * before[:, :, None], filled[drawn, 4:]], axis=2)


def bar_history(*drop: str) -> pd.DataFrame:
    """Two series of 40 sessions with their bars."""
    days = calendars.sessions("XNYS", "2022-10-31", "2022-12-28")
    rng = np.random.default_rng(5)
    frames = []
    for name in ("ALFA", "BRAVO"):
        y = rng.normal(0, 0.02, len(days))
        close = 40 * np.exp(y.cumsum())
        bar = {"open": close * 1.001, "high": close * 1.01, "low": close * 0.98, "close": close}
        volume = {
            "volume": rng.integers(1000, 9000, len(days)),
            "amount": rng.uniform(1e5, 3e5, len(days)),
        }
        frames.append(pd.DataFrame({"unique_id": name, "ds": days, "y": y, **bar, **volume}))
    return pd.concat(frames, ignore_index=True).drop(columns=list(drop))


def unpacked(block: Mapping[str, Any]) -> np.ndarray:
    flat = np.frombuffer(base64.b64decode(block["data"]), dtype=block["dtype"])
    return flat.reshape(block["shape"])


def test_a_model_of_prices_answers_returns_unless_it_is_asked_for_prices() -> None:
    history = bar_history()
    returns = answer(Bootstrap(), history, {})
    prices = answer(Bootstrap(), history, {"output": "prices"})
    last = history.groupby("unique_id")["close"].last()
    keys = ["unique_id", "step", "ds"]
    quantiles = [names.quantile_column(level) for level in names.LEVELS]
    assert list(returns.columns) == [*keys, "mean", *quantiles]
    assert list(prices.columns) == [*keys, *names.BAR, "mean", *quantiles]
    for name in ("ALFA", "BRAVO"):
        first_step = (returns["unique_id"] == name) & (returns["step"] == 1)
        expected = last[name] * np.exp(returns.loc[first_step, "q0.5"])
        npt.assert_allclose(prices.loc[first_step, "q0.5"], expected, rtol=1e-12)
    pd.testing.assert_frame_equal(returns[keys], prices[keys])


def test_every_sampled_bar_is_in_the_packed_answer_and_gives_the_frame() -> None:
    params = {"num_samples": 9, "horizon": 2, "levels": [0.001, 0.5], "seed": 3}
    packed = answer(Bootstrap(), bar_history(), {**params, "output": "packed"})
    paths = unpacked(packed["price_paths"])
    assert paths.shape == (2, 9, 2, 6)
    assert packed["price_paths"]["columns"] == list(names.BAR)
    last = bar_history().groupby("unique_id")["close"].last().to_numpy()
    returns = bars.path_returns(paths, last)
    frame = answer(Bootstrap(), bar_history(), params)
    npt.assert_allclose(frame["mean"], returns.mean(axis=1).reshape(-1), rtol=1e-12)
    extreme = np.quantile(returns, 0.001, axis=1).reshape(-1)
    npt.assert_allclose(frame["q0.001"], extreme, rtol=1e-12)
    npt.assert_array_equal(unpacked(packed).reshape(4, 3), frame[packed["columns"]].to_numpy())
    assert packed["notes"] == {}
    assert packed["measured"] == {"bars_corrected": [0.0, 0.0]}


def test_what_was_filled_in_is_said_in_every_form_of_the_answer() -> None:
    history = bar_history("volume", "amount")
    notes = [
        "volume was missing and taken as 0",
        "amount was missing and taken as mean price x volume",
    ]
    for output in ("frame", "prices"):
        frame = answer(Bootstrap(), history, {"output": output})
        assert set(frame[names.NOTES]) == {"; ".join(notes)}
    assert list(answer(Bootstrap(), history, {"output": "packed"})["notes"].values()) == notes


def test_volume_that_was_not_sent_changes_no_return() -> None:
    full = answer(Bootstrap(), bar_history(), {})
    bare = answer(Bootstrap(), bar_history("volume", "amount"), {})
    pd.testing.assert_frame_equal(full, bare.drop(columns=names.NOTES))


def test_a_model_of_returns_has_no_prices_and_packs_none() -> None:
    history = pd.DataFrame(
        {"unique_id": "A", "ds": calendars.sessions("XNYS", "2022-12-23", "2022-12-28"), "y": 0.01}
    )
    with pytest.raises(NotAvailable, match="faulty forecasts returns; it knows no prices"):
        answer(Faulty(np.zeros((1, 2, 3))), history, {"output": "prices"})
    assert "price_paths" not in answer(Faulty(np.zeros((1, 2, 3))), history, {"output": "packed"})


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ([1], "BAD_PARAMETER"),
        ("horizon", "BAD_PARAMETER"),
        ({"output": None}, "BAD_OUTPUT"),
        ({"output": np.array(["frame", "packed"])}, "BAD_OUTPUT"),
        ({"output": ["frame"]}, "BAD_OUTPUT"),
    ],
    ids=str,
)
def test_parameters_of_another_kind_are_refused_by_code(params: Any, code: str) -> None:
    with pytest.raises(BadParameter) as caught:
        answer(Bootstrap(), bar_history(), params)
    assert caught.value.code == code


def test_a_reply_names_the_version_that_answered() -> None:
    identity = Identity("bootstrap", 3, "0123456789abcdef" * 4)
    frame, prices, packed = (
        answer(Bootstrap(), bar_history("volume", "amount"), {"output": output}, identity)
        for output in names.OUTPUTS
    )
    filled_in = "; ".join(packed["notes"].values())
    assert filled_in.startswith("volume was missing")
    assert set(frame[names.NOTES]) == set(prices[names.NOTES])
    assert set(frame[names.NOTES]) == {f"{filled_in}; bootstrap version 3"}
    fields = {name: packed[name] for name in ("model", "version", "manifest")}
    assert fields == {"model": "bootstrap", "version": 3, "manifest": "0123456789ab"}


def test_bad_bars_and_bad_options_are_refused_by_code() -> None:
    with pytest.raises(BadHistory) as caught:
        answer(Bootstrap(), bar_history().assign(high=1.0), {})
    assert caught.value.code == "BAD_BAR"
    with pytest.raises(BadParameter) as refused:
        answer(Bootstrap(), bar_history(), {"num_samples": 51})
    assert refused.value.code == "BAD_OPTION"


# --- its signature ------------------------------------------------------------------------------


def test_a_signature_asks_for_required_columns_and_allows_the_optional_ones_and_notes() -> None:
    built = signature.build(PRICES)
    required = {column.name: column.required for column in built.inputs.inputs}
    assert required == dict.fromkeys(PRICES.columns, True) | dict.fromkeys(PRICES.optional, False)
    assert {c.name: c.required for c in built.outputs.inputs}[names.NOTES] is False
