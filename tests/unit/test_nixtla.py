"""Models of nixtla: data and refusals of training, and forecasts of the same bits everywhere."""

import json
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest
import torch
from watched import Run

from jobs.training import configs, families
from mlprojects.nixtla import model, networks, train
from mlprojects.nixtla import panel as panels
from mlprojects.nixtla.model import WindowForecaster
from registry import training
from registry.errors import BadConfig, BadHistory, KronosError
from registry.forecast import names
from registry.forecast.answer import forecast_of
from registry.forecast.checks import check_history
from registry.forecast.forecast import Forecast
from registry.training import Trained

SERIES = ("AAPL", "JNJ", "XOM")
CONTEXT = 60  # of the tiny models, 20 of stemgnn
SINGLE, JOINT = ("nbeats", "nhits", "patchtst"), ("itransformer", "stemgnn")


@pytest.fixture(scope="module")
def slice_of_panel(panel: pd.DataFrame) -> pd.DataFrame:
    """Three stocks, 2018 and 2019: fitted on the first year, chosen on the second."""
    stocks = panel[panel[names.UNIQUE_ID].isin(SERIES)]
    period = stocks[names.DS].between("2018-01-01", "2019-12-31")
    return stocks[period].reset_index(drop=True)


def tiny(model: str = "nbeats", **overrides: Any) -> training.Config:
    return configs.load_config(families.find(model), overrides, tiny=True)


