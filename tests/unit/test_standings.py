"""Standings: rows, skill, intervals and the page, from frames of nights."""

import re

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest

from jobs.nightly import page
from jobs.nightly.standings import BACKFILL, LIVE, Standings, Table, flat
from registry.scoring import standings
from registry.scoring.coverage import BOOTSTRAP, WILSON, coverage
from registry.scoring.difference import diebold_mariano
from registry.scoring.standings import ALL, BETTER, OPEN, WORSE

NUMBER = 60  # nights


def nights(
    model: str, crps: np.ndarray, *, horizon: int = 2, calibrated: float = 1.0
) -> pd.DataFrame:
    """Nights [T] whose step h has h times this CRPS; calibration multiplies it."""
    days = pd.bdate_range("2024-01-02", periods=len(crps))
    parts = []
    for step in range(1, horizon + 1):
        values = {
            "model": model, "version": 1, "data": "mine", "source": LIVE, "cutoff": days.date,
            "horizon": horizon, "step": step, "n": 20, "uncalibrated": float(calibrated == 1.0),
            "crps": step * crps, "crps_calibrated": calibrated * step * crps,
        }  # fmt: skip
        for band in (50, 80, 90):
            values[f"covered_{band}"] = values[f"covered_{band}_calibrated"] = band / 100
        parts.append(pd.DataFrame(values))
    return pd.concat(parts, ignore_index=True)


