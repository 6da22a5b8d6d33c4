"""The queue in front of a scorer, over a fake connection."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from registry.errors import BadForecast, KronosError, NotReady
from serving.gateway import calls
from serving.gateway.calls import Series
from serving.gateway.dispatch import Dispatcher, Job
from serving.gateway.link import Reply
from serving.gateway.pace import Pace

Post = Callable[[bytes], Awaitable[Reply]]


class FakeLink:
    """Answers as a function says."""

    def __init__(self, post: Post) -> None:
        self._post = post

    async def post(self, body: bytes, content_type: bytes, timeout_s: float) -> Reply:
        del content_type, timeout_s
        return await self._post(body)

    def close(self) -> None:
        pass


def dispatcher(post: Post) -> Dispatcher:
    link: Any = FakeLink(post)
    return Dispatcher(
        link, name="ewma", version=1, joint=False, timeout_s=1, pace=Pace(1.0), on_hung=lambda: None
    )


def job(symbol: str = "A") -> Job:
    return Job([Series(symbol, 2, {"ds": b'"2021-01-04","2021-01-05"', "y": b"0.1,0.2"})], b"{}")


def test_a_request_in_flight_is_refused_when_the_scorer_ends():
    async def main() -> None:
        async def never(_: bytes) -> Reply:
            await asyncio.sleep(60)
            raise AssertionError

        queue = dispatcher(never)
        asked = [asyncio.create_task(queue.ask(job(name))) for name in "AB"]
        await asyncio.sleep(0.01)
        queue.close()
        for refused in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(refused, NotReady)
        with pytest.raises(NotReady):  # whoever chose the version a moment before
            await queue.ask(job())

    asyncio.run(asyncio.wait_for(main(), 5))


def test_an_unexpected_error_fails_its_own_request_only():
    async def main() -> None:
        bodies = []

        async def once(body: bytes) -> Reply:
            bodies.append(body)
            if len(bodies) == 1:
                raise ZeroDivisionError("0.1 of the caller")
            return Reply(200, {}, b"{}")

        queue = dispatcher(once)
        with pytest.raises(KronosError, match=r"of ewma failed: ZeroDivisionError$"):
            await queue.ask(job())
        with pytest.raises(BadForecast, match="cannot be read"):
            await queue.ask(job())

    asyncio.run(asyncio.wait_for(main(), 5))


@pytest.mark.parametrize(
    "reply",
    [
        b'"unique_id":["A","B"],"ds":[["2021-01-06"]],"shape":[1,1,2],"data":"AAAAAAAAAAAAAAAAAAAAAA=="',
        b'"unique_id":["A"],"ds":[["2021-01-06"]],"shape":[1,1,3],"data":"AAAAAAAAAAAAAAAAAAAAAA=="',
        b'"unique_id":["A"],"ds":[["2021-01-06"]],"shape":[0,1,2],"data":""',
    ],
)
def test_a_reply_of_another_shape_cannot_be_read(reply: bytes):
    content = b'{"predictions":{"model":"ewma","version":1,' + reply + b"}}"
    with pytest.raises(BadForecast, match="cannot be read"):
        calls.read(content, "ewma", 1)
