"""Requests for many series, with a scripted scorer and histories that were sent."""

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scripted import TOKEN, Script, Scripted, packed

from registry.errors import BadForecast, KronosError
from serving.gateway import calls, forecasts, replies
from serving.gateway.calls import Series
from serving.gateway.dispatch import Dispatcher
from serving.gateway.histories import Histories
from serving.gateway.link import Link
from serving.gateway.pace import MOST, Pace

PLAN = SimpleNamespace(parameters=b"{}")


def asked(count: int, script: Script | None = None) -> tuple[Scripted, list[Any]]:
    """The scorer, and what a request with so many series got, twice."""
    names = [f"S{number:04}" for number in range(count)]
    wanted = {
        name: SimpleNamespace(series=_series(name, place)) for place, name in enumerate(names)
    }
    gathered = Histories(wanted=wanted)  # type: ignore[arg-type]
    scorer = Scripted(script)

    async def main() -> list[Any]:
        async with asyncio.timeout(20), scorer:
            dispatcher = _dispatcher(scorer)
            live: Any = SimpleNamespace(dispatcher=dispatcher, spec=SimpleNamespace(joint=False))
            answers = [await forecasts._ask(live, PLAN, gathered) for _ in range(2)]  # type: ignore[arg-type]
            dispatcher.close()
            return answers

    return scorer, asyncio.run(main())


def _series(name: str, y: float) -> Series:
    return Series(name, 1, {"ds": calls.values(["2020-02-03"]), "y": calls.values([y])})


def _dispatcher(scorer: Scripted) -> Dispatcher:
    return Dispatcher(
        Link("127.0.0.1", scorer.port, TOKEN),
        name="ewma",
        version=1,
        joint=False,
        timeout_s=5,
        pace=Pace(0.15, call_s=0.001),
        on_hung=lambda: None,
    )


def test_a_request_with_many_series_is_answered_though_it_takes_longer_than_one_may_wait() -> None:
    async def slow(_: list[str]) -> tuple[int, Any]:
        await asyncio.sleep(0.06)
        return 200, None

    scorer, answers = asked(6 * MOST + 1, slow)
    assert len(scorer.calls) < 40
    for rows, _ in answers:
        assert [float(rows[name].values[0, 0]) for name in sorted(rows)] == [*range(6 * MOST + 1)]


def test_a_history_that_refuses_a_whole_call_is_refused_alone() -> None:
    async def script(symbols: list[str]) -> tuple[int, Any]:
        if "S0007" in symbols:
            return 400, {"message": "no session", "code": "NOT_A_SESSION"}
        return 200, None

    _, answers = asked(20, script)
    rows, _ = answers[0]
    bad = [name for name, row in rows.items() if isinstance(row, KronosError)]
    assert bad == ["S0007"]
    assert rows["S0007"].code == "NOT_A_SESSION"
    assert float(rows["S0008"].values[0, 0]) == 8.0


def test_notes_of_all_calls_are_kept_without_places_in_a_call() -> None:
    async def script(symbols: list[str]) -> tuple[int, Any]:
        columns = {"unique_id": symbols, "y": [1.0] * len(symbols)}
        notes = {"filled": f"filled {symbols[0]}", "refused": "1 of 9 series were refused"}
        return 200, packed(columns, notes)

    _, answers = asked(MOST + 1, script)
    assert answers[0][1] == ["filled S0000", f"filled S{MOST:04}"]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_json_does_not_have_is_never_sent(number: float) -> None:
    values = np.array([[0.0, number]])
    with pytest.raises(BadForecast):
        replies.shown(values, [1], ["p50"])
