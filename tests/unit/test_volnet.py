"""linear, mlp, lightgbm: their output before and after training, and dependence of a forecast."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest
import torch
from scipy.stats import norm
from shared import SHARED
from watched import Run

from mlprojects.baselines import settings as baseline_settings
from mlprojects.blocks import features
from mlprojects.volnet import model, train
from mlprojects.volnet import settings as family_settings
from mlprojects.volnet.inputs import CLIP, NAMES, Inputs, Scaling
from mlprojects.volnet.network import ScaleNet
from mlprojects.volnet.samples import split
from mlprojects.volnet.scales import Networks, Trees, tree_rows
from mlprojects.volnet.settings import CONFIGS
from registry.errors import BadConfig, BadHistory
from registry.forecast import calendars, names, volatility
from registry.forecast.answer import forecast_of
from registry.forecast.checks import check_history
from registry.forecast.forecast import Forecast
from registry.forecast.history import History
from registry.scoring.difference import against
from registry.scoring.rolling import origins_between, rolling
from registry.scoring.scores import scores
from registry.training import Trained

KINDS = tuple(CONFIGS)
DAYS = calendars.next_sessions("XNYS", pd.Timestamp("2014-12-31"), 1200)
DATES = SHARED | {"fit_until": f"{DAYS[546]:%Y-%m-%d}", "choose_until": f"{DAYS[699]:%Y-%m-%d}"}
SMALL: dict[str, dict[str, Any]] = {
    "linear": {"steps": 40, "check_every": 20, "batch": 100},
    "mlp": {"steps": 20, "check_every": 10, "batch": 100, "seeds": 2, "width": 4},
    "lightgbm": {"rounds": 12, "leaves": 4, "least_rows": 50, "learning_rate": 0.1},
}
HORIZON, FEATURES, SEASON = 5, len(features.NAMES), len(features.SEASON_NAMES)


def simulated(seed: int = 0, n: int = 3, length: int = 700) -> pd.DataFrame:
    """History of `n` series with the market columns. Twenty quiet and twenty wild sessions take
    turns; the market's level shows it at once, EWMA volatility later."""
    rng = np.random.default_rng(seed)
    wild = (np.arange(length) // 20) % 2 == 1
    y = np.where(wild, 0.03, 0.01) * rng.standard_t(5, (n, length)).clip(-6, 6)
    return pd.DataFrame(
        {
            names.UNIQUE_ID: np.repeat([f"S{i}" for i in range(n)], length),
            names.DS: np.tile(DAYS[:length], n),
            names.Y: y.reshape(-1),
            names.MARKET_ABS_RETURN: np.tile(
                np.where(wild, 0.025, 0.008) * rng.uniform(0.9, 1.1, length), n
            ),
            names.INDEX_RETURN: np.tile(y.mean(axis=0), n),
        }
    )


def trained(
    kind: str, folder: Path, history: pd.DataFrame | None = None, **settings: Any
) -> Trained:
    config = CONFIGS[kind](kind=kind, **{**DATES, **SMALL[kind], **settings})
    data = simulated() if history is None else history
    return train.train(data, config, name=kind, seed=0, run=Run(folder))


def predict(
    forecaster: Any, history: pd.DataFrame, horizon: int = HORIZON, levels: Any = names.LEVELS
) -> Forecast:
    request = forecaster.spec.request({"horizon": horizon, "levels": levels})
    return forecast_of(forecaster, check_history(history, forecaster.spec), request).at(levels)


@pytest.fixture(scope="module")
def all_trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    return {kind: trained(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def forecaster(kind: str, all_trained: dict[str, Trained]) -> Any:
    return all_trained[kind].forecaster


def some_inputs(rows: int = 40) -> Inputs:
    rng = np.random.default_rng(0)
    return Inputs(
        rng.normal(size=(rows, FEATURES)),
        rng.normal(size=(rows, HORIZON, SEASON)),
        rng.uniform(0.01, 0.03, rows),
    )


def network(width: int, dropout: float = 0.0, *, moved: bool = True) -> ScaleNet:
    """A network with seeded weights; untrained unless `moved`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ScaleNet(FEATURES, SEASON, HORIZON, names.LEVELS, width=width, dropout=dropout)
        if moved:
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter += 0.1 * torch.randn_like(parameter)
    return net.eval()


def tensors(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(inputs.daily).float(), torch.from_numpy(inputs.season).float()


# --- scales -----------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [0, 8])
def test_an_untrained_network_says_ewma_volatility_times_normal_quantiles(width: int):
    inputs, net = some_inputs(), network(width, moved=False)
    with torch.no_grad():
        quantiles = net(*tensors(inputs)).numpy()
    npt.assert_allclose(
        quantiles, np.broadcast_to(norm.ppf(names.LEVELS), quantiles.shape), atol=1e-6
    )
    npt.assert_array_equal(net.member()(inputs), np.ones((40, HORIZON)))


@pytest.mark.parametrize("width", [0, 8])
def test_the_served_network_is_the_trained_one(width: int):
    inputs, net = some_inputs(), network(width)
    with torch.no_grad():
        expected = torch.exp(net.log_scale(*tensors(inputs))).numpy()
    npt.assert_allclose(net.member()(inputs), expected, rtol=1e-4)
    assert expected.std() > 0.1


def test_a_network_is_its_formula():
    inputs, member = some_inputs(), network(3).member()
    for row, h in ((0, 0), (7, 4)):
        x = np.concatenate([inputs.daily[row], inputs.season[row, h]])
        z = x @ member.hidden + member.hidden_step[h]
        total = x @ member.direct + member.step[h] + (z / (1 + np.exp(-z))) @ member.out
        npt.assert_allclose(member(inputs)[row, h], np.exp(1.5 * np.tanh(total / 1.5)), rtol=1e-12)


def test_members_are_averaged_in_what_they_say():
    inputs, member, untrained = some_inputs(), network(8).member(), network(8, moved=False).member()
    scaling = Scaling(np.zeros(FEATURES + SEASON), np.ones(FEATURES + SEASON))
    average = Networks(scaling, [member, untrained])(inputs)
    npt.assert_allclose(average, (Networks(scaling, [member])(inputs) + 1) / 2, rtol=1e-12)


def test_scaling_is_by_the_rows_seen_and_clips():
    inputs = some_inputs()
    inputs.daily[:, 3] = 7.0  # never moves
    scaling = Scaling.of(inputs)
    scaled = scaling(inputs)
    npt.assert_allclose(scaled.daily.mean(axis=0), 0, atol=1e-12)
    npt.assert_allclose(np.delete(scaled.daily.std(axis=0), 3), 1, atol=0.05)
    npt.assert_array_equal(scaled.daily[:, 3], 0)
    far = scaling(dataclasses.replace(inputs, daily=inputs.daily + 100))
    npt.assert_array_equal(far.daily, CLIP)


def test_a_row_gets_the_same_bits_alone_and_among_others(
    kind: str, all_trained: dict[str, Trained]
):
    scale, inputs = all_trained[kind].forecaster.scale, some_inputs(70)
    together = scale(inputs)
    for i in (0, 1, 33, 69):
        alone = Inputs(inputs.daily[i : i + 1], inputs.season[i : i + 1], inputs.sigma[i : i + 1])
        npt.assert_array_equal(scale(alone)[0], together[i])


def test_trees_see_the_step_as_their_last_feature():
    inputs = some_inputs(2)
    rows = tree_rows(inputs)
    assert rows.shape == (2 * HORIZON, FEATURES + SEASON + 1)
    npt.assert_array_equal(rows[:, -1], [1, 2, 3, 4, 5] * 2)
    npt.assert_array_equal(rows[7], [*inputs.daily[1], *inputs.season[1, 2], 3])


# --- fitting ----------------------------------------------------------------------------------


def test_rows_to_fit_end_by_fit_until_and_rows_to_choose_on_begin_after_it():
    history = simulated(n=2)
    spec = family_settings.spec("linear", CONFIGS["linear"](kind="linear", **DATES))
    fit, chosen = split(history, spec, DATES["fit_until"])
    days = DAYS[:700]
    last = days.get_loc(pd.Timestamp(DATES["fit_until"]))
    first, y = features.WARMUP - 1, history[names.Y].to_numpy().reshape(2, -1)
    origins = {
        "fit": np.arange(first, last - HORIZON + 1),
        "chosen": np.arange(last + 1, 700 - HORIZON),
    }
    for part, rows in ((fit, origins["fit"]), (chosen, origins["chosen"])):
        assert len(part.y) == 2 * len(rows)
        expected = [y[i, t + 1 : t + 1 + HORIZON] for i in range(2) for t in rows]
        npt.assert_array_equal(part.y, expected)
        npt.assert_array_equal(part.series, np.repeat([0, 1], len(rows)))
        sigma = volatility.ewma_volatility(y)[:, rows]
        npt.assert_array_equal(part.inputs.sigma, sigma.reshape(-1))


def test_series_of_different_lengths_are_fitted_together():
    history = simulated(n=3)
    short = history[(history[names.UNIQUE_ID] != "S1") | (history[names.DS] > DAYS[89])]
    spec = family_settings.spec("linear", CONFIGS["linear"](kind="linear", **DATES))
    fit, _ = split(short.reset_index(drop=True), spec, DATES["fit_until"])
    fit_of_all, _ = split(history, spec, DATES["fit_until"])
    counts = np.bincount(fit.series)
    assert counts.tolist() == [counts[0], counts[0] - 90, counts[0]]
    for i in (0, 2):
        npt.assert_array_equal(
            fit.inputs.daily[fit.series == i], fit_of_all.inputs.daily[fit_of_all.series == i]
        )


def test_quantiles_are_those_of_what_the_scale_left_over_half_own_half_pooled(
    kind: str, all_trained: Any
):
    forecaster, history = all_trained[kind].forecaster, simulated()
    fit, _ = split(history, forecaster.spec, DATES["fit_until"])
    z = fit.y / fit.inputs.sigma[:, None] / forecaster.scale(fit.inputs)
    pool = np.quantile(z, names.LEVELS)
    values = history[list(features.COLUMNS)].to_numpy().reshape(3, 700, 3)
    ds = history[names.DS].to_numpy().astype("datetime64[D]").reshape(3, 700)
    now = Inputs.read(values, ds, HORIZON)
    for i, quantiles in enumerate(predict(forecaster, history).quantiles):
        shape = (np.quantile(z[fit.series == i], names.LEVELS) + pool) / 2
        width = now.sigma[i] * forecaster.scale(now)[i]
        npt.assert_allclose(quantiles, width[:, None] * shape, rtol=1e-9, atol=1e-15)


def test_a_symbol_that_training_did_not_see_gets_pooled_quantiles_and_a_note(forecaster: Any):
    history = simulated()
    before, renamed = predict(forecaster, history), history.replace({names.UNIQUE_ID: {"S2": "T2"}})
    after = predict(forecaster, renamed)
    assert before.notes == {}
    assert "pooled over all training symbols" in after.notes["unknown_symbol"]
    npt.assert_array_equal(after.quantiles[:2], before.quantiles[:2])
    ratio = after.quantiles[2, 0] / forecaster.residuals.pool
    npt.assert_allclose(ratio, ratio[0], rtol=1e-9)


def test_training_learns_and_says_so(tmp_path: Path):
    for name, settings in (("linear", {"steps": 200}), ("lightgbm", {"rounds": 100})):
        run = Run(tmp_path)
        config = CONFIGS[name](kind=name, **{**DATES, **SMALL[name], **settings})
        train.train(simulated(), config, name=name, seed=0, run=run)
        losses = [reported["valid_loss"] for _, reported in run.reports if "valid_loss" in reported]
        assert min(losses) < 0.98 * losses[0]
        assert run.steps == sorted(run.steps)
        assert run.steps[-1] <= config.max_steps


def test_importance_names_every_feature_and_is_drawn(kind: str, all_trained: dict[str, Trained]):
    trained_model = all_trained[kind]
    table = trained_model.tables["importance"]
    assert set(table["feature"]) == ({*NAMES, "step"} if kind == "lightgbm" else set(NAMES))
    assert table["weight"].abs().is_monotonic_decreasing
    if kind == "lightgbm":
        npt.assert_allclose(table["weight"].sum(), 1)
    assert len(trained_model.figures["importance"].axes[0].patches) == 25


def test_weights_of_a_linear_network_are_its_importance(all_trained: dict[str, Trained]):
    linear = all_trained["linear"]
    [member] = linear.forecaster.scale.members
    table = linear.tables["importance"].set_index("feature")["weight"]
    ratio = member.direct / table[list(NAMES)].to_numpy()  # the tangent flattens all of them alike
    npt.assert_allclose(ratio, ratio[0], rtol=0.05)
    assert 1 <= ratio.min() < 1.5


def test_trained_again_gives_the_same_bytes(
    kind: str, all_trained: dict[str, Trained], tmp_path: Path
):
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder, trained_model in zip(
        folders, (all_trained[kind], trained(kind, tmp_path / "again")), strict=True
    ):
        folder.mkdir()
        model.save(trained_model.forecaster, folder)
    for path in folders[0].iterdir():
        assert path.read_bytes() == (folders[1] / path.name).read_bytes(), path.name


def test_another_seed_gives_another_model(tmp_path: Path, all_trained: dict[str, Trained]):
    for kind in ("linear", "mlp", "lightgbm"):
        config = CONFIGS[kind](kind=kind, **{**DATES, **SMALL[kind]})
        other = train.train(
            simulated(), config, name=kind, seed=2**32 - 1, run=Run(tmp_path / kind)
        ).forecaster
        assert not np.array_equal(
            predict(other, simulated()).quantiles,
            predict(all_trained[kind].forecaster, simulated()).quantiles,
        )


def test_a_training_that_is_given_up_ends(kind: str, tmp_path: Path):
    run = Run(tmp_path, give_up_after=3)
    config = CONFIGS[kind](kind=kind, **{**DATES, **SMALL[kind]})
    given_up = train.train(simulated(), config, name=kind, seed=0, run=run)
    assert max(run.steps) < config.max_steps
    predict(given_up.forecaster, simulated())


def test_a_training_that_was_cut_ends_as_one_that_was_not(
    tmp_path: Path, all_trained: dict[str, Trained]
):
    config = CONFIGS["mlp"](kind="mlp", **{**DATES, **SMALL["mlp"]})
    train.train(simulated(), config, name="mlp", seed=0, run=Run(tmp_path, give_up_after=3))
    resumed = train.train(simulated(), config, name="mlp", seed=0, run=Run(tmp_path))
    expected = all_trained["mlp"].forecaster.scale.arrays
    for key, value in resumed.forecaster.scale.arrays.items():
        npt.assert_array_equal(value, expected[key])


# --- dependence of a forecast -----------------------------------------------------------------


def test_a_series_is_forecast_the_same_alone_and_among_others_of_other_lengths(forecaster: Any):
    history = simulated(4, n=4)
    rows = [
        history[history[names.UNIQUE_ID] == f"S{i}"].tail(length)
        for i, length in enumerate((700, 400, 314, 700))
    ]
    together = predict(forecaster, pd.concat(rows, ignore_index=True))
    for i, alone in enumerate(rows):
        npt.assert_array_equal(predict(forecaster, alone).quantiles[0], together.quantiles[i])


def test_sessions_older_than_the_context_change_nothing(forecaster: Any):
    history = simulated(length=1100)
    old = history.groupby(names.UNIQUE_ID).cumcount() < 100
    changed = history.assign(
        y=history[names.Y].where(~old, 0.5),
        index_return=history[names.INDEX_RETURN].where(~old, 0.5),
    )
    expected = predict(forecaster, history[~old]).quantiles
    npt.assert_array_equal(predict(forecaster, changed).quantiles, expected)


def test_fewer_steps_are_the_first_of_more(forecaster: Any):
    history = simulated()
    npt.assert_array_equal(
        predict(forecaster, history, 2).quantiles, predict(forecaster, history).quantiles[:, :2]
    )


def test_sessions_after_fit_until_change_no_row_to_fit():
    history = simulated()
    later = history[names.DS] > DATES["fit_until"]
    numbers = [names.Y, *names.MARKET]
    changed = history.assign(**{name: history[name].where(~later, 0.5) for name in numbers})
    spec = family_settings.spec("linear", CONFIGS["linear"](kind="linear", **DATES))
    before, after = (split(frame, spec, DATES["fit_until"])[0] for frame in (history, changed))
    for name in ("daily", "season", "sigma"):
        npt.assert_array_equal(getattr(before.inputs, name), getattr(after.inputs, name))
    npt.assert_array_equal(before.y, after.y)


def test_eight_threads_get_the_same_bits(forecaster: Any):
    history = simulated()
    expected = predict(forecaster, history).quantiles
    with ThreadPoolExecutor(8) as pool:
        for forecast in pool.map(lambda _: predict(forecaster, history), range(16)):
            npt.assert_array_equal(forecast.quantiles, expected)


def test_saved_and_loaded_model_forecasts_the_same(forecaster: Any, tmp_path: Path):
    (tmp_path / "spec.json").write_text(json.dumps(forecaster.spec.to_json()))
    model.save(forecaster, tmp_path)
    loaded = model.load(tmp_path)
    assert loaded.spec == forecaster.spec
    assert isinstance(loaded.scale, Trees) == (tmp_path / "trees.txt").exists()
    npt.assert_array_equal(
        predict(loaded, simulated()).quantiles, predict(forecaster, simulated()).quantiles
    )


def test_rows_to_fit_are_nearly_what_a_forecast_sees(panel: pd.DataFrame):
    """A forecast reads 1000 sessions, a row to fit all sessions before it, so that the starts of
    slow averages differ."""
    history = History.of(panel[panel[names.DS] <= "2018-12-31"], features.COLUMNS)
    [(series, values)] = history.blocks(10**6, features.COLUMNS)
    ds = history.sessions(series, values.shape[1])
    keep = values.shape[1] - features.WARMUP + 1
    to_fit = Inputs.read(values, ds, HORIZON, keep)
    deviation = Scaling.of(to_fit).deviation
    differences = []
    for end in range(1000, values.shape[1], 250):
        window = Inputs.read(values[:, end - 1000 : end], ds[:, end - 1000 : end], HORIZON)
        row = np.arange(len(series)) * keep + end - features.WARMUP
        differences.append(np.abs((window.daily - to_fit.daily[row]) / deviation[:FEATURES]).max())
        differences.append(
            np.abs((window.season - to_fit.season[row]) / deviation[FEATURES:]).max()
        )
        npt.assert_allclose(window.sigma, to_fit.sigma[row], rtol=1e-12)
    assert max(differences) < 0.25  # the slowest average; the others are within 0.11


# --- bad input --------------------------------------------------------------------------------


def refused(history: pd.DataFrame, folder: Path, **settings: Any) -> str:
    with pytest.raises(BadHistory) as caught:
        trained("linear", folder, history, **settings)
    assert "S0" not in caught.value.message
    return f"{caught.value.code}: {caught.value.message}"


def test_a_history_that_cannot_be_fitted_is_refused(tmp_path: Path):
    history = simulated()
    first = history[names.UNIQUE_ID] == "S0"
    early = history[names.DS] <= DATES["fit_until"]
    assert "MISSING_COLUMN: history lacks index_return" in refused(
        history.drop(columns="index_return"), tmp_path
    )
    broken = history.assign(
        market_abs_return=history[names.MARKET_ABS_RETURN].where(history.index != 7)
    )
    message = refused(broken, tmp_path)
    assert "NON_FINITE: series 1 of 3 has market_abs_return that is not finite in 1 of" in message
    assert "HALTED: series 1 of 3 has a return of 0" in refused(
        history.assign(y=history.y.where(~first, 0)), tmp_path
    )
    still = history.assign(y=history[names.Y].where(~(first & early), 0))
    assert (
        f"CONSTANT: series 1 of 3 has a return of 0 in every session up to {DATES['fit_until']}"
        in refused(still, tmp_path)
    )
    short = history[~first | (history[names.DS] > DAYS[231])].reset_index(drop=True)
    assert f"TOO_SHORT: series 1 of 3 has 315 sessions up to {DATES['fit_until']}" in refused(
        short, tmp_path
    )
    assert "fitted on 319 or more; 1 series are too short" in refused(short, tmp_path)
    unchosen = history[history[names.DS] <= DAYS[550]].reset_index(drop=True)
    assert f"TOO_SHORT: no series has a session after {DATES['fit_until']} with 5 more" in refused(
        unchosen, tmp_path
    )


def test_the_least_context_is_enough_and_one_session_less_is_refused(forecaster: Any):
    assert forecaster.spec.min_context == 314
    predict(forecaster, simulated(length=314))
    with pytest.raises(BadHistory, match="needs 314"):
        predict(forecaster, simulated(length=313))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("linear", {"steps": 0}),
        ("linear", {"learning_rate": 0.0}),
        ("linear", {"weight_decay": -1.0}),
        ("mlp", {"width": 0}),
        ("mlp", {"seeds": 0}),
        ("mlp", {"dropout": 1.5}),
        ("lightgbm", {"share": 0.0}),
        ("lightgbm", {"leaves": 1}),
        ("lightgbm", {"penalty": -1.0}),
    ],
    ids=str,
)
def test_a_bad_config_is_refused(kind: str, settings: dict[str, Any]):
    with pytest.raises(BadConfig):
        CONFIGS[kind](kind=kind, **DATES | settings)


# --- real prices ------------------------------------------------------------------------------


def test_linear_beats_fhs_on_the_year_it_was_stopped_on(panel: pd.DataFrame, tmp_path: Path):
    """Fitted to 2018, stopped on 2019; a fifth of its steps is enough to be ahead."""
    from mlprojects.baselines import train as baselines

    until_choice = panel[panel[names.DS] <= "2019-12-31"].reset_index(drop=True)
    dates = {"fit_until": "2018-12-31", "choose_until": "2019-12-31"}
    linear = trained("linear", tmp_path, until_choice, **dates, steps=120, batch=800).forecaster
    plain = baseline_settings.Config(kind="fhs", **SHARED)
    fhs = baselines.train(until_choice, plain, name="fhs", seed=0, run=Run(tmp_path)).forecaster
    origins = origins_between(until_choice, "2018-12-31", "2019-12-31", HORIZON, every=5)
    of_linear, of_fhs = (
        scores(rolling(f, until_choice, origins, HORIZON, context=564)) for f in (linear, fhs)
    )
    assert against(of_linear, of_fhs).skill > 0.005
