"""Own data sets from training to forecast: unequal spans, bars, and other calendars."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy.testing as npt
import own_sets
import pandas as pd
import pytest

from jobs import quickstart
from jobs.data.catalog import PANEL
from jobs.data.dataset import Splits
from jobs.running.progress import silent
from jobs.training import evaluate, planning, train
from jobs.training.references import References
from registry.errors import BadHistory
from registry.settings import Settings
from registry.versions.store import Store
from registry.versions.version import Version

SPLITS = Splits("2020-06-30", "2020-12-31")
WHOLE = ("2016-01-04", "2021-12-30")
# AA, the first by name, is too short to fit linear and to ask har; OLD ends before fit_until.
UNEVEN = dict.fromkeys(("BB", "CC"), WHOLE) | {
    "AA": ("2020-03-02", WHOLE[1]),
    "ENDS": ("2016-01-04", "2020-09-30"),
    "OLD": ("2016-01-04", "2019-06-28"),
}
OTHER = {"XLON": "2021-12-23", "24/7": "2021-12-30"}  # calendar, last session
SOURCE = {"kind": "sql", "location": "postgresql://me:secret@host/prices"}


@pytest.fixture(scope="module")
def settings(
    compiled: Settings,
    new_registry: Callable[[Path], Settings],
    tmp_path_factory: pytest.TempPathFactory,
) -> Settings:
    """A registry with own sets: uneven closes, bars, and one of each other calendar."""
    settings = new_registry(tmp_path_factory.mktemp("own"))
    data = settings.var_dir / "data"
    data.unlink()  # a link to the data of all tests, which get no set of ours
    settings.processed_dir.parent.mkdir()
    settings.processed_dir.symlink_to(compiled.processed_dir)
    closes = own_sets.simulated(UNEVEN)
    stated: dict[str, Any] = {"source": SOURCE, "currency": "EUR"}
    own_sets.write(settings, "uneven", closes, splits=SPLITS, **stated)
    bars = own_sets.with_bars(own_sets.simulated(dict.fromkeys(("AA", "BB"), WHOLE)))
    own_sets.write(settings, "mybars", bars, splits=SPLITS, kind="bars")
    for calendar, last in OTHER.items():
        spans = dict.fromkeys(("AA", "BB"), (WHOLE[0], last))
        frame = own_sets.simulated(spans, calendar)
        own_sets.write(settings, name_of(calendar), frame, splits=SPLITS, calendar=calendar)
    return settings


def name_of(calendar: str) -> str:
    return "own_" + calendar.lower().replace("/", "_")


@pytest.fixture(scope="module")
def reference() -> References:
    return References()


def trained(settings: Settings, reference: References, model: str, data: str) -> train.Result:
    overrides = {"data": data, "report_every": 60}
    plan = planning.plan(settings, model, overrides, seed=0, tiny=True)
    return train.train(settings, plan, reference)


@pytest.fixture(scope="module")
def versions(settings: Settings, reference: References) -> Mapping[str, Version]:
    """har, nbeats and linear, trained tiny on series of unequal spans."""
    models = ("har", "nbeats", "linear")
    return {model: trained(settings, reference, model, "uneven").version for model in models}


def test_a_version_names_its_set_digest_calendar_and_universe(settings, versions):
    store = Store(settings)
    facts = store.facts(versions["har"])
    assert (facts["data"], facts["calendar"], facts["currency"]) == ("uneven", "XNYS", "EUR")
    assert facts["universe"].startswith("uneven-5@")
    assert len(facts["data_digest"]) == 64
    described = store.client.get_model_version("har", str(versions["har"].version)).description
    assert "| data | uneven |" in described
    assert "| data_source | kind sql, location postgresql://***@host/prices |" in described
    assert "| currency | EUR |" in described
    run = store.client.get_run(versions["har"].run_id)
    [logged] = run.inputs.dataset_inputs
    assert logged.dataset.name == "uneven"


def test_series_that_cannot_be_fitted_are_counted_and_named(settings, versions):
    store = Store(settings)
    run_id = versions["linear"].run_id
    assert store.client.get_run(run_id).data.params["series_left_out"] == "1"
    left_out = pd.read_csv(store.client.download_artifacts(run_id, "tables/left_out.csv"))
    assert left_out.to_dict("records") == [
        {"unique_id": "AA", "why": "has 85 sessions up to 2020-06-30, 319 are fitted"}
    ]
    assert "series_left_out" not in store.client.get_run(versions["har"].run_id).data.params
    scored = pd.read_csv(store.client.download_artifacts(run_id, "tables/scores_by_series.csv"))
    assert set(scored["unique_id"]) == {"BB", "CC"}


def test_versions_are_evaluated_on_the_series_that_trade_in_the_report(
    settings, versions, reference
):
    names = [version.reference for version in versions.values()]
    result = evaluate.evaluate(settings, names, {"report_every": 60}, reference)
    summary = result.summary()
    assert summary["data"] == "uneven"
    assert set(summary["compared"]) == {*names, "fhs", "har", "naive"}
    scores = result.comparison.models[names[0]].scores
    assert scores["crps"].notna().all()
    for version in versions.values():
        measured = Store(settings).client.get_run(version.run_id).data.metrics["crps"]
        npt.assert_allclose(summary["compared"][version.reference]["crps"], measured, rtol=1e-12)


def test_kronos_is_trained_on_bars_of_a_user(settings, reference):
    result = trained(settings, reference, "kronos", "mybars")
    assert Store(settings).facts(result.version)["universe"].startswith("mybars-2@")


@pytest.mark.parametrize("calendar", OTHER)
def test_forecasts_have_the_sessions_of_the_sets_calendar(settings, reference, calendar):
    expected = {
        "XLON": ["2021-12-24", "2021-12-29", "2021-12-30", "2021-12-31", "2022-01-04"],
        "24/7": ["2021-12-31", "2022-01-01", "2022-01-02", "2022-01-03", "2022-01-04"],
    }[calendar]
    closes = own_sets.simulated(dict.fromkeys(("AA", "BB"), (WHOLE[0], OTHER[calendar])), calendar)
    history = own_sets.with_market(closes)
    other = own_sets.with_market(own_sets.simulated({"AA": WHOLE}))  # of XNYS
    for model in ("ewma", "har"):
        version = trained(settings, reference, model, name_of(calendar)).version
        with Store(settings).load(version.reference) as loaded:
            recent = history.groupby("unique_id").tail(loaded.spec.max_context)
            forecast = loaded.forecast(recent)
            assert loaded.spec.calendar == calendar
            with pytest.raises(BadHistory) as caught:
                loaded.forecast(other.groupby("unique_id").tail(loaded.spec.max_context))
        of_first = forecast[forecast["unique_id"] == "AA"]
        assert [f"{day:%Y-%m-%d}" for day in of_first["ds"]] == expected
        assert caught.value.code == {"XLON": "NOT_A_SESSION", "24/7": "GAP"}[calendar]


def test_sessions_of_another_calendar_are_refused_with_the_first_such_dates(
    settings, versions, reference
):
    spans = {"AA": ("2019-06-03", WHOLE[1])}
    with Store(settings).load(versions["har"].reference) as loaded:
        for calendar, days in {
            "24/7": "2019-06-08, 2019-06-09, 2019-06-15",
            "XLON": "2019-07-04, 2019-09-02, 2019-11-28",
        }.items():
            history = own_sets.with_market(own_sets.simulated(spans, calendar))
            message = f"has dates on which XNYS was closed: {days}"
            with pytest.raises(BadHistory, match=message) as caught:
                loaded.forecast(history.groupby("unique_id").tail(1000))
            assert caught.value.code == "NOT_A_SESSION"
    message = (
        "har/1 forecasts sessions of XNYS, those of own_24_7 are of 24/7: own_24_7 has dates on "
        "which XNYS was closed: 2016-01-09, 2016-01-10, 2016-01-16 and "
    )
    with pytest.raises(BadHistory, match=message):
        evaluate.evaluate(settings, ["har/1"], {"data": "own_24_7"}, reference)


def test_the_panel_as_an_own_set_has_the_scores_of_the_panel(settings, panel):
    """har, and fhs by the skill against it; with the same returns, market columns and dates."""
    frame = panel[[*PANEL.columns[:5]]].assign(market_members=20)
    own_sets.write(
        settings,
        "written",
        frame,
        kind="returns",
        splits=PANEL.splits,
        universe=PANEL.universe.symbols,
    )
    metrics = {}
    for data in ("panel", "written"):
        overrides = {"data": data, "report_every": 20, "report_until": "2020-12-31"}
        plan = planning.plan(settings, "har", overrides, seed=0, tiny=False)
        result = train.train(settings, plan, References())
        metrics[data] = result.metrics
    for name, value in metrics["panel"].items():
        if name != "fit_seconds":
            npt.assert_allclose(metrics["written"][name], value, rtol=1e-9, err_msg=name)


def test_the_main_job_on_an_own_set_leaves_out_what_cannot_be_trained(settings):
    lines: list[str] = []
    report = quickstart.quickstart(
        settings,
        ("naive", "tft"),
        "tft",
        0,
        lambda label, _: lines.append(label),
        data="uneven",
    )
    assert (report["data"], set(report["models"])) == ("uneven", {"naive"})
    assert report["left_out"]["tft"].startswith("tft needs ['sector'], which uneven lacks")
    assert [line for line in lines if line.startswith("tft: left out: tft needs ['sector']")]
    assert report["served"] == "naive"
    assert [row["step"] for row in report["forecast"]] == [1, 2, 3, 4, 5]
    assert not (settings.logs_dir / "qa_compile.json").exists()
    with pytest.raises(BadHistory, match=r"tft needs \['sector'\]"):
        quickstart.quickstart(settings, ("tft",), "tft", 0, silent, data="uneven")
