"""Histories that the gateway keeps between requests."""

from serving.gateway.calls import Series
from serving.gateway.history import History
from serving.gateway.kept import Kept


def history(symbol: str, size: int = 10) -> History:
    return History(Series(symbol, 1, {"y": b"1" * size}), "2022-12-28")


def key(symbol: str, data: str = "panel") -> tuple[str, int, str, str]:
    return ("har", 1, data, symbol)


def test_a_history_is_kept_until_its_data_set_changes() -> None:
    kept = Kept()
    kept.put(key("KO"), history("KO"), kept.drops("panel"))
    kept.put(key("KO", "other"), history("KO"), kept.drops("other"))
    kept.drop("panel")
    assert kept.get(key("KO")) is None
    assert kept.get(key("KO", "other")) is not None


def test_a_look_up_that_began_before_a_change_is_not_kept() -> None:
    kept = Kept()
    before = kept.drops("panel")
    kept.drop("panel")
    kept.put(key("KO"), history("KO"), before)
    assert kept.get(key("KO")) is None


def test_the_history_asked_for_longest_ago_makes_room() -> None:
    kept = Kept(most=25)
    for symbol in ("A", "B"):
        kept.put(key(symbol), history(symbol), 0)
    kept.get(key("A"))
    kept.put(key("C"), history("C"), 0)
    assert kept.get(key("B")) is None
    assert {symbol for symbol in "AC" if kept.get(key(symbol))} == {"A", "C"}


def test_all_are_forgotten_with_a_new_supervisor() -> None:
    kept = Kept(most=25)
    kept.put(key("A"), history("A"), 0)
    kept.drop_all()
    kept.put(key("B", "other"), history("B", 20), 0)
    assert kept.get(key("A")) is None
    assert kept.get(key("B", "other")) is not None
