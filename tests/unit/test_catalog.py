"""Data sets by name: what they say of themselves, and which of them a model gets."""

import ast
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import own_sets
import pytest

from jobs.data import catalog, processed, sets
from jobs.data.catalog import BARS, DATASETS, PANEL, Catalog
from jobs.data.dataset import Dataset, Splits
from jobs.training import configs, families, planning
from registry.compiled import write
from registry.errors import BadConfig, BadHistory, Corrupt, NotFound
from registry.forecast import checks
from registry.forecast.history import History
from registry.forecast.spec import ModelSpec
from registry.settings import CHECKOUT, Settings

PACKAGES = ("registry", "mlprojects", "serving", "jobs")
CATALOG = CHECKOUT / "jobs" / "data" / "catalog.py"
# Where `bars` is a kind of a user's prices, or a key of a request.
KINDS = (
    "jobs/data/own", "jobs/data/sets.py", "jobs/data/sources",
    "serving/client.py", "serving/gateway/items.py", "serving/gateway/openapi",
    "serving/gateway/arrow",
)  # fmt: skip


def strings(path: Path) -> set[str]:
    """String constants of a module, docstrings included."""
    constants = [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)
    ]
    return {node.value for node in constants if isinstance(node.value, str)}


def test_nothing_but_the_catalog_knows_the_names_of_data_sets():
    names = {dataset.name for dataset in DATASETS}
    assert names <= strings(CATALOG)
    for package in PACKAGES:
        for path in (CHECKOUT / package).rglob("*.py"):
            place = path.relative_to(CHECKOUT).as_posix()
            known = path == CATALOG or place.startswith(KINDS)
            assert known or not names & strings(path), path
    for path in (CHECKOUT / "mlprojects").glob("*/configs/*.yaml"):
        assert "data" not in families.Model.of(path).stored(), path


@pytest.mark.parametrize("dataset", DATASETS, ids=lambda dataset: dataset.name)
def test_the_columns_of_a_data_set_are_those_of_its_history(compiled: Settings, dataset: Dataset):
    data = dataset.load(compiled)
    assert set(data.history.columns) == set(dataset.columns)
    assert set(dataset.synthetic) <= set(dataset.columns)
    assert len(data.digest) == 64


def test_no_built_in_series_has_a_hole_or_a_halt_by_a_margin_of_15(compiled: Settings):
    """Mean |y| of 20 sessions over that of the window before: of every session and window."""
    ratios, means = [], []
    for dataset in DATASETS:
        history = History.of(dataset.load(compiled).history)
        spec = ModelSpec("whole", "tests", 1, len(history.ds), 1, calendar=dataset.calendar)
        screened = checks.screened(history, spec)
        assert (screened.refused, dict(screened.notes)) == ((), {})
        for start, end in pairwise(history.bounds):
            total = np.concatenate([[0.0], np.cumsum(np.abs(history.columns["y"][start:end]))])
            ends = np.arange(32, end - start + 1)
            tails = ends - checks.TAIL
            mean = (total[ends] - total[tails]) / checks.TAIL
            means.append(mean.min())
            for window in (32, 60, 120, 252, 500, 1000, end - start):
                starts = np.maximum(ends - window, 0)
                ratio = mean / ((total[tails] - total[starts]) / (tails - starts))
                ratios.append(ratio.min())
    assert min(ratios) > 15 * checks.COLLAPSED
    assert min(means) > 1e4 * checks.STILL


@pytest.mark.parametrize("model", families.all_models())
def test_a_model_gets_the_first_data_set_that_has_its_columns(model: str):
    config = configs.load_config(families.find(model), {})
    dataset = BARS if model.startswith("kronos") else PANEL
    assert config.data == dataset.name
    assert config.fit_until == dataset.splits.fit_until
    assert config.choose_until == dataset.splits.choose_until


@pytest.mark.parametrize("model", families.all_models())
def test_the_calendar_of_a_version_is_that_of_its_data_set(
    model: str, monkeypatch: pytest.MonkeyPatch
):
    config = configs.load_config(families.find(model), {})
    assert families.find(model).spec(config).calendar == "XNYS"
    elsewhere = tuple(replace(dataset, calendar="XLON") for dataset in DATASETS)
    monkeypatch.setattr(catalog, "DATASETS", elsewhere)
    config = configs.load_config(families.find(model), {})
    assert families.find(model).spec(config).calendar == "XLON"


