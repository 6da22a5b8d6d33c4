"""Calibrations on SQLite and PostgreSQL: what was published, what was current when."""

import threading
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import numpy.testing as npt
import pytest
import sqlalchemy as sa

from registry.errors import BadParameter, Conflict, Corrupt
from registry.ledger import database
from registry.ledger.calibrations import (
    calibration_states,
    calibrations,
    calibrations_in_use,
    current,
    publish,
    roll_back,
    versions,
)
from registry.ledger.states import Scope, States

SCOPE = Scope(registry="r", model="nbeats", version=3, data="panel")
OTHER = replace(SCOPE, data="mystocks")
LEVELS = (0.05, 0.5, 0.95)
DAY = date(2026, 11, 26)
MICROSECOND = timedelta(microseconds=1)


def states(bias: float = 0.1, symbols: int = 2) -> States:
    """States of some symbols and of all, at 2 steps, out of order; each one holds the bias."""
    keys = [("symbol", f"é{n}") for n in range(symbols)] + [("global", "")]
    repeated = [key for key in keys for _ in range(2)]
    offsets = np.arange(len(repeated) * 3, dtype=float).reshape(-1, 3) / 3 + bias
    return States(
        keys=repeated,
        steps=np.array([2, 1] * len(keys)),
        bias=np.full(len(repeated), bias),
        scale=np.full(len(repeated), 1 / 3),
        offsets=offsets,
    )


def put(engine: sa.Engine, scope: Scope = SCOPE, bias: float = 0.1, **changed: Any) -> int:
    """Publish a calibration that its bias tells from others."""
    values = {
        "method": "tracking",
        "learned_until": DAY,
        "levels": LEVELS,
        "states": states(bias),
        "evidence": {"crps": 0.5},
    }
    return publish(engine, scope, **(values | changed))


def test_a_calibration_comes_back_with_all_its_bits_in_the_order_of_its_keys(engine: sa.Engine):
    assert current(engine, SCOPE) is None
    assert put(engine, bias=0.1 + 0.2) == 1
    found = current(engine, SCOPE)
    assert found is not None
    assert (found.number, found.method, found.learned_until) == (1, "tracking", DAY)
    assert (found.levels, found.evidence) == (LEVELS, {"crps": 0.5})
    expected_keys = [("global", ""), ("symbol", "é0"), ("symbol", "é1")]
    assert list(found.keys) == [key for key in expected_keys for _ in range(2)]
    assert found.steps.tolist() == [1, 2] * 3
    given = states(0.1 + 0.2)
    npt.assert_array_equal(found.bias, given.bias)
    npt.assert_array_equal(found.scale, given.scale)
    npt.assert_array_equal(found.offsets, given.offsets[[5, 4, 1, 0, 3, 2]])
    assert current(engine, OTHER) is None


