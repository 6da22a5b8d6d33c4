"""tft: the direct pass is the library's, no forecast uses the future, sectors and counts."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest
import torch
from pytorch_forecasting import QuantileLoss, TimeSeriesDataSet
from pytorch_forecasting.data.encoders import NaNLabelEncoder, TorchNormalizer
from scipy.stats import norm
from shared import SHARED
from watched import Run

from jobs.training import configs, families
from mlprojects.blocks import features, head
from mlprojects.blocks.passes import ROWS
from mlprojects.tft import inputs, model, network, train
from mlprojects.tft import settings as family_settings
from mlprojects.tft.direct import Direct
from mlprojects.tft.inputs import DataParameters, Inputs
from mlprojects.tft.windows import Windows
from registry.errors import BadConfig, BadHistory
from registry.forecast import names, volatility
from registry.forecast.answer import forecast_of
from registry.forecast.checks import check_history
from registry.forecast.forecast import Forecast
from registry.training import Trained

SERIES = ("AAPL", "JNJ", "XOM")
FIT_UNTIL = "2018-12-31"
COUNTS = ["news_count", "tweet_count"]


@pytest.fixture(scope="module")
def part_of_panel(panel: pd.DataFrame) -> pd.DataFrame:
    """Three stocks, three years to fit on, half a year to choose on."""
    stocks = panel[panel[names.UNIQUE_ID].isin(SERIES)]
    period = stocks[names.DS].between("2016-01-01", "2019-06-28")
    return stocks[period].reset_index(drop=True)


def tiny(**overrides: Any) -> Any:
    return configs.load_config(
        families.find("tft"), {"learning_rate": 0.02, **overrides}, tiny=True
    )


def fitted(
    history: pd.DataFrame, folder: Path, *, seed: int = 1, run: Run | None = None, **overrides: Any
) -> Trained:
    return train.train(history, tiny(**overrides), name="tft", seed=seed, run=run or Run(folder))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def trained(part_of_panel: pd.DataFrame, run: Run) -> Trained:
    trained = fitted(part_of_panel, run.checkpoint_dir, run=run)
    assert trained.params["best_step"] > 0  # otherwise its weights are untrained
    return trained


@pytest.fixture(scope="module")
def with_counts(part_of_panel: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return fitted(part_of_panel, tmp_path_factory.mktemp("counts"), covariates=COUNTS)


def built(history: pd.DataFrame, **overrides: Any) -> tuple[Windows, dict[str, Any]]:
    """Windows of a panel and the arguments of a network for them."""
    config = tiny(**overrides)
    windows = Windows.of(
        history,
        family_settings.spec("tft", config),
        context=config.context,
        covariates=config.covariates,
        fit_until=FIT_UNTIL,
    )
    shape = {
        name: getattr(config, name) for name in ("width", "inner", "heads", "dropout", "context")
    }
    return windows, network.arguments(windows.known, levels=len(config.levels), **shape)


def scrambled(arguments: dict[str, Any], by: float = 0.2) -> Any:
    """A network with noise on its weights: an untrained one gives the same output for any input."""
    torch.manual_seed(3)
    net = network.build(arguments, names.LEVELS)
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(by * torch.randn(weight.shape))
    return net.eval()


@pytest.fixture(scope="module")
def talking(part_of_panel: pd.DataFrame) -> model.TFT:
    """A forecaster whose forecasts depend on all of its inputs."""
    windows, arguments = built(part_of_panel)
    spec = family_settings.spec("tft", tiny())
    return model.TFT(spec, windows.known, arguments, network.weights(scrambled(arguments)))


def predict(
    forecaster: model.TFT, frame: pd.DataFrame, horizon: int = 5, levels: Any = names.LEVELS
) -> Forecast:
    request = forecaster.spec.request({"horizon": horizon, "levels": levels})
    return forecast_of(forecaster, check_history(frame, forecaster.spec), request).at(levels)


def files(forecaster: model.TFT, folder: Path) -> dict[str, bytes]:
    folder.mkdir(parents=True)
    model.save(forecaster, folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- the direct pass --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides", [{}, {"width": 16, "inner": 8, "heads": 4}, {"covariates": COUNTS, "heads": 1}]
)
def test_the_direct_pass_says_what_the_librarys_network_says(
    part_of_panel: pd.DataFrame, overrides: dict[str, Any]
):
    windows, arguments = built(part_of_panel, **overrides)
    net = scrambled(arguments)
    x = windows.at(windows.chosen[::5])
    with torch.no_grad():
        expected = net.double()(
            {k: v.double() if v.is_floating_point() else v for k, v in network.library(x).items()}
        )
        raw = Direct(network.weights(net.float()), arguments)(x)
    assert expected.prediction.std(dim=0).min() > 0.01  # windows differ in every step and level
    npt.assert_allclose(head.spread(raw, names.LEVELS), expected.prediction, rtol=1e-4, atol=1e-5)


def test_the_direct_pass_says_what_the_library_says_of_its_own_data_set(
    talking: model.TFT, part_of_panel: pd.DataFrame
):
    """TimeSeriesDataSet, of a frame with the same variables: its batch, its forward pass."""
    windows, arguments = built(part_of_panel)
    cutoffs = windows.chosen[::50]
    frame = library_frame(windows, cutoffs, arguments)
    sizes = arguments["embedding_sizes"].items()
    encoders = {name: labels(size) for name, (size, _) in sizes}
    encoder = arguments["time_varying_reals_encoder"]
    decoder = arguments["time_varying_reals_decoder"]
    data = TimeSeriesDataSet(
        frame,
        time_idx="time_idx",
        target="y",
        group_ids=["window"],
        max_encoder_length=arguments["max_encoder_length"],
        max_prediction_length=5,
        static_categoricals=arguments["static_categoricals"],
        static_reals=arguments["static_reals"],
        time_varying_known_categoricals=arguments["time_varying_categoricals_decoder"],
        time_varying_known_reals=decoder,
        time_varying_unknown_reals=[name for name in encoder if name not in decoder],
        categorical_encoders=encoders,
        scalers=dict.fromkeys(arguments["x_reals"]),
        target_normalizer=TorchNormalizer("identity"),
        predict_mode=True,
    )
    net = network.build({**arguments, "x_reals": data.reals}, names.LEVELS)
    net.load_state_dict(talking.weights, strict=False)
    [(x, _)] = data.to_dataloader(train=False, batch_size=len(cutoffs))
    expected = net.eval()(x).prediction.detach()
    npt.assert_allclose(talking.scaled(windows.at(cutoffs)), expected, rtol=1e-4, atol=1e-5)


def labels(size: int) -> NaNLabelEncoder:
    encoder = NaNLabelEncoder()
    encoder.fit(pd.Series([f"{i:02d}" for i in range(size)]))
    return encoder


def library_frame(windows: Windows, cutoffs: np.ndarray, arguments: dict[str, Any]) -> pd.DataFrame:
    """One row a window and session, context and horizon, one column a variable."""
    x = network.library(windows.at(cutoffs))
    n, length = x["encoder_cont"].shape[:2]
    sessions = length + x["decoder_cont"].shape[1]
    numbers = torch.cat([x["encoder_cont"], x["decoder_cont"]], dim=1).flatten(0, 1).numpy()
    categories = torch.cat([x["encoder_cat"], x["decoder_cat"]], dim=1).flatten(0, 1).numpy()
    columns: dict[str, Any] = {
        "window": np.repeat([f"{i:03d}" for i in range(n)], sessions),
        "time_idx": np.tile(np.arange(sessions), n),
        "y": 0.0,
        **dict(zip(arguments["x_reals"], numbers.T, strict=True)),
    }
    for name, codes in zip(arguments["x_categoricals"], categories.T, strict=True):
        columns[name] = [f"{code:02d}" for code in codes]
    return pd.DataFrame(columns)


def test_serving_does_not_import_the_library():
    """The import takes seconds, and serving needs the folded weights only."""
    code = """
