"""Fills, recommendations and regimes on SQLite and PostgreSQL: what was known when."""

import threading
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from registry.errors import BadParameter, Conflict, NotFound
from registry.ledger import database, faults, fills, recommendations, regimes, revisions
from registry.ledger.fills import Fill
from registry.ledger.recommendations import Recommendation
from registry.ledger.recording import Counts
from registry.ledger.regimes import Regime

DAY = date(2026, 11, 26)
NOON = datetime(2026, 11, 26, 12, 0, 0, 123456, tzinfo=UTC)
FILL = Fill(
    strategy="momentum",
    fill_id="f1",
    data="panel",
    symbol="é %",
    side="buy",
    quantity=Decimal("100"),
    price=Decimal("0.1"),
    fee=Decimal("-0.00000001"),
    filled_at=NOON,
    sequence=0,
)
RECOMMENDATION = Recommendation(
    strategy="momentum", data="panel", symbol="A", ds=DAY, horizon=5, side="buy", weight=0.1
)
REGIME = Regime(data="panel", name="volatility", ds=DAY, label="calm")
NOTHING = Counts()


def prices(engine: sa.Engine, as_of: datetime | None = None) -> dict[str, Decimal]:
    """The price of each fill, as it was known."""
    frame = fills.known(engine, "momentum", as_of)
    return dict(zip(frame["fill_id"], frame["price"], strict=True))


def test_money_is_exact_and_fills_come_in_the_order_of_the_market(engine: sa.Engine):
    big = Decimal("123456789012345678.123456789012345678")
    later = replace(FILL, fill_id="f2", price=big, sequence=1)
    earlier = replace(FILL, fill_id="f3", filled_at=NOON - timedelta(seconds=1), sequence=9)
    assert fills.record(engine, [later, FILL, earlier]) == Counts(new=3)
    assert fills.record(engine, [replace(FILL, strategy="other", price=big)]) == Counts(new=1)
    frame = fills.known(engine, "momentum")
    assert frame["fill_id"].tolist() == ["f3", "f1", "f2"]
    assert frame["price"].tolist() == [Decimal("0.1"), Decimal("0.1"), big]
    assert frame["fee"].sum() == Decimal("-0.00000003")
    assert frame["filled_at"].tolist()[1] == NOON
    assert frame["symbol"].tolist() == ["é %"] * 3
    assert str(fills.known(engine, "nobody")["filled_at"].dtype) == "datetime64[us, UTC]"
    same_number = replace(FILL, price=Decimal("0.10"), quantity=Decimal("1E+2"))
    assert fills.record(engine, [same_number]) == NOTHING


def test_a_correction_and_a_bust_keep_the_past_and_a_message_that_comes_again_undoes_neither(
    engine: sa.Engine,
):
    fills.record(engine, [FILL])
    recorded = datetime.now(UTC)
    with pytest.raises(Conflict, match="fill f1 of momentum was recorded with other values"):
        fills.record(engine, [replace(FILL, price=Decimal("0.2"))])
    assert fills.correct(engine, [replace(FILL, price=Decimal("0.2"))]) == Counts(changed=1)
    corrected = datetime.now(UTC)
    assert fills.record(engine, [FILL]) == NOTHING
    assert prices(engine) == {"f1": Decimal("0.2")}
    assert fills.bust(engine, "momentum", ["f1", "f1"]) == Counts(withdrawn=1)
    assert fills.bust(engine, "momentum", ["f1"]) == NOTHING
    assert fills.record(engine, [FILL]) == NOTHING
    assert prices(engine) == {}
    assert prices(engine, corrected) == {"f1": Decimal("0.2")}
    assert prices(engine, recorded) == {"f1": Decimal("0.1")}
    assert fills.correct(engine, [FILL]) == Counts(new=1)
    assert prices(engine) == {"f1": Decimal("0.1")}
    with pytest.raises(NotFound, match="momentum has no fill f9"):
        fills.bust(engine, "momentum", ["f9"])
    with pytest.raises(NotFound, match="momentum has no fill f9"):
        fills.correct(engine, [FILL, replace(FILL, fill_id="f9")])


WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (FILL, {"price": 0.1}, "price is float, expected a Decimal"),
    (FILL, {"price": Decimal("NaN")}, "price is no finite number"),
    (FILL, {"fee": Decimal("1E+18")}, "fee has more than 18 digits"),
    (FILL, {"fee": Decimal("1E-19")}, "fee has more than 18 digits"),
    (FILL, {"quantity": Decimal(0)}, "not more than 0"),
    (FILL, {"side": "short"}, "side is .short., expected one of buy, sell"),
    (FILL, {"filled_at": datetime(2026, 11, 26)}, "filled_at is no time with a zone"),
    (FILL, {"filled_at": pd.Timestamp(1, tz=UTC)}, "finer than a microsecond"),
    (FILL, {"sequence": 2**31}, "sequence is no whole number"),
    (FILL, {"fill_id": "a\0b"}, "fill_id is no text"),
    (RECOMMENDATION, {"weight": float("nan")}, "weight is no finite number"),
    (RECOMMENDATION, {"ds": NOON}, "ds is datetime, expected a date"),
    (RECOMMENDATION, {"horizon": 0}, "horizon is no whole number"),
    (RECOMMENDATION, {"symbol": "\ud800"}, "symbol is no text"),
    (RECOMMENDATION, {"forecast_id": "x" * 65}, "forecast_id is no text of 1 to 64"),
    (REGIME, {"label": "x" * 129}, "label is no text of 1 to 128"),
]


