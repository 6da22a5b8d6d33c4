"""The wrapper's answers when a model or a request is at fault."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from registry import calendars, wire
from registry.contract import Forecast, History, ModelSpec
from registry.pyfunc import ForecastModel, ServedError

SPEC = ModelSpec(name="faulty", family="tests", min_context=3, max_context=3, max_horizon=2, levels=(0.1, 0.5, 0.9))


class Faulty:
    """A forecaster that does what it is told: raise, or answer these quantiles [1, 2, 3]."""

    spec = SPEC

    def __init__(self, does: Exception | np.ndarray[Any, np.dtype[np.float64]]) -> None:
        self.does = does

    def predict(
        self, history: History, horizon: int, levels: Sequence[float], seed: int, options: Mapping[str, Any]
    ) -> Forecast:
        if isinstance(self.does, Exception):
            raise self.does
        return Forecast(history.ids, history.cutoffs, tuple(levels), self.does, np.zeros((1, horizon)))


def ask(does: Any) -> Any:
    model = ForecastModel()
    model.forecaster = Faulty(does)
    history = pd.DataFrame(
        {wire.UNIQUE_ID: "SECRET", wire.DS: calendars.sessions("XNYS", "2022-12-23", "2022-12-28"), wire.Y: 0.0123}
    )
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
    caught.value.message = "Failed to predict data 'SECRET 0.0123'"  # as MLflow's scoring server does
    assert "SECRET" not in caught.value.serialize_as_json()
