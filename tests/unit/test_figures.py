"""Figures: they show the numbers of the table."""

import io

import matplotlib
import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import to_hex

from jobs.training import figures
from registry.forecast import names
from registry.forecast.forecast import Forecast
from registry.forecast.history import History
from registry.forecast.spec import ModelSpec
from registry.scoring.scores import reliability

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
Q = np.array([-0.02, -0.01, 0.001, 0.01, 0.02])


def forecasts(origins: int = 130, levels: tuple[float, ...] = LEVELS) -> pd.DataFrame:
    """Two series, two steps, step 2 1.5 times as wide. Every tenth outcome lies outside step 1."""
    days = pd.date_range("2020-01-01", periods=origins + 2)
    y = np.where(np.arange(origins + 2) % 10 == 0, 0.03, 0.005)
    rows = []
    for i in range(origins):
        for name, sign in (("A", 1), ("B", -1)):
            for h in (1, 2):
                rows.append((name, days[i], h, days[i + h], y[i + h] * sign, 0.0))
    table = pd.DataFrame(rows, columns=["unique_id", "origin", "step", "ds", "y", "mean"])
    width = np.where(table["step"] == 1, 1.0, 1.5)
    quantiles = zip(levels, np.interp(levels, LEVELS, Q), strict=True)
    return table.assign(**{names.quantile_column(level): width * q for level, q in quantiles})


def points(axis: matplotlib.axes.Axes) -> dict[str, np.ndarray]:
    """Heights of the dots by colour."""
    heights = {}
    for dots in axis.collections:
        if isinstance(dots, PathCollection) and len(dots.get_offsets()):
            heights[to_hex(dots.get_facecolor()[0])] = np.asarray(dots.get_offsets())[:, 1]
    return heights


def bands(axis: matplotlib.axes.Axes) -> list[tuple[float, float]]:
    """Lowest and highest point of every filled band, in the order of drawing."""
    filled = [c for c in axis.collections if isinstance(c, PolyCollection)]
    heights = [c.get_paths()[0].vertices[:, 1] for c in filled]
    return [(float(h.min()), float(h.max())) for h in heights]


def test_the_fan_chart_shows_the_last_120_one_step_outcomes_of_one_series_in_per_cent():
    table = forecasts()
    left, _ = figures.fan_chart(table, "fhs", "A").axes
    y = points(left)
    npt.assert_allclose(y[figures.INK], 0.5, rtol=1e-12)
    npt.assert_allclose(y[figures.RED], 3.0, rtol=1e-12)
    one_step = table[(table["unique_id"] == "A") & (table["step"] == 1)]
    last_120 = one_step[one_step["ds"] <= table["origin"].max()].tail(120)
    assert len(last_120) == 120
    assert len(y[figures.RED]) == (last_120["y"] > 0.02).sum()
    assert len(y[figures.INK]) == 120 - len(y[figures.RED])
    dots = [part for part in left.collections if isinstance(part, PathCollection)]
    last = max(np.asarray(part.get_offsets())[:, 0].max() for part in dots)
    assert last == matplotlib.dates.date2num(table["origin"].max())


def test_the_right_panel_shows_every_step_of_the_last_origin():
    table = forecasts()
    _, right = figures.fan_chart(table, "fhs", "B").axes
    last = table[(table["unique_id"] == "B") & (table["origin"] == table["origin"].max())]
    drawn = np.concatenate(list(points(right).values()))
    npt.assert_allclose(np.sort(drawn), np.sort(100 * last["y"]), rtol=1e-12)
    assert list(right.get_xticks()) == [1, 2]
    assert right.get_title(loc="left") == "next sessions after 2020-05-09"


def test_bands_lie_between_symmetric_quantiles_and_the_line_is_the_median():
    left, right = figures.fan_chart(forecasts(), "fhs", "A").axes
    npt.assert_allclose(bands(left), [(-2, 2), (-1, 1)], rtol=1e-12)
    npt.assert_allclose(bands(right), [(-3, 3), (-1.5, 1.5)], rtol=1e-12)
    for axis, expected in ((left, 0.1), (right, [0.1, 0.15])):
        medians = [line for line in axis.lines if line.get_color() == figures.BLUE]
        assert len(medians) == 1
        npt.assert_allclose(medians[0].get_ydata(), expected, rtol=1e-12)