@pytest.mark.parametrize(("row", "changed", "message"), WRONG)
def test_wrong_rows_are_refused(row: Any, changed: dict[str, Any], message: str):
    with pytest.raises(BadParameter, match=message):
        replace(row, **changed)


def test_recommendations_and_regimes_that_change_keep_their_past(engine: sa.Engine):
    short = replace(RECOMMENDATION, horizon=1, forecast_id="n1")
    assert recommendations.record(engine, [RECOMMENDATION, short]) == Counts(new=2)
    assert regimes.record(engine, [REGIME]) == Counts(new=1)
    before = datetime.now(UTC)
    revised = replace(RECOMMENDATION, side="hold", weight=0.0)
    assert recommendations.record(engine, [revised, short]) == Counts(changed=1)
    assert regimes.record(engine, [replace(REGIME, label="stressed")]) == Counts(changed=1)
    frame = recommendations.known(engine, "momentum")
    assert frame["side"].tolist() == ["buy", "hold"]
    assert frame["horizon"].tolist() == [1, 5]
    assert frame["forecast_id"].tolist()[0] == "n1"
    assert frame["ds"].tolist() == [pd.Timestamp(DAY)] * 2
    assert recommendations.known(engine, "momentum", before)["side"].tolist() == ["buy", "buy"]
    labels = [
        regimes.known(engine, "panel", "volatility", as_of)["label"].tolist()
        for as_of in (None, before, NOON)
    ]
    assert labels == [["stressed"], ["calm"], []]
    with pytest.raises(BadParameter, match="one key and other values"):
        regimes.record(engine, [REGIME, replace(REGIME, label="stressed")])


@pytest.mark.parametrize("seed", range(2))
def test_reads_as_of_any_instant_see_what_a_plain_memory_remembers(engine: sa.Engine, seed: int):
    rng = np.random.default_rng(seed)
    known: dict[date, str] = {}
    remembered = []
    for _ in range(10):
        days = [DAY + timedelta(days=int(n)) for n in rng.integers(300, size=250)]
        given = {day: str(rng.integers(3)) for day in days}
        changed = sum(day in known and known[day] != label for day, label in given.items())
        counts = Counts(new=len(given.keys() - known.keys()), changed=changed)
        rows = [replace(REGIME, ds=day, label=label) for day, label in given.items()]
        assert regimes.record(engine, rows) == counts
        known |= given
        remembered.append((datetime.now(UTC), dict(known)))
    for instant, expected in remembered:
        frame = regimes.known(engine, "panel", "volatility", instant)
        assert dict(zip(frame["ds"].dt.date, frame["label"], strict=True)) == expected
        assert frame["ds"].is_monotonic_increasing
    assert faults.find(engine) == []


def test_four_that_record_the_same_rows_at_once_write_each_once(engine: sa.Engine):
    rows = [replace(REGIME, ds=DAY + timedelta(days=n)) for n in range(50)]
    counted: list[Counts] = []
    threads = [
        threading.Thread(target=lambda: counted.append(regimes.record(engine, rows)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counts.new for counts in counted) == [0, 0, 0, 50]


def test_two_rows_that_hold_at_one_instant_are_found(engine: sa.Engine):
    regimes.record(engine, [REGIME])
    regimes.record(engine, [replace(REGIME, label="stressed")])
    assert faults.find(engine) == []
    c = regimes.regimes.c
    later = datetime.now(UTC) + timedelta(days=1)
    with database.write(engine) as connection:
        ended = sa.update(regimes.regimes).where(c.known_until.is_not(None))
        connection.execute(ended.values(known_until=later))
    found = [(fault.kind, fault.data, fault.code, fault.message) for fault in faults.find(engine)]
    assert found == [("table", "regimes", "TWO_VALUES", "1 rows hold beside another one")]


def test_a_clock_that_runs_behind_is_refused(engine: sa.Engine):
    regimes.record(engine, [REGIME])
    changed = [vars(replace(REGIME, label="stressed"))]
    with (
        pytest.raises(Conflict, match=r"which is not before .*, now: set this host's clock"),
        revisions.alone(engine, regimes.regimes) as connection,
    ):
        revisions.revise(connection, regimes.regimes, changed, NOON)
    assert regimes.known(engine, "panel", "volatility")["label"].tolist() == ["calm"]


@pytest.mark.parametrize("ahead", ["known_from", "known_until"])
def test_a_busted_fill_is_not_corrected_by_a_clock_that_runs_behind(engine: sa.Engine, ahead: str):
    fills.record(engine, [FILL])
    fills.bust(engine, "momentum", ["f1"])
    later = datetime.now(UTC) + timedelta(days=1)
    values = {"known_until": later + timedelta(days=1)} | {ahead: later}
    with database.write(engine) as connection:  # as a host writes whose clock is ahead
        connection.execute(sa.update(fills.fills).values(**values))
    for price in (FILL.price, Decimal("0.2")):
        with pytest.raises(Conflict, match="set this host's clock"):
            fills.correct(engine, [replace(FILL, price=price)])
    assert faults.find(engine) == []
