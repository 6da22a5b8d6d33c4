"""Scores and their significance: numbers by hand, another package, properties of proper scores."""

import numpy as np
import numpy.testing as npt
import pytest
import scoringrules
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, spearmanr, ttest_1samp
from scipy.stats import t as student

from registry.forecast import names
from registry.scoring import difference, metrics

seeds = st.integers(0, 2**32 - 1)


def sample(seed: int = 0, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes [n] and sorted quantiles [n, 11]."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 0.02, n), np.sort(rng.normal(0, 0.02, (n, len(names.LEVELS))), axis=1)


# --- scores -----------------------------------------------------------------------------------


def pinball_by_loop(y: np.ndarray, quantiles: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """(y - q) (u - 1{y < q}), one number at a time."""
    loss = np.empty_like(quantiles)
    for i, outcome in enumerate(y):
        for j, level in enumerate(levels):
            below = 1 if outcome < quantiles[i, j] else 0
            loss[i, j] = (outcome - quantiles[i, j]) * (level - below)
    return loss


def test_pinball_by_hand():
    # y = 3: above 1 by 2 -> .9 x 2; below 5 by 2 -> (1 - .9) x 2
    loss = metrics.pinball(np.array([3.0, 3.0]), np.array([[1.0], [5.0]]), (0.9,))
    npt.assert_allclose(loss, [[1.8], [0.2]], rtol=1e-14)


def test_pinball_is_the_loop_and_what_scoringrules_says():
    y, q = sample()
    loss = metrics.pinball(y, q, names.LEVELS)
    npt.assert_allclose(loss, pinball_by_loop(y, q, names.LEVELS), rtol=1e-12, atol=1e-18)
    expected = scoringrules.quantile_score(y[:, None], q, np.array(names.LEVELS))
    npt.assert_allclose(loss, expected, rtol=1e-12, atol=1e-18)


def test_crps_is_what_scoringrules_says_of_the_same_quantiles():
    y, q = sample()
    npt.assert_allclose(
        metrics.crps(y, q, names.LEVELS),
        scoringrules.crps_quantile(y, q, np.array(names.LEVELS)),
        rtol=1e-12,
    )


def test_crps_of_the_standard_normal_at_its_median():
    # 2 phi(0) - 1 / sqrt(pi) = .233695 in closed form (Gneiting and Raftery 2007),
    # and .231775 on the 11 default levels.
    zero = np.zeros(1)
    npt.assert_allclose(
        metrics.crps(zero, norm.ppf([names.LEVELS]), names.LEVELS), 0.231775, atol=5e-7
    )
    fine = (np.arange(20_000) + 0.5) / 20_000
    closed_form = 2 * norm.pdf(0) - 1 / np.sqrt(np.pi)
    npt.assert_allclose(closed_form, 0.233695, atol=5e-7)
    npt.assert_allclose(metrics.crps(zero, norm.ppf([fine]), fine), closed_form, atol=1e-5)


def test_the_interval_score_by_hand_and_by_scoringrules():
    # Band 1..4 of 80 %: alpha = .2; a miss of 2 costs 2 / .2 x 2 = 20 on top of the width of 3
    y, lower, upper = np.array([-1.0, 1.0, 2.0, 4.0, 6.0]), np.full(5, 1.0), np.full(5, 4.0)
    score = metrics.winkler(y, lower, upper, 0.8)
    npt.assert_allclose(score, [23, 3, 3, 3, 23], rtol=1e-12)
    npt.assert_allclose(score, scoringrules.interval_score(y, lower, upper, 0.2), rtol=1e-12)


def test_the_interval_score_is_made_of_the_pinball_losses_of_its_edges():
    y, q = sample()
    loss = metrics.pinball(y, q[:, [0, -1]], (0.05, 0.95)).sum(axis=1)
    npt.assert_allclose(metrics.winkler(y, q[:, 0], q[:, -1], 0.9), loss / 0.05, rtol=1e-9)


def test_an_outcome_on_the_edge_of_a_band_is_inside():
    y = np.array([0.9, 1.0, 2.0, 4.0, 4.1])
    npt.assert_array_equal(metrics.inside(y, np.full(5, 1.0), np.full(5, 4.0)), [0, 1, 1, 1, 0])


@given(seeds)
def test_a_perfect_forecast_scores_0_and_no_forecast_scores_less(seed: int):
    y, q = sample(seed)
    perfect = np.repeat(y[:, None], len(names.LEVELS), axis=1)
    npt.assert_array_equal(metrics.pinball(y, perfect, names.LEVELS), 0)
    npt.assert_array_equal(metrics.crps(y, perfect, names.LEVELS), 0)
    npt.assert_array_equal(metrics.winkler(y, y, y, 0.9), 0)
    assert (metrics.pinball(y, q, names.LEVELS) >= 0).all()


@given(seeds, st.floats(0.001, 1000), st.floats(-1, 1))
def test_scores_scale_with_the_unit_and_ignore_a_common_shift(
    seed: int, factor: float, shift: float
):
    y, q = sample(seed)
    npt.assert_allclose(
        metrics.crps(factor * y + shift, factor * q + shift, names.LEVELS),
        factor * metrics.crps(y, q, names.LEVELS),
        rtol=1e-6,
        atol=1e-12,
    )


@given(seeds)
def test_the_score_of_a_row_does_not_depend_on_the_others(seed: int):
    y, q = sample(seed)
    order = np.random.default_rng(seed).permutation(len(y))
    crps = metrics.crps(y, q, names.LEVELS)
    npt.assert_array_equal(metrics.crps(y[order], q[order], names.LEVELS), crps[order])
    npt.assert_array_equal(metrics.crps(y[:1], q[:1], names.LEVELS), crps[:1])


def test_the_true_quantiles_score_best_on_average():
    y = np.random.default_rng(0).normal(size=20_000)

    def score(mean: float, sd: float) -> float:
        quantiles = np.broadcast_to(mean + sd * norm.ppf(names.LEVELS), (len(y), len(names.LEVELS)))
        return float(metrics.crps(y, quantiles, names.LEVELS).mean())

    true = score(0, 1)
    assert true < min(score(0.2, 1), score(-0.2, 1), score(0, 0.8), score(0, 1.25))


# --- of the mean --------------------------------------------------------------------------------


def test_direction_is_the_share_of_signs_that_were_found():
    # Outcomes without a direction are left out. A mean of 0, or of 0 up to rounding, is half a hit.
    y = np.array([0.01, -0.02, 0.01, -0.02, 0.0, 0.01, -0.01])
    mean = np.array([0.001, -1.0, -0.001, 1e-11, 0.001, 0.0, 1e-19])
    npt.assert_array_equal(metrics.direction(y, mean), [1, 1, 0, 0, np.nan, 0.5, 0.5])


@given(seeds)
def test_the_opposite_forecast_finds_the_signs_that_this_one_missed(seed: int):
    y, q = sample(seed)
    npt.assert_array_equal(metrics.direction(y, q[:, 0]) + metrics.direction(y, -q[:, 0]), 1)


def test_rank_correlation_is_spearmans_row_by_row():
    rng = np.random.default_rng(0)
    mean, y = rng.normal(size=(50, 7)), rng.normal(size=(50, 7))
    mean[10:20] = mean[10:20].round(0)  # ties share their mean rank
    expected = [spearmanr(a, b).statistic for a, b in zip(mean, y, strict=True)]
    npt.assert_allclose(metrics.rank_correlation(mean, y), expected, rtol=1e-12, atol=1e-14)


def test_rank_correlation_by_hand():
    # Ranks 1..5 against 2 1 4 3 5: 1 - 6 (1 + 1 + 1 + 1) / (5 x 24) = .8 (Spearman 1904)
    mean = np.array([[1.0, 2, 3, 4, 5]])
    y = np.array([[0.2, 0.1, 0.4, 0.3, 9.0]])
    npt.assert_allclose(metrics.rank_correlation(mean, y), [0.8], rtol=1e-14)


def test_series_that_take_no_part_change_nothing_and_too_few_give_none():
    rng = np.random.default_rng(1)
    mean, y = rng.normal(size=(1, 6)), rng.normal(size=(1, 6))
    absent = np.full((1, 2), np.nan)
    expected = metrics.rank_correlation(mean, y)
    both_absent = metrics.rank_correlation(np.hstack([mean, absent]), np.hstack([y, absent]))
    npt.assert_array_equal(both_absent, expected)
    y_absent = metrics.rank_correlation(np.hstack([mean, [[1.0]]]), np.hstack([y, [[np.nan]]]))
    npt.assert_array_equal(y_absent, expected)
    assert np.isnan(metrics.rank_correlation(mean[:, :4], y[:, :4])).all()
    assert np.isnan(metrics.rank_correlation(np.full((1, 6), 1e-4), y)).all()
    assert np.isnan(metrics.rank_correlation(1e-19 * mean, y)).all()


# --- significance -----------------------------------------------------------------------------


def differences(seed: int = 0, n: int = 250, mean: float = 0.1) -> np.ndarray:
    """An autocorrelated loss difference per date: moving average of order 2."""
    noise = np.random.default_rng(seed).normal(size=n + 2)
    return mean + noise[2:] + 0.6 * noise[1:-1] + 0.3 * noise[:-2]


def t_statistic_by_loop(d: np.ndarray, weights: list[float]) -> float:
    """Mean over the root of its long-run variance; weights[k] is that of the autocovariance at lag
    k, with divisor T."""
    n, mean = len(d), float(np.mean(d))
    total = 0.0
    for lag, weight in enumerate(weights):
        covariance = sum((d[t] - mean) * (d[t - lag] - mean) for t in range(lag, n)) / n
        total += weight * covariance * (1 if lag == 0 else 2)
    return mean / float(np.sqrt(total / n))


def two_sided(statistic: float, n: int) -> float:
    return float(2 * student.sf(abs(statistic), n - 1))


def test_at_one_step_it_is_the_t_test_of_the_mean():
    # h = 1: the factor sqrt((T - 1) / T) turns the divisor T of the variance into T - 1
    d = differences(n=60)
    npt.assert_allclose(
        difference.diebold_mariano(d, 1).p_hln, ttest_1samp(d, 0).pvalue, rtol=1e-10
    )
    by_hand = d.mean() / (d.std(ddof=1) / np.sqrt(len(d)))
    npt.assert_allclose(difference.diebold_mariano(d, 1).p_hln, two_sided(by_hand, 60), rtol=1e-10)


@pytest.mark.parametrize(
    ("n", "horizon", "factor"), [(50, 3, 0.9499), (250, 3, 0.9900), (50, 5, 0.9099)]
)
def test_the_small_sample_factor_is_that_of_harvey_leybourne_and_newbold(
    n: int, horizon: int, factor: float
):
    # Their factor, IJF 13 (1997): sqrt((T + 1 - 2h + h (h - 1) / T) / T);
    # for 50, 3: sqrt((51 - 6 + .12) / 50) = .9499
    d = differences(n=n)
    statistic = t_statistic_by_loop(d, [1.0] * horizon)
    p_value = difference.diebold_mariano(d, horizon).p_hln
    implied = student.isf(p_value / 2, n - 1) / abs(statistic)
    npt.assert_allclose(implied, factor, atol=5e-5)


def test_the_second_p_value_weights_20_lags_by_bartlett():
    d = differences()
    weights = [1 - lag / 21 for lag in range(21)]
    expected = two_sided(t_statistic_by_loop(d, weights), len(d))
    npt.assert_allclose(difference.diebold_mariano(d, 5).p_bartlett, expected, rtol=1e-9)
    npt.assert_allclose(difference.diebold_mariano(d, 1).p_bartlett, expected, rtol=1e-9)


def test_the_larger_p_value_counts():
    assert difference.DieboldMariano(0.01, 0.2).p == 0.2
    assert difference.DieboldMariano(0.3, 0.2).p == 0.3


@given(seeds, st.floats(0.001, 1000), st.integers(1, 10))
def test_unit_and_side_of_the_differences_do_not_matter(seed: int, factor: float, horizon: int):
    d = differences(seed, n=80)
    test = difference.diebold_mariano(d, horizon)
    for changed in (factor * d, -d):
        again = difference.diebold_mariano(changed, horizon)
        npt.assert_allclose(
            [again.p_hln, again.p_bartlett], [test.p_hln, test.p_bartlett], rtol=1e-6
        )


def test_noise_is_called_significant_about_as_often_as_the_level_says():
    rng = np.random.default_rng(0)
    p = [difference.diebold_mariano(rng.normal(size=250), 1).p_hln for _ in range(1000)]
    npt.assert_allclose(np.mean(np.array(p) < 0.05), 0.05, atol=0.02)


def test_a_clear_difference_is_significant_and_a_mean_of_0_is_not():
    assert difference.diebold_mariano(differences(mean=1.0), 5).p < 1e-6
    d = differences()
    npt.assert_allclose(difference.diebold_mariano(d - d.mean(), 5).p, 1.0, atol=1e-9)


def test_a_variance_that_is_not_positive_is_no_evidence():
    d = 1 + np.tile([1.0, -1.0], 20)  # lag 1: rectangular window 1 - 2 x .975 < 0
    assert difference.diebold_mariano(d, 2).p_hln == 1.0
    assert difference.diebold_mariano(np.full(30, 0.5), 1).p == 1.0


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_no_more_dates_than_steps_is_no_evidence(n: int):
    assert difference.diebold_mariano(differences(n=n), 5).p == 1.0
