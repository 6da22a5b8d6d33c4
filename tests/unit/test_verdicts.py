"""The daily trail, and the verdicts that are read from it."""

import json
from collections.abc import Sequence
from datetime import date, timedelta

import numpy as np
import numpy.testing as npt
import pytest
from arch.bootstrap import optimal_block_length

from registry.forecast import names
from registry.forecast.arrays import Floats
from registry.scoring import metrics
from registry.scoring.learning import trail as trails
from registry.scoring.learning.learner import Learner
from registry.scoring.learning.nights import Matured, Night
from registry.scoring.learning.trail import COVERED, Trail
from registry.scoring.learning.verdicts import block_length, interval, verdict

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
FIRST = date(2020, 1, 1)


def trail_of(covered: Sequence[int], n: int = 20) -> Trail:
    """A trail of step 1: of n outcomes in a session, so many lie within the 90 % band."""
    trail = Trail.empty(LEVELS, 1)
    for day, inside in enumerate(covered):
        session = np.datetime64(FIRST + timedelta(day))
        of_day = trails.session_of(session, LEVELS, (), 1)
        of_day.n[0, 0] = n
        of_day.covered[0, 0, 1, COVERED.index("covered_90")] = inside
        trail = trail.followed_by(of_day)
    return trail


def draws(seed: int, share: float, count: int) -> Floats:
    return np.random.default_rng(seed).binomial(20, share, count)


# --- the trail --------------------------------------------------------------------------------


def test_the_trail_holds_sums_of_a_session_by_hand() -> None:
    """Quantiles -2, -1, 0, 1, 2; outcomes -3, 0.5 and 1.5, the last one without a sector."""
    learner = Learner("tracking", LEVELS, 1, {"AAA": "Energy", "BBB": "Energy"})
    quantiles = np.tile([-2.0, -1.0, 0.0, 1.0, 2.0], (3, 1))
    y = np.array([-3.0, 0.5, 1.5])
    matured = Matured(1, ("AAA", "BBB", "CCC"), y, quantiles)
    trail = learner.learn(learner.start(), Night(FIRST, (matured,))).memory.trail
    npt.assert_array_equal(trail.n, [[3]])
    # The band of 50 % is -1..1, that of 80 % is -1.75..1.75 (levels .1 and .9), of 90 % -2..2.
    npt.assert_array_equal(trail.covered[0, 0], [[1, 2, 2], [1, 2, 2]])
    npt.assert_array_equal(trail.below[0, 0, 0], [1, 1, 1, 2, 3])
    # PIT: .025 below the lowest; .5 + .5 x .25 = .625; .75 + .5 x .2 = .85. Bins of .05.
    npt.assert_array_equal(np.flatnonzero(trail.pit[0, 0, 0]), [0, 12, 17])
    # Pinball of -3: .95 x 1 + .75 x 2 + .5 x 3 + .25 x 4 + .05 x 5 = 5.2; of .5: .05 x 2.5 +
    # .25 x 1.5 + .5 x .5 + .25 x .5 + .05 x 1.5 = .95; of 1.5: .05 x 3.5 + .25 x 2.5 + .5 x 1.5
    # + .75 x .5 + .05 x .5 = 1.95. CRPS is 2 / 5 of it.
    npt.assert_allclose(trail.crps[0, 0, 0], 0.4 * (5.2 + 0.95 + 1.95), atol=1e-9)
    npt.assert_allclose(trail.sector_crps[0, 0, 0], [0.4 * (5.2 + 0.95)], atol=1e-9)
    npt.assert_array_equal(trail.sector_covered_90[0, 0, 0], [1])


def test_the_trail_equals_scores_of_every_outcome() -> None:
    rng = np.random.default_rng(0)
    learner = Learner("tracking", names.LEVELS, 1, {"A": "Energy", "B": "Utilities"})
    memory = learner.start()
    symbols = ("A", "B", "C")
    scored = []
    for day in range(40):
        y = rng.normal(0, 0.02, 3)
        quantiles = np.tile(np.linspace(-0.02, 0.02, 11), (3, 1))
        night = Night(FIRST + timedelta(day), (Matured(1, symbols, y, quantiles),))
        lesson = learner.learn(memory, night)
        memory = lesson.memory
        scored.append(metrics.crps(y, lesson.calibrated[0], names.LEVELS))
    frame = memory.trail.frame()
    npt.assert_allclose(frame["crps_calibrated"], np.sum(scored, axis=1), atol=1e-9)
    assert frame["n"].tolist() == [3] * 40
    trail = memory.trail
    utilities = trail.sector_crps[:, 0, 1, trail.sectors.index("Utilities")]  # calibrated
    npt.assert_allclose(utilities, np.array(scored)[:, 1], atol=1e-9)


def test_the_trail_keeps_the_last_500_sessions() -> None:
    trail = trail_of([18] * 510)
    assert len(trail.sessions) == 500
    assert trail.sessions[0] == np.datetime64(FIRST + timedelta(10))


