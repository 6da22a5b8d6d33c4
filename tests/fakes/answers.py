"""Requests drawn at random, and how far a reply is from direct forecasts of the version."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from registry.forecast import calendars, names
from registry.versions.store import LoadedVersion

Body = dict[str, Any]
LAST = "2022-12-28"
_SYMBOLS = [f"S{number}" for number in range(12)]  # few, so that equal ones meet
_SESSIONS = 400


def draw(rng: np.random.Generator, model: Mapping[str, Any]) -> Body:
    """A request for a model as /models shows it. One in eight has several symbols."""
    body: Body = {"model": model["model"], "horizon": _horizon(rng, model["horizon"])}
    if rng.random() < 0.3:
        inner = rng.choice(model["levels"], size=3, replace=False)
        body["levels"] = sorted(inner.tolist())
    if rng.random() < 0.125:
        symbols = rng.choice(_SYMBOLS, size=4, replace=False).tolist()
        body["forecasts"] = [_item(rng, symbol, model) for symbol in symbols]
        return body
    return body | _item(rng, str(rng.choice(_SYMBOLS)), model)


def _horizon(rng: np.random.Generator, longest: int) -> int | list[int]:
    horizon = int(rng.integers(1, longest + 1))
    return sorted({1, horizon}) if rng.random() < 0.3 else horizon


def _item(rng: np.random.Generator, symbol: str, model: Mapping[str, Any]) -> Body:
    length = int(rng.integers(model["min_context"], model["min_context"] + 60))
    series = rng.normal(0, 0.02, length).tolist()
    days = calendars.sessions(model["calendar"], "2021-01-01", LAST)[-length:]
    return {"symbol": symbol, "series": series, "ds": days.strftime("%Y-%m-%d").tolist()}


def difference(reply: Body, body: Body, version: LoadedVersion) -> float:
    """The largest difference between a reply and direct forecasts of its version.

    Raises AssertionError if a symbol, step or session is another one.
    """
    items = body.get("forecasts", [body])
    replies = reply.get("forecasts", [reply])
    assert reply.get("refused", []) == []
    assert [one["symbol"] for one in replies] == [item["symbol"] for item in items]
    return max(
        _difference(one, item, body, version) for one, item in zip(replies, items, strict=True)
    )


def _difference(reply: Body, item: Body, body: Body, version: LoadedVersion) -> float:
    steps = body["horizon"]
    steps = list(range(1, steps + 1)) if isinstance(steps, int) else steps
    frame = _direct(item, max(steps), body.get("levels"), version).set_index("step").loc[steps]
    assert [int(step) for step in reply["yhat"]] == steps
    sessions = frame["ds"].dt.strftime("%Y-%m-%d").tolist()
    assert [reply["meta"]["sessions"][str(step)] for step in steps] == sessions
    direct = frame.filter(regex="^(mean|q0)").to_numpy()
    return float(np.abs(np.array(list(_rows(reply))) - direct).max())


def _rows(reply: Body) -> Iterator[list[float]]:
    for step, mean in reply["yhat"].items():
        yield [mean, *reply["q"][step].values()]


def _direct(
    item: Body, horizon: int, levels: list[float] | None, version: LoadedVersion
) -> pd.DataFrame:
    days = pd.to_datetime(item["ds"])
    history = pd.DataFrame(
        {names.UNIQUE_ID: item["symbol"], names.DS: days, names.Y: item["series"]}
    )
    parameters: dict[str, Any] = {"horizon": horizon}
    if levels is not None:
        parameters["levels"] = levels
    return version.forecast(history, **parameters)