def beside(frame: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(
        crps_reference=reference["crps"].to_numpy(),
        crps_reference_calibrated=reference["crps_calibrated"].to_numpy(),
    )


@pytest.fixture
def crps() -> np.ndarray:
    return 0.01 + 0.002 * np.random.default_rng(0).random(NUMBER)


def test_a_row_for_each_step_and_one_for_all_of_the_complete_nights(crps: np.ndarray) -> None:
    frame = nights("har", crps)
    frame = frame[~((frame["step"] == 2) & (frame["cutoff"] == frame["cutoff"].max()))]
    rows = standings.rows(frame, {}, by_month=False)
    assert [(row.step, row.nights, row.outcomes) for row in rows] == [
        (ALL, NUMBER - 1, 2 * 20 * (NUMBER - 1)), (1, NUMBER, 20 * NUMBER),
        (2, NUMBER - 1, 20 * (NUMBER - 1)),
    ]  # fmt: skip
    npt.assert_allclose(rows[0].raw.crps, 1.5 * crps[:-1].mean())
    npt.assert_allclose(rows[1].raw.crps, crps.mean())


def test_skill_and_p_are_those_of_nightly_means_raw_and_calibrated(crps: np.ndarray) -> None:
    noise = 0.001 * np.random.default_rng(1).random(NUMBER)
    model, reference = nights("har", crps, calibrated=0.9), nights("fhs", crps + noise)
    paired = {"fhs": beside(model, reference)}
    rows = standings.rows(model, paired, by_month=False)
    one = next(row for row in rows if row.step == 1)
    against = one.raw.against["fhs"]
    npt.assert_allclose(against.skill, 1 - crps.mean() / (crps + noise).mean())
    npt.assert_allclose(against.p, diebold_mariano(noise, 1).p)
    assert (against.nights, against.verdict) == (NUMBER, BETTER)
    npt.assert_allclose(
        one.calibrated.against["fhs"].skill, 1 - 0.9 * crps.mean() / (crps + noise).mean()
    )


def test_a_model_that_loses_is_worse_and_a_draw_is_open(crps: np.ndarray) -> None:
    reference = nights("fhs", crps)
    loser = nights("slow", crps + 0.001 + 1e-4 * np.random.default_rng(2).random(NUMBER))
    noise = 1e-3 * np.random.default_rng(3).normal(size=NUMBER)
    draw = nights("even", crps + noise - noise.mean())
    verdicts = {}
    for frame in (loser, draw):
        rows = standings.rows(frame, {"fhs": beside(frame, reference)}, by_month=False)
        verdicts[rows[0].model] = {row.raw.against["fhs"].verdict for row in rows}
    assert verdicts == {"slow": {WORSE}, "even": {OPEN}}


def test_months_are_those_of_the_cutoff(crps: np.ndarray) -> None:
    rows = standings.rows(nights("har", crps, horizon=1), {}, by_month=True)
    ones = [row for row in rows if row.step == 1]
    assert [row.month for row in ones] == ["2024-01", "2024-02", "2024-03"]
    assert sum(row.nights for row in ones) == NUMBER


def test_few_nights_get_wilsons_interval_on_an_effective_number() -> None:
    four = coverage(np.array([0.9, 0.85, 0.95, 0.9]), 80)
    assert (four.method, four.effective) == (WILSON, 4)
    npt.assert_allclose((four.low, four.high), (0.41683, 0.99125), atol=1e-5)
    # Independent outcomes: the effective number is about all of them.
    draws = np.random.default_rng(0).binomial(20, 0.9, size=40) / 20
    independent = coverage(draws, 800)
    assert 400 < independent.effective <= 800
    # Nights in which all symbols go together count once.
    together = coverage(np.repeat([1.0, 0.0, 1.0, 1.0, 1.0], 8), 800)
    assert 30 < together.effective < 45
    assert together.low < 0.8 < together.high


def test_many_nights_are_resampled_in_blocks_and_the_interval_is_the_same_again() -> None:
    rng = np.random.default_rng(4)
    regime = np.repeat(rng.normal(0.9, 0.05, size=15), 20)
    dependent = coverage(np.clip(regime, 0, 1), 6000)
    shuffled = coverage(np.clip(rng.permutation(regime), 0, 1), 6000)
    assert (dependent.method, shuffled.method) == (BOOTSTRAP, BOOTSTRAP)
    assert dependent.low < dependent.share < dependent.high
    assert dependent.high - dependent.low > 2 * (shuffled.high - shuffled.low)
    assert coverage(np.clip(regime, 0, 1), 6000) == dependent


def test_the_interval_of_independent_nights_is_that_of_a_normal_mean() -> None:
    draws = np.random.default_rng(5).normal(0.9, 0.05, size=400)
    interval = coverage(draws, 8000)
    npt.assert_allclose(interval.high - interval.low, 2 * 1.96 * 0.05 / 20, rtol=0.2)


def made(crps: np.ndarray, model: str = "har") -> Standings:
    frame = nights(model, crps, calibrated=0.95)
    paired = {
        "fhs": beside(frame, nights("fhs", crps + 1e-3)),
        "naive": beside(frame, nights("naive", crps + 2e-3)),
    }
    rows = standings.rows(frame, paired, by_month=False)
    months = standings.rows(frame, paired, by_month=True)
    live = Table(LIVE, 0, 0, [], [], dict.fromkeys(paired, frame[:0]))
    backfill = Table(BACKFILL, NUMBER, NUMBER, rows, months, paired)
    served = [{"model": model, "version": 1, "forecasts": 3, "nights": 1}]
    return Standings("mine", pd.Timestamp("2024-03-25").date(), [live, backfill], served)


def test_the_page_says_live_nights_backfill_and_served_apart_and_needs_nothing_else(
    crps: np.ndarray,
) -> None:
    text = page.of([made(crps)])
    assert "mine after 2024-03-25: 0 live nights" in text
    assert "computed later, from what was known then" in text
    assert "served on request: 3 forecasts of har/1" in text
    assert text.index("<h3>Live</h3>") < text.index("<h3>Backfill</h3>")
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert "url(" not in text
    assert "<script" not in text
    assert text.count("<svg") == 2
    assert "prefers" in text or "light-dark(" in text


def test_names_are_escaped_on_the_page(crps: np.ndarray) -> None:
    text = page.of([made(crps, model="<b>")])
    assert "<b>/1" not in text
    assert "&lt;b&gt;/1" in text


def test_a_page_of_nothing_says_so() -> None:
    assert "Nothing was issued yet" in page.of([])


def test_flat_rows_have_one_source_each_and_the_same_columns(crps: np.ndarray) -> None:
    rows = flat([made(crps)])
    assert {row["source"] for row in rows} == {BACKFILL}
    assert [row["step"] for row in rows] == ["all", "1", "2"]
    assert len({tuple(row) for row in rows}) == 1
    assert rows[1]["verdict_vs_fhs"] == BETTER
    assert rows[1]["uncalibrated"] == 0.0