# --- verdicts ---------------------------------------------------------------------------------


def test_a_coverage_of_ninety_per_cent_is_calibrated() -> None:
    covered = draws(1, 0.9, 250)
    result = verdict(trail_of(covered), 1, 1)
    assert result.state == "calibrated"
    assert result.coverage == covered.sum() / 5000
    assert result.low < 0.9 < result.high
    assert (result.sessions, result.newest) == (250, "2020-09-06")


def test_too_few_sessions_are_uncalibrated() -> None:
    result = verdict(trail_of(draws(1, 0.9, 119)), 1, 1)
    assert result.state == "uncalibrated"
    assert result.reason == "119 sessions have matured, 120 are needed"
    assert verdict(trail_of(draws(1, 0.9, 120)), 1, 1).state == "calibrated"


def test_nothing_matured_is_uncalibrated() -> None:
    result = verdict(Trail.empty(LEVELS, 1), 1, 0)
    assert (result.state, result.sessions, result.newest) == ("uncalibrated", 0, None)


def test_an_outcome_of_more_than_five_sessions_ago_is_stale() -> None:
    trail = trail_of(draws(1, 0.9, 250))
    assert verdict(trail, 1, 5).state == "calibrated"
    assert verdict(trail, 1, 6).state == "stale"


def test_sixty_bad_sessions_are_a_drift() -> None:
    covered = np.concatenate([draws(1, 0.9, 190), draws(2, 0.8, 60)])
    result = verdict(trail_of(covered), 1, 1)
    assert result.state == "stale"
    assert "drift" in result.reason


def test_a_poor_year_with_a_good_end_is_uncalibrated() -> None:
    covered = np.concatenate([draws(1, 0.8, 190), draws(2, 0.9, 60)])
    assert verdict(trail_of(covered), 1, 1).state == "uncalibrated"


def test_a_coverage_within_a_point_is_calibrated_however_sure() -> None:
    """905 of 1000 outcomes in every session: the interval has no width."""
    result = verdict(trail_of([905] * 250, n=1000), 1, 1)
    assert (result.low, result.high) == (0.905, 0.905)
    assert result.state == "calibrated"
    assert verdict(trail_of([920] * 250, n=1000), 1, 1).state == "stale"


def test_sessions_before_the_last_250_do_not_count() -> None:
    covered = draws(1, 0.9, 250)
    longer = verdict(trail_of([*[0] * 100, *covered]), 1, 1)
    shorter = verdict(trail_of(covered), 1, 1)
    assert (longer.coverage, longer.low, longer.high) == (
        shorter.coverage,
        shorter.low,
        shorter.high,
    )


def test_a_verdict_is_the_same_every_time_and_plain_json() -> None:
    trail = trail_of(draws(3, 0.88, 250))
    evidence = verdict(trail, 1, 1).evidence()
    assert evidence == verdict(trail, 1, 1).evidence()
    assert json.loads(json.dumps(evidence, allow_nan=False)) == evidence


def test_dependent_sessions_have_longer_blocks_and_a_wider_interval() -> None:
    rng = np.random.default_rng(4)
    shocks = rng.normal(0, 1, 250)
    level = np.zeros(250)
    for day in range(1, 250):
        level[day] = 0.9 * level[day - 1] + 0.44 * shocks[day]
    n = np.full(250, 20.0)
    dependent = np.clip(18 + np.round(1.5 * level), 0, 20)
    shuffled = rng.permutation(dependent)
    one, other = interval(dependent, n, 0.95), interval(shuffled, n, 0.95)
    assert one.coverage == other.coverage
    assert one.block_length > 3 * other.block_length
    assert one.high - one.low > 1.5 * (other.high - other.low)


@pytest.mark.parametrize("count", [60, 120, 250])
@pytest.mark.parametrize("memory", [0.0, 0.5, 0.95, -0.5])
def test_the_block_length_is_that_of_arch(count: int, memory: float) -> None:
    shocks = np.random.default_rng(count).normal(size=count)
    x = np.zeros(count)
    for place in range(1, count):
        x[place] = memory * x[place - 1] + shocks[place]
    reference = float(optimal_block_length(x)["stationary"].iloc[0])
    npt.assert_allclose(block_length(x), max(reference, 1.0), rtol=1e-9)


def test_a_series_that_does_not_vary_has_blocks_of_one() -> None:
    assert block_length(np.full(250, 0.9)) == 1.0
    assert block_length(np.arange(5.0)) == 1.0


@pytest.mark.parametrize("seed", [0, 1])
def test_the_interval_is_about_that_of_independent_sessions(seed: int) -> None:
    """Standard error sqrt(.9 x .1 / 5000) = .0042, so the interval is about .0166 wide."""
    covered = draws(seed, 0.9, 250).astype(float)
    result = interval(covered, np.full(250, 20.0), 0.95)
    npt.assert_allclose(result.high - result.low, 0.0166, rtol=0.25)
