"""graph: the data that training uses, its end, and its refusals."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest
import torch
from shared import SHARED
from watched import Run

from jobs.training import configs, families
from mlprojects.blocks import features
from mlprojects.graph import adjacency, model, train
from mlprojects.graph.windows import Windows
from registry import training
from registry.errors import BadConfig, BadHistory
from registry.forecast import names, volatility
from registry.forecast.history import History
from registry.training import Trained

STOCKS = ("AAPL", "JPM", "MSFT", "XOM")
CONTEXT = 8  # of the tiny config


@pytest.fixture(scope="module")
def history(panel: pd.DataFrame) -> pd.DataFrame:
    """Four stocks of three sectors, 2017 to the first quarter of 2019."""
    stocks = panel[panel[names.UNIQUE_ID].isin(STOCKS)]
    period = stocks[names.DS].between("2017-01-01", "2019-03-29")
    return stocks[period].reset_index(drop=True)


def tiny(**overrides: Any) -> training.Config:
    return configs.load_config(
        families.find("graph"),
        {"graph": "correlation", "k": 2, "choose_until": "2019-03-29", **overrides},
        tiny=True,
    )


def fitted(
    history: pd.DataFrame, folder: Path, *, seed: int = 1, run: Run | None = None, **overrides: Any
) -> Trained:
    return train.train(history, tiny(**overrides), name="graph", seed=seed, run=run or Run(folder))


def bits(trained: Trained, folder: Path) -> dict[str, bytes]:
    """The files of the artifact."""
    folder.mkdir(exist_ok=True)
    model.save(trained.forecaster, folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def trained(history: pd.DataFrame, run: Run) -> Trained:
    return fitted(history, run.checkpoint_dir, run=run)


def test_the_universe_are_the_series_it_was_trained_on(trained: Trained) -> None:
    spec = trained.forecaster.spec
    assert (spec.universe, spec.joint, spec.subset) == (STOCKS, True, True)
    assert spec.min_context == features.WARMUP - 1 + CONTEXT


def test_the_same_seed_writes_the_same_files(
    trained: Trained, history: pd.DataFrame, tmp_path: Path
) -> None:
    first = bits(trained, tmp_path / "first")
    assert bits(fitted(history, tmp_path / "a"), tmp_path / "again") == first
    assert bits(fitted(history, tmp_path / "b", seed=2), tmp_path / "other") != first


def test_losses_are_reported_and_the_untrained_one_is_that_of_normal_quantiles(
    trained: Trained, run: Run, history: pd.DataFrame
) -> None:
    losses = run.losses("valid_loss")
    assert list(losses) == [0, 2, 4]
    assert trained.params["best_step"] == min(losses, key=losses.__getitem__)
    assert trained.metrics["choice_loss"] == min(losses.values())
    npt.assert_allclose(losses[0], normal_loss(history), rtol=1e-5)


def normal_loss(history: pd.DataFrame) -> float:
    """Mean pinball loss of EWMA volatility x normal quantiles, over the forecasts with all outcomes
    in 2019."""
    levels = np.array(names.LEVELS)
    standard = torch.distributions.Normal(0.0, 1.0)
    normal = standard.icdf(torch.tensor(names.LEVELS, dtype=torch.float64)).numpy()
    losses = []
    for _, series in history.groupby(names.UNIQUE_ID):
        y, ds = series[names.Y].to_numpy(), series[names.DS].to_numpy()
        sigma = volatility.ewma_volatility(y[None])[0]
        for origin in range(len(y) - 5):
            if ds[origin + 1] > np.datetime64("2018-12-31"):
                error = y[origin + 1 : origin + 6, None] - sigma[origin] * normal
                losses.append(np.maximum(levels * error, (levels - 1) * error).mean())
    return float(np.mean(losses))


def test_a_killed_training_ends_with_the_same_bits(
    trained: Trained, history: pd.DataFrame, tmp_path: Path
) -> None:
    fitted(history, tmp_path, run=Run(tmp_path, give_up_at=2))
    resumed = Run(tmp_path)
    again = fitted(history, tmp_path, run=resumed)
    assert list(resumed.losses("valid_loss")) == [4]
    assert bits(again, tmp_path / "resumed") == bits(trained, tmp_path / "whole")


@pytest.mark.parametrize("kind", ["correlation", "partial", "sector", "learned", "none"])
def test_what_comes_after_the_sessions_to_fit_changes_neither_graph_nor_weights(
    history: pd.DataFrame, tmp_path: Path, kind: str
) -> None:
    """Those sessions only choose the step: here between one step and the untrained network."""
    later = history[names.DS] > "2018-12-31"
    changed = history.copy()
    for name in (names.Y, *names.MARKET):
        changed[name] = history[name].where(~later, 0.5 * history[name] + 0.003)
    settings = {"graph": kind, "isolated": "loop", "check_every": 4}
    run, run_of_changed = Run(tmp_path / "a"), Run(tmp_path / "b")
    before = fitted(history, run.checkpoint_dir, run=run, **settings)
    after = fitted(changed, run_of_changed.checkpoint_dir, run=run_of_changed, **settings)
    assert run.losses("train_loss") == run_of_changed.losses("train_loss")
    assert run.losses("valid_loss") != run_of_changed.losses("valid_loss")
    assert before.params["best_step"] == after.params["best_step"] == 4
    assert bits(before, tmp_path / "before") == bits(after, tmp_path / "after")


def test_the_graph_is_that_of_the_returns_to_fit(trained: Trained, history: pd.DataFrame) -> None:
    wide = history[history[names.DS] <= "2018-12-31"].pivot(
        index=names.DS, columns=names.UNIQUE_ID, values=names.Y
    )
    expected = adjacency.correlation(wide[list(STOCKS)].to_numpy().T, 2)
    npt.assert_allclose(trained.forecaster.weights, expected, rtol=1e-6)
    table = trained.tables["adjacency"]
    assert trained.params["edges"] == len(table) == (expected > 0).sum()
    edge = table.set_index([names.UNIQUE_ID, "neighbour"]).loc[("AAPL", "MSFT")]
    npt.assert_allclose(edge["weight"], wide["AAPL"].corr(wide["MSFT"]), rtol=1e-6)
    npt.assert_allclose(table.groupby(names.UNIQUE_ID)["share"].sum(), 1.0, rtol=1e-6)
    assert list(trained.figures) == ["adjacency"]


def test_a_learned_graph_has_parameters_and_a_network_without_edges_shows_no_graph(
    trained: Trained, history: pd.DataFrame, tmp_path: Path
) -> None:
    learned = fitted(history, tmp_path / "learned", graph="learned")
    assert learned.params["parameters"] == trained.params["parameters"] + 2 * 4 * 8
    npt.assert_allclose(learned.forecaster.weights.sum(dim=1), 1.0, rtol=1e-6)
    assert set(learned.tables["adjacency"].groupby(names.UNIQUE_ID).size()) == {4}
    none = fitted(history, tmp_path / "none", graph="none")
    assert (none.figures, none.tables, none.params["edges"]) == ({}, {}, 0)
    npt.assert_array_equal(none.forecaster.weights, np.zeros((4, 4)))


def test_features_are_scaled_by_the_sessions_to_fit(
    trained: Trained, history: pd.DataFrame
) -> None:
    net = trained.forecaster.net
    frame = history[history[names.DS] <= "2018-12-31"].reset_index(drop=True)
    to_fit = History.of(frame, features.COLUMNS)
    [(series, values)] = to_fit.blocks(len(frame), features.COLUMNS)
    length = values.shape[1]
    ds = to_fit.sessions(series, length)
    x = features.daily(values, ds, length - features.WARMUP + 1).reshape(-1, len(features.NAMES))
    npt.assert_allclose(net.centre, x.mean(axis=0), rtol=1e-4, atol=1e-5)
    npt.assert_allclose(net.deviation, x.std(axis=0), rtol=1e-3)


def test_windows_hold_what_is_known_at_the_origin_and_the_returns_after_it(
    history: pd.DataFrame,
) -> None:
    windows = windows_of(history)
    origin = int(windows.fit[7])
    batch = windows.take(torch.tensor([origin]))
    msft = history[history[names.UNIQUE_ID] == "MSFT"]
    npt.assert_allclose(batch.y[0, 2], msft[names.Y].iloc[origin + 1 : origin + 6], rtol=1e-6)
    values = msft[list(features.COLUMNS)].to_numpy()[None, : origin + 1]
    ds = msft[names.DS].to_numpy()[None, : origin + 1].astype("datetime64[D]")
    x = features.daily(values, ds, CONTEXT)
    npt.assert_allclose(batch.x[0, :, 2], x[0], rtol=1e-5, atol=1e-6)
    sigma = volatility.ewma_volatility(values[:, :, 0])[0, -1]
    npt.assert_allclose(batch.sigma[0, 2], sigma, rtol=1e-6)


def windows_of(history: pd.DataFrame, **changed: Any) -> Windows:
    settings = {"fit_until": "2018-12-31", "sessions": CONTEXT, "horizon": 5, **changed}
    return Windows.of(History.of(history, features.COLUMNS), **settings)


def test_outcomes_to_fit_end_by_fit_until_and_those_to_choose_on_begin_after_it(
    history: pd.DataFrame,
) -> None:
    windows = windows_of(history)
    ds = history[history[names.UNIQUE_ID] == "XOM"][names.DS].to_numpy()
    assert str(ds[windows.fit[-1] + 5])[:10] == "2018-12-31"
    assert str(ds[windows.chosen[0] + 1])[:10] == "2019-01-02"
    assert str(ds[windows.chosen[-1] + 5])[:10] == "2019-03-29"
    # Every row of a window has all its features.
    assert windows.fit[0] - CONTEXT + 1 == features.WARMUP - 1


def test_too_few_sessions_to_fit_or_to_choose_on_are_refused(history: pd.DataFrame) -> None:
    days = history[names.DS].drop_duplicates()
    needed = features.WARMUP - 1 + CONTEXT + 5
    start = days[days <= "2018-12-31"].iloc[-needed]
    assert len(windows_of(history[history[names.DS] >= start]).fit) == 1
    with pytest.raises(
        BadHistory, match=r"hold no forecast up to 2018-12-31; .* take 313 \+ 8 \+ 5"
    ) as caught:
        windows_of(history[history[names.DS] > start])
    assert caught.value.code == "TOO_SHORT"
    with pytest.raises(BadHistory, match="hold no forecast with all outcomes after 2018-12-31"):
        windows_of(history[history[names.DS] < "2019-01-08"])  # four sessions


def test_a_series_that_lacks_sessions_is_named(history: pd.DataFrame, tmp_path: Path) -> None:
    holes = history.drop(
        history[(history[names.UNIQUE_ID] == "JPM") & history[names.DS].dt.month.eq(5)].index
    )
    with pytest.raises(
        BadHistory, match=r"^JPM lacks 44 of the 563 sessions of the 4 series, first 2017-05-01"
    ) as caught:
        fitted(holes, tmp_path)
    assert caught.value.code == "SESSIONS_DIFFER"


def test_one_series_is_no_graph(history: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(BadHistory, match="found 1 series, expected two or more"):
        fitted(history[history[names.UNIQUE_ID] == "JPM"], tmp_path)


@pytest.mark.parametrize("kind", ["correlation", "learned", "none"])
def test_a_series_that_never_moves_is_named(
    history: pd.DataFrame, tmp_path: Path, kind: str
) -> None:
    still = history.assign(y=history[names.Y].where(history[names.UNIQUE_ID] != "MSFT", 0.0))
    with pytest.raises(BadHistory, match=r"^MSFT has the same return in every session") as caught:
        fitted(still, tmp_path, graph=kind)
    assert caught.value.code == "CONSTANT"


def test_an_isolated_series_is_named_unless_it_may_hear_itself(
    history: pd.DataFrame, tmp_path: Path
) -> None:
    with pytest.raises(
        BadConfig, match=r"^JPM, XOM would have no neighbour with graph: sector"
    ) as caught:
        fitted(history, tmp_path, graph="sector")
    assert caught.value.code == "ISOLATED"
    looped = fitted(history, tmp_path, graph="sector", isolated="loop").forecaster.weights
    npt.assert_array_equal(looped, [[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


def test_data_without_sectors_have_no_sector_graph(history: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="has no sectors"):
        fitted(history.drop(columns=names.SECTOR), tmp_path, graph="sector")


def test_training_stops_when_it_is_told_to(history: pd.DataFrame, tmp_path: Path) -> None:
    run = Run(tmp_path, give_up_at=2)
    fitted(history, tmp_path, run=run, max_steps=50)
    assert max(run.steps) == 2


def test_the_callers_frame_and_random_numbers_are_left_as_they_were(
    history: pd.DataFrame, tmp_path: Path
) -> None:
    before, state = history.copy(), torch.random.get_rng_state()
    fitted(history, tmp_path, max_steps=2)
    pd.testing.assert_frame_equal(history, before)
    npt.assert_array_equal(torch.random.get_rng_state(), state)


COUNTS = ("k", "embedding", "context", "hidden", "max_steps", "batch", "check_every", "patience")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *[(name, 0) for name in COUNTS],
        *itertools.product(("dropout", "series_dropout", "weight_decay"), (-0.1, 1.0, np.nan)),
        *[("learning_rate", value) for value in (0.0, 1.0, np.nan)],
        ("graph", "poem"),
        ("isolated", "maybe"),
    ],
)
def test_a_setting_out_of_bounds_is_refused(setting: str, value: Any) -> None:
    with pytest.raises(BadConfig, match=f"^{setting} is "):
        train.Config(**SHARED | {setting: value})


def test_the_committed_settings_lie_inside_the_search() -> None:
    config = configs.load_config(families.find("graph"), {})
    for name, values in families.find("graph").searched().items():
        value = getattr(config, name)
        assert value in values if isinstance(values, tuple) else values.low <= value <= values.high
