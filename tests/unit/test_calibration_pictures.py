"""Pictures of a calibration: they show the numbers that they are given."""

from datetime import date, timedelta

import numpy as np
import numpy.testing as npt
from matplotlib.axes import Axes

from jobs.nightly import pictures
from jobs.training.figures import BLUE, RED

LEVELS = (0.05, 0.5, 0.95)


def line(axis: Axes, colour: str) -> np.ndarray:
    """Heights of the line of a colour."""
    [heights] = [row.get_ydata() for row in axis.lines if row.get_color() == colour]
    return np.asarray(heights)


def test_a_reliability_diagram_has_a_panel_for_each_step_in_percentage_points():
    before = np.array([[0.10, 0.5, 0.90], [0.08, 0.52, 0.94], [0.05, 0.5, 0.95], [0, 0.5, 1]])
    after = np.tile(LEVELS, (4, 1))
    figure = pictures.reliability(LEVELS, before, after, [1, 2, 3, 5], "har/1 on panel")
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title(loc="left") for axis in shown] == [f"step {h}" for h in (1, 2, 3, 5)]
    npt.assert_allclose(line(shown[0], RED), [5, 0, -5], atol=1e-9)
    npt.assert_allclose(line(shown[1], RED), [3, 2, -1], atol=1e-9)
    for axis in shown:
        npt.assert_allclose(line(axis, BLUE), 0, atol=1e-9)


def test_a_pit_histogram_is_a_density_and_flat_at_1_is_ideal():
    figure = pictures.pit(np.array([30.0, 10.0, 10.0, 30.0]), np.full(4, 20.0), "har/1 on panel")
    left, right = (axis.patches[0].get_data().values for axis in figure.axes)
    npt.assert_allclose(left, [1.5, 0.5, 0.5, 1.5])
    npt.assert_allclose(right, 1)


def test_coverage_is_a_mean_of_60_sessions_weighted_by_outcomes():
    days = [date(2020, 1, 1) + timedelta(n) for n in range(130)]
    counts = np.full(130, 20.0)
    counts[100] = 0
    before, after = 0.5 * counts, 0.9 * counts
    before[:60] = counts[:60]
    figure = pictures.coverage(days, counts, (before, after), (0.88, 0.92), "har/1 on panel")
    [axis] = figure.axes
    shown = line(axis, RED)
    npt.assert_allclose(shown[[0, 59, 89, 119, 129]], [1, 1, 0.75, 0.5, 0.5])
    npt.assert_allclose(line(axis, BLUE), 0.9)
    assert "interval of the last verdict, 0.880 to 0.920" in axis.get_legend().texts[0].get_text()


def test_a_first_night_without_outcomes_is_no_division_by_zero():
    days = [date(2020, 1, 1), date(2020, 1, 2)]
    counts = np.array([0.0, 10.0])
    figure = pictures.coverage(days, counts, (counts, counts), None, "har/1 on panel")
    npt.assert_array_equal(line(figure.axes[0], BLUE), [np.nan, 1])
