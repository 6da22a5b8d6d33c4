"""What every registered config must hold: trained tiny on real prices, logged, loaded, compared with itself."""

import dataclasses
import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest

from jobs import families, train
from registry import artifacts, calendars, evaluation, signature, wire
from registry.contract import Forecaster, History, check_forecast, check_history, quantile_mean
from registry.errors import BadInput
from registry.pyfunc import load_forecaster
from registry.settings import Settings
from registry.store import LoadedVersion, Store

CUT = pd.Timestamp("2021-06-10")  # inside the report period
SERIES = ("AAPL", "KO", "XOM")
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class Quiet:
    """Surroundings of a training that nobody watches."""

    checkpoint_dir = Path()

    def report(self, step: int, **losses: float) -> None:
        """Nobody listens."""

    def should_stop(self) -> bool:
        return False


@dataclass(frozen=True)
class Case:
    """A model trained tiny, its version in a registry, and histories that end at CUT."""

    root: Path
    loaded: LoadedVersion
    forecaster: Forecaster
    history: pd.DataFrame  # SERIES, or the whole universe of a joint model, up to CUT
    later: pd.DataFrame  # the same with the sessions after CUT

    def forecast(self, history: pd.DataFrame, **params: object) -> pd.DataFrame:
        frame: pd.DataFrame = self.loaded.predict(history, **params)
        return frame


@pytest.fixture(scope="module", params=sorted(families.all_models()))
def case(request: pytest.FixtureRequest, compiled: Settings, panel: pd.DataFrame) -> Iterator[Case]:
    """Train, log and load one registered config."""
    what = train.plan(compiled, request.param, {"report_until": "2020-02-28"}, seed=1, tiny=True)
    version = train.train(compiled, what, train.Reference()).version
    store = Store(compiled)
    root = store.fetch(version)
    spec = store.spec(version)
    wanted = panel if spec.joint or spec.universe else panel[panel[wire.UNIQUE_ID].isin(SERIES)]
    later = wanted[list(spec.columns)].reset_index(drop=True)
    history = later[later[wire.DS] <= CUT].groupby(wire.UNIQUE_ID).tail(spec.max_context).reset_index(drop=True)
    with store.load(f"{version.name}/{version.version}") as loaded:
        yield Case(root, loaded, load_forecaster(root / artifacts.MODEL_DIR), history, later)


def test_forecast_is_a_frame_of_single_session_returns(case: Case) -> None:
    spec = case.forecaster.spec
    frame = case.forecast(case.history)
    ids = History.of(case.history).ids
    quantiles = [wire.quantile_column(level) for level in spec.levels]
    assert list(frame.columns) == ["unique_id", "step", "ds", "mean", *quantiles]
    assert frame["unique_id"].tolist() == [name for name in ids for _ in range(spec.max_horizon)]
    assert frame["step"].tolist() == list(range(1, spec.max_horizon + 1)) * len(ids)
    sessions = calendars.next_sessions("XNYS", CUT, spec.max_horizon)
    assert frame["ds"].tolist() == list(sessions) * len(ids)


def test_forecast_is_in_units_of_the_returns_it_was_given(case: Case) -> None:
    """A session's return, not per cent, not a price, not a cumulative return: the 90 % band is a few volatilities."""
    frame = case.forecast(case.history)
    volatility = case.history.groupby("unique_id")["y"].apply(lambda y: y.tail(60).std()).mean()
    width = (frame["q0.95"] - frame["q0.05"]).mean()
    assert 0.5 * volatility < width < 10 * volatility
    assert frame["mean"].abs().max() < volatility


def test_quantiles_never_cross_and_the_mean_is_among_them(case: Case) -> None:
    levels = tuple(np.linspace(0.05, 0.95, 37))
    frame = case.forecast(case.history, levels=list(levels))
    quantiles = frame[[wire.quantile_column(level) for level in levels]].to_numpy()
    assert (np.diff(quantiles, axis=1) >= 0).all()
    assert ((quantiles[:, 0] <= frame["mean"]) & (frame["mean"] <= quantiles[:, -1])).all()