def test_another_calendar_than_that_of_the_data_set_is_refused():
    with pytest.raises(BadConfig, match=r"calendar is 'XLON', that of panel is XNYS; leave it out"):
        configs.load_config(families.find("ewma"), {"calendar": "XLON"})
    assert configs.load_config(families.find("ewma"), {"calendar": "XNYS"}).data == "panel"


def test_a_named_data_set_brings_its_own_dates():
    config = configs.load_config(families.find("har"), {"data": "bars"})
    assert (config.fit_until, config.choose_until) == ("2009-12-31", "2010-12-31")
    dated = configs.load_config(families.find("har"), {"data": "bars", "fit_until": "2008-12-31"})
    assert (dated.fit_until, dated.choose_until) == ("2008-12-31", "2010-12-31")


@pytest.mark.parametrize(
    "dates",
    [{"report_until": "2012-12-31"}, {"choose_until": "2011-12-31"}, {"fit_until": "2008-12-31"}],
    ids=str,
)
def test_dates_of_a_model_without_named_data_are_those_of_its_own_data_set(dates: dict[str, str]):
    config = configs.load_config(families.find("kronos"), dates)
    assert config.data == "bars"
    assert vars(config).items() >= dates.items()


def test_an_unknown_data_set_is_refused_with_the_known_ones():
    with pytest.raises(NotFound, match="no data set 'ticks'; there are panel, bars"):
        configs.load_config(families.find("ewma"), {"data": "ticks"})


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("tft", {"data": "bars"}, r"tft needs \['sector'\], which bars lacks; .*: panel"),
        (
            "graph",
            {"data": "bars", "graph": "sector"},
            r"graph needs \['sector'\], which bars lacks",
        ),
        ("kronos", {"data": "panel"}, r"kronos needs \['open', .*\], which panel lacks; .*: bars"),
    ],
)
def test_a_data_set_without_the_columns_of_a_model_is_refused_before_training(
    compiled: Settings, model: str, settings: dict[str, str], message: str
):
    with pytest.raises(BadHistory, match=message) as caught:
        planning.plan(compiled, model, settings, seed=0, tiny=True)
    assert caught.value.code == "MISSING_COLUMN"


def test_columns_that_no_data_set_has_are_named():
    with pytest.raises(BadHistory, match=r"mine needs \['y', 'weather'\], which no data set has"):
        Catalog().first_with(["y", "weather"], "mine")


def test_own_sets_are_found_beside_the_built_in_ones_and_suggested(tmp_path: Path):
    """A damaged one is listed, and neither suggested nor in the way of others."""
    settings = Settings(var_dir=tmp_path)
    closes = own_sets.simulated({"A": ("2020-01-02", "2020-03-31")})
    splits = Splits("2020-01-31", "2020-02-28")
    own_sets.write(settings, "closes", closes, splits=splits)
    own_sets.write(settings, "mine", own_sets.with_bars(closes), splits=splits, kind="bars")
    own_sets.write(settings, "damaged", own_sets.with_bars(closes), splits=splits, kind="bars")
    (sets.folder(settings, "damaged") / sets.FACTS).write_text("{}")
    datasets = Catalog(settings)
    assert datasets.names == ["panel", "bars", "closes", "damaged", "mine"]
    found = datasets.find("mine")
    assert (found.calendar, found.splits, found.synthetic) == ("XNYS", splits, ())
    assert set(found.load(settings).history.columns) == set(found.columns)
    message = r"kronos needs \['high'\], which closes lacks; data sets that have them: bars, mine$"
    with pytest.raises(BadHistory, match=message):
        datasets.check_columns(datasets.find("closes"), ["y", "high"], "kronos")
    with pytest.raises(Corrupt, match="compile damaged again"):
        datasets.find("damaged")
    assert datasets.first_with(["y", "high"], "kronos") is BARS  # never an own one by itself


def test_a_file_that_says_another_universe_is_corrupt(compiled: Settings, tmp_path: Path):
    """Its market columns are means over other symbols."""
    settings = Settings(var_dir=tmp_path)
    frame, metadata = processed.read(compiled, processed.BARS)
    other = {**metadata, "universe": {**metadata["universe"], "symbols": ["SP500"]}}
    path = settings.processed_dir / processed.BARS
    write(settings, {path: processed.encode(frame, other)})
    with pytest.raises(Corrupt, match=r"bars\.parquet was compiled by other code.*run `python"):
        BARS.load(settings)
