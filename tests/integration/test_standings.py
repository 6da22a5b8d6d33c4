"""Standings over the ledger, on SQLite and PostgreSQL, and the verb `standings`."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from jobs.nightly.standings import standings
from registry.errors import NotFound
from registry.ledger import database
from registry.ledger.archive import Archive
from registry.ledger.filling import Content, Symbol
from registry.ledger.issue import Blocks, Issue
from registry.ledger.pairing import Nights
from registry.ledger.selection import Selection
from registry.ledger.track_record import TrackRecord
from registry.promotion.opening import open_ledger
from registry.scoring import scores as scoring
from registry.settings import Settings
from registry.versions.store import Store

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
SYMBOLS = ("A", "B", "C")
FIRST = date(2024, 1, 1)
HORIZON = 2


def content() -> Content:
    """A data set with one session."""
    days = pa.array([FIRST + timedelta(days=1)] * len(SYMBOLS))
    rows = pa.table({"unique_id": list(SYMBOLS), "ds": days, "y": np.zeros(len(SYMBOLS))})
    market: dict[str, Any] = {"ds": days[:1]}
    for name in ("market_abs_return", "index_return", "market_members"):
        market[name] = pa.array([0.0])
    known = [Symbol(name, FIRST, FIRST) for name in SYMBOLS]
    return Content("mine", "digest", "24/7", "u@1", known, [rows], pa.table(market))


@pytest.fixture
def record(ledger_uri: str, tmp_path: Path) -> Iterator[TrackRecord]:
    settings = Settings(var_dir=tmp_path, ledger_uri=ledger_uri)
    with Archive(settings) as archive:
        archive.load(content())
    with TrackRecord(settings) as record:
        yield record


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def issued(model: str, number: int, source: str = "backfill", **changes: Any) -> Issue:
    close = datetime.combine(day(number + 1), datetime.min.time(), UTC)
    at = close if source == "backfill" else datetime.now(UTC)
    values = {
        "registry": "r", "model": model, "version": 1, "data": "mine", "source": source,
        "cutoff": day(number), "issued_at": at,
    }  # fmt: skip
    return Issue(**(values | changes))


def put(
    record: TrackRecord,
    what: Issue,
    *,
    symbols: tuple[str, ...] = SYMBOLS,
    levels: tuple[float, ...] = LEVELS,
    seed: int = 0,
) -> pd.DataFrame:
    """Issue random quantiles and score all steps; the scores with their step."""
    rng = np.random.default_rng([seed, what.version, what.cutoff.toordinal(), *what.model.encode()])
    shape = (len(symbols), HORIZON, 1 + len(levels))
    raw, after = rng.normal(size=shape), rng.normal(size=shape)
    for values in (raw, after):
        values[:, :, 1:].sort(axis=2)
    blocks = Blocks(symbols, levels, raw, after if what.calibration else None)
    record.issue(what, blocks)
    parts = []
    for step in range(1, HORIZON + 1):
        y = np.random.default_rng([step, what.cutoff.toordinal()]).normal(size=len(symbols))
        columns = {"unique_id": symbols, "y": y}
        columns |= scoring.of_step(y, raw[:, step - 1, 1:], levels)
        if what.calibration:
            scored = scoring.of_step(y, after[:, step - 1, 1:], levels)
            columns |= {f"{name}_calibrated": values for name, values in scored.items()}
        rows = pd.DataFrame(columns)
        record.score(what.id, step, rows)
        parts.append(rows.assign(step=step))
    return pd.concat(parts)


def frames(record: TrackRecord, source: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Nights, and nights beside fhs."""
    with database.read(record.engine) as connection:
        known = Selection(data="mine", source=source).known(connection, None)
        nights = Nights.read(connection, known)
        return nights.frame, nights.beside("fhs")


def test_nights_are_means_over_symbols_raw_and_calibrated(record: TrackRecord) -> None:
    rows = put(record, issued("har", 1, calibration=4))
    put(record, issued("har", 2))
    nights, _ = frames(record, "backfill")
    assert nights[["cutoff", "step", "n"]].values.tolist() == [
        [day(1), 1, 3], [day(1), 2, 3], [day(2), 1, 3], [day(2), 2, 3],
    ]  # fmt: skip
    means = rows.groupby("step")[["crps", "crps_calibrated", "covered_90_calibrated"]].mean()
    np.testing.assert_allclose(nights[means.columns].to_numpy()[:2], means.to_numpy())
    assert nights["uncalibrated"].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert (nights["crps"] == nights["crps_calibrated"]).tolist() == [False, False, True, True]


def test_only_symbols_and_nights_that_both_have_are_beside_each_other(record: TrackRecord) -> None:
    model = put(record, issued("har", 1))
    put(record, issued("har", 2))  # a night without fhs
    reference = put(record, issued("fhs", 1), symbols=("B", "C"))
    put(record, issued("fhs", 3))
    _, beside = frames(record, "backfill")
    assert beside[["model", "cutoff", "step", "n"]].values.tolist() == [
        ["har", day(1), 1, 2], ["har", day(1), 2, 2],
    ]  # fmt: skip
    both = model[model["unique_id"] != "A"].groupby("step")["crps"].mean()
    np.testing.assert_allclose(beside["crps"], both)
    np.testing.assert_allclose(beside["crps_reference"], reference.groupby("step")["crps"].mean())


