"""ensemble: the average of its members' quantiles, fitted and stored with them."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest
from shared import SHARED

from jobs.training import configs, families, members, planning
from jobs.training.references import Unwatched
from mlprojects.ensemble import train
from mlprojects.ensemble.model import Ensemble
from mlprojects.ensemble.settings import Config
from registry.errors import BadConfig, NotFound
from registry.forecast import names
from registry.forecast.history import History
from registry.forecast.model_folder import load_forecaster, save_forecaster

MEMBERS = ("baselines/ewma", "baselines/har", "baselines/gjr")
CONFIG = Config(members=MEMBERS, **SHARED)


@pytest.fixture(scope="module")
def training_history(panel: pd.DataFrame) -> pd.DataFrame:
    three = panel[panel[names.UNIQUE_ID].isin(["AAPL", "KO", "XOM"])]
    return three[three[names.DS] <= "2019-12-31"].reset_index(drop=True)


@pytest.fixture(scope="module")
def trained(training_history: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    tmp_path = tmp_path_factory.mktemp("trained")
    forecaster = train.train(
        training_history, CONFIG, name="mixed", seed=0, run=Unwatched(tmp_path)
    ).forecaster
    assert isinstance(forecaster, Ensemble)
    return forecaster


@pytest.fixture(scope="module")
def history(training_history: pd.DataFrame) -> History:
    return History.of(
        training_history.groupby(names.UNIQUE_ID).tail(1000), (names.Y, *names.MARKET)
    )


def test_its_quantiles_are_the_means_of_its_members(trained: Ensemble, history: History) -> None:
    forecast = trained.predict(history, trained.spec.request())
    members = [m.predict(history, m.spec.request()).quantiles for m in trained.members]
    npt.assert_allclose(forecast.quantiles, (members[0] + members[1] + members[2]) / 3, rtol=1e-14)
    assert (np.diff(forecast.quantiles, axis=2) >= 0).all()
    between = trained.predict(history, trained.spec.request({"horizon": 2})).at((0.25,))
    npt.assert_allclose(
        between.quantiles[:, :, 0], forecast.quantiles[:, :2, 2:4].mean(axis=2), rtol=1e-12
    )


def test_it_needs_what_its_members_need(trained: Ensemble) -> None:
    spec = trained.spec
    assert (spec.name, spec.family, spec.uses) == ("mixed", "ensemble", ("baselines",))
    assert (spec.min_context, spec.max_context) == (564, 1000)
    assert spec.columns == (*names.HISTORY, names.MARKET_ABS_RETURN)


def test_its_members_are_fitted_with_its_dates_and_horizon(
    training_history: pd.DataFrame, tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, horizon=2, levels=(0.1, 0.5, 0.9), fit_until="2015-12-31")
    mixed = train.train(
        training_history, config, name="mixed", seed=0, run=Unwatched(tmp_path)
    ).forecaster
    for name, member in zip(("ewma", "har", "gjr"), mixed.members, strict=True):
        assert (member.spec.max_horizon, member.spec.levels) == (2, (0.1, 0.5, 0.9))
        alone = members.fit_member(
            name, training_history, config, 0, tiny=False, run=Unwatched(tmp_path)
        ).forecaster
        assert member.spec == alone.spec
    npt.assert_array_equal(
        mixed.members[1].coefficients, alone_har(training_history, config, tmp_path)
    )


def alone_har(training_history: pd.DataFrame, config: Config, tmp_path: Path) -> np.ndarray:
    har = families.find("har")
    config_of_har = configs.load_config(
        har, {"horizon": 2, "levels": (0.1, 0.5, 0.9), "fit_until": config.fit_until}
    )
    coefficients: np.ndarray = families.fit(
        har, config_of_har, training_history, seed=0, run=Unwatched(tmp_path)
    ).forecaster.coefficients
    return coefficients


def test_its_folder_holds_those_of_its_members(
    trained: Ensemble, history: History, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    save_forecaster(trained, folder)
    assert json.loads((folder / "config.json").read_text())["members"] == ["ewma", "har", "gjr"]
    again = load_forecaster(folder)
    assert again.spec == trained.spec
    npt.assert_array_equal(
        again.predict(history, again.spec.request()).quantiles,
        trained.predict(history, trained.spec.request()).quantiles,
    )
    gjr = load_forecaster(folder / "members" / "gjr")
    npt.assert_array_equal(gjr.fitted, trained.members[2].fitted)


def test_what_a_member_has_to_say_is_said(trained: Ensemble, history: History) -> None:
    request = trained.spec.request({"horizon": 1})
    assert trained.predict(history, request).notes == {}
    unknown = dataclasses.replace(history, ids=("AAPL", "KO", "ZZZ"))
    assert list(trained.predict(unknown, request).notes) == ["pooled"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (("baselines/ewma",), "two or more different models, found"),
        (("baselines/ewma", "baselines/ewma"), "two or more different models, found"),
        (("ewma", "baselines/har"), "named <family>/<model>, as in baselines/gjr; found 'ewma'"),
    ],
)
def test_members_that_make_no_average_are_refused(members: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        Config(members=members, **SHARED)


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("baselines/linear", "'baselines/linear' is of family volnet; name it volnet/linear"),
        ("kronos/kronos_simulated", "takes options or optional columns"),
        ("graph/graph", "is joint"),
        ("ensemble/ensemble", "an ensemble itself"),
    ],
)
def test_what_is_no_forecaster_of_single_series_is_no_member(member: str, message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        members.configs(Config(members=("baselines/ewma", member), **SHARED))


def test_an_unknown_member_is_not_found() -> None:
    with pytest.raises(NotFound, match="no model 'nosuch'"):
        members.configs(Config(members=("baselines/ewma", "baselines/nosuch"), **SHARED))


def test_other_settings_of_a_member_are_another_recipe() -> None:
    config = configs.load_config(families.find("ensemble"), {})
    member_configs = members.configs(config)
    assert set(member_configs) == {"linear", "mlp", "lightgbm", "gjr"}
    before = planning.recipe("ensemble", config, member_configs, 0, data="a")
    assert planning.recipe("ensemble", config, member_configs, 0, data="a") == before
    wider = {**member_configs, "mlp": dataclasses.replace(member_configs["mlp"], width=64)}
    assert planning.recipe("ensemble", config, wider, 0, data="a") != before