import mlprojects.tft.model, sys
print(sorted({'pytorch_forecasting', 'lightning'} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_loss_is_half_the_librarys_quantile_loss():
    y, quantiles = torch.randn(7, 5), torch.randn(7, 5, 11)
    expected = QuantileLoss(list(names.LEVELS)).loss(quantiles, y).mean() / 2
    npt.assert_allclose(head.pinball(y, quantiles, names.LEVELS), expected, rtol=1e-6)


# --- forecasts --------------------------------------------------------------------------------


def test_an_untrained_network_says_normal_quantiles_of_the_ewma_volatility(
    part_of_panel: pd.DataFrame,
):
    windows, arguments = built(part_of_panel)
    net = network.build(arguments, names.LEVELS)
    forecaster = model.TFT(
        family_settings.spec("tft", tiny()), windows.known, arguments, network.weights(net)
    )
    y = np.stack([y.to_numpy() for _, y in part_of_panel.groupby(names.UNIQUE_ID)[names.Y]])
    sigma = volatility.ewma_volatility(y)[:, -1]
    expected = np.broadcast_to(sigma[:, None, None] * norm.ppf(names.LEVELS), (3, 5, 11))
    npt.assert_allclose(
        predict(forecaster, part_of_panel).quantiles, expected, rtol=1e-5, atol=1e-9
    )


def test_training_changes_what_the_network_says_but_no_median_of_a_window(
    trained: Trained, part_of_panel: pd.DataFrame
):
    windows, _ = built(part_of_panel)
    scaled = trained.forecaster.scaled(windows.at(windows.chosen))
    assert np.ptp(scaled[:, :, 0], axis=0).min() > 1e-6
    npt.assert_array_equal(scaled[:, :, 5], scaled[0, 0, 5])


def test_windows_hold_what_is_known_of_each_session(part_of_panel: pd.DataFrame):
    """XOM at the close of Friday 2019-04-26, by hand from its columns."""
    windows, _ = built(part_of_panel)
    xom = part_of_panel[part_of_panel[names.UNIQUE_ID] == "XOM"]
    [cutoff] = np.flatnonzero(
        (part_of_panel[names.UNIQUE_ID] == "XOM") & (part_of_panel[names.DS] == "2019-04-26")
    )
    x = windows.at(np.array([cutoff]))
    upto = xom[xom[names.DS] <= "2019-04-26"]
    sigma = {c: volatility.ewma_volatility(upto[[c]].to_numpy().T)[0, -1] for c in features.COLUMNS}
    y, market, index = (upto[c].to_numpy()[-10:] / sigma[c] for c in features.COLUMNS)
    expected = np.stack([y, np.abs(y), market, index, np.arange(-9, 1) / 10], axis=1)
    npt.assert_allclose(x.past[0], expected, rtol=1e-6)
    npt.assert_array_equal(x.past_days[0, -1], [4, 3])  # a Friday in April
    # Monday the 29th to May the 3rd.
    npt.assert_array_equal(x.future_days[0], [[0, 3], [1, 3], [2, 4], [3, 4], [4, 4]])
    npt.assert_allclose(x.future[0, :, 0], np.arange(1, 6) / 10)
    assert windows.known.sectors[x.sector[0]] == "Energy"
    outcome = xom[xom[names.DS] > "2019-04-26"][names.Y].to_numpy()[:5]
    npt.assert_allclose(windows.targets(np.array([cutoff]))[0], outcome / sigma[names.Y], rtol=1e-6)
    [raw] = features.daily(
        upto[list(features.COLUMNS)].to_numpy()[None], upto[names.DS].to_numpy()[None], 1
    )[0]
    mean, deviation = np.array(windows.known.state_mean), np.array(windows.known.state_deviation)
    npt.assert_allclose(
        x.state[0], np.clip((raw[: len(mean)] - mean) / deviation, -4, 4), rtol=1e-5, atol=1e-6
    )


def test_the_forecast_of_a_history_is_that_of_its_window(
    talking: model.TFT, part_of_panel: pd.DataFrame
):
    windows, _ = built(part_of_panel)
    until_cutoff = part_of_panel[part_of_panel[names.DS] <= "2019-05-31"]
    cutoffs = np.flatnonzero(part_of_panel[names.DS] == "2019-05-31")
    expected = talking.scaled(windows.at(cutoffs)) * windows.sigma[cutoffs, 0, None, None]
    npt.assert_allclose(predict(talking, until_cutoff).quantiles, expected, rtol=1e-6, atol=1e-9)


def test_a_holiday_is_no_session_to_forecast(talking: model.TFT, part_of_panel: pd.DataFrame):
    """After Friday 2019-05-24 comes Tuesday: the forecast of step 1 is that of a Tuesday."""
    until_cutoff = part_of_panel[part_of_panel[names.DS] <= "2019-05-24"]
    passed: list[Inputs] = []

    class Recorder(model.TFT):
        def scaled(self, x: Inputs) -> Any:
            passed.append(x)
            return super().scaled(x)

    predict(Recorder(talking.spec, talking.known, talking.arguments, talking.weights), until_cutoff)
    npt.assert_array_equal(passed[0].future_days[0], [[1, 4], [2, 4], [3, 4], [4, 4], [0, 5]])


def test_a_forecast_alone_in_a_batch_and_among_200_is_the_same_bits(
    talking: model.TFT, part_of_panel: pd.DataFrame
):
    windows, _ = built(part_of_panel)
    x = windows.at(windows.chosen[:200])
    together = talking.scaled(x)
    assert len(np.unique(together[:, 0, 0])) == 200
    for i in (0, 1, ROWS - 1, ROWS, 2 * ROWS - 1, 199):
        npt.assert_array_equal(
            talking.scaled(x.map(lambda part, i=i: part[i : i + 1]))[0], together[i]
        )
    order = torch.from_numpy(np.random.default_rng(0).permutation(200))
    npt.assert_array_equal(talking.scaled(x.map(lambda part: part[order])), together[order])


def test_series_of_other_lengths_do_not_matter(talking: model.TFT, part_of_panel: pd.DataFrame):
    rows = part_of_panel.groupby(names.UNIQUE_ID).cumcount()
    uneven = part_of_panel[(part_of_panel[names.UNIQUE_ID] != "JNJ") | (rows >= 100)]
    together = predict(talking, uneven)
    for i, name in enumerate(SERIES):
        alone = predict(talking, uneven[uneven[names.UNIQUE_ID] == name])
        npt.assert_array_equal(alone.quantiles[0], together.quantiles[i])


def test_eight_threads_get_the_same_bits(talking: model.TFT, part_of_panel: pd.DataFrame):
    forecaster = model.TFT(talking.spec, talking.known, talking.arguments, talking.weights)
    days = pd.DatetimeIndex(part_of_panel[names.DS].unique()[-16:])
    histories = [part_of_panel[part_of_panel[names.DS] <= day] for day in days]
    expected = [predict(talking, history).quantiles for history in histories]
    with ThreadPoolExecutor(8) as pool:
        quantiles = list(
            pool.map(lambda history: predict(forecaster, history).quantiles, histories)
        )
    npt.assert_array_equal(quantiles, expected)


def test_fewer_steps_and_levels_are_a_part_of_the_whole(
    talking: model.TFT, part_of_panel: pd.DataFrame
):
    full = predict(talking, part_of_panel)
    part = predict(talking, part_of_panel, horizon=2, levels=(0.1, 0.15, 0.9))
    npt.assert_array_equal(part.quantiles[:, :, [0, 2]], full.quantiles[:, :2, [1, 9]])
    npt.assert_allclose(
        part.quantiles[:, :, 1], full.quantiles[:, :2, 1:3].mean(axis=2), rtol=1e-12
    )
    npt.assert_array_equal(part.mean, full.mean[:, :2])


def test_saved_and_loaded_model_forecasts_the_same_without_a_pickle(
    talking: model.TFT, part_of_panel: pd.DataFrame, tmp_path: Path
):
    assert set(files(talking, tmp_path / "saved")) == {"config.json", "weights.safetensors"}
    (tmp_path / "saved" / "spec.json").write_text(json.dumps(talking.spec.to_json()))
    loaded = model.load(tmp_path / "saved")
    assert loaded.spec == talking.spec
    assert loaded.known == talking.known
    assert loaded.arguments == talking.arguments
    npt.assert_array_equal(
        predict(loaded, part_of_panel).quantiles, predict(talking, part_of_panel).quantiles
    )


def test_the_library_can_be_handed_the_saved_weights(
    talking: model.TFT, part_of_panel: pd.DataFrame
):
    net = network.build(dict(talking.arguments), names.LEVELS)
    missing, unexpected = net.load_state_dict(dict(talking.weights), strict=False)
    assert not unexpected
    # Two modules hold these weights.
    assert all(name.split(".")[-3] == "prescalers" or "_decoder." in name for name in missing)
    windows, _ = built(part_of_panel)
    x = windows.at(windows.chosen[:3])
    npt.assert_allclose(
        net.eval()(network.library(x)).prediction.detach(), talking.scaled(x), rtol=1e-4, atol=1e-5
    )


# --- sectors ----------------------------------------------------------------------------------


def test_an_unknown_symbol_has_the_unknown_sector_and_the_reply_counts_it(
    talking: model.TFT, part_of_panel: pd.DataFrame
):
    renamed = part_of_panel.replace({names.UNIQUE_ID: {"XOM": "ZZTOP"}})
    after, before = predict(talking, renamed), predict(talking, part_of_panel)
    assert before.notes == {}
    assert after.notes == {"sector": "1 of 3 series were not in training: their sector is unknown"}
    npt.assert_array_equal(after.quantiles[:2], before.quantiles[:2])
    assert np.abs(after.quantiles[2] - before.quantiles[2]).max() > 1e-6
    masked = replace(
        talking, known=replace(talking.known, sector_of={"AAPL": "Information Technology"})
    )
    npt.assert_array_equal(predict(masked, part_of_panel).quantiles[2], after.quantiles[2])


def test_categories_and_their_symbols_are_those_of_training(trained: Trained):
    parameters = trained.forecaster.known
    assert parameters.sectors == ("unknown", "Energy", "Health Care", "Information Technology")
    assert parameters.sector_of == {
        "AAPL": "Information Technology",
        "JNJ": "Health Care",
        "XOM": "Energy",
    }
    npt.assert_array_equal(parameters.categories(["XOM", "AAPL", "KO"]), [1, 3, 0])
    again = DataParameters.from_json(json.loads(json.dumps(parameters.to_json())))
    assert again == parameters


def test_in_a_share_of_the_training_windows_the_sector_is_hidden(part_of_panel: pd.DataFrame):
    windows, _ = built(part_of_panel)
    random = torch.Generator().manual_seed(0)
    hidden, _ = windows.draw(random, 4000, 0.1)
    npt.assert_allclose((hidden.sector == 0).float().mean(), 0.1, atol=0.02)
    visible, _ = windows.draw(random, 4000, 0.0)
    assert (visible.sector > 0).all()


# --- counts -----------------------------------------------------------------------------------


def test_counts_are_required_where_they_are_asked_for(
    with_counts: Trained, part_of_panel: pd.DataFrame
):
    forecaster = with_counts.forecaster
    assert forecaster.spec.columns == (*names.HISTORY, *names.MARKET, *COUNTS)
    assert forecaster.arguments["time_varying_reals_encoder"] == [*inputs.OBSERVED, *COUNTS, "step"]
    predict(forecaster, part_of_panel)
    for frame, code in (
        (part_of_panel.drop(columns="tweet_count"), "MISSING_COLUMN"),
        (part_of_panel.assign(news_count=np.nan), "NON_FINITE"),
        (part_of_panel.assign(news_count=-1.0), "BAD_COUNT"),
    ):
        with pytest.raises(BadHistory) as caught:
            predict(forecaster, frame)
        assert caught.value.code == code


def test_counts_are_logs_in_deviations_of_the_training_sessions(
    with_counts: Trained, part_of_panel: pd.DataFrame
):
    fit = np.log1p(part_of_panel.loc[part_of_panel[names.DS] <= FIT_UNTIL, COUNTS])
    parameters = with_counts.forecaster.known
    npt.assert_allclose(parameters.count_mean, fit.mean(), rtol=1e-12)
    npt.assert_allclose(parameters.count_deviation, fit.std(ddof=0), rtol=1e-12)
    npt.assert_allclose(
        parameters.scaled_counts(np.expm1(fit.to_numpy())).mean(axis=0), 0, atol=1e-12
    )


def test_counts_matter_to_a_model_that_asks_for_them_and_to_no_other(
    talking: model.TFT, part_of_panel: pd.DataFrame
):
    more = part_of_panel.assign(news_count=part_of_panel["news_count"] + 50)
    npt.assert_array_equal(
        predict(talking, more).quantiles, predict(talking, part_of_panel).quantiles
    )
    windows, arguments = built(part_of_panel, covariates=COUNTS)
    spec = family_settings.spec("tft", tiny(covariates=COUNTS))
    needy = model.TFT(spec, windows.known, arguments, network.weights(scrambled(arguments)))
    assert (
        np.abs(predict(needy, more).quantiles - predict(needy, part_of_panel).quantiles).max()
        > 1e-6
    )


# --- training ---------------------------------------------------------------------------------


def test_the_same_seed_writes_the_same_files(
    trained: Trained, part_of_panel: pd.DataFrame, tmp_path: Path
):
    state = torch.get_rng_state()
    first = files(trained.forecaster, tmp_path / "first")
    assert files(fitted(part_of_panel, tmp_path / "a").forecaster, tmp_path / "again") == first
    assert (
        files(fitted(part_of_panel, tmp_path / "b", seed=2).forecaster, tmp_path / "other") != first
    )
    assert torch.equal(torch.get_rng_state(), state)


def test_a_training_that_was_cut_off_ends_with_the_bits_of_one_that_was_not(
    trained: Trained, part_of_panel: pd.DataFrame, tmp_path: Path
):
    cut = Run(tmp_path / "run", give_up_at=2)
    fitted(part_of_panel, tmp_path, run=cut)
    assert max(cut.steps) == 2
    resumed = Run(tmp_path / "run")
    again = fitted(part_of_panel, tmp_path, run=resumed)
    assert min(resumed.steps) > 2
    assert files(again.forecaster, tmp_path / "again") == files(
        trained.forecaster, tmp_path / "whole"
    )


def test_training_reports_its_losses_and_counts_its_parameters(trained: Trained, run: Run):
    valid = run.losses("valid_loss")
    assert list(valid) == [0, 2, 4]
    assert trained.params["best_step"] == min(valid, key=valid.__getitem__)
    assert trained.params["parameters"] == sum(
        w.numel() for w in trained.forecaster.weights.values()
    )


def test_the_choice_loss_is_the_pinball_loss_in_mean_volatilities(part_of_panel: pd.DataFrame):
    windows, arguments = built(part_of_panel)
    net = network.build(arguments, names.LEVELS).eval()
    sigma = windows.sigma[windows.chosen, 0]
    y = windows.targets(windows.chosen).numpy() * sigma[:, None]
    u = np.asarray(names.LEVELS)
    error = y[:, :, None] - sigma[:, None, None] * norm.ppf(u)  # untrained: normal quantiles
    expected = np.maximum(u * error, (u - 1) * error).mean() / sigma.mean()
    npt.assert_allclose(train.choice_loss(net, windows, names.LEVELS), expected, rtol=1e-5)


def test_what_comes_after_a_cutoff_changes_nothing_of_its_window(part_of_panel: pd.DataFrame):
    windows, _ = built(part_of_panel)
    cutoffs = np.flatnonzero(part_of_panel[names.DS] == "2019-02-28")
    later = part_of_panel[names.DS] > "2019-02-28"
    changed = part_of_panel.assign(
        **{c: part_of_panel[c].where(~later, 0.3) for c in features.COLUMNS}
    )
    again, _ = built(changed)
    assert again.known == windows.known
    before, after = windows.at(cutoffs), again.at(cutoffs)
    for name in ("sector", "state", "past", "past_days", "future", "future_days"):
        npt.assert_array_equal(getattr(after, name), getattr(before, name))
    assert not torch.equal(windows.targets(cutoffs), again.targets(cutoffs))


def test_the_choice_period_chooses_and_fits_nothing(part_of_panel: pd.DataFrame, tmp_path: Path):
    later = part_of_panel[names.DS] > FIT_UNTIL
    changed = part_of_panel.assign(
        y=part_of_panel[names.Y].where(~later, 0.5 * part_of_panel[names.Y] + 0.01)
    )
    runs = [Run(tmp_path / "a"), Run(tmp_path / "b")]
    for frame, run in zip((part_of_panel, changed), runs, strict=True):
        fitted(frame, tmp_path, run=run)
    assert runs[0].losses("train_loss") == runs[1].losses("train_loss")
    assert runs[0].losses("valid_loss") != runs[1].losses("valid_loss")


def test_windows_that_are_fitted_end_before_those_that_choose_begin(part_of_panel: pd.DataFrame):
    windows, _ = built(part_of_panel)
    assert windows.days[windows.fit + 5].max() == np.datetime64("2018-12-31")
    assert windows.days[windows.chosen + 1].min() == np.datetime64("2019-01-02")
    assert len(windows.chosen) == 3 * (124 - 5 + 1)


# --- interpretation ---------------------------------------------------------------------------


def test_importances_of_a_group_and_attention_of_a_step_add_up_to_1(trained: Trained):
    importance = trained.tables["variable_importance"]
    attention = trained.tables["attention_by_lag"]
    npt.assert_allclose(importance.groupby("group")["share"].sum(), 1.0, rtol=1e-12)
    npt.assert_allclose(attention.groupby("step")["share"].sum(), 1.0, rtol=1e-12)
    variables = {group: set(table["variable"]) for group, table in importance.groupby("group")}
    assert variables["static"] == {"sector", *inputs.FEATURES}
    assert variables["encoder"] == {"weekday", "month", *inputs.OBSERVED, "step"}
    assert variables["decoder"] == {"weekday", "month", "step"}
    assert all(table["share"].is_monotonic_decreasing for _, table in importance.groupby("group"))
    sessions = attention.groupby("step")["session"].agg(["min", "max", "size"])
    npt.assert_array_equal(sessions, [[-9, h - 1, 10 + h - 1] for h in range(1, 6)])


def test_attention_is_the_mean_over_the_heads_and_the_windows_of_the_choice_period(
    trained: Trained, part_of_panel: pd.DataFrame
):
    windows, arguments = built(part_of_panel)
    net = network.build(arguments, names.LEVELS)
    net.load_state_dict(dict(trained.forecaster.weights), strict=False)
    with torch.no_grad():
        out = net.eval()(network.library(windows.at(windows.chosen)))
    expected = torch.cat(
        [out.encoder_attention[:, 2], out.decoder_attention[:, 2, :, :2]], dim=-1
    ).mean(dim=(0, 1))
    table = trained.tables["attention_by_lag"]
    npt.assert_allclose(table[table["step"] == 3]["share"], expected, rtol=1e-4)


def test_the_figures_are_labelled_and_their_bars_sorted(trained: Trained):
    assert set(trained.figures) == {"variable_importance", "attention_by_lag"}
    bars = trained.figures["variable_importance"]
    for axis in [a for part in bars.subfigs for a in part.axes]:
        widths = [patch.get_width() for patch in axis.patches]
        assert widths == sorted(widths, reverse=True)
        assert axis.get_title(loc="left")
    [axis] = trained.figures["attention_by_lag"].axes
    assert axis.get_xlabel()
    assert axis.get_ylabel()
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["1", "2", "3", "4", "5"]


# --- bad input --------------------------------------------------------------------------------


def broken(panel: pd.DataFrame, damage: str) -> pd.DataFrame:
    row, xom = panel.index == 700, panel[names.UNIQUE_ID] == "XOM"
    return {
        "no sector": lambda: panel.drop(columns=names.SECTOR),
        "two sectors": lambda: panel.assign(sector=panel[names.SECTOR].where(~row, "Energy")),
        "sector missing": lambda: panel.assign(sector=panel[names.SECTOR].where(~xom)),
        "no market": lambda: panel.drop(columns=names.INDEX_RETURN),
        "NaN in the market": lambda: panel.assign(
            market_abs_return=panel["market_abs_return"].where(~row)
        ),
        "NaN in a count": lambda: panel.assign(news_count=panel["news_count"].where(~row)),
        "negative count": lambda: panel.assign(news_count=panel["news_count"].where(~row, -3.0)),
        "zeros": lambda: panel.assign(y=panel[names.Y].where(~xom, 0.0)),
        "zeros for a while": lambda: panel.assign(
            y=panel[names.Y].where(
                ~(xom & panel[names.DS].between("2018-11-01", "2018-11-30")), 0.0
            )
        ),
        "too short": lambda: panel[~xom | (panel[names.DS] >= "2018-03-01")].reset_index(drop=True),
        "nothing to choose on": lambda: panel[panel[names.DS] <= "2019-01-04"],
    }[damage]()


@pytest.mark.parametrize(
    ("damage", "code", "message"),
    [
        ("no sector", "MISSING_COLUMN", "no column sector"),
        ("two sectors", "BAD_SECTOR", "AAPL has no sector, or more than one"),
        ("sector missing", "BAD_SECTOR", "XOM has no sector"),
        ("no market", "MISSING_COLUMN", "index_return"),
        ("NaN in the market", "NON_FINITE", "market_abs_return that is not finite in 1 of"),
        ("NaN in a count", "NON_FINITE", "news_count that is not finite in 1 of"),
        ("negative count", "BAD_COUNT", "negative"),
        ("zeros", "HALTED", "return of 0"),
        ("zeros for a while", "CONSTANT", "XOM are 0 in the 10 sessions up to 2018-11-14"),
        (
            "too short",
            "TOO_SHORT",
            "XOM has no window up to 2018-12-31 to fit: .* 314 up to its cutoff and 5 after it",
        ),
        (
            "nothing to choose on",
            "TOO_SHORT",
            "no series has a window after 2018-12-31 to choose on",
        ),
    ],
)
def test_a_panel_that_cannot_be_fitted_is_refused(
    part_of_panel: pd.DataFrame, tmp_path: Path, damage: str, code: str, message: str
):
    with pytest.raises(BadHistory, match=message) as caught:
        fitted(broken(part_of_panel, damage), tmp_path, covariates=["news_count"])
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width is 0, expected 1 or more"),
        ({"learning_rate": 1.0}, "learning_rate"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"unknown_share": -0.1}, "unknown_share"),
        ({"width": 12}, "width is 12, expected a multiple of 8 and of heads"),
        ({"heads": 3}, "width is 16, expected a multiple of 8 and of heads .3."),
        ({"inner": 16}, "inner is 16, expected a multiple of 4 below width"),
        ({"inner": 6}, "inner is 6"),
        ({"context": 400}, "context is 400, expected 1 or more and 314 or less"),
        ({"covariates": ("weather",)}, "news_count"),
        ({"covariates": ("news_count", "news_count")}, "each once"),
    ],
)
def test_settings_that_make_no_network_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(BadConfig, match=message):
        family_settings.Config(**SHARED | settings)