def test_the_newest_reference_of_a_night_with_the_same_levels_and_source_counts(
    record: TrackRecord,
) -> None:
    put(record, issued("har", 1))
    put(record, issued("fhs", 1))
    newest = put(record, issued("fhs", 1, version=2))
    put(record, issued("fhs", 1, version=3), levels=LEVELS[1:-1])
    put(record, issued("fhs", 1, source="nightly", version=4))
    _, beside = frames(record, "backfill")
    assert beside[["model", "version", "step"]].values.tolist() == [
        ["fhs", 1, 1], ["fhs", 1, 2], ["har", 1, 1], ["har", 1, 2],
    ]  # fmt: skip
    expected = newest.groupby("step")["crps"].mean()
    np.testing.assert_allclose(beside["crps_reference"].to_numpy()[2:], expected)


@pytest.fixture
def filled(new_registry: Any, tmp_path: Path) -> Settings:
    """A registry whose ledger has 30 backfilled nights of har and fhs, 2 live ones, 1 served."""
    settings = new_registry(tmp_path / "var")
    with open_ledger(Store(settings)) as ledger:
        registry = ledger.registry
    with Archive(settings) as archive:
        archive.load(content())
    with TrackRecord(settings) as record:
        for number in range(1, 31):
            for model in ("har", "fhs"):
                put(record, issued(model, number, registry=registry))
        for number in (40, 41):
            put(record, issued("har", number, source="nightly", registry=registry))
        served = issued("har", 41, source="served", registry=registry, forecast_id="one")
        put(record, served)
        put(record, issued("har", 1, registry="another"))
    return settings


def test_the_verb_tells_live_from_backfill_and_makes_one_run(
    filled: Settings, verb: Any, tmp_path: Path
) -> None:
    code, out, err = verb(filled, "jobs", "standings")
    assert code == 0, err
    assert "mine, after 2024-01-02: 2 live nights" in out
    assert "backfill: computed later, from what was known then; 30 nights" in out
    assert "served on request: 1 forecasts of har/1" in out
    last = json.loads(out.splitlines()[-1])
    assert last["sets"]["mine"] == {
        "night": "2024-01-02", "nightly_nights": 2, "backfill_nights": 30,
    }  # fmt: skip
    text = Path(last["page"]).read_text()
    assert Path(last["page"]) == filled.reports_dir / "standings.html"
    assert "mine after 2024-01-02: 2 live nights" in text
    client = Store(filled).client
    experiment = client.get_experiment_by_name("standings")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "mine 2024-01-02"
    assert run.data.metrics["live_nights"] == 2
    code, out, _ = verb(filled, "jobs", "standings", "--output", "json")
    document = json.loads(out)[0]
    live, backfill = document["tables"]
    assert [row["nights"] for row in live["rows"]] == [2, 2, 2]
    assert {row["skill_vs_fhs"] for row in live["rows"]} == {None}
    har = next(row for row in backfill["rows"] if row["model"] == "har" and row["step"] == "1")
    assert run.data.metrics["backfill/har_1/crps_step_1"] == pytest.approx(har["crps"])
    assert har["nights_vs_fhs"] == 30
    names = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert names == {"standings.html", "standings.csv", "months.csv", "standings.json"}
    [again] = client.search_runs([experiment.experiment_id])
    assert again.info.end_time == run.info.end_time  # nothing was written anew

    path = tmp_path / "rows.csv"
    code, out, _ = verb(filled, "jobs", "standings", "--output", "csv", "--to", path)
    rows = pd.read_csv(path)
    assert set(rows["source"]) == {"nightly", "backfill"}
    assert json.loads(out)["file"] == str(path)
    code, out, err = verb(filled, "jobs", "standings", "--data", "other")
    assert (code, out) == (2, "")
    assert "NOT_FOUND: no forecast of other was issued" in err
    assert verb(filled, "jobs", "standings", "--output", "xml")[0] == 2


def test_new_standings_of_the_same_night_go_into_its_run(filled: Settings) -> None:
    standings(filled)
    with open_ledger(Store(filled)) as ledger:
        registry = ledger.registry
    with TrackRecord(filled) as record:
        put(record, issued("naive", 5, registry=registry))
    standings(filled)
    client = Store(filled).client
    experiment = client.get_experiment_by_name("standings")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert "backfill/naive_1/crps_step_1" in run.data.metrics
    assert "backfill/har_1/skill_vs_naive_step_1" in run.data.metrics


def test_standings_as_of_a_day_have_nothing_that_came_later(filled: Settings) -> None:
    [of_day] = standings(filled, as_of=str(day(10)))
    live, backfill = of_day.tables
    assert live.nights == 0
    assert backfill.nights == 10
    ones = [row for row in backfill.rows if row.step == 1]
    assert {row.nights for row in ones} == {9}


def test_a_registry_without_forecasts_has_a_page_that_says_so(
    new_registry: Any, tmp_path: Path, verb: Any
) -> None:
    settings = new_registry(tmp_path / "var")
    code, out, err = verb(settings, "jobs", "standings")
    assert code == 0, err
    assert "0 live nights" in out
    assert "Nothing was issued yet" in (settings.reports_dir / "standings.html").read_text()
    with pytest.raises(NotFound):
        standings(settings, data="panel")