def fitted(
    history: pd.DataFrame,
    folder: Path,
    model: str = "nbeats",
    *,
    seed: int = 1,
    run: Run | None = None,
    **overrides: Any,
) -> Trained:
    return train.train(
        history, tiny(model, **overrides), name=model, seed=seed, run=run or Run(folder)
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def trained(slice_of_panel: pd.DataFrame, run: Run) -> Trained:
    """nbeats, a few steps from its start."""
    return fitted(slice_of_panel, run.checkpoint_dir, run=run)


@pytest.fixture(scope="module", params=[*SINGLE, *JOINT])
def forecaster(
    request: pytest.FixtureRequest, trained: Trained, slice_of_panel: pd.DataFrame, run: Run
) -> WindowForecaster:
    """Every model, a few steps from its start."""
    model = request.param
    if model == "nbeats":
        return trained.forecaster
    return fitted(slice_of_panel, run.checkpoint_dir, model).forecaster


def predict(
    forecaster: WindowForecaster, frame: pd.DataFrame, horizon: int = 5, levels: Any = names.LEVELS
) -> Forecast:
    request = forecaster.spec.request({"horizon": horizon, "levels": levels})
    return forecast_of(forecaster, check_history(frame, forecaster.spec), request).at(levels)


def weights(forecaster: WindowForecaster, folder: Path) -> bytes:
    folder.mkdir(parents=True)
    model.save(forecaster, folder)
    return (folder / "weights.safetensors").read_bytes()


def windows(n: int = 3, length: int = CONTEXT, seed: int = 0) -> np.ndarray:
    return 0.01 * np.random.default_rng(seed).standard_t(5, (n, length))


def without_a_session(history: pd.DataFrame, name: str, ds: str) -> pd.DataFrame:
    return history[(history[names.UNIQUE_ID] != name) | (history[names.DS] != ds)].reset_index(
        drop=True
    )


# --- forecasts --------------------------------------------------------------------------------


def test_training_changes_what_the_network_says(
    forecaster: WindowForecaster, slice_of_panel: pd.DataFrame
):
    spec = forecaster.spec
    start = WindowForecaster(
        spec, forecaster.shape, networks.network(spec, forecaster.shape).eval()
    )
    before = predict(start, slice_of_panel).quantiles
    after = predict(forecaster, slice_of_panel).quantiles
    assert np.abs(after - before).max() > 1e-5
    npt.assert_allclose(after, before, atol=0.5 * np.abs(before).max())  # four steps change little


def test_eight_threads_get_the_same_bits(forecaster: WindowForecaster):
    batches = [windows(3, forecaster.spec.max_context, seed) for seed in range(16)]
    in_one_thread = [forecaster.quantiles(y) for y in batches]
    with ThreadPoolExecutor(8) as pool:
        for quantiles, expected in zip(
            pool.map(forecaster.quantiles, batches), in_one_thread, strict=True
        ):
            npt.assert_array_equal(quantiles, expected)


def test_a_series_among_others_of_other_lengths_is_forecast_from_its_last_60_sessions(
    trained: Trained, slice_of_panel: pd.DataFrame
):
    rows = slice_of_panel.groupby(names.UNIQUE_ID).cumcount()
    uneven = slice_of_panel[(slice_of_panel[names.UNIQUE_ID] != "JNJ") | (rows >= 400)]
    together = predict(trained.forecaster, uneven)
    assert together.unique_id == SERIES
    for i, name in enumerate(SERIES):
        alone = slice_of_panel[slice_of_panel[names.UNIQUE_ID] == name].tail(CONTEXT)
        npt.assert_array_equal(
            predict(trained.forecaster, alone).quantiles[0], together.quantiles[i]
        )


def test_sessions_before_the_context_change_nothing(
    forecaster: WindowForecaster, slice_of_panel: pd.DataFrame
):
    recent = slice_of_panel.groupby(names.UNIQUE_ID).tail(forecaster.spec.max_context)
    npt.assert_array_equal(
        predict(forecaster, recent).quantiles, predict(forecaster, slice_of_panel).quantiles
    )


def test_fewer_steps_and_levels_are_a_part_of_the_whole(
    forecaster: WindowForecaster, slice_of_panel: pd.DataFrame
):
    full = predict(forecaster, slice_of_panel)
    part = predict(forecaster, slice_of_panel, horizon=2, levels=(0.1, 0.15, 0.9))
    npt.assert_array_equal(part.quantiles[:, :, [0, 2]], full.quantiles[:, :2, [1, 9]])
    npt.assert_allclose(
        part.quantiles[:, :, 1], full.quantiles[:, :2, 1:3].mean(axis=2), rtol=1e-12
    )
    npt.assert_array_equal(part.mean, full.mean[:, :2])


def test_all_series_choose_on_the_sessions_after_fit_until(slice_of_panel: pd.DataFrame):
    """A series that ends early is filled up with rows that are not available."""
    last = {"AAPL": "2019-12-31", "JNJ": "2019-03-29", "XOM": "2018-11-30"}
    ends = pd.to_datetime(slice_of_panel[names.UNIQUE_ID].map(last))
    uneven = slice_of_panel[slice_of_panel[names.DS] <= ends]
    config = tiny()
    choice_sessions = panels.check(uneven, config)
    data = panels.dataset(uneven, config.fit_until, choice_sessions)
    for i, (name, series) in enumerate(uneven.groupby(names.UNIQUE_ID)):
        y, available = data.temporal[data.indptr[i] : data.indptr[i + 1]].numpy().T
        fitted = series.loc[series[names.DS] <= config.fit_until, names.Y]
        npt.assert_array_equal(y[:-choice_sessions], fitted.to_numpy(dtype=np.float32))
        assert available.sum() == len(series), name
        assert available[: len(series)].all()
        filler = y[len(series) :]
        assert np.count_nonzero(filler) >= 0.9 * len(filler)  # a window of them moves


def test_one_session_less_than_the_context_is_too_few(
    forecaster: WindowForecaster, slice_of_panel: pd.DataFrame
):
    short = slice_of_panel.groupby(names.UNIQUE_ID).tail(forecaster.spec.min_context - 1)
    with pytest.raises(BadHistory) as caught:
        predict(forecaster, short)
    assert caught.value.code == "TOO_SHORT"


def test_saved_and_loaded_model_forecasts_the_same(
    forecaster: WindowForecaster, slice_of_panel: pd.DataFrame, tmp_path: Path
):
    model.save(forecaster, tmp_path)
    (tmp_path / "spec.json").write_text(json.dumps(forecaster.spec.to_json()))
    loaded = model.load(tmp_path)
    assert loaded.spec == forecaster.spec
    assert not loaded.net.training
    expected = predict(forecaster, slice_of_panel).quantiles
    npt.assert_array_equal(predict(loaded, slice_of_panel).quantiles, expected)


# --- models of all series together ------------------------------------------------------------


@pytest.fixture(scope="module", params=JOINT)
def joint(
    request: pytest.FixtureRequest, slice_of_panel: pd.DataFrame, run: Run
) -> WindowForecaster:
    return fitted(slice_of_panel, run.checkpoint_dir, request.param).forecaster


def test_the_symbols_of_training_are_the_universe(
    joint: WindowForecaster, slice_of_panel: pd.DataFrame
):
    assert joint.spec.joint
    assert joint.spec.universe == SERIES
    for changed in (
        slice_of_panel[slice_of_panel[names.UNIQUE_ID] != "JNJ"],
        slice_of_panel.replace({names.UNIQUE_ID: {"JNJ": "KO"}}),
    ):
        with pytest.raises(BadHistory) as caught:
            predict(joint, changed)
        assert caught.value.code == "UNIVERSE"


def test_a_series_of_the_universe_changes_the_forecast_of_the_others(
    joint: WindowForecaster, slice_of_panel: pd.DataFrame
):
    y = slice_of_panel[names.Y]
    moved = slice_of_panel.assign(y=y.where(slice_of_panel[names.UNIQUE_ID] != "JNJ", -y))
    before, after = (predict(joint, history).quantiles for history in (slice_of_panel, moved))
    assert (np.abs(after - before).max(axis=(1, 2)) > 0).all()


def test_other_sessions_than_those_of_the_others_are_refused(
    joint: WindowForecaster, slice_of_panel: pd.DataFrame
):
    with pytest.raises(
        BadHistory, match=r"series 2 of 3 has other sessions than the first"
    ) as caught:
        predict(joint, without_a_session(slice_of_panel, "JNJ", "2019-12-20"))
    assert caught.value.code == "SESSIONS_DIFFER"
    predict(joint, without_a_session(slice_of_panel, "JNJ", "2019-02-01"))  # before its context


@pytest.mark.parametrize("name", JOINT)
def test_a_panel_whose_series_have_other_sessions_is_refused(
    name: str, slice_of_panel: pd.DataFrame, tmp_path: Path
):
    gap = without_a_session(slice_of_panel, "JNJ", "2018-06-14")
    with pytest.raises(
        BadHistory, match=r"JNJ lacks 1 of the 503 sessions .* first 2018-06-14; .* leave"
    ) as caught:
        fitted(gap, tmp_path, name)
    assert caught.value.code == "SESSIONS_DIFFER"


# --- training ---------------------------------------------------------------------------------


def test_the_same_seed_writes_the_same_weights_file(
    forecaster: WindowForecaster, slice_of_panel: pd.DataFrame, tmp_path: Path
):
    name = forecaster.spec.name
    first = weights(forecaster, tmp_path / "first")
    again = weights(fitted(slice_of_panel, tmp_path, name).forecaster, tmp_path / "again")
    other = weights(fitted(slice_of_panel, tmp_path, name, seed=2).forecaster, tmp_path / "other")
    assert first == again
    assert first != other


def test_training_reports_its_losses_and_the_step_of_the_best(trained: Trained, run: Run):
    assert list(run.losses("valid_loss")) == [2, 4]
    assert 1 in run.losses("train_loss")
    valid = run.losses("valid_loss")
    assert trained.params["best_step"] == min(valid, key=valid.__getitem__)
    # 60 -> 8 -> 8 -> 8 -> 60 + 5 x 11, weights and biases
    assert trained.params["parameters"] == (60 + 1) * 8 + 2 * (8 + 1) * 8 + (8 + 1) * (60 + 5 * 11)


@pytest.mark.parametrize("name", [*SINGLE, *JOINT])
def test_weights_are_not_fitted_to_the_choice_period(
    name: str, slice_of_panel: pd.DataFrame, tmp_path: Path
):
    later = slice_of_panel[names.DS] > "2018-12-31"
    y = slice_of_panel[names.Y]
    changed = slice_of_panel.assign(y=y.where(~later, 0.5 * y + 0.01))
    run, run_of_changed = Run(tmp_path), Run(tmp_path)
    before = fitted(slice_of_panel, tmp_path, name, run=run, val_check_steps=4)
    after = fitted(changed, tmp_path, name, run=run_of_changed, val_check_steps=4)
    assert run.losses("train_loss") == run_of_changed.losses("train_loss")
    assert run.losses("valid_loss") != run_of_changed.losses("valid_loss")
    # There is one check, at the last step, so nothing is chosen.
    weights_before = weights(before.forecaster, tmp_path / "before")
    assert weights(after.forecaster, tmp_path / "after") == weights_before


def test_names_of_the_series_do_not_matter(
    trained: Trained, slice_of_panel: pd.DataFrame, tmp_path: Path
):
    renamed = slice_of_panel.assign(
        unique_id=slice_of_panel[names.UNIQUE_ID].map(dict(zip(SERIES, "ABC", strict=True)))
    )
    renamed_weights = weights(fitted(renamed, tmp_path).forecaster, tmp_path / "renamed")
    assert renamed_weights == weights(trained.forecaster, tmp_path / "first")


def test_training_stops_when_it_is_told_to(slice_of_panel: pd.DataFrame, tmp_path: Path):
    run = Run(tmp_path, give_up_at=0)
    fitted(slice_of_panel, tmp_path, run=run, max_steps=50, val_check_steps=2)
    assert max(run.steps) == 2


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
    assert weights(done.forecaster, tmp_path / "kept") == weights(
        stopped.forecaster, tmp_path / "best"
    )


def test_fewer_steps_than_one_check_are_still_checked_at_the_end(
    slice_of_panel: pd.DataFrame, tmp_path: Path
):
    trained = fitted(slice_of_panel, tmp_path, max_steps=1, val_check_steps=20)
    assert trained.params["best_step"] == 1


def test_the_callers_frame_is_left_as_it_was(slice_of_panel: pd.DataFrame, tmp_path: Path):
    before = slice_of_panel.copy()
    fitted(slice_of_panel, tmp_path, max_steps=2)
    pd.testing.assert_frame_equal(slice_of_panel, before)


def test_series_shorter_than_context_and_horizon_are_refused(
    slice_of_panel: pd.DataFrame, tmp_path: Path
):
    days = slice_of_panel[slice_of_panel[names.UNIQUE_ID] == "XOM"][names.DS]
    start = days[days <= "2018-12-31"].iloc[-(CONTEXT + 4)]  # one session too few
    with pytest.raises(
        BadHistory, match=r"the shortest series has 64 sessions up to 2018-12-31; .* needs 65"
    ) as caught:
        fitted(slice_of_panel[slice_of_panel[names.DS] >= start], tmp_path)
    assert caught.value.code == "TOO_SHORT"


@pytest.mark.parametrize(
    "choose_until", ["2019-01-01", "2019-01-03"], ids=["no session to choose on", "two sessions"]
)
def test_a_choice_period_shorter_than_the_horizon_is_refused(
    slice_of_panel: pd.DataFrame, tmp_path: Path, choose_until: str
):
    until_choice = slice_of_panel[slice_of_panel[names.DS] <= choose_until]
    with pytest.raises(KronosError):
        fitted(until_choice, tmp_path, choose_until=choose_until)


@pytest.mark.parametrize("name", [*SINGLE, *JOINT])
def test_a_window_of_zeros_is_refused(name: str, slice_of_panel: pd.DataFrame, tmp_path: Path):
    context = tiny(name).context
    rows = np.flatnonzero(slice_of_panel[names.UNIQUE_ID] == "JNJ")[100:]
    still = slice_of_panel.copy()
    still.loc[rows[:context], names.Y] = 0.0
    last = f"{still[names.DS][rows[context - 1]]:%Y-%m-%d}"
    with pytest.raises(
        BadHistory, match=f"all returns of JNJ are 0 in the {context} sessions up to {last}"
    ) as caught:
        fitted(still, tmp_path, name)
    assert caught.value.code == "CONSTANT"
    still.loc[rows[5], names.Y] = 0.001
    fitted(still, tmp_path, name, max_steps=1)


def test_a_loss_that_is_never_a_number_is_an_error(slice_of_panel: pd.DataFrame, tmp_path: Path):
    huge = slice_of_panel.assign(y=slice_of_panel[names.Y] * 1e30)  # the square overflows float32
    with pytest.raises(KronosError, match="the loss of nbeats was never a finite number") as caught:
        fitted(huge, tmp_path)
    assert caught.value.code == "DIVERGED"


def test_training_leaves_the_generators_and_torch_as_they_were(
    slice_of_panel: pd.DataFrame, tmp_path: Path
):
    torch.manual_seed(3), np.random.seed(3)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(3), np.random.seed(3)
    fitted(slice_of_panel, tmp_path, max_steps=1)
    assert (torch.rand(1), np.random.rand()) == expected
    assert not torch.are_deterministic_algorithms_enabled()


# --- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("nbeats", "context"),
        ("nbeats", "width"),
        ("nbeats", "stacks"),
        ("nbeats", "max_steps"),
        ("nbeats", "windows_batch_size"),
        ("nbeats", "val_check_steps"),
        ("nbeats", "patience"),
        ("patchtst", "heads"),
        ("patchtst", "layers"),
        ("patchtst", "patch"),
        ("patchtst", "stride"),
        ("stemgnn", "multiplier"),
    ],
)
def test_a_size_of_0_is_refused(name: str, setting: str):
    with pytest.raises(BadConfig, match=f"^{setting} is 0, expected 1 or more$"):
        tiny(name, **{setting: 0})


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, np.nan, np.inf])
def test_a_learning_rate_outside_0_to_1_is_refused(rate: float):
    with pytest.raises(BadConfig, match="learning_rate"):
        tiny(learning_rate=rate)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("nhits", {"pools": [2, 0], "downsample": [1, 1]}, "pools is (2, 0), expected 1 or more"),
        ("nhits", {"pools": [2, 1]}, "pools has 2 blocks and downsample 3"),
        ("nhits", {"pools": [61, 2, 1]}, "expected at most the context (60)"),
        ("patchtst", {"width": 10, "heads": 4}, "width is 10, expected a multiple of the 4 heads"),
        ("patchtst", {"patch": 61}, "patch is 61, expected at most the context (60)"),
        ("itransformer", {"dropout": 1.0}, "dropout is 1.0, expected 0 or more and less than 1"),
        ("itransformer", {"weight_decay": -1.0}, "weight_decay is -1.0"),
        (
            "stemgnn",
            {"learning_rate": 0.1, "weight_decay": 10.0},
            "expected 0 or more and less than 10",
        ),
    ],
)
def test_settings_that_make_no_network_are_refused(
    name: str, settings: dict[str, Any], message: str
):
    with pytest.raises(BadConfig, match=re.escape(message)):
        tiny(name, **settings)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_training_that_nobody_else_watches_and_the_next_counts_again(
    slice_of_panel: pd.DataFrame, tmp_path: Path, number: signal.Signals
) -> None:
    class Interrupting(Run):
        def report(self, step: int, **losses: float) -> None:  # noqa: ARG002
            signal.raise_signal(number)

    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        fitted(slice_of_panel, tmp_path, run=Interrupting(tmp_path))
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
