"""Cumulative returns: drawn with the model's own steps, or summed along the model's own paths."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import numpy.testing as npt
import pandas as pd
from scipy.special import ndtri

from jobs.forecasting import cumulative
from jobs.training import configs, families
from jobs.training.references import Unwatched
from registry.forecast import names
from registry.forecast.arrays import Floats
from registry.forecast.forecast import Forecast
from registry.scoring.rolling import origins_between, rolling

LEVELS = names.LEVELS
SCALES = np.array([0.01, 0.02])  # of two series
TAILS = (0.05, 0.1, 0.9, 0.95)


def forecast_of(quantiles: Floats, paths: Floats | None = None) -> Forecast:
    series = len(quantiles)
    return Forecast(
        unique_id=tuple(f"S{i}" for i in range(series)),
        cutoffs=np.full(series, np.datetime64("2020-01-02")),
        levels=LEVELS,
        quantiles=quantiles,
        mean=quantiles.mean(axis=2),
        paths=paths,
    )


def normal(horizon: int = 5) -> Forecast:
    """The same normal distribution at every step of a series."""
    quantiles = SCALES[:, None, None] * ndtri(LEVELS) * np.ones((1, horizon, 1))
    return forecast_of(quantiles)


def test_the_band_of_h_equal_normal_steps_is_the_square_root_of_h_times_that_of_one():
    bands = cumulative.quantiles(normal(), TAILS)
    root = np.sqrt(np.arange(1, 6))[None, :, None]
    expected = SCALES[:, None, None] * ndtri(TAILS) * root
    npt.assert_allclose(bands, expected, rtol=0.05)  # 2 standard errors of 2048 draws
    npt.assert_allclose(bands[:, 0], normal().at(TAILS).quantiles[:, 0], rtol=1e-12)
    added = normal().at(TAILS).quantiles.cumsum(axis=1)
    assert (np.abs(added[:, -1]) > 2 * np.abs(bands[:, -1])).all()  # sqrt(5) times too wide


def test_every_step_of_the_drawn_paths_has_the_distribution_of_the_model():
    step_scales = np.array([1.0, 1.3, 0.7])[None, :, None]
    skewed = ndtri(LEVELS) + 0.2 * np.asarray(LEVELS) ** 2
    marginals = SCALES[:, None, None] * step_scales * skewed
    paths = cumulative.drawn(marginals, LEVELS, cumulative.ranks_of(3, seed=4))
    quantiles = np.moveaxis(np.quantile(paths, LEVELS, axis=2), 0, 2)
    npt.assert_allclose(quantiles, marginals, atol=3e-3 * SCALES.max())


def test_steps_are_independent_and_tails_go_on_as_those_of_a_normal():
    ranks = cumulative.ranks_of(5, seed=0)
    correlation = np.corrcoef(ranks.T) - np.eye(5)
    npt.assert_allclose(correlation, 0, atol=0.02)
    beyond = np.array([0.001, 0.01, 0.99, 0.999])
    npt.assert_allclose(
        cumulative.quantile_function(ndtri(LEVELS), LEVELS, beyond), ndtri(beyond), rtol=1e-12
    )


def test_between_levels_it_is_the_forecast_at_those_levels():
    at = np.array([0.07, 0.33, 0.5, 0.88])
    values = cumulative.quantile_function(normal().quantiles, LEVELS, at)
    npt.assert_allclose(values, normal().at(tuple(at)).quantiles, rtol=1e-12)


def test_a_series_gets_the_same_numbers_alone_and_among_others():
    both = cumulative.quantiles(normal(), TAILS, seed=3)
    alone = cumulative.quantiles(forecast_of(normal().quantiles[1:]), TAILS, seed=3)
    assert (both[1] == alone[0]).all()


def test_a_model_with_paths_has_the_sums_of_its_own_paths():
    paths = np.random.default_rng(0).normal(0.0, 0.01, (2, 40, 3))
    paths[:, :, 1] = -paths[:, :, 0]  # the second step undoes the first
    sampled = forecast_of(np.quantile(paths, LEVELS, axis=1).transpose(1, 2, 0), paths)
    bands = cumulative.quantiles(sampled, TAILS)
    npt.assert_allclose(bands[:, 1], 0, atol=1e-15)
    assert cumulative.method(sampled) == cumulative.OF_PATHS
    assert cumulative.method(normal()) == cumulative.OF_DRAWS


def test_bands_hold_their_share_of_the_panels_five_session_returns(panel: pd.DataFrame):
    model = families.find("fhs")
    config = dataclasses.replace(configs.load_config(model, {}), data="panel", calendar="XNYS")
    run = Unwatched(Path(os.devnull))
    forecaster = families.fit(model, config, panel, seed=0, run=run).forecaster
    spec = forecaster.spec
    origins = origins_between(panel, "2019-12-31", None, 5, context=spec.min_context, every=10)
    table = rolling(forecaster, panel, origins, 5)
    columns = [names.quantile_column(level) for level in LEVELS]
    marginals = table[columns].to_numpy().reshape(-1, 5, len(LEVELS))
    outcomes = table[names.Y].to_numpy().reshape(-1, 5).sum(axis=1)
    levels = (0.05, 0.1, 0.25, 0.75, 0.9, 0.95)
    bands = cumulative.quantiles(forecast_of(marginals), levels)[:, -1]
    for mass, low, high in ((0.5, 2, 3), (0.8, 1, 4), (0.9, 0, 5)):
        inside = (outcomes >= bands[:, low]) & (outcomes <= bands[:, high])
        assert abs(inside.mean() - mass) < 0.03, mass