def test_without_a_median_among_the_levels_no_line_is_drawn():
    for axis in figures.fan_chart(forecasts(levels=(0.05, 0.25, 0.75, 0.95)), "fhs", "A").axes:
        assert len(bands(axis)) == 2
        assert [line for line in axis.lines if line.get_color() == figures.BLUE] == []


@pytest.mark.parametrize("origins", [1, 2, 130])
def test_figures_can_be_written_whatever_the_number_of_origins(origins: int):
    table = forecasts(origins)
    for figure in (
        figures.fan_chart(table, "fhs", "A"),
        figures.reliability_diagram({"fhs": table}),
    ):
        file = io.BytesIO()
        figure.savefig(file)
        assert file.getvalue().startswith(b"\x89PNG")


def test_the_reliability_diagram_shows_observed_minus_nominal_in_points():
    table_of_nbeats = forecasts()
    table_of_fhs = forecasts().assign(y=0.5)
    axis = figures.reliability_diagram({"nbeats": table_of_nbeats, "fhs": table_of_fhs}).axes[0]
    lines = {line.get_label(): line for line in axis.lines if not line.get_label().startswith("_")}
    assert list(lines) == ["nbeats", "fhs"]
    table = reliability(table_of_nbeats)
    expected = 100 * (table["observed"] - table["level"])
    npt.assert_allclose(lines["nbeats"].get_xdata(), LEVELS, rtol=1e-12)
    npt.assert_allclose(lines["nbeats"].get_ydata(), expected, rtol=1e-12)
    # No outcome is below a quantile of fhs.
    npt.assert_allclose(lines["fhs"].get_ydata(), [-5, -25, -50, -75, -95], rtol=1e-12)
    assert len({line.get_color() for line in lines.values()}) == 2
    low, high = axis.get_ylim()
    assert low == -high
    assert high >= 95


def test_a_calibrated_forecast_is_not_magnified():
    table = forecasts(origins=100).assign(y=np.repeat(np.linspace(-0.02, 0.02, 100), 4))
    exact = {names.quantile_column(level): np.quantile(table["y"], level) for level in LEVELS}
    axis = figures.reliability_diagram({"exact": table.assign(**exact)}).axes[0]
    assert axis.get_ylim() == (-3.0, 3.0)


def test_every_model_asked_for_is_in_the_reliability_diagram():
    models = ["naive", "ewma", "fhs", "har", "nbeats"]
    axis = figures.reliability_diagram({name: forecasts(3) for name in models}).axes[0]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == models


def test_path_chart_shows_every_path_from_the_last_known_close() -> None:
    dates = ["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-06", "2020-01-07"]
    days = np.array(dates, dtype="datetime64[D]")
    closes = pd.Series([10.0, 11.0, 12.0, 13.0, 12.5], index=days.astype("datetime64[ns]"))
    sampled = np.ones((1, 3, 2, 6))
    sampled[0, :, :, 3] = [[12.0, 13.0], [11.0, 10.0], [12.5, 14.0]]
    spec = ModelSpec("kronos", "kronos", 1, 9, 2, levels=(0.5,))
    history = History(("A",), np.array([0, 3]), days[:3], {"close": closes.to_numpy()[:3]})
    forecast = Forecast.of_price_paths(history, spec, sampled, notes={}, measured={})
    [axis] = figures.path_chart(forecast, closes, "kronos", "A").axes
    lines = [np.asarray(line.get_ydata()).tolist() for line in axis.lines]
    assert lines[:3] == [[12.0, 12.0, 13.0], [12.0, 11.0, 10.0], [12.0, 12.5, 14.0]]
    assert lines[3] == [12.0, 12.0, 13.0]  # median
    assert lines[4] == [10.0, 11.0, 12.0]  # known
    assert lines[5] == [12.0, 13.0, 12.5]  # the outcome
    assert axis.get_title(loc="left") == "kronos, A: sampled closes after 2020-01-03"
