"""The queue in front of a scorer, with a real connection to a scripted one; and its pace."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from scripted import TOKEN, Script, Scripted, packed

from registry.errors import (
    BadHistory,
    BadInput,
    KronosError,
    NotReady,
    Overloaded,
    TooLate,
)
from serving.gateway import calls
from serving.gateway.calls import Answer, Row, Series
from serving.gateway.dispatch import Dispatcher, Job
from serving.gateway.link import Link, Reply
from serving.gateway.pace import LARGEST, Pace

Numbers = list[float]


def series(symbol: str, y: Numbers) -> Series:
    days = [f"2020-02-{day:02}" for day in range(1, 1 + len(y))]
    return Series(symbol, len(y), {"ds": calls.values(days), "y": calls.values(y)})


def job(symbol: str, y: Numbers, horizon: int = 1) -> Job:
    return Job([series(symbol, y)], calls.parameters(horizon, None, {}))


class Queue:
    """A dispatcher, and what it reported."""

    def __init__(
        self,
        scorer: Scripted,
        pace: Pace | None = None,
        *,
        joint: bool = False,
        timeout_s: float = 5,
    ) -> None:
        self.hung = 0
        self.refused: Counter[str] = Counter()
        self.sizes: list[int] = []
        self.dispatcher = Dispatcher(
            Link("127.0.0.1", scorer.port, TOKEN),
            name="ewma",
            version=1,
            joint=joint,
            timeout_s=timeout_s,
            pace=pace or Pace(5.0),
            on_hung=self._on_hung,
            on_batch=self.sizes.append,
            on_refused=lambda reason: self.refused.update([reason]),
        )

    def _on_hung(self) -> None:
        self.hung += 1

    async def ask_all(self, *jobs: Job) -> list[Any]:
        """Answers and errors in the order of the jobs."""
        asked = [self.dispatcher.ask(one) for one in jobs]
        return await asyncio.gather(*asked, return_exceptions=True)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(main())


def after(seconds: float) -> Script:
    """A script that forecasts after a time."""

    async def script(_: list[str]) -> tuple[int, Any]:
        await asyncio.sleep(seconds)
        return 200, None

    return script


def mean(answer: Any, symbol: str) -> float:
    assert isinstance(answer, Answer), answer
    return float(answer.rows[symbol].values[0, 0])


def column(body: bytes, name: str) -> list[Any]:
    values: list[Any] = json.loads(body)["inputs"][name]
    return values


# --- batches ----------------------------------------------------------------------------------


def test_each_caller_gets_its_own_rows():
    async def test() -> None:
        async with Scripted() as scorer:
            queue = Queue(scorer)
            jobs = [job(f"S{n}", [n, 0.5, n / 7]) for n in range(100)]
            answers = await queue.ask_all(*jobs)
        for n, answer in enumerate(answers):
            assert mean(answer, f"S{n}") == n + 0.5 + n / 7
        assert len(scorer.calls) < 10
        assert max(queue.sizes) == LARGEST

    run(test)


def test_one_symbol_with_two_histories_goes_in_two_calls():
    async def test() -> None:
        async with Scripted() as scorer:
            queue = Queue(scorer)
            first, *others = await queue.ask_all(
                job("X", [9.0]), job("A", [1.0]), job("A", [2.0]), job("B", [3.0])
            )
        assert scorer.calls == [["A", "B", "X"], ["A"]]
        assert mean(first, "X") == 9.0
        assert [mean(answer, name) for answer, name in zip(others, "AAB", strict=True)] == [1, 2, 3]

    run(test)


def test_equal_histories_of_one_symbol_share_a_row():
    async def test() -> None:
        async with Scripted() as scorer:
            queue = Queue(scorer)
            answers = await queue.ask_all(*[job("A", [1.0, 2.0]) for _ in range(50)])
        assert {mean(answer, "A") for answer in answers} == {3.0}
        assert len(scorer.calls) <= 2
        assert all(column(body, "y") == [1.0, 2.0] for body in scorer.bodies)

    run(test)


def test_requests_of_other_parameters_and_joint_models_go_alone():
    async def test() -> None:
        async with Scripted() as scorer:
            await Queue(scorer).ask_all(job("A", [1.0], horizon=1), job("B", [1.0], horizon=2))
            assert scorer.calls == [["A"], ["B"]]
            scorer.calls.clear()
            await Queue(scorer, joint=True).ask_all(job("A", [1.0]), job("B", [1.0]))
            assert scorer.calls == [["A"], ["B"]]

    run(test)


def test_of_a_bad_batch_only_the_bad_series_is_refused():
    async def script(symbols: list[str]) -> tuple[int, Any]:
        if "BAD" in symbols:
            return 400, {"message": "too short", "code": "TOO_SHORT"}
        return 200, None

    async def test() -> None:
        async with Scripted(script) as scorer:
            good, bad, other = await Queue(scorer).ask_all(
                job("A", [1.0]), job("BAD", [2.0]), job("C", [3.0])
            )
        assert (mean(good, "A"), mean(other, "C")) == (1.0, 3.0)
        assert isinstance(bad, BadInput)
        assert bad.code == "TOO_SHORT"

    run(test)


def test_a_note_goes_to_the_caller_whose_history_it_is_about():
    notes = {"filled": "a session was filled in"}

    async def script(symbols: list[str]) -> tuple[int, Any]:
        columns = {"unique_id": symbols, "y": [1.0] * len(symbols)}
        return 200, packed(columns, notes if "GAP" in symbols else {})

    async def test() -> None:
        async with Scripted(script) as scorer:
            queue = Queue(scorer)
            plain, noted = await queue.ask_all(job("A", [1.0]), job("GAP", [1.0]))
            assert (plain.notes, noted.notes) == ({}, notes)
            scorer.calls.clear()
            await queue.ask_all(job("A", [1.0]), job("GAP", [1.0]), job("C", [1.0]))
        assert ["GAP"] in scorer.calls  # from now on it goes alone
        assert not any("GAP" in symbols and len(symbols) > 1 for symbols in scorer.calls)

    run(test)


def test_a_series_that_the_version_refuses_gets_its_error():
    async def script(symbols: list[str]) -> tuple[int, Any]:
        content = packed({"unique_id": ["A"], "y": [1.0]})
        refused = [{"unique_id": name, "code": "TOO_SHORT", "message": "9 sessions"}
                   for name in symbols if name != "A"]  # fmt: skip
        content["predictions"]["refused"] = refused
        return 200, content

    async def test() -> None:
        async with Scripted(script) as scorer:
            together = Job([series("A", [1.0]), series("B", [1.0])], b"{}")
            (answer,) = await Queue(scorer).ask_all(together)
        assert isinstance(answer.rows["B"], BadHistory | BadInput)
        assert mean(answer, "A") == 1.0

    run(test)


def test_of_a_shared_call_only_the_refused_series_are_asked_again():
    async def script(symbols: list[str]) -> tuple[int, Any]:
        if symbols == ["BAD"]:
            return 400, {"message": "series 1 of 1 has 9 sessions", "code": "TOO_SHORT"}
        if "BAD" not in symbols:
            return 200, None
        kept = [name for name in symbols if name != "BAD"]
        content = packed({"unique_id": kept, "y": [1.0] * len(kept)})
        refused = {"unique_id": "BAD", "code": "TOO_SHORT", "message": "series 2 of 3 has 9"}
        content["predictions"]["refused"] = [refused]
        content["predictions"]["notes"] = {"refused": "1 of 3 series were refused"}
        return 200, content

    async def test() -> None:
        async with Scripted(script) as scorer:
            good, bad, other = await Queue(scorer).ask_all(
                job("A", [1.0]), job("BAD", [2.0]), job("C", [3.0])
            )
            calls = len(scorer.calls)
        assert isinstance(good.rows["A"], Row)
        assert isinstance(other.rows["C"], Row)
        assert good.notes == other.notes == {}
        assert bad.message == "series 1 of 1 has 9 sessions"
        assert calls <= 3  # the first may go alone, before the others came

    run(test)


def test_a_raw_request_is_passed_on_as_it_is():
    async def test() -> None:
        body = b'{"inputs": {"unique_id": ["A"], "y": [1.0]}, "other": 1}'
        async with Scripted() as scorer:
            (reply,) = await Queue(scorer).ask_all(Job(raw=body))
        assert isinstance(reply, Reply)
        assert scorer.bodies == [body]
        assert json.loads(reply.body)["predictions"]["unique_id"] == ["A"]

    run(test)


# --- scorers that fail ------------------------------------------------------------------------


def test_a_call_whose_connection_breaks_is_refused_and_the_next_one_answered():
    async def test() -> None:
        async with Scripted() as scorer:

            async def script(_: list[str]) -> tuple[int, Any]:
                if len(scorer.calls) == 1:
                    scorer.hang_up()
                    await asyncio.sleep(0.05)
                return 200, None

            scorer._script = script
            queue = Queue(scorer)
            with pytest.raises(NotReady):
                await queue.dispatcher.ask(job("A", [1.0]))
            assert mean(await queue.dispatcher.ask(job("A", [2.0])), "A") == 2.0

    run(test)


def test_an_idle_connection_that_was_closed_is_made_anew():
    async def test() -> None:
        async with Scripted() as scorer:
            queue = Queue(scorer)
            await queue.dispatcher.ask(job("A", [1.0]))
            scorer.hang_up()
            assert mean(await queue.dispatcher.ask(job("A", [2.0])), "A") == 2.0

    run(test)


def test_a_call_that_hangs_is_given_up_and_reported():
    async def script(symbols: list[str]) -> tuple[int, Any]:
        await asyncio.sleep(0.0 if "B" in symbols else 30.0)
        return 200, None

    async def test() -> None:
        async with Scripted(script) as scorer:
            queue = Queue(scorer, timeout_s=0.1)
            with pytest.raises(TooLate):
                await queue.dispatcher.ask(job("A", [1.0]))
            assert queue.hung == 1
            assert mean(await queue.dispatcher.ask(job("B", [2.0])), "B") == 2.0

    run(test)


def test_nobody_waits_for_a_scorer_that_ended():
    async def test() -> None:
        async with Scripted(after(30.0)) as scorer:
            queue = Queue(scorer)
            waiting = asyncio.ensure_future(queue.ask_all(*[job("A", [n]) for n in range(3)]))
            await asyncio.sleep(0.05)
            queue.dispatcher.close()
            assert all(isinstance(error, NotReady) for error in await waiting)

    run(test)


def test_another_server_on_the_port_is_not_believed():
    async def test() -> None:
        async with Scripted() as scorer:
            queue = Queue(scorer)
            queue.dispatcher._link._token = b"another"
            (error,) = await queue.ask_all(job("A", [1.0]))
        assert isinstance(error, KronosError)
        assert "another server" in error.message

    run(test)


# --- overload ---------------------------------------------------------------------------------


def test_requests_that_cannot_be_answered_in_time_are_refused_at_once():
    async def test() -> None:
        async with Scripted(after(0.1)) as scorer:
            pace = Pace(0.55)
            pace.measured(0.1, series=LARGEST, requests=LARGEST, left=1)
            queue = Queue(scorer, pace)
            answers = await queue.ask_all(*[job(f"S{n}", [n]) for n in range(300)])
            good = [answer for answer in answers if isinstance(answer, Answer)]
            refused = [answer for answer in answers if isinstance(answer, Overloaded)]
            assert len(good) == 4 * LARGEST  # one more call would end too late
            assert len(refused) == 300 - len(good)
            assert queue.refused == {"queue_full": len(refused)}
            assert not queue.dispatcher.full()
            assert mean(await queue.dispatcher.ask(job("A", [1.0])), "A") == 1.0

    run(test)


def test_of_one_symbol_fewer_may_wait_since_each_takes_a_call_of_its_own():
    async def test() -> None:
        async with Scripted(after(0.05)) as scorer:
            queue = Queue(scorer, Pace(0.6, call_s=0.05))
            await queue.ask_all(*[job("A", [n]) for n in range(3)])  # it learns
            answers = await queue.ask_all(*[job("A", [n]) for n in range(100)])
        good = [answer for answer in answers if isinstance(answer, Answer)]
        assert 3 <= len(good) <= 12
        assert queue.refused["deadline"] == 0

    run(test)


def test_waiting_requests_are_given_up_while_a_call_hangs():
    async def test() -> None:
        async with Scripted(after(30.0)) as scorer:
            queue = Queue(scorer, Pace(0.1, call_s=0.001))
            loop = asyncio.get_running_loop()
            hanging = asyncio.ensure_future(queue.dispatcher.ask(job("A", [1.0])))
            await asyncio.sleep(0.01)
            begun = loop.time()
            answers = await queue.ask_all(*[job(f"S{n}", [n]) for n in range(5)])
            assert all(isinstance(answer, Overloaded) for answer in answers)
            assert 0.1 < loop.time() - begun < 1.0
            assert queue.refused == {"deadline": 5}
            queue.dispatcher.close()
            with pytest.raises(NotReady):
                await hanging

    run(test)


# --- pace -------------------------------------------------------------------------------------


def test_an_empty_queue_always_admits():
    pace = Pace(0.15)
    for _ in range(10):
        pace.measured(100.0, series=1, requests=1, left=50)
    assert pace.admits(0)


def test_queue_holds_what_its_time_allows():
    pace = Pace(0.15)
    for _ in range(100):
        pace.measured(0.02, series=32, requests=32, left=10)
    most = next(queued for queued in range(1000) if not pace.admits(queued))
    assert most == 32 * 6  # 7 calls of 20 ms, of which one is under way and one is its own


def test_a_slow_version_may_take_one_call_beside_the_one_under_way():
    pace = Pace(0.15, call_s=2.0)
    assert pace.admits(1)
    assert pace.largest == 1
    pace.measured(2.0, series=1, requests=1, left=1)
    assert not pace.admits(2)


def test_pace_learns_that_calls_hold_one_request_and_that_they_hold_many_again():
    pace = Pace(0.15)
    for _ in range(20):
        pace.measured(0.005, series=1, requests=1, left=20)
    assert not pace.admits(30)
    for _ in range(20):
        pace.measured(0.01, series=28, requests=28, left=0)
    assert pace.admits(200)


def test_quiet_calls_say_nothing_of_full_ones():
    pace = Pace(0.15)
    for _ in range(20):
        pace.measured(0.02, series=32, requests=32, left=1)
    for _ in range(1000):
        pace.measured(0.004, series=1, requests=1, left=0)
    assert pace.call_s == pytest.approx(0.02)
    assert not pace.admits(32 * 6)


def test_a_connection_that_takes_too_long_is_a_call_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hang(*_: object) -> None:
        await asyncio.sleep(30)

    async def test() -> None:
        async with Scripted() as scorer:
            queue = Queue(scorer, timeout_s=0.05)
            monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", hang)
            with pytest.raises(TooLate):
                await queue.dispatcher.ask(job("A", [1.0]))
            assert queue.hung == 1

    run(test)