def test_a_quantile_between_two_trained_levels_lies_halfway(case: Case) -> None:
    frame = case.forecast(case.history, levels=[0.2, 0.25, 0.3])
    npt.assert_allclose(frame["q0.25"], (frame["q0.2"] + frame["q0.3"]) / 2, rtol=0, atol=1e-15)


def test_sessions_after_the_cutoff_change_nothing(case: Case) -> None:
    """The rolling evaluation is handed all sessions; it forecasts from CUT the same whatever they hold afterwards."""
    spec = case.forecaster.spec
    origins = pd.DatetimeIndex([CUT])
    clean = evaluation.rolling(case.forecaster, case.later, origins, spec.max_horizon)
    future = case.later[wire.DS] > CUT
    numbers = list(spec.columns[2:])
    poisoned = case.later.assign(**{name: case.later[name].where(~future, 0.5) for name in numbers})
    after = evaluation.rolling(case.forecaster, poisoned, origins, spec.max_horizon)
    assert (after[wire.Y] == 0.5).all()
    pd.testing.assert_frame_equal(after.drop(columns=wire.Y), clean.drop(columns=wire.Y))
    npt.assert_array_equal(clean["q0.95"], case.forecast(case.history)["q0.95"])


def test_sessions_after_the_choice_period_change_no_training(
    case: Case, compiled: Settings, panel: pd.DataFrame
) -> None:
    """Trained again on data whose report period is poisoned: the same file, byte for byte."""
    what = train.plan(compiled, case.forecaster.spec.name, {"report_until": "2020-02-28"}, seed=1, tiny=True)
    future = panel[wire.DS] > pd.Timestamp(what.config.choose_until)
    poisoned = panel.assign(
        y=panel[wire.Y].where(~future, 0.5), market_abs_return=panel["market_abs_return"].where(~future, 9.0)
    )
    again = train.fit(dataclasses.replace(what, history=poisoned), Quiet())
    with tempfile.TemporaryDirectory() as folder:
        what.family.models.save(again.forecaster, Path(folder))
        for path in Path(folder).iterdir():
            assert path.read_bytes() == (case.root / artifacts.MODEL_DIR / path.name).read_bytes(), path.name


def test_sessions_older_than_the_context_change_nothing(case: Case) -> None:
    longer = case.later[case.later[wire.DS] <= CUT].reset_index(drop=True)
    assert len(longer) > len(case.history)
    pd.testing.assert_frame_equal(case.forecast(longer), case.forecast(case.history))


def test_other_series_change_nothing_unless_the_model_is_joint(case: Case) -> None:
    if case.forecaster.spec.joint:
        assert case.forecaster.spec.universe is not None
        return
    first = case.history[wire.UNIQUE_ID] == SERIES[0]
    before = case.forecast(case.history).query("unique_id == @SERIES[0]")
    others = case.history.assign(y=case.history["y"].where(first, case.history["y"] * 3).clip(-1, 1))
    after = case.forecast(others).query("unique_id == @SERIES[0]")
    pd.testing.assert_frame_equal(after, before)
    alone = case.forecast(case.history[first].reset_index(drop=True))
    npt.assert_array_equal(alone.drop(columns=["unique_id", "ds"]), before.drop(columns=["unique_id", "ds"]))


def test_loaded_version_forecasts_the_same_as_the_forecaster(case: Case) -> None:
    spec = case.forecaster.spec
    options = {o.name: o.default for o in spec.options}
    direct = case.forecaster.predict(check_history(case.history, spec), spec.max_horizon, spec.levels, 7, options)
    check_forecast(direct, spec, spec.max_horizon, spec.levels)
    frame = case.forecast(case.history, seed=7)
    shape = direct.quantiles.shape
    npt.assert_array_equal(
        frame[[wire.quantile_column(u) for u in spec.levels]].to_numpy().reshape(shape), direct.quantiles
    )
    npt.assert_array_equal(frame["mean"].to_numpy().reshape(shape[:2]), direct.mean)


def test_mean_does_not_depend_on_the_levels_asked_for(case: Case) -> None:
    npt.assert_array_equal(case.forecast(case.history, levels=[0.5])["mean"], case.forecast(case.history)["mean"])
    assert quantile_mean(np.array([[1.0, 1.0]]), (0.1, 0.9)).tolist() == [1.0]


