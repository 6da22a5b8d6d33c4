"""nbeats: what an untrained network says, what training looks at, and that a forecast is the same bits everywhere."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest
import torch
from scipy.stats import norm

from jobs import families
from mlprojects.nixtla import model, train
from registry import contract, wire
from registry.contract import Forecast, ModelSpec, Trained
from registry.errors import BadConfig, BadHistory, KronosError

SERIES = ("AAPL", "JNJ", "XOM")
CONTEXT = 60


@dataclass
class Run:
    """A TrainRun that remembers what was reported, and can give up."""

    checkpoint_dir: Path
    give_up_at: float = float("inf")  # step
    reports: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def report(self, step: int, **losses: float) -> None:
        self.reports.append((step, losses))

    def should_stop(self) -> bool:
        return self.reports[-1][0] >= self.give_up_at

    def losses(self, name: str) -> dict[int, float]:
        return {step: losses[name] for step, losses in self.reports if name in losses}


@pytest.fixture(scope="module")
def slice_of_panel(panel: pd.DataFrame) -> pd.DataFrame:
    """Three stocks, 2018 and 2019: fitted on the first year, chosen on the second."""
    wanted = panel[wire.UNIQUE_ID].isin(SERIES) & panel[wire.DS].between("2018-01-01", "2019-12-31")
    return panel[wanted].reset_index(drop=True)


def tiny(**overrides: Any) -> contract.Config:
    return families.load_config(families.find("nbeats"), overrides, tiny=True)


def fitted(history: pd.DataFrame, folder: Path, *, seed: int = 1, run: Run | None = None, **overrides: Any) -> Trained:
    return train.train(history, tiny(**overrides), name="nbeats", seed=seed, run=run or Run(folder))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def trained(slice_of_panel: pd.DataFrame, run: Run) -> Trained:
    return fitted(slice_of_panel, run.checkpoint_dir, run=run)


@pytest.fixture(scope="module")
def untrained() -> model.NBeats:
    spec = ModelSpec("nbeats", "nixtla", min_context=CONTEXT, max_context=CONTEXT, max_horizon=5)
    return model.NBeats(spec, 8, 2, model.network(spec, 8, 2).eval())


def predict(forecaster: model.NBeats, frame: pd.DataFrame, horizon: int = 5, levels: Any = wire.LEVELS) -> Forecast:
    history = contract.check_history(frame, forecaster.spec)
    forecast = forecaster.predict(history, horizon, levels, 0, {})
    contract.check_forecast(forecast, forecaster.spec, horizon, levels)
    return forecast


def weights(forecaster: model.NBeats, folder: Path) -> bytes:
    folder.mkdir(parents=True)
    model.save(forecaster, folder)
    return (folder / "weights.safetensors").read_bytes()


def windows(n: int = 3, length: int = CONTEXT, seed: int = 0) -> np.ndarray:
    return 0.01 * np.random.default_rng(seed).standard_t(5, (n, length))


# --- scale ------------------------------------------------------------------------------------


def scale_by_numpy(y: np.ndarray) -> np.ndarray:
    """Root of the mean of squares, weighted by .94 ** age and normalised over the window."""
    weights = 0.94 ** np.arange(len(y) - 1, -1, -1)
    return np.sqrt(np.average(y**2, weights=weights))


def test_scale_by_hand():
    # ages 1 and 0: (.94 x 3^2 + 1 x 1^2) / 1.94
    found = model.ewma_scale(torch.tensor([[3.0, -1.0]], dtype=torch.float64))
    npt.assert_allclose(found.numpy(), [[np.sqrt((0.94 * 9 + 1) / 1.94)]], rtol=1e-12)


def test_scale_is_the_weighted_root_mean_square_of_each_window():
    y = windows()
    expected = [[scale_by_numpy(row)] for row in y]
    npt.assert_allclose(model.ewma_scale(torch.from_numpy(y)).numpy(), expected, rtol=1e-12)
    npt.assert_allclose(model.ewma_scale(torch.from_numpy(y)[:, :, None]).numpy()[:, :, 0], expected, rtol=1e-12)
    npt.assert_array_equal(model.ewma_scale(torch.zeros(1, 5)).numpy(), np.float32(1e-8))


def test_the_scaler_of_training_windows_looks_only_at_their_context(untrained: model.NBeats):
    whole = torch.from_numpy(windows(length=CONTEXT + 5).astype(np.float32))[:, :, None]
    changed = whole.clone()
    changed[:, CONTEXT:] = 7.0
    mask = torch.ones_like(whole)
    shift, scale = untrained.net.scaler.compute_statistics(x=whole, mask=mask, dim=1, eps=1e-6)
    npt.assert_array_equal(shift.numpy(), 0)
    expected = [[[scale_by_numpy(row)]] for row in whole[:, :CONTEXT, 0].numpy()]
    npt.assert_allclose(scale.numpy(), expected, rtol=1e-5)
    _, again = untrained.net.scaler.compute_statistics(x=changed, mask=mask, dim=1, eps=1e-6)
    npt.assert_array_equal(again.numpy(), scale.numpy())
    changed = whole.clone()
    changed[:, CONTEXT - 1] = 7.0
    _, other = untrained.net.scaler.compute_statistics(x=changed, mask=mask, dim=1, eps=1e-6)
    assert (other > scale).all()


# --- forecasts --------------------------------------------------------------------------------


def test_an_untrained_network_says_normal_quantiles_of_the_ewma_volatility(untrained: model.NBeats):
    y = windows()
    sigma = np.array([scale_by_numpy(row) for row in y])
    expected = np.broadcast_to(sigma[:, None, None] * norm.ppf(wire.LEVELS), (3, 5, 11))
    npt.assert_allclose(
        untrained.quantiles(y), expected, rtol=2e-5, atol=1e-8
    )  # float32, and y / sigma is added and taken off


def test_the_last_return_is_not_the_level_of_the_forecast(untrained: model.NBeats):
    y = windows()
    jumped = y.copy()
    jumped[:, -1] = 0.2
    npt.assert_allclose(untrained.quantiles(jumped)[..., 5], 0.0, atol=1e-6)


def test_training_changes_what_the_network_says(trained: Trained, slice_of_panel: pd.DataFrame):
    history = slice_of_panel.groupby(wire.UNIQUE_ID).tail(CONTEXT)
    said = predict(trained.forecaster, history).quantiles
    sigma = np.array([scale_by_numpy(y.to_numpy()) for _, y in history.groupby(wire.UNIQUE_ID)[wire.Y]])
    start = sigma[:, None, None] * norm.ppf(wire.LEVELS)
    assert np.abs(said - start).max() > 1e-5
    npt.assert_allclose(said, np.broadcast_to(start, said.shape), atol=float(sigma.max()))  # four steps lead not far


def test_a_forecast_alone_in_a_batch_and_among_200_is_the_same_bits(trained: Trained):
    y = windows(200)
    whole = trained.forecaster.quantiles(y)
    assert whole.shape == (200, 5, 11)
    for i in (0, 1, 127, 128, 199):
        npt.assert_array_equal(trained.forecaster.quantiles(y[i : i + 1])[0], whole[i])
    npt.assert_array_equal(trained.forecaster.quantiles(y[:130]), whole[:130])
    order = np.random.default_rng(0).permutation(200)
    npt.assert_array_equal(trained.forecaster.quantiles(y[order]), whole[order])


def test_eight_threads_get_the_same_bits(trained: Trained):
    batches = [windows(3, seed=seed) for seed in range(16)]
    expected = [trained.forecaster.quantiles(y) for y in batches]
    with ThreadPoolExecutor(8) as pool:
        for found, said in zip(pool.map(trained.forecaster.quantiles, batches), expected, strict=True):
            npt.assert_array_equal(found, said)


def test_a_series_among_others_of_other_lengths_is_forecast_from_its_last_60_sessions(
    trained: Trained, slice_of_panel: pd.DataFrame
):
    rows = slice_of_panel.groupby(wire.UNIQUE_ID).cumcount()
    uneven = slice_of_panel[(slice_of_panel[wire.UNIQUE_ID] != "JNJ") | (rows >= 400)]
    together = predict(trained.forecaster, uneven)
    assert together.unique_id == SERIES
    for i, name in enumerate(SERIES):
        alone = slice_of_panel[slice_of_panel[wire.UNIQUE_ID] == name].tail(CONTEXT)
        npt.assert_array_equal(predict(trained.forecaster, alone).quantiles[0], together.quantiles[i])


def test_twice_the_returns_twice_the_forecast(trained: Trained):
    y = windows()
    npt.assert_allclose(trained.forecaster.quantiles(4 * y), 4 * trained.forecaster.quantiles(y), rtol=1e-5, atol=1e-9)


def test_fewer_steps_and_levels_are_a_part_of_the_whole(trained: Trained, slice_of_panel: pd.DataFrame):
    whole = predict(trained.forecaster, slice_of_panel)
    part = predict(trained.forecaster, slice_of_panel, horizon=2, levels=(0.1, 0.15, 0.9))
    npt.assert_array_equal(part.quantiles[:, :, [0, 2]], whole.quantiles[:, :2, [1, 9]])
    npt.assert_allclose(part.quantiles[:, :, 1], whole.quantiles[:, :2, 1:3].mean(axis=2), rtol=1e-12)
    npt.assert_array_equal(part.mean, whole.mean[:, :2])


def test_quantiles_never_cross_even_when_the_network_says_them_in_disorder(untrained: model.NBeats):
    net = model.network(untrained.spec, 8, 2).eval()
    with torch.no_grad():
        net.blocks[0].layers[-1].bias[CONTEXT:] = torch.linspace(1, -1, 5 * 11)
    quantiles = model.NBeats(untrained.spec, 8, 2, net).quantiles(windows())
    assert (np.diff(quantiles, axis=2) >= 0).all()
    assert (quantiles[:, 0] > quantiles[:, 4]).all()  # sorted over the levels, not over the steps


def test_59_sessions_are_too_few(trained: Trained, slice_of_panel: pd.DataFrame):
    with pytest.raises(BadHistory) as caught:
        predict(trained.forecaster, slice_of_panel.groupby(wire.UNIQUE_ID).tail(CONTEXT - 1))
    assert caught.value.code == "TOO_SHORT"


def test_saved_and_loaded_model_forecasts_the_same(trained: Trained, slice_of_panel: pd.DataFrame, tmp_path: Path):
    model.save(trained.forecaster, tmp_path)
    (tmp_path / "spec.json").write_text(pd.io.json.ujson_dumps(trained.forecaster.spec.to_json()))
    loaded = model.load(tmp_path)
    assert loaded.spec == trained.forecaster.spec
    assert not loaded.net.training
    said = predict(trained.forecaster, slice_of_panel).quantiles
    npt.assert_array_equal(predict(loaded, slice_of_panel).quantiles, said)


# --- training ---------------------------------------------------------------------------------


def test_the_same_seed_writes_the_same_weights_file(trained: Trained, slice_of_panel: pd.DataFrame, tmp_path: Path):
    first = weights(trained.forecaster, tmp_path / "first")
    again = weights(fitted(slice_of_panel, tmp_path).forecaster, tmp_path / "again")
    other = weights(fitted(slice_of_panel, tmp_path, seed=2).forecaster, tmp_path / "other")
    assert first == again
    assert first != other


def test_training_reports_its_losses_and_the_step_of_the_best(trained: Trained, run: Run):
    assert list(run.losses("valid_loss")) == [2, 4]
    assert 1 in run.losses("train_loss")
    valid = run.losses("valid_loss")
    assert trained.params["best_step"] == min(valid, key=valid.__getitem__)
    # 60 -> 8 -> 8 -> 8 -> 60 + 5 x 11, weights and biases
    assert trained.params["parameters"] == (60 + 1) * 8 + 2 * (8 + 1) * 8 + (8 + 1) * (60 + 5 * 11)


def test_weights_are_not_fitted_to_the_choice_period(slice_of_panel: pd.DataFrame, tmp_path: Path):
    later = slice_of_panel[wire.DS] > "2018-12-31"
    changed = slice_of_panel.assign(y=slice_of_panel[wire.Y].where(~later, 0.5 * slice_of_panel[wire.Y] + 0.01))
    runs = [Run(tmp_path), Run(tmp_path)]
    first, second = (
        fitted(frame, tmp_path, run=run, val_check_steps=4)
        for frame, run in zip((slice_of_panel, changed), runs, strict=True)
    )
    assert runs[0].losses("train_loss") == runs[1].losses("train_loss")
    assert runs[0].losses("valid_loss") != runs[1].losses("valid_loss")
    # one check at the last step: nothing to choose
    assert weights(first.forecaster, tmp_path / "first") == weights(second.forecaster, tmp_path / "second")


def test_names_of_the_series_do_not_matter(trained: Trained, slice_of_panel: pd.DataFrame, tmp_path: Path):
    renamed = slice_of_panel.assign(unique_id=slice_of_panel[wire.UNIQUE_ID].map(dict(zip(SERIES, "ABC", strict=True))))
    found = weights(fitted(renamed, tmp_path).forecaster, tmp_path / "renamed")
    assert found == weights(trained.forecaster, tmp_path / "first")


def test_training_stops_when_it_is_told_to(slice_of_panel: pd.DataFrame, tmp_path: Path):
    run = Run(tmp_path, give_up_at=0)
    fitted(slice_of_panel, tmp_path, run=run, max_steps=50, val_check_steps=2)
    assert max(step for step, _ in run.reports) == 2


def test_training_stops_after_checks_that_brought_nothing_better_and_keeps_the_best_weights(
    slice_of_panel: pd.DataFrame, tmp_path: Path
):
    settings = {"max_steps": 60, "val_check_steps": 2, "patience": 1, "learning_rate": 0.3}
    run = Run(tmp_path)
    done = fitted(slice_of_panel, tmp_path, run=run, **settings)
    valid = run.losses("valid_loss")
    best = min(valid, key=valid.__getitem__)
    assert done.params["best_step"] == best
    assert list(valid)[-1] == best + 2 < 60
    stopped = fitted(slice_of_panel, tmp_path, run=Run(tmp_path, give_up_at=best), **settings)
    assert weights(done.forecaster, tmp_path / "kept") == weights(stopped.forecaster, tmp_path / "best")


def test_fewer_steps_than_one_check_are_still_checked_at_the_end(slice_of_panel: pd.DataFrame, tmp_path: Path):
    run = Run(tmp_path)
    assert fitted(slice_of_panel, tmp_path, run=run, max_steps=1, val_check_steps=20).params["best_step"] == 1


def test_the_callers_frame_is_left_as_it_was(slice_of_panel: pd.DataFrame, tmp_path: Path):
    before = slice_of_panel.copy()
    fitted(slice_of_panel, tmp_path, max_steps=2)
    pd.testing.assert_frame_equal(slice_of_panel, before)


def test_series_shorter_than_context_and_horizon_are_refused(slice_of_panel: pd.DataFrame, tmp_path: Path):
    days = slice_of_panel[slice_of_panel[wire.UNIQUE_ID] == "XOM"][wire.DS]
    start = days[days <= "2018-12-31"].iloc[-(CONTEXT + 4)]  # one session too few
    with pytest.raises(
        BadHistory, match=r"the shortest series has 64 sessions up to 2018-12-31; .* needs 65"
    ) as caught:
        fitted(slice_of_panel[slice_of_panel[wire.DS] >= start], tmp_path)
    assert caught.value.code == "TOO_SHORT"


@pytest.mark.parametrize("choose_until", ["2019-01-01", "2019-01-03"], ids=["no session to choose on", "two sessions"])
def test_a_choice_period_shorter_than_the_horizon_is_refused(
    slice_of_panel: pd.DataFrame, tmp_path: Path, choose_until: str
):
    seen = slice_of_panel[slice_of_panel[wire.DS] <= choose_until]
    with pytest.raises(KronosError):
        fitted(seen, tmp_path, choose_until=choose_until)


@pytest.mark.parametrize(
    "setting", ["context", "width", "stacks", "max_steps", "windows_batch_size", "val_check_steps", "patience"]
)
def test_a_size_of_0_is_refused(setting: str):
    with pytest.raises(BadConfig, match=f"^{setting} is 0, expected 1 or more$"):
        train.Config(**{setting: 0})


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, np.nan, np.inf])
def test_a_learning_rate_outside_0_to_1_is_refused(rate: float):
    with pytest.raises(BadConfig, match="learning_rate"):
        train.Config(learning_rate=rate)
