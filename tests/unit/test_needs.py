"""What each model needs of a user's data set, said in one line before anything is trained."""

import own_sets
import pandas as pd
import pytest

from jobs.data import sets
from jobs.data.catalog import Catalog
from jobs.data.dataset import Splits
from jobs.training import families, needs, planning
from registry.errors import BadHistory, Corrupt
from registry.settings import Settings

SPLITS = Splits("2020-06-30", "2020-12-31")
WHOLE = ("2016-01-04", "2021-12-31")
EQUAL = dict.fromkeys(("AA", "BB", "CC"), WHOLE)
# OLD ends before fit_until, MID begins shortly before it, NEW in the report; ENDS is chosen on.
UNEVEN = EQUAL | {
    "OLD": ("2016-01-04", "2019-06-28"),
    "MID": ("2020-03-02", WHOLE[1]),
    "NEW": ("2021-03-01", WHOLE[1]),
    "ENDS": ("2016-01-04", "2020-09-30"),
}
JOINT = ("graph", "itransformer", "stemgnn")
OF_BARS = ("kronos", "kronos_simulated")
TOGETHER = (
    "forecasts its series together, so each needs every session of uneven; ENDS lacks 316 of 1511, "
    "first 2020-10-01, and 3 others lack some: train it on a set without them"
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Two sets: `uneven`, of closes without sectors, and `equal`, of bars with sectors."""
    settings = Settings(var_dir=tmp_path_factory.mktemp("own"))
    closes = own_sets.simulated(UNEVEN)
    own_sets.write(settings, "uneven", closes, splits=SPLITS)
    bars = own_sets.with_bars(own_sets.simulated(EQUAL))
    bars["sector"] = bars["unique_id"].map({"AA": "one", "BB": "one", "CC": "two"})
    own_sets.write(settings, "equal", bars, splits=SPLITS, kind="bars")
    short = closes[closes["ds"] >= "2020-01-01"]
    own_sets.write(settings, "short", short, splits=SPLITS)
    halt = bars["ds"].between("2018-03-01", "2018-08-31")
    for name, still in {"still": halt, "halted": halt & (bars["unique_id"] == "BB")}.items():
        returns = bars[["unique_id", "ds", "y", "sector"]].assign(y=bars["y"].where(~still, 0.0))
        own_sets.write(settings, name, returns, splits=SPLITS, kind="returns")
    alone = closes[closes["unique_id"] == "AA"]
    own_sets.write(settings, "alone", alone, splits=SPLITS)
    return settings


def plan(settings: Settings, model: str, data: str, **dates: str) -> planning.Plan:
    return planning.plan(settings, model, {"data": data, **dates}, seed=0, tiny=True)


@pytest.mark.parametrize("model", families.all_models())
def test_every_model_can_be_trained_on_bars_with_sectors_of_equal_series(settings, model):
    planned = plan(settings, model, "equal")
    assert planned.data.dataset.name == "equal"
    assert planned.config.fit_until == SPLITS.fit_until


@pytest.mark.parametrize("model", families.all_models())
def test_a_model_that_closes_of_uneven_series_cannot_train_says_what_it_lacks(settings, model):
    lacks = {
        "tft": r"tft needs \['sector'\], which uneven lacks; .*: panel, equal",
        **dict.fromkeys(OF_BARS, f"{model} needs .*which uneven lacks; .*: bars, equal"),
        **dict.fromkeys(JOINT, f"{model} {TOGETHER}"),
    }
    if model not in lacks:
        assert plan(settings, model, "uneven").data.dataset.name == "uneven"
        return
    with pytest.raises(BadHistory, match=lacks[model]):
        plan(settings, model, "uneven")


@pytest.mark.parametrize(
    ("model", "data", "dates", "message"),
    [
        ("garch", "short", {}, "garch is fitted on 500 sessions or more of a series up to fit_unt"),
        ("nbeats", "short", {"fit_until": "2020-03-13"}, "has 50, 15 are missing: move the dates"),
        ("ewma", "short", {}, r"har, which is trained with ewma, is fitted on 258 .* 133 are miss"),
        ("ensemble", "short", {}, "linear, which is trained with ensemble, is fitted on 319"),
        (
            "ewma",
            "equal",
            {"choose_until": "2021-12-29"},
            r"har, which is trained with ewma, needs 564 sessions up to an origin: no session "
            r"after 2021-12-29 has 564 .* in any series; 4 more are needed",
        ),
        (
            "itransformer",
            "halted",
            {},
            "itransformer divides by the volatility of 60 sessions, and BB has only returns of 0 "
            "in the 60 sessions up to 2018-05-24: train it on a set without them",
        ),
        ("nbeats", "still", {}, "nbeats divides by .*, and AA has only returns of 0 .*, and 2 ot"),
        (
            "nbeats",
            "equal",
            {"fit_until": "2020-12-28"},
            r"nbeats is chosen on 5 sessions or more after fit_until .* has 3, 2 are missing",
        ),
        ("graph", "alone", {}, "needs two or more; alone has 1"),
    ],
)
def test_what_is_missing_is_counted_and_for_which_model(settings, model, data, dates, message):
    with pytest.raises(BadHistory, match=message):
        plan(settings, model, data, **dates)


def test_dates_of_the_command_line_beat_those_of_the_set_which_beat_those_of_the_model(
    settings, monkeypatch
):
    har = families.find("har")
    stored = har.stored() | {"choose_until": "2019-03-29", "fit_until": "2019-01-31"}
    monkeypatch.setattr(families.Model, "stored", lambda _: dict(stored))
    of_set = plan(settings, "har", "equal").config
    assert (of_set.fit_until, of_set.choose_until) == ("2020-06-30", "2020-12-31")
    given = plan(settings, "har", "equal", choose_until="2021-01-29").config
    assert (given.fit_until, given.choose_until) == ("2020-06-30", "2021-01-29")


def test_series_that_a_family_cannot_fit_are_named_with_the_reason(settings):
    linear = plan(settings, "linear", "uneven")
    history = linear.data.history
    early = history[history["ds"] <= pd.Timestamp("2020-12-31")]
    hole = (early["unique_id"] == "BB") & early["ds"].between("2019-02-01", "2019-02-28")
    spec = linear.model.spec(linear.config)
    reasons = needs.unfit(early[~hole], linear.config, spec)
    assert set(reasons) == {"MID", "BB"}
    assert reasons["MID"] == "has 85 sessions up to 2020-06-30, 319 are fitted"
    assert reasons["BB"].startswith("GAP: ")
    ewma = plan(settings, "ewma", "uneven")
    assert needs.unfit(early[~hole], ewma.config, ewma.model.spec(ewma.config)) == {}


@pytest.mark.parametrize(
    ("model", "window"), [("nbeats", "60 sessions up to 2018-05-24"), ("tft", "10 sessions up to")]
)
def test_a_network_leaves_out_a_series_that_did_not_move_for_a_window(settings, model, window):
    planned = plan(settings, model, "halted")
    spec = planned.model.spec(planned.config)
    [(name, reason)] = needs.unfit(planned.data.history, planned.config, spec).items()
    assert (name, reason.startswith(f"has only returns of 0 in the {window}")) == ("BB", True)


def test_plans_with_one_catalog_share_the_rows_of_a_set(settings):
    datasets = Catalog(settings)
    plans = [
        planning.plan(settings, model, {"data": "equal"}, seed=0, tiny=True, datasets=datasets)
        for model in ("naive", "har")
    ]
    assert plans[0].data is plans[1].data


def test_the_plan_of_a_damaged_set_is_refused(settings):
    root = sets.folder(settings, "broken")
    root.mkdir()
    (root / sets.FACTS).write_text("{}")
    with pytest.raises(Corrupt, match="compile broken again"):
        plan(settings, "har", "broken")
