"""The contract of every registered config, trained tiny on real prices, logged and loaded."""

import base64
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest
from mlflow.models import Model
from watched import Run

from jobs.training import configs, families, planning, train
from jobs.training.references import References
from registry.errors import BadInput, NotAvailable
from registry.forecast import calendars, names
from registry.forecast.checks import check_history
from registry.forecast.forecast import Forecaster, check_forecast
from registry.forecast.history import History
from registry.forecast.model_folder import load_forecaster, write_spec
from registry.forecast.quantiles import quantile_mean
from registry.forecast.spec import ModelSpec
from registry.scoring.rolling import rolling
from registry.settings import Settings
from registry.versions import manifest, signature
from registry.versions.loaded import LoadedVersion
from registry.versions.store import DESCRIPTION_LIMIT, Store

FRAME = ("unique_id", "step", "ds", "mean")
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # first bytes of protocols 2 to 5
PICKLE_SUFFIXES = {".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".bin"}


@dataclass(frozen=True)
class Place:
    """The test series of a data set, and the cutoff: a day in the report period."""

    series: tuple[str, ...]
    cut: pd.Timestamp
    report_until: str  # a short report period, because the report is not tested here


PLACES = {
    "panel": Place(("AAPL", "KO", "XOM"), pd.Timestamp("2021-06-10"), "2020-02-28"),
    "bars": Place(("AAPL", "IBM", "SP500"), pd.Timestamp("2012-06-14"), "2011-02-28"),
}


@dataclass(frozen=True)
class Case:
    """A model trained tiny, its version in a registry, and histories for it."""

    plan: planning.Plan
    root: Path
    loaded: LoadedVersion
    facts: Mapping[str, str]  # of the version: provenance and tags
    forecaster: Forecaster
    # Up to the cut: the place's series, or the whole universe of a model that has one.
    history: pd.DataFrame
    later: pd.DataFrame  # the same series with the sessions after the cut

    @property
    def spec(self) -> ModelSpec:
        return self.forecaster.spec

    @property
    def place(self) -> Place:
        return PLACES[self.plan.data.dataset.name]

    def forecast(self, history: pd.DataFrame, **params: object) -> pd.DataFrame:
        frame: pd.DataFrame = self.loaded.forecast(history, **params)
        return frame

    def packed(self, history: pd.DataFrame, **params: object) -> dict[str, Any]:
        answer: dict[str, Any] = self.loaded.forecast(history, output="packed", **params)
        return answer


def plan(compiled: Settings, model: str) -> planning.Plan:
    place = PLACES[configs.load_config(families.find(model), {}).data]
    overrides = {"report_until": place.report_until, "report_every": 5}
    return planning.plan(compiled, model, overrides, seed=1, tiny=True)


@pytest.fixture(scope="module", params=sorted(families.all_models()))
def case(request: pytest.FixtureRequest, compiled: Settings) -> Iterator[Case]:
    """Train, log and load one registered config."""
    training_plan = plan(compiled, request.param)
    version = train.train(compiled, training_plan, References()).version
    store = Store(compiled)
    root = store.fetch(version)
    spec = store.spec(version)
    place = PLACES[training_plan.data.dataset.name]
    later = training_plan.data.history
    if not (spec.joint or spec.universe):
        later = later[later[names.UNIQUE_ID].isin(place.series)]
    later = later[[*spec.columns, *spec.optional]].reset_index(drop=True)
    until_cut = later[later[names.DS] <= place.cut]
    history = until_cut.groupby(names.UNIQUE_ID).tail(spec.max_context).reset_index(drop=True)
    forecaster = load_forecaster(root / manifest.MODEL_DIR)
    with store.load(f"{version.name}/{version.version}") as loaded:
        facts = store.facts(version)
        yield Case(training_plan, root, loaded, facts, forecaster, history, later)


def rebuilt(history: pd.DataFrame, y: pd.Series) -> pd.DataFrame:
    """The history with returns `y`. Bars, if any, follow the returns: every series keeps its first
    close, and every bar keeps its shape."""
    frame = history.assign(y=y)
    if not set(names.OHLC) <= set(frame.columns):
        return frame
    series = frame.groupby(names.UNIQUE_ID)
    returns = frame[names.Y].where(series.cumcount() > 0, 0.0)
    growth = returns.groupby(frame[names.UNIQUE_ID]).cumsum()
    close = history.groupby(names.UNIQUE_ID)["close"].transform("first") * np.exp(growth)
    return frame.assign(**{name: close * (history[name] / history["close"]) for name in names.OHLC})


def poisoned(history: pd.DataFrame, after: pd.Timestamp) -> pd.DataFrame:
    """The history with returns of 50 % up and down in every session after a day. Bars stay
    possible; the other columns hold nonsense."""
    future = history[names.DS] > after
    turn = future.groupby(history[names.UNIQUE_ID]).cumsum() % 2
    numeric = [name for name in history.columns if history[name].dtype.kind == "f"]
    frame = rebuilt(history, history[names.Y].where(~future, turn - 0.5))
    nonsense = frame.assign(**dict.fromkeys(set(numeric) - {names.Y, *names.OHLC}, 1.0))
    return history.assign(
        **{name: history[name].where(~future, nonsense[name]) for name in numeric}
    )


def test_forecast_is_a_frame_of_single_session_returns(case: Case) -> None:
    spec = case.spec
    frame = case.forecast(case.history)
    ids = History.of(case.history).ids
    quantiles = [names.quantile_column(level) for level in spec.levels]
    assert list(frame.drop(columns=names.NOTES, errors="ignore").columns) == [*FRAME, *quantiles]
    assert frame["unique_id"].tolist() == np.repeat(ids, spec.max_horizon).tolist()
    assert frame["step"].tolist() == list(range(1, spec.max_horizon + 1)) * len(ids)
    sessions = calendars.next_sessions("XNYS", case.place.cut, spec.max_horizon)
    assert frame["ds"].tolist() == list(sessions) * len(ids)


def test_prices_are_possible_bars_for_models_that_know_them(case: Case) -> None:
    if not case.spec.has_prices:
        with pytest.raises(NotAvailable) as caught:
            case.forecast(case.history, output="prices")
        assert (caught.value.code, caught.value.status) == ("NOT_AVAILABLE", 422)
        return
    frame = case.forecast(case.history, output="prices")
    quantiles = [names.quantile_column(level) for level in case.spec.levels]
    columns = ["unique_id", "step", "ds", *names.BAR, "mean", *quantiles]
    assert list(frame.drop(columns=names.NOTES, errors="ignore").columns) == columns
    assert (frame["low"] > 0).all()
    assert (frame["low"] <= frame[["open", "close"]].min(axis=1)).all()
    assert (frame["high"] >= frame[["open", "close"]].max(axis=1)).all()
    assert (frame[["volume", "amount"]] >= 0).all().all()
    last = case.history.groupby("unique_id")["close"].last()
    first_step = frame[frame["step"] == 1].set_index("unique_id")
    returns = case.forecast(case.history).query("step == 1").set_index("unique_id")
    # The median close is the last close times the exponential of the median return. The two
    # differ a little, because a median of paths can be the mean of two of them.
    npt.assert_allclose(first_step["close"], last * np.exp(returns["q0.5"]), rtol=1e-3)


def test_forecast_is_in_units_of_the_returns_it_was_given(case: Case) -> None:
    """Single-session returns: the 90 % band is a few volatilities wide. Per cent, prices or
    cumulative returns would not be."""
    frame = case.forecast(case.history)
    volatility = case.history.groupby("unique_id")["y"].apply(lambda y: y.tail(60).std()).mean()
    width = (frame["q0.95"] - frame["q0.05"]).mean()
    assert 0.5 * volatility < width < 10 * volatility
    # A barely trained model of prices first moves to the middle of its context: a few volatilities.
    volatilities = 10 if case.spec.has_prices else 1
    assert frame["mean"].abs().max() < volatilities * volatility


def test_quantiles_never_cross_and_the_mean_is_among_them(case: Case) -> None:
    levels = tuple(np.linspace(0.05, 0.95, 37))
    frame = case.forecast(case.history, levels=list(levels))
    quantiles = frame[[names.quantile_column(level) for level in levels]].to_numpy()
    assert (np.diff(quantiles, axis=1) >= 0).all()
    assert ((quantiles[:, 0] <= frame["mean"]) & (frame["mean"] <= quantiles[:, -1])).all()


def test_a_quantile_is_that_of_the_paths_or_lies_between_the_trained_ones(case: Case) -> None:
    frame = case.forecast(case.history, levels=[0.2, 0.25, 0.3])
    if not case.spec.has_paths:
        npt.assert_allclose(frame["q0.25"], (frame["q0.2"] + frame["q0.3"]) / 2, rtol=0, atol=1e-15)
        return
    paths = unpacked(case.packed(case.history)["price_paths"])
    last = History.of(case.history, ["close"]).last("close")
    before = np.broadcast_to(last[:, None, None], (*paths.shape[:2], 1))
    closes = np.concatenate([before, paths[..., 3]], axis=2)
    returns = np.diff(np.log(closes), axis=2)  # [N, S, H]
    quartile = np.quantile(returns, 0.25, axis=1).reshape(-1)
    npt.assert_allclose(frame["q0.25"], quartile, rtol=1e-9, atol=1e-15)
    npt.assert_allclose(frame["mean"], returns.mean(axis=1).reshape(-1), rtol=1e-9, atol=1e-15)


def test_levels_beyond_the_trained_ones_are_for_models_of_paths(case: Case) -> None:
    if not case.spec.has_paths:
        with pytest.raises(BadInput) as caught:
            case.forecast(case.history, levels=[0.001])
        assert caught.value.code == "BAD_LEVELS"
        return
    extreme = case.forecast(case.history, levels=[0.001])["q0.001"]
    assert (extreme <= case.forecast(case.history)["q0.05"]).all()


def test_another_seed_is_another_sample_and_nothing_else(case: Case) -> None:
    frame, repeated, other_seed = (case.forecast(case.history, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(frame, repeated)
    assert frame.equals(other_seed) != case.spec.has_paths


def test_optional_columns_may_be_left_out_and_others_change_nothing(case: Case) -> None:
    frame = case.forecast(case.history)
    if not case.spec.optional:
        pd.testing.assert_frame_equal(case.forecast(case.history.assign(volume=1.0)), frame)
        return
    bare = case.forecast(case.history.drop(columns=list(case.spec.optional)))
    columns = list(frame.drop(columns=names.NOTES, errors="ignore").columns)
    assert list(bare.drop(columns=names.NOTES).columns) == columns
    assert bare[names.NOTES].str.contains("volume was missing").all()
    broken = case.history.assign(volume=np.nan)
    with pytest.raises(BadInput) as caught:
        case.forecast(broken)
    assert caught.value.code == "NON_FINITE"


def test_sessions_after_the_cutoff_change_nothing(case: Case) -> None:
    """The rolling evaluation gets all sessions. Its forecasts ignore the values after the cut."""
    spec = case.spec
    origins = pd.DatetimeIndex([case.place.cut])
    changed = poisoned(case.later, case.place.cut)
    check_history(changed, spec)
    clean = rolling(case.forecaster, case.later, origins, spec.max_horizon)
    after = rolling(case.forecaster, changed, origins, spec.max_horizon)
    npt.assert_array_equal(after[names.Y].abs(), 0.5)
    pd.testing.assert_frame_equal(after.drop(columns=names.Y), clean.drop(columns=names.Y))
    npt.assert_array_equal(clean["q0.95"], case.forecast(case.history)["q0.95"])


def test_sessions_after_the_choice_period_change_no_training(
    case: Case, compiled: Settings, tmp_path: Path
) -> None:
    """Trained again on data with a poisoned report period: the same files, byte for byte."""
    retraining = plan(compiled, case.spec.name)
    changed = poisoned(retraining.data.history, pd.Timestamp(retraining.config.choose_until))
    assert not changed[names.Y].equals(retraining.data.history[names.Y])
    run = Run(tmp_path / "checkpoints")
    trained = families.fit(
        retraining.model, retraining.config, changed, seed=retraining.seed, run=run
    )
    saved = tmp_path / "saved"
    saved.mkdir()
    retraining.model.family.save(trained.forecaster, saved)
    files = [path.relative_to(saved) for path in saved.rglob("*") if path.is_file()]
    assert files, "a family saves at least one file"
    first_saved = case.root / manifest.MODEL_DIR
    for name in files:
        assert (saved / name).read_bytes() == (first_saved / name).read_bytes(), name


def test_sessions_older_than_the_context_change_nothing(case: Case) -> None:
    longer = case.later[case.later[names.DS] <= case.place.cut].reset_index(drop=True)
    assert len(longer) > len(case.history)
    pd.testing.assert_frame_equal(case.forecast(longer), case.forecast(case.history))


def test_other_series_change_nothing_unless_the_model_is_joint(case: Case) -> None:
    if case.spec.joint:
        assert case.spec.universe is not None
        return
    symbol = case.place.series[0]
    is_symbol = case.history[names.UNIQUE_ID] == symbol
    together = numbers(case, case.history)
    before = together.query("unique_id == @symbol")
    y = case.history["y"]
    changed = rebuilt(case.history, y.where(is_symbol, y * 3).clip(-1, 1))
    after = numbers(case, changed).query("unique_id == @symbol")
    pd.testing.assert_frame_equal(after, before)
    # Each series has another place in the batch.
    for name, series in case.history.groupby(names.UNIQUE_ID):
        alone = numbers(case, series.reset_index(drop=True))
        in_batch = together[together[names.UNIQUE_ID] == name].reset_index(drop=True)
        pd.testing.assert_frame_equal(alone, in_batch, check_exact=True)


def numbers(case: Case, history: pd.DataFrame) -> pd.DataFrame:
    """A forecast without its notes, which speak of all series of a request."""
    return case.forecast(history).drop(columns=names.NOTES, errors="ignore")


def test_an_unknown_symbol_is_answered_unless_the_model_has_a_universe(case: Case) -> None:
    symbol = case.place.series[0]
    renamed = case.history.assign(unique_id=case.history[names.UNIQUE_ID].replace(symbol, "0NEW"))
    renamed = renamed.sort_values([names.UNIQUE_ID, names.DS], ignore_index=True)
    if case.spec.universe is None:
        assert np.isfinite(case.forecast(renamed)["mean"]).all()
        return
    with pytest.raises(BadInput) as caught:
        case.forecast(renamed)
    assert caught.value.code == "UNIVERSE"


def test_a_part_of_a_universe_is_answered_or_what_is_missing_is_named(case: Case) -> None:
    if case.spec.universe is None:
        assert "symbols" not in case.facts
        return
    missing, *present = case.spec.universe
    part = case.history[case.history[names.UNIQUE_ID] != missing].reset_index(drop=True)
    if case.spec.subset:
        assert case.forecast(part)[names.UNIQUE_ID].unique().tolist() == present
    else:
        with pytest.raises(BadInput, match=rf"the history lacks {missing}$"):
            case.forecast(part)
    assert case.facts["symbols"].split(",") == [missing, *present]


def test_a_series_that_does_not_move_is_refused_and_the_others_are_answered(case: Case) -> None:
    others = case.history[names.UNIQUE_ID] != case.place.series[0]
    history = rebuilt(case.history, case.history["y"].where(others, 0.0))
    needs_all = case.spec.joint and not case.spec.subset
    with pytest.raises(BadInput) as caught:
        case.forecast(history if needs_all else history[~others])
    assert caught.value.code == "HALTED"
    if needs_all:
        return
    reply = case.forecast(history)
    assert reply[names.NOTES].str.contains("series were refused: series 1 HALTED").all()
    expected = case.forecast(case.history[others].reset_index(drop=True))
    pd.testing.assert_frame_equal(
        reply.drop(columns=names.NOTES), expected.drop(columns=names.NOTES, errors="ignore")
    )


def test_a_covariate_that_the_model_needs_is_refused_where_it_is_missing_or_not_a_number(
    case: Case,
) -> None:
    for name in set(case.spec.columns) - {*names.HISTORY, *names.OHLC}:
        with pytest.raises(BadInput, match=name):
            case.forecast(case.history.drop(columns=name))
        broken = case.history.assign(**{name: np.nan})
        with pytest.raises(BadInput) as caught:
            case.forecast(broken)
        assert caught.value.code == "NON_FINITE"


def test_loaded_version_forecasts_the_same_as_the_forecaster(case: Case) -> None:
    spec = case.spec
    request = spec.request({"seed": 7})
    direct = case.forecaster.predict(check_history(case.history, spec), request)
    check_forecast(direct, spec, request)
    frame = case.forecast(case.history, seed=7)
    shape = direct.quantiles.shape
    quantiles = frame[[names.quantile_column(level) for level in spec.levels]].to_numpy()
    npt.assert_array_equal(quantiles.reshape(shape), direct.quantiles)
    npt.assert_array_equal(frame["mean"].to_numpy().reshape(shape[:2]), direct.mean)


def test_mean_does_not_depend_on_the_levels_asked_for(case: Case) -> None:
    frame = case.forecast(case.history, levels=[0.5])
    npt.assert_array_equal(frame["mean"], case.forecast(case.history)["mean"])
    assert quantile_mean(np.array([[1.0, 1.0]]), (0.1, 0.9)).tolist() == [1.0]


def test_eight_threads_get_what_one_gets(case: Case) -> None:
    histories = [rebuilt(case.history, case.history["y"] * (1 - i / 20)) for i in range(16)]
    in_one_thread = [case.forecast(history) for history in histories]
    with ThreadPoolExecutor(8) as pool:
        in_eight = list(pool.map(case.forecast, histories))
    for expected, frame in zip(in_one_thread, in_eight, strict=True):
        pd.testing.assert_frame_equal(expected, frame)


def test_saved_and_loaded_forecaster_forecasts_the_same(case: Case, tmp_path: Path) -> None:
    spec = case.spec
    module = families.find(spec.name).family
    module.save(case.forecaster, tmp_path)
    write_spec(spec, tmp_path)
    loaded = module.load(tmp_path)
    assert loaded.spec == spec
    history, request = check_history(case.history, spec), spec.request()
    expected = case.forecaster.predict(history, request)
    npt.assert_array_equal(loaded.predict(history, request).quantiles, expected.quantiles)


def test_shorter_horizon_is_the_beginning_of_the_longer_one(case: Case) -> None:
    longer = case.forecast(case.history)
    first_step = longer[longer["step"] == 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(case.forecast(case.history, horizon=1), first_step)


def unpacked(block: Mapping[str, Any]) -> np.ndarray:
    flat = np.frombuffer(base64.b64decode(block["data"]), dtype=block["dtype"])
    return flat.reshape(block["shape"])


def test_packed_answer_holds_the_frame(case: Case) -> None:
    frame = case.forecast(case.history)
    packed = case.packed(case.history)
    values = unpacked(packed).reshape(len(frame), -1)
    npt.assert_array_equal(values, frame[packed["columns"]].to_numpy())
    assert packed["unique_id"] == list(History.of(case.history).ids)
    assert np.ravel(packed["ds"]).tolist() == frame["ds"].dt.strftime("%Y-%m-%d").tolist()
    version = case.loaded.version
    assert (packed["model"], packed["version"]) == (version.name, version.version)
    notes = [*packed["notes"].values(), f"{version.name} version {version.version}"]
    assert frame[names.NOTES].unique().tolist() == ["; ".join(notes)]
    assert ("price_paths" in packed) == case.spec.has_prices


def test_artifact_holds_no_pickle(case: Case) -> None:
    for path in case.root.rglob("*"):
        if path.is_file():
            assert path.suffix not in PICKLE_SUFFIXES, path
            assert path.read_bytes()[:2] not in PICKLES, path


def test_artifact_holds_its_code_its_spec_and_nothing_of_the_jobs(case: Case) -> None:
    files = manifest.verify(case.root)["files"]
    code = [name for name in files if name.startswith("code/")]
    assert "code/registry/versions/pyfunc.py" in code
    assert f"code/mlprojects/{case.spec.family}/model.py" in code
    assert "code/mlprojects/__init__.py" not in code
    assert not [name for name in code if name.startswith(("code/jobs", "code/serving"))]
    assert manifest.verify(case.root)["code_digest"] == case.facts["code_digest"]


def test_artifact_holds_nothing_of_training(case: Case) -> None:
    """An edit of training code must not change the code digest of a version."""
    files = manifest.read(case.root)["files"]
    code = {name.removeprefix("code/") for name in files if name.startswith("code/")}
    assert "registry/training.py" not in code
    training = {"train", "settings", "windows", "loop", "panel", "samples", "learning"}
    training |= {"estimate", "adjacency", "picture", "importance", "interpretation", "timescales"}
    assert not {name for name in code if Path(name).stem in training}


def test_columns_that_were_made_up_are_named_everywhere(case: Case) -> None:
    columns = (*case.spec.columns, *case.spec.optional)
    made_up = [name for name in columns if name in case.plan.data.dataset.synthetic]
    assert list(case.spec.synthetic) == made_up
    assert case.loaded.version.tags.get("synthetic", "") == ",".join(made_up)
    assert ("synthetic" in case.packed(case.history)["notes"]) == bool(made_up)


def test_signature_is_the_contract(case: Case) -> None:
    stored = Model.load(str(case.root))
    assert stored.signature == signature.build(case.spec)
    assert stored.metadata == signature.metadata(case.spec)
    params = {param.name for param in stored.signature.params.params}
    assert {"horizon", "levels", "seed", "output"} <= params


def test_version_says_where_it_comes_from(case: Case) -> None:
    facts, tags = case.facts, case.loaded.version.tags
    read = {"family", "data", "trained_until", "pretrained_until", "horizon", "licence"}
    flags = {"simulated", "synthetic", "leakage"}
    assert set(tags) - flags == read | {"recipe", "manifest_sha256"}
    provenance = {
        "contract", "data_digest", "git_commit", "lock_sha256", "code_digest", "levels", "calendar",
        "universe", "weight_source", "weight_revision",
    }  # fmt: skip
    assert set(tags) | provenance <= set(facts)
    config = case.plan.config
    assert (tags["trained_until"], tags["data"]) == (config.choose_until, config.data)
    assert facts["calendar"] == case.spec.calendar == case.plan.data.dataset.calendar


def test_description_says_the_limits_even_where_it_is_shortened(
    case: Case, compiled: Settings
) -> None:
    version = case.loaded.version
    entity = Store(compiled).client.get_model_version(version.name, str(version.version))
    assert "**Limits.**" in entity.description
    limits = case.plan.model.card.partition("**Limits.**")[2].partition("\n\n")[0]
    assert limits.strip() in entity.description
    assert len(entity.description) <= DESCRIPTION_LIMIT


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"horizon": 0}, "BAD_HORIZON"),
        ({"horizon": 10**9}, "BAD_HORIZON"),
        ({"levels": [1.2]}, "BAD_LEVELS"),
        ({"levels": [0.5, 0.4]}, "BAD_LEVELS"),
        ({"seed": -1}, "BAD_SEED"),
        ({"output": "poem"}, "BAD_OUTPUT"),
        ({"colour": "red"}, "UNKNOWN_PARAM"),
    ],
)
def test_wrong_parameters_are_refused_with_a_code(
    case: Case, params: dict[str, object], code: str
) -> None:
    with pytest.raises(BadInput) as caught:
        case.forecast(case.history, **params)
    assert caught.value.code == code