OF_ALL = calibration_states.c.kind == "global"
DAMAGES = {
    "cut": sa.update(calibration_states).values(offsets=b""),
    "scaled": sa.update(calibration_states).where(OF_ALL).values(scale=2.0),
    "other levels": sa.update(calibrations).values(levels="[0.1, 0.5, 0.9]"),
    "some deleted": sa.delete(calibration_states).where(OF_ALL),
    "all deleted": sa.delete(calibration_states),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_calibration_that_was_changed_is_corrupt(engine: sa.Engine, damage: sa.Executable):
    put(engine)
    with database.write(engine) as connection:
        connection.execute(damage)
    with pytest.raises(Corrupt, match="calibration 1 of nbeats 3 on panel is not the one"):
        current(engine, SCOPE)


def test_a_negative_zero_is_published_as_zero(engine: sa.Engine):
    zero = states()
    negative = replace(zero, bias=np.full(6, -0.0), offsets=np.full((6, 3), -0.0))
    put(engine, states=negative)
    assert put(engine, states=replace(zero, bias=np.zeros(6), offsets=np.zeros((6, 3)))) == 1
    found = current(engine, SCOPE)
    assert found is not None
    assert not np.signbit(found.offsets).any()


def test_other_content_of_any_kind_has_a_number_of_its_own(engine: sa.Engine):
    given = states()
    others: list[dict[str, Any]] = [
        {},
        {"method": "ewma"},
        {"levels": (0.1, 0.5, 0.9)},
        {"learned_until": DAY - timedelta(days=1)},
        {"states": replace(given, offsets=given.offsets + 1)},
        {"states": replace(given, bias=given.bias + 1)},
        {"states": replace(given, scale=given.scale + 1)},
        {"states": replace(given, steps=given.steps + 1)},
        {"states": replace(given, keys=[("sector", name or "all") for _, name in given.keys])},
    ]
    assert [put(engine, **other) for other in others] == list(range(1, 10))
    assert [put(engine, **other) for other in others] == list(range(1, 10))


def test_a_calibration_is_known_from_when_its_states_are_written(engine: sa.Engine):
    written: list[datetime] = []

    @sa.event.listens_for(engine, "after_cursor_execute")
    def _note(_: Any, __: Any, statement: str, *___: Any) -> None:
        if statement.startswith("INSERT INTO calibration_states"):
            written.append(datetime.now(UTC))

    put(engine)
    assert len(written) == 1
    known_from = versions(engine, SCOPE)[0].known_from
    assert known_from >= written[0]
    assert number(engine, as_of=known_from) == 1


def test_a_clock_that_runs_behind_is_refused(engine: sa.Engine):
    put(engine, bias=1.0)
    put(engine, bias=2.0)
    later = datetime.now(UTC) + timedelta(days=1)
    c = calibrations_in_use.c
    with database.write(engine) as connection:  # as a host writes whose clock is ahead
        holds = sa.update(calibrations_in_use).where(c.known_until.is_(None))
        connection.execute(holds.values(known_from=later))
    with pytest.raises(Conflict, match="set this host's clock"):
        roll_back(engine, SCOPE)
    with pytest.raises(Conflict, match="set this host's clock"):
        put(engine, bias=3.0)
    assert len(versions(engine, SCOPE)) == 2


def test_the_same_content_again_changes_nothing_not_even_a_roll_back(engine: sa.Engine):
    with pytest.raises(Conflict, match="no calibration before") as caught:
        roll_back(engine, SCOPE)
    assert caught.value.code == "NOTHING_BEFORE"
    assert [put(engine), put(engine), put(engine, OTHER)] == [1, 1, 1]
    with pytest.raises(Conflict):
        roll_back(engine, SCOPE)
    assert put(engine, learned_until=DAY + timedelta(days=1)) == 2
    assert roll_back(engine, SCOPE) == 1
    assert put(engine, learned_until=DAY + timedelta(days=1), evidence={"again": True}) == 2
    assert number(engine) == 1
    assert roll_back(engine, SCOPE) == 2
    assert [version.number for version in versions(engine, SCOPE)] == [1, 2]
    empty = States(
        keys=[], steps=np.zeros(0, int), bias=np.zeros(0), scale=np.ones(0), offsets=np.ones((0, 3))
    )
    assert put(engine, method="identity", states=empty) == 3
    found = current(engine, SCOPE)
    assert found is not None
    assert found.offsets.shape == (0, 3)


def number(engine: sa.Engine, scope: Scope = SCOPE, as_of: datetime | None = None) -> int | None:
    found = current(engine, scope, as_of)
    return None if found is None else found.number


@pytest.mark.parametrize("seed", range(2))
def test_reads_as_of_any_instant_see_what_a_plain_memory_remembers(engine: sa.Engine, seed: int):
    rng = np.random.default_rng(seed)
    numbers: dict[Scope, list[int]] = {SCOPE: [], OTHER: []}  # current, then previous
    contents: dict[Scope, list[float]] = {SCOPE: [], OTHER: []}  # of each number
    remembered: list[tuple[datetime, dict[Scope, int | None]]] = []
    for _ in range(15):
        scope = (SCOPE, OTHER)[rng.integers(2)]
        used, known = numbers[scope], contents[scope]
        if rng.random() < 0.4:
            if len(used) < 2:
                with pytest.raises(Conflict):
                    roll_back(engine, scope)
            else:
                used.reverse()
                assert roll_back(engine, scope) == used[0]
        else:
            bias = float(rng.integers(6))
            if bias not in known:
                known.append(bias)
                numbers[scope] = [len(known), *used[:1]]
            assert put(engine, scope, bias) == known.index(bias) + 1
        state = {name: (used[0] if used else None) for name, used in numbers.items()}
        remembered.append((datetime.now(UTC), state))
    for instant, state in remembered:
        for scope, expected in state.items():
            found = current(engine, scope, instant)
            assert (None if found is None else found.number) == expected
            if found is not None:
                assert set(found.bias) == {contents[scope][found.number - 1]}
    first = versions(engine, SCOPE)[0].known_from
    assert number(engine, as_of=first) == 1
    assert number(engine, as_of=first - MICROSECOND) is None


def test_four_that_publish_at_once_count_on_and_no_read_is_torn(engine: sa.Engine):
    errors: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for bias in range(first, first + 5):
                put(engine, bias=float(bias), states=states(float(bias), symbols=10))
                found = current(engine, SCOPE)
                assert found is not None
                assert len(found.keys) == 22
                assert len(set(found.bias)) == 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(10 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [version.number for version in versions(engine, SCOPE)] == list(range(1, 21))
    assert {number(engine), roll_back(engine, SCOPE)} == {19, 20}


WRONG: list[tuple[str, Any, str]] = [
    ("bias", [0.1, float("nan")], "bias has a number that is not finite"),
    ("scale", [1.0, float("inf")], "scale has a number that is not finite"),
    ("scale", [1.0, 0.0], "a scale is not more than 0"),
    ("bias", [0.1], r"bias has shape \(1,\), expected \[K\] = \(2,\)"),
    ("offsets", [0.1, 0.2], r"offsets have shape \(2,\), expected \[K, Q\]"),
    ("offsets", [[0.1, 0.2, 0.3]], r"expected \[K, Q\] = \(2, 3\)"),
    ("steps", [0, 1], "step is no whole number"),
    ("steps", [1, 1], "two states"),
    ("keys", [("sector", "a"), ("galaxy", "a")], "expected one of symbol, sector, global"),
    ("keys", [("global", "a"), ("symbol", "a")], "the global key has a name"),
]


@pytest.mark.parametrize(("field", "value", "message"), WRONG)
def test_wrong_states_are_refused(field: str, value: Any, message: str):
    values: dict[str, Any] = {
        "keys": [("symbol", "a"), ("symbol", "a")],
        "steps": np.array([1, 2]),
        "bias": np.zeros(2),
        "scale": np.ones(2),
        "offsets": np.zeros((2, 3)),
    }
    States(**values)
    values[field] = value if field == "keys" else np.array(value)
    with pytest.raises(BadParameter, match=message):
        States(**values)


def test_levels_evidence_and_instants_are_checked_before_anything_is_written(engine: sa.Engine):
    for levels in ((0.5, 0.05, 0.95), (0.0, 0.5, 0.95), ()):
        with pytest.raises(BadParameter, match="levels of a calibration"):
            put(engine, levels=levels)
    with pytest.raises(BadParameter, match=r"offsets have shape \(6, 3\), expected"):
        put(engine, levels=(0.1, 0.9))
    with pytest.raises(BadParameter, match="evidence is no JSON"):
        put(engine, evidence={"crps": float("nan")})
    with pytest.raises(BadParameter, match="evidence has"):
        put(engine, evidence={"crps": "x" * 70_000})
    with pytest.raises(BadParameter, match="expected a date without a time"):
        put(engine, learned_until=datetime(2026, 11, 26))
    with pytest.raises(BadParameter, match="as_of is no time with a zone"):
        current(engine, SCOPE, datetime(2026, 11, 26))
    assert versions(engine, SCOPE) == []
