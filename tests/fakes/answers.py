"""Requests drawn at random, and the numbers that a version gives directly."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from registry.forecast import calendars, names
from registry.versions.loaded import LoadedVersion

Body = dict[str, Any]
Numbers = npt.NDArray[np.float64]  # [rows, 1 + Q]: mean and quantiles, by symbol, then step
LAST = "2022-12-28"
_SYMBOLS = [f"S{number}" for number in range(12)]  # few, so that equal ones meet


def draw(rng: np.random.Generator, model: Mapping[str, Any]) -> Body:
    """A request for a model as /models shows it. One in eight has several symbols."""
    body: Body = {"model": model["model"], "horizon": _horizon(rng, model["horizon"])}
    if rng.random() < 0.3:
        inner = rng.choice(model["levels"], size=3, replace=False)
        body["levels"] = sorted(inner.tolist())
    if rng.random() < 0.125:
        symbols = rng.choice(_SYMBOLS, size=4, replace=False).tolist()
        body["forecasts"] = [item(rng, symbol, model) for symbol in symbols]
        return body
    return body | item(rng, str(rng.choice(_SYMBOLS)), model)


def item(rng: np.random.Generator, symbol: str, model: Mapping[str, Any]) -> Body:
    """A symbol with a series of random length."""
    length = int(rng.integers(model["min_context"], model["min_context"] + 60))
    series = rng.normal(0, 0.02, length).tolist()
    days = calendars.sessions(model["calendar"], "2021-01-01", LAST)[-length:]
    return {"symbol": symbol, "series": series, "ds": days.strftime("%Y-%m-%d").tolist()}


def _horizon(rng: np.random.Generator, longest: int) -> int | list[int]:
    horizon = int(rng.integers(1, longest + 1))
    return sorted({1, horizon}) if rng.random() < 0.3 else horizon


def numbers(reply: Body) -> Numbers:
    """All numbers of a reply."""
    rows = []
    for one in reply.get("forecasts", [reply]):
        for step, mean in one["yhat"].items():
            rows.append([mean, *one["q"][step].values()])
    return np.array(rows)


def places(reply: Body) -> list[tuple[str, int, str]]:
    """Symbol, step and session of each row of `numbers`."""
    rows = []
    for one in reply.get("forecasts", [reply]):
        sessions = one["meta"]["sessions"]
        rows += [(one["symbol"], int(step), sessions[step]) for step in one["yhat"]]
    return rows


def direct(body: Body, version: LoadedVersion) -> Numbers:
    """The numbers of a reply as the version gives them itself, each symbol on its own."""
    frame = direct_frame(body, version)
    return frame.filter(regex="^(mean|q0)").to_numpy()


def direct_frame(body: Body, version: LoadedVersion) -> pd.DataFrame:
    """The version's own forecast: a row for each symbol and step of the request."""
    asked = body["horizon"]
    steps = list(range(1, asked + 1)) if isinstance(asked, int) else asked
    parameters = {"horizon": max(steps)}
    if "levels" in body:
        parameters["levels"] = body["levels"]
    frames = []
    for one in body.get("forecasts", [body]):
        frame = version.forecast(_history(one), **parameters)
        frames.append(frame[frame["step"].isin(steps)])
    return pd.concat(frames, ignore_index=True)


def _history(one: Body) -> pd.DataFrame:
    columns = {names.UNIQUE_ID: one["symbol"], names.DS: one["ds"], names.Y: one["series"]}
    return pd.DataFrame(columns).astype({names.DS: "datetime64[s]"})
