"""A running gateway: numbers, keys, limits and errors over HTTP."""

from gateways import Gateway


def test_a_gateway_says_where_it_answers_and_which_versions(gateway: Gateway) -> None:
    versions = [{"model": name, "name": name, "version": 1} for name in ("ewma", "nbeats")]
    assert gateway.announced == {"url": gateway.url, "pid": gateway.pid, "models": versions}
    assert gateway.get("/health").json() == {"status": "alive"}