def test_eight_threads_get_what_one_gets(case: Case) -> None:
    histories = [case.history.assign(y=case.history["y"] * (1 - i / 20)) for i in range(16)]
    alone = [case.forecast(history) for history in histories]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(case.forecast, histories))
    for one, other in zip(alone, together, strict=True):
        pd.testing.assert_frame_equal(one, other)


def test_saved_and_loaded_forecaster_forecasts_the_same(case: Case, tmp_path: Path) -> None:
    spec = case.forecaster.spec
    module = families.find(spec.name).models
    module.save(case.forecaster, tmp_path)
    (tmp_path / "spec.json").write_text(json.dumps(spec.to_json()))
    again = module.load(tmp_path)
    assert again.spec == spec
    arguments = (
        check_history(case.history, spec),
        spec.max_horizon,
        spec.levels,
        0,
        {o.name: o.default for o in spec.options},
    )
    npt.assert_array_equal(again.predict(*arguments).quantiles, case.forecaster.predict(*arguments).quantiles)


def test_shorter_horizon_is_the_beginning_of_the_longer_one(case: Case) -> None:
    whole = case.forecast(case.history)
    first = case.forecast(case.history, horizon=1)
    pd.testing.assert_frame_equal(first, whole[whole["step"] == 1].reset_index(drop=True))


def test_packed_answer_holds_the_frame(case: Case) -> None:
    import base64

    frame = case.forecast(case.history)
    packed = case.loaded.predict(case.history, output="packed")
    block = np.frombuffer(base64.b64decode(packed["data"]), dtype=packed["dtype"]).reshape(packed["shape"])
    npt.assert_array_equal(block.reshape(len(frame), -1), frame[packed["columns"]].to_numpy())
    assert packed["unique_id"] == list(History.of(case.history).ids)
    assert np.ravel(packed["ds"]).tolist() == frame["ds"].dt.strftime("%Y-%m-%d").tolist()


def test_artifact_holds_no_pickle(case: Case) -> None:
    for path in case.root.rglob("*"):
        if path.is_file():
            assert path.suffix not in {".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".bin"}, path
            assert path.read_bytes()[:2] not in PICKLES, path


def test_artifact_holds_its_code_its_spec_and_nothing_of_the_jobs(case: Case) -> None:
    files = artifacts.verify(case.root)["files"]
    assert "code/registry/pyfunc.py" in files
    assert f"code/mlprojects/{case.forecaster.spec.family}/model.py" in files
    assert not [f for f in files if f.startswith(("code/jobs", "code/serving")) or f == "code/mlprojects/__init__.py"]
    assert artifacts.verify(case.root)["code_digest"] == case.loaded.version.tags["code_digest"]


def test_signature_is_the_contract(case: Case) -> None:
    found = case.loaded.model.metadata.signature
    assert found == signature.build(case.forecaster.spec)
    assert {"horizon", "levels", "seed", "output"} <= signature.parameter_names(found)


def test_version_says_where_it_comes_from(case: Case) -> None:
    tags = case.loaded.version.tags
    expected = {
        "family", "contract", "data_digest", "git_commit", "lock_sha256", "trained_until", "pretrained_until",
        "horizon", "levels",
        "calendar", "universe", "licence", "weight_source", "weight_revision", "recipe", "manifest_sha256",
    }  # fmt: skip
    assert expected <= set(tags)
    assert tags["trained_until"] == "2019-12-31"


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"horizon": 0}, "BAD_HORIZON"),
        ({"horizon": 10**9}, "BAD_HORIZON"),
        ({"levels": [1.2]}, "BAD_LEVELS"),
        ({"levels": [0.5, 0.4]}, "BAD_LEVELS"),
        ({"levels": [0.001]}, "BAD_LEVELS"),
        ({"seed": -1}, "BAD_SEED"),
        ({"output": "poem"}, "BAD_OUTPUT"),
        ({"colour": "red"}, "UNKNOWN_PARAM"),
    ],
)
def test_wrong_parameters_are_refused_with_a_code(case: Case, params: dict[str, object], code: str) -> None:
    if params == {"levels": [0.001]} and case.forecaster.spec.has_paths:
        return
    with pytest.raises(BadInput) as caught:
        case.forecast(case.history, **params)
    assert caught.value.code == code
