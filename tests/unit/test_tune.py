"""The search space, a trial, and a study."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.testing as npt
import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState
from scipy.stats import norm
from shared import SHARED

from jobs.data import catalog
from jobs.data.dataset import Data
from jobs.training import configs, families, planning
from jobs.training.families import Model
from jobs.tuning import space, trial, tune
from jobs.tuning.study import METRICS, STARTUP, WARMUP, Study, open_study
from jobs.tuning.trial import Outcome
from registry import training
from registry.errors import BadConfig, BadInput, KronosError
from registry.forecast import calendars, names, volatility
from registry.forecast.forecast import Forecast
from registry.forecast.history import History
from registry.forecast.spec import ModelSpec, Request
from registry.settings import CHECKOUT
from registry.training import Range, Space, Trained, TrainRun

SPACE: Space = {"width": (16, 32, 64), "layers": Range(1, 4), "rate": Range(1e-4, 1e-1, log=True)}


# --- search space -----------------------------------------------------------------------------


def test_ranges_of_whole_numbers_floats_and_choices_become_optunas() -> None:
    distributions = space.distributions(SPACE)
    assert distributions == {
        "width": optuna.distributions.CategoricalDistribution((16, 32, 64)),
        "layers": optuna.distributions.IntDistribution(1, 4),
        "rate": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
    }


def test_a_drawn_float_is_used_with_three_significant_digits_and_stays_within_its_range() -> None:
    drawn = {"width": 32, "layers": 3, "rate": 0.00123456}
    assert space.settings(SPACE, drawn) == {"width": 32, "layers": 3, "rate": 0.00123}
    narrow: Space = {"rate": Range(0.0012344, 0.0012348)}
    # Not 0.00123, which lies below the range.
    assert space.settings(narrow, {"rate": 0.0012346}) == {"rate": 0.0012344}


@pytest.mark.parametrize(
    ("low", "high", "log"),
    [(1, 1, False), (2, 1, False), (0.0, 1.0, True), (float("nan"), 1, False)],
)
def test_an_empty_range_is_refused(low: float, high: float, log: bool) -> None:
    with pytest.raises(BadConfig, match="expected low < high, and 0 < low with log"):
        Range(low, high, log)


@dataclass(frozen=True, kw_only=True)
class Config(training.Config):
    """Settings of a normal distribution of EWMA volatility times `factor`."""

    factor: float = 1.0
    context: int = 60
    slope: float = 0.0  # of the made-up choice loss

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor == 3:
            raise BadConfig(f"factor is {self.factor}")


@dataclass(frozen=True)
class Normal:
    """Forecaster: quantiles of N(0, factor x EWMA volatility)."""

    spec: ModelSpec
    factor: float

    def predict(self, history: History, request: Request) -> Forecast:
        scale = np.empty(len(history.ids))
        for series, values in history.blocks(self.spec.max_context):
            scale[series] = volatility.ewma_volatility(values[:, :, 0])[:, -1] * self.factor
        step = scale[:, None] * norm.ppf(self.spec.levels)
        quantiles = np.repeat(step[:, None], request.horizon, axis=1)
        return Forecast.of_quantiles(history, self.spec, quantiles)


def spec(name: str, config: Config) -> ModelSpec:
    return ModelSpec(name, "fake", config.context, config.context, config.horizon, config.levels)


class Fake:
    """A family that records its histories and the steps of its checks."""

    name = "fake"
    configs: ClassVar[Mapping[str, type[training.Config]]] = {"fake": Config}
    requirements = ()
    spec = staticmethod(spec)

    def __init__(self) -> None:
        self.search: Mapping[str, Space] = {
            "fake": {"factor": Range(0.5, 3.0), "context": Range(60, 600)}
        }
        self.histories: list[pd.DataFrame] = []
        self.checks: list[int] = []

    def train(
        self,
        history: pd.DataFrame,
        config: Config,
        *,
        name: str,
        seed: int,  # noqa: ARG002
        run: TrainRun,
    ) -> Trained:
        self.histories.append(history)
        for step in range(10):
            if config.factor > 2.9:
                raise KronosError("the loss is inf", code="DIVERGED")
            run.report(10 * step, train_loss=0.0)
            run.report(10 * step, valid_loss=config.slope * step)
            self.checks.append(step)
            if run.should_stop():
                break
        return Trained(Normal(spec(name, config), config.factor))


@pytest.fixture
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    config = tmp_path_factory.mktemp("family") / "configs" / "fake.yaml"
    config.parent.mkdir(parents=True)
    config.write_text("tiny: {}\n")
    return Model("fake", config, Fake())


@pytest.fixture(scope="module")
def history() -> pd.DataFrame:
    """Two series of normal returns, volatility 1 % and 2 %; 900 sessions to the end of 2020."""
    sessions = calendars.sessions("XNYS", "2016-01-04", "2020-12-31")[-900:]
    draw = np.random.default_rng(0)
    parts = [
        pd.DataFrame({names.UNIQUE_ID: name, names.DS: sessions, names.Y: draw.normal(0, sd, 900)})
        for name, sd in (("A", 0.01), ("B", 0.02))
    ]
    return pd.concat(parts, ignore_index=True)


def planned(model: Model, history: pd.DataFrame, **overrides: Any) -> tune.Search:
    config = Config(
        **SHARED
        | {"horizon": 2, "fit_until": "2020-03-31", "choose_until": "2020-09-30"}
        | overrides
    )
    data = Data(catalog.PANEL, "digest", history)
    training = planning.Plan(
        model, config, 0, data, None, "lock", "code", f"recipe of {config}", {}, ""
    )
    return tune.Search(training, space.space(model, config, overrides), tuple(overrides))


def test_a_fixed_setting_is_not_searched_and_one_must_be_left(model: Model) -> None:
    assert set(space.space(model, Config(**SHARED), ["factor"])) == {"context"}
    with pytest.raises(BadInput) as caught:
        space.space(model, Config(**SHARED), ["factor", "context"])
    assert caught.value.code == "NO_SEARCH"
    assert (
        caught.value.message
        == "all searchable settings are fixed (factor, context); unfix at least one"
    )


def test_only_settings_of_the_models_own_config_are_searched(model: Model) -> None:
    model.family.search = {
        "fake": {"factor": Range(0.5, 2.0), "horizon": Range(1, 5), "depth": (1, 2)}
    }
    with pytest.raises(
        BadConfig, match="SEARCH of fake has depth, horizon, expected settings of the model's own"
    ):
        space.space(model, Config(**SHARED), ())


def test_the_config_as_it_is_comes_first_where_the_space_holds_it() -> None:
    @dataclass(frozen=True, kw_only=True)
    class OwnConfig(training.Config):
        width: int = 32
        layers: int = 2
        rate: float = 0.002

    config = OwnConfig(**SHARED)
    assert space.as_configured(SPACE, config) == {"width": 32, "layers": 2, "rate": 0.002}
    for beyond in ({"width": 48}, {"layers": 5}, {"rate": 0.2}, {"rate": 0.0012345}):
        assert space.as_configured(SPACE, dataclasses.replace(config, **beyond)) is None


@pytest.mark.parametrize(
    "name",
    [
        "linear",
        "mlp",
        "lightgbm",
        "nbeats",
        "nhits",
        "patchtst",
        "itransformer",
        "stemgnn",
        "tft",
        "graph",
        "ssm",
        "kronos",
    ],
)
def test_every_value_that_a_model_declares_can_be_tried_and_its_own_config_is_among_them(
    name: str,
) -> None:
    model = families.find(name)
    config = configs.load_config(model, {})
    searched = space.space(model, config, ())
    for setting, values in searched.items():
        for value in values if isinstance(values, tuple) else (values.low, values.high):
            dataclasses.replace(config, **{setting: value})
    assert space.as_configured(searched, config) is not None


def test_a_study_is_another_one_with_another_seed_setting_or_space(
    model: Model, history: pd.DataFrame
) -> None:
    first = planned(model, history)
    assert planned(model, history).study == first.study
    assert first.study.startswith("fake-")
    assert planned(model, history, slope=1.0).study != first.study
    assert dataclasses.replace(first, space={"factor": Range(0.5, 2.0)}).study != first.study


# --- one trial --------------------------------------------------------------------------------


def quiet(step: int, losses: Mapping[str, float]) -> bool:  # noqa: ARG001
    return False


def test_a_trial_is_scored_on_the_choice_period_and_sees_nothing_later(
    model: Model, history: pd.DataFrame, tmp_path: Path
) -> None:
    setup = tune.prepare(planned(model, history), tmp_path)
    assert (setup.origins[0], setup.origins[-1]) == (
        pd.Timestamp("2020-04-01"),
        pd.Timestamp("2020-09-28"),
    )
    assert setup.context == 600  # the longest that is searched; fhs needs 560
    assert setup.history[names.DS].max() == pd.Timestamp("2020-09-30")
    setup.run({"factor": 1.1}, quiet)
    [passed] = model.family.histories
    assert passed[names.DS].max() == pd.Timestamp("2020-09-30")
    other = history.assign(y=history[names.Y].where(history[names.DS] <= "2020-09-30", 0.3))
    changed = tune.prepare(planned(model, other), tmp_path)
    pd.testing.assert_frame_equal(changed.reference, setup.reference)
    assert (
        changed.run({"factor": 1.1}, quiet).metrics["crps"]
        == setup.run({"factor": 1.1}, quiet).metrics["crps"]
    )


def test_the_crps_of_a_trial_is_the_mean_over_origins_steps_and_series(
    model: Model, history: pd.DataFrame, tmp_path: Path
) -> None:
    setup = tune.prepare(planned(model, history), tmp_path)
    scored = setup.run({"factor": 1.5, "context": 100}, quiet).metrics
    levels, losses, fhs_losses = np.array(names.LEVELS), [], []
    for _, series in history.groupby(names.UNIQUE_ID):
        y = series[names.Y].to_numpy()
        for row in np.flatnonzero(series[names.DS].isin(setup.origins)):
            past = y[None, : row + 1]
            scale = volatility.ewma_volatility(past[:, -100:])[0, -1] * 1.5
            sigma = volatility.ewma_volatility(past)
            pool = volatility.residuals(past, sigma, 1)
            fhs = volatility.empirical_quantiles(pool, names.LEVELS)[0] * sigma[0, -1]
            for step in (1, 2):
                for quantiles, losses_of_model in (
                    (scale * norm.ppf(levels), losses),
                    (fhs, fhs_losses),
                ):
                    error = y[row + step] - quantiles
                    losses_of_model.append(
                        2 * np.maximum(levels * error, (levels - 1) * error).mean()
                    )
    npt.assert_allclose(scored["crps"], np.mean(losses), rtol=1e-12)
    npt.assert_allclose(
        scored["skill_vs_fhs"], 1 - np.mean(losses) / np.mean(fhs_losses), rtol=1e-9
    )


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"factor": 3}, "BAD_CONFIG: factor is 3"),
        ({"factor": 2.95}, "DIVERGED: the loss is inf"),
        ({"factor": 1.0, "context": 700}, "TOO_SHORT: context is 600; fake needs 700 sessions"),
    ],
)
def test_settings_that_cannot_be_trained_are_a_bad_trial_with_its_reason(
    model: Model, history: pd.DataFrame, tmp_path: Path, settings: dict[str, Any], why: str
) -> None:
    setup = tune.prepare(planned(model, history), tmp_path)
    assert setup.run(settings, quiet) == Outcome({}, why)


def test_any_other_error_of_a_trial_is_raised(
    model: Model, history: pd.DataFrame, tmp_path: Path
) -> None:
    setup = tune.prepare(planned(model, history), tmp_path)

    def full(*_: Any) -> bool:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        setup.run({"factor": 1.0}, full)
    assert list(tmp_path.iterdir()) == []  # no checkpoint stays


def test_a_trial_that_is_given_up_stops_training_and_is_not_scored(
    model: Model, history: pd.DataFrame, tmp_path: Path
) -> None:
    setup = tune.prepare(planned(model, history), tmp_path)
    steps: list[int] = []

    def enough(step: int, losses: Mapping[str, float]) -> bool:
        steps.append(step)
        return "valid_loss" in losses and step == 30

    assert setup.run({"factor": 1.0}, enough) == Outcome({}, trial.PRUNED)
    assert model.family.checks == [0, 1, 2, 3]
    assert steps == [0, 0, 10, 10, 20, 20, 30, 30]


def test_losses_of_members_carry_their_name_and_end_nothing(
    model: Model, history: pd.DataFrame, tmp_path: Path
) -> None:
    reports: list[tuple[int, dict[str, float]]] = []

    def listen(step: int, losses: Mapping[str, float]) -> bool:
        reports.append((step, dict(losses)))
        return True

    run = trial.TrialRun(tmp_path, None, listen)
    config = planned(model, history).plan.config
    member = run.fit_member("ewma", history, config, 0, tiny=True)
    assert member.forecaster.spec.max_horizon == 2
    assert reports == [(1, {})]
    assert not run.should_stop()


# --- a study ----------------------------------------------------------------------------------

PLANE: Space = {"x": Range(-1.0, 1.0), "y": (1, 2, 3), "z": Range(0, 5)}


def bowl(settings: Mapping[str, Any]) -> Outcome:
    value = (settings["x"] - 0.3) ** 2 + settings["y"] + 0.1 * settings["z"]
    return Outcome({"crps": value}) if settings["z"] < 4 else Outcome(given_up="too deep")


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Any]:
    return partial(opened_in, tmp_path)


def opened_in(
    folder: Path,
    name: str = "study",
    *,
    seed: int = 0,
    lost: Callable[[Any], None] = lambda _: None,
) -> Any:
    return open_study(folder, name, PLANE, {"x": 0.5, "y": 2, "z": 0}, seed, lost)


def carry_on(study: Study, total: int) -> None:
    while (begun := study.begin(total)) is not None:
        study.finish(begun, bowl(study.settings(begun)))


def rows(study: Study) -> list[tuple[Any, ...]]:
    """Settings, scores and state of every trial that has an outcome."""
    return [
        (study.settings(t), t.user_attrs[METRICS], t.state)
        for t in study.trials()
        if t.state in (TrialState.COMPLETE, TrialState.PRUNED)
    ]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    """The trials of an uninterrupted study; from the tenth on the sampler learns from them."""
    with opened_in(tmp_path_factory.mktemp("whole")) as study:
        carry_on(study, 12)
        return rows(study)


def test_a_study_begins_with_the_config_and_draws_the_rest_by_its_seed(
    opened: Callable[..., Any], uninterrupted: list[tuple[Any, ...]]
) -> None:
    with opened(seed=1) as study:
        carry_on(study, 3)
        of_seed_1 = rows(study)
    assert uninterrupted[0][0] == of_seed_1[0][0] == {"x": 0.5, "y": 2, "z": 0}
    assert uninterrupted[0][1]["crps"] == pytest.approx(0.04 + 2)
    drawn = [settings for settings, *_ in uninterrupted[1:3]]
    assert drawn != [settings for settings, *_ in of_seed_1[1:]]
    assert {state for *_, state in uninterrupted} == {TrialState.COMPLETE, TrialState.PRUNED}


def test_trials_are_the_total_of_a_study_however_often_it_is_opened(
    opened: Callable[..., Any],
) -> None:
    with opened() as study:
        carry_on(study, 3)
    with opened() as study:
        assert study.begin(3) is None
        carry_on(study, 5)
        assert [t.number for t in study.trials()] == [0, 1, 2, 3, 4]


def test_a_study_that_was_interrupted_ends_like_one_that_was_not(
    opened: Callable[..., Any], uninterrupted: list[tuple[Any, ...]]
) -> None:
    lost: list[int] = []
    for total in (0, 4, 11):
        with opened(lost=lambda t: lost.append(t.number)) as study:
            carry_on(study, total)
            study.begin(12)  # and the process is gone
    with opened(lost=lambda t: lost.append(t.number)) as study:
        carry_on(study, 12)
        assert rows(study) == uninterrupted
        assert [t.number for t in study.trials() if t.state == TrialState.FAIL] == lost
    assert len(lost) == 3


def test_a_trial_that_is_left_without_an_outcome_is_run_again_with_its_settings(
    opened: Callable[..., Any],
) -> None:
    with opened() as study:
        carry_on(study, 2)
        settings = study.settings(study.begin(4))
    with opened() as study:
        again = study.begin(4)
        assert (again.number, study.settings(again)) == (3, settings)
        assert [t.state.name for t in study.trials()] == ["COMPLETE", "COMPLETE", "FAIL", "RUNNING"]


def test_two_processes_share_a_study_and_one_takes_over_what_the_other_leaves(
    opened: Callable[..., Any],
) -> None:
    lost: list[int] = []
    with opened(lost=lambda t: lost.append(t.number)) as study:
        with opened(lost=lambda t: lost.append(t.number)) as other_study:
            first = study.begin(3)
            second = other_study.begin(3)
            third = study.begin(3)
            assert [t.number for t in (first, second, third)] == [0, 1, 2]
            assert len({tuple(t.params.values()) for t in (first, second, third)}) == 3
            assert other_study.begin(3) is None  # all trials are running
            assert study.running() == 3
        for finished in (first, third):
            study.finish(finished, bowl(study.settings(finished)))
        again = study.begin(3)
        assert (lost, again.number, again.params) == ([1], 3, second.params)


def test_a_process_that_is_killed_is_noticed_and_nothing_of_it_stays(tmp_path: Path) -> None:
    program = f"""
        import time
        from pathlib import Path
        from jobs.tuning.study import open_study
        from registry.training import Range

        folder = Path({str(tmp_path)!r})
        with open_study(folder, "study", {{"x": Range(0.0, 1.0)}}, None, 0) as study:
            study.begin(2)
            (study.scratch / "checkpoint").write_text("half")
            print("begun", flush=True)
            time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        with open_study(tmp_path, "study", {"x": Range(0.0, 1.0)}, None, 0) as study:
            assert study.running() == 1
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert study.running() == 0
            assert [t.state.name for t in study.trials()] == ["FAIL"]
            assert [p.name for p in (tmp_path / "study").iterdir() if p.is_dir()] == [study.token]


def test_a_trial_is_pruned_when_its_best_look_is_worse_than_the_median_after_the_warm_up(
    opened: Callable[..., Any],
) -> None:
    def checks(study: Study, total: int, loss: float) -> int:
        """Checks of a trial with this choice loss before it is pruned, at most 7."""
        pruned = study.begin(total)
        for check in range(7):
            pruned.report(loss, check)
            if pruned.should_prune():
                study.finish(pruned, Outcome(given_up="pruned"))
                return check
        study.finish(pruned, Outcome({"crps": loss}))
        return 7

    losses = [1.0, 9.0, 1.2, 1.1, 1.3]
    with opened() as study:
        startup = [checks(study, n + 1, loss) for n, loss in enumerate(losses)]
        assert startup == [7] * STARTUP
        assert checks(study, 6, 1.25) == WARMUP  # the median is 1.2
        assert checks(study, 7, 1.15) == 7
