"""Calibrated quantiles, means and paths, and the look-up of states."""

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.testing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from registry.errors import BadParameter
from registry.forecast import names
from registry.forecast.arrays import Floats
from registry.forecast.quantiles import interpolated, path_quantiles, quantile_mean
from registry.ledger import states as ledger_states
from registry.scoring.calibration import calibrated, calibrated_mean, calibrated_paths
from registry.scoring.calibration_table import APPLIED, KINDS, States, Table

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
RAW = np.array([[[-3.0, -1.0, 1.0, 2.0, 5.0]]])  # m = 1, w = 8
OFFSETS = (-0.5, 0.0, 0.125, 0.25, 0.5)  # times w: -4, 0, 1, 2, 4
CROSSING = (0.5, 0.0, -0.25, 0.0, 1.0)  # times w: 4, 0, -2, 0, 8


def state(b: float = 0.0, s: float = 1.0, o: Sequence[float] = (0.0,) * 5) -> States:
    return States(
        levels=LEVELS,
        bias=np.array([[b]]),
        scale=np.array([[s]]),
        offsets=np.array([[o]]),
        applied=np.array([[0]]),
    )


def random_table(seed: int, symbols: int, horizon: int = 5) -> Table:
    """States of every second symbol, of one sector, and a global one for the first three steps."""
    rng = np.random.default_rng(seed)
    keys = [("symbol", f"S{i}") for i in range(0, symbols, 2) for _ in range(horizon)]
    steps = np.tile(np.arange(1, horizon + 1), len(keys) // horizon).tolist()
    keys += [("sector", "Energy")] * 2 + [("global", "")] * 3
    steps += [1, 3, 1, 2, 3]
    return Table.of_lists(
        levels=names.LEVELS,
        keys=keys,
        steps=steps,
        bias=rng.normal(0, 0.05, len(keys)).tolist(),
        scale=rng.uniform(0.5, 2, len(keys)).tolist(),
        offsets=rng.normal(0, 0.1, (len(keys), 11)).tolist(),
    )


def lists(**changed: Any) -> dict[str, Any]:
    """Arguments of `Table.of_lists` for one global state."""
    plain = {
        "levels": list(LEVELS),
        "keys": [("global", "")],
        "steps": [1],
        "bias": [0.1],
        "scale": [2.0],
        "offsets": [list(OFFSETS)],
    }
    return {**plain, **changed}


# --- quantiles --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moved_by", "expected"),
    [
        # q + .25 x 8
        (state(b=0.25), [-1, 1, 3, 4, 7]),
        # 1 + 2 (q - 1) = 1 + 2 x (-4, -2, 0, 1, 4)
        (state(s=2.0), [-7, -3, 1, 3, 9]),
        # q + (-4, 0, 1, 2, 4)
        (state(o=OFFSETS), [-7, -1, 2, 4, 9]),
        # 1 + 2 + (-8, -4, 0, 2, 8) + (-4, 0, 1, 2, 4)
        (state(b=0.25, s=2.0, o=OFFSETS), [-9, -1, 4, 7, 15]),
        # q + (4, 0, -2, 0, 8) = 1, -1, -1, 2, 13, which cross
        (state(o=CROSSING), [-1, -1, 1, 2, 13]),
    ],
    ids=["bias", "scale", "offsets", "together", "crossing"],
)
def test_quantiles_by_hand(moved_by: States, expected: list[float]):
    npt.assert_array_equal(calibrated(RAW, LEVELS, moved_by), [[expected]])


def test_missing_anchors_are_interpolated():
    levels = (0.025, 0.075, 0.45, 0.55, 0.925, 0.975)
    raw = np.array([[[-4.0, -2.0, 0.0, 2.0, 6.0, 10.0]]])
    # q.05 = -3, m = 1, q.95 = 8, so w = 11: bias 1 adds 11, scale 3 takes q to 1 + 3 (q - 1).
    table = Table.of_lists(
        levels=levels,
        keys=[("global", "")],
        steps=[1],
        bias=[1.0],
        scale=[3.0],
        offsets=[[0.0] * 6],
    )
    after = calibrated(raw, levels, table.states(["A"], {}, 1))
    npt.assert_allclose(after, [[[-3.0, 3.0, 9.0, 15.0, 27.0, 39.0]]], rtol=1e-12)


def test_other_levels_are_interpolated_after_sorting():
    after = calibrated(RAW, LEVELS, state(o=CROSSING))
    # Halfway between the sorted -1 and 1, and between 2 and 13.
    npt.assert_allclose(interpolated(after, LEVELS, (0.375, 0.85)), [[[0.0, 7.5]]], rtol=1e-12)


def test_a_forecast_without_width_stays_where_it_is():
    flat = np.full((1, 1, 5), 0.3)
    after = calibrated(flat, LEVELS, state(b=0.25, s=2.0, o=OFFSETS))
    npt.assert_array_equal(after, flat)
    paths = np.full((1, 7, 1), 0.3)
    npt.assert_array_equal(calibrated_paths(paths, flat, after.copy()), paths)


def test_the_identity_keeps_every_bit():
    raw = np.array([[[-0.3, -0.1, -0.0, 0.1, 0.7]], [[-0.3, -0.1, 0.1, 0.2, 0.7]]])
    mean = np.array([[-0.0], [0.1]])
    both = States(
        levels=LEVELS,
        bias=np.array([[0.0], [0.1]]),
        scale=np.ones((2, 1)),
        offsets=np.zeros((2, 1, 5)),
        applied=np.zeros((2, 1), dtype=np.int64),
    )
    after = calibrated(raw, LEVELS, both)
    assert after[0].tobytes() == raw[0].tobytes()
    assert (after[1] > raw[1]).all()
    assert calibrated_mean(mean, raw, after, LEVELS)[0].tobytes() == mean[0].tobytes()
    paths = np.array([[[-0.0], [0.123], [-7.0]], [[0.0], [0.1], [0.2]]])
    assert calibrated_paths(paths, raw, after)[0].tobytes() == paths[0].tobytes()


def test_without_calibration_the_same_arrays_come_back():
    none = Table.identity().states(["A"], {}, 1)
    after = calibrated(RAW, LEVELS, none)
    mean, paths = np.zeros((1, 1)), np.zeros((1, 3, 1))
    assert after is RAW
    assert calibrated(RAW, LEVELS, state()) is RAW
    assert calibrated_mean(mean, RAW, after, LEVELS) is mean
    assert calibrated_paths(paths, RAW, after) is paths


# --- mean -------------------------------------------------------------------------------------


def test_the_mean_moves_by_the_integral():
    mean = np.array([[10.0]])
    # Every quantile moves by 2.
    after = calibrated(RAW, LEVELS, state(b=0.25))
    npt.assert_allclose(calibrated_mean(mean, RAW, after, LEVELS), [[12.0]], rtol=1e-12)
    # Cells .15, .225, .25, .225, .15: -.6 + 0 + .25 + .45 + .6
    after = calibrated(RAW, LEVELS, state(o=OFFSETS))
    npt.assert_allclose(calibrated_mean(mean, RAW, after, LEVELS), [[10.7]], rtol=1e-12)


@given(st.integers(0, 10_000))
def test_a_mean_of_quantiles_stays_one(seed: int):
    raw = np.sort(np.random.default_rng(seed).normal(size=(4, 3, 11)), axis=-1)
    symbols = [f"S{i}" for i in range(4)]
    table = random_table(seed, 4)
    after = calibrated(raw, names.LEVELS, table.states(symbols, {}, 3))
    mean = calibrated_mean(quantile_mean(raw, names.LEVELS), raw, after, names.LEVELS)
    npt.assert_allclose(mean, quantile_mean(after, names.LEVELS), rtol=1e-12, atol=1e-14)


# --- paths ------------------------------------------------------------------------------------


def test_paths_by_hand():
    before = np.array([[[0.0, 1.0, 3.0]]])
    after = np.array([[[0.0, 2.0, 3.0]]])
    # Slope 2 up to 1 and below 0, then slope 1/2, also above 3.
    paths = np.array([[[-1.0], [0.0], [0.5], [1.0], [2.0], [3.0], [5.0]]])
    expected = [[[-2.0], [0.0], [1.0], [2.0], [2.5], [3.0], [4.0]]]
    npt.assert_array_equal(calibrated_paths(paths, before, after), expected)


def test_equal_quantiles_are_a_jump():
    before = np.array([[[0.0, 1.0, 1.0, 1.0, 2.0]]])
    after = np.array([[[0.0, 2.0, 3.0, 6.0, 7.0]]])
    # Slope 2 up to 1, the middle of 2 and 6 at 1, slope 1 from 6 on.
    paths = np.array([[[0.5], [1.0], [1.5], [2.0]]])
    npt.assert_array_equal(calibrated_paths(paths, before, after), [[[1.0], [4.0], [6.5], [7.0]]])


def test_beyond_a_flat_outer_piece_the_slope_is_one():
    before = np.array([[[1.0, 1.0, 2.0, 2.0]]])
    after = np.array([[[0.0, 2.0, 6.0, 10.0]]])
    paths = np.array([[[-1.0], [1.0], [1.5], [2.0], [3.0]]])
    expected = [[[-2.0], [1.0], [4.0], [8.0], [11.0]]]
    npt.assert_array_equal(calibrated_paths(paths, before, after), expected)


def test_a_piece_without_width_but_for_rounding_gives_no_slope():
    # 2 divided by 1e-15 would send 4 to 2e15.
    before = np.array([[[0.0, 1.0, 2.0, 2.0 + 1e-15]]])
    after = np.array([[[0.0, 1.0, 2.0, 4.0]]])
    assert before[0, 0, 3] > before[0, 0, 2]
    paths = np.array([[[1.5], [4.0]]])
    npt.assert_allclose(calibrated_paths(paths, before, after), [[[1.5], [6.0]]], rtol=1e-12)


def test_paths_are_mapped_step_by_step_and_cumulated_afterwards():
    before = np.array([[[-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]]])
    after = np.array([[[-2.0, 0.0, 2.0], [0.0, 1.0, 2.0]]])
    paths = np.array([[[0.5, 0.5], [-1.0, 1.0]]])
    mapped = calibrated_paths(paths, before, after)
    # Step 1 doubles, step 2 adds 1.
    npt.assert_array_equal(mapped, [[[1.0, 1.5], [-2.0, 2.0]]])
    npt.assert_array_equal(mapped.cumsum(axis=2), [[[1.0, 2.5], [-2.0, 0.0]]])


quarters = st.integers(-20, 20).map(lambda number: number / 4)  # so that some are equal
grids = arrays(np.float64, (2, 3, 5), elements=quarters).map(lambda values: np.sort(values))
samples = arrays(np.float64, (2, 9, 3), elements=quarters | st.floats(-8, 8, width=32))


def slowly(x: float, before: Floats, after: Floats) -> float:
    """The map at one value of one series and step."""
    slopes = []
    for k in range(len(before) - 1):
        width = before[k + 1] - before[k]
        slopes.append((after[k + 1] - after[k]) / width if width > 0 else 1.0)
    equal = np.flatnonzero(before == x)
    if len(equal) > 0:
        return float(after[equal[0]] + after[equal[-1]]) / 2
    if x < before[0]:
        return float(after[0] + slopes[0] * (x - before[0]))
    if x > before[-1]:
        return float(after[-1] + slopes[-1] * (x - before[-1]))
    k = np.flatnonzero(before < x)[-1]
    return float(np.interp(x, before[k : k + 2], after[k : k + 2]))


@given(samples, grids, grids)
def test_paths_agree_with_one_value_at_a_time(paths: Floats, before: Floats, after: Floats):
    mapped = calibrated_paths(paths, before, after)
    expected = paths.copy()
    for n, s, h in np.ndindex(paths.shape):
        if (before[n, h] != after[n, h]).any():
            expected[n, s, h] = slowly(paths[n, s, h], before[n, h], after[n, h])
    npt.assert_allclose(mapped, expected, rtol=1e-9, atol=1e-9)


@given(samples, grids, grids)
def test_the_map_never_descends(paths: Floats, before: Floats, after: Floats):
    ascending = np.sort(paths, axis=1)
    mapped = calibrated_paths(ascending, before, after)
    assert (np.diff(mapped, axis=1) >= 0).all()


@given(samples, grids)
def test_equal_quantiles_before_and_after_keep_every_bit(paths: Floats, before: Floats):
    assert calibrated_paths(paths, before, before.copy()).tobytes() == paths.tobytes()


@given(st.integers(0, 10_000))
def test_quantiles_of_mapped_paths_are_the_calibrated_quantiles(seed: int):
    rng = np.random.default_rng(seed)
    # Of 21 paths, every level is an order statistic.
    paths = rng.standard_t(4, (4, 21, 3)) * 0.01
    raw = path_quantiles(paths, names.LEVELS)
    states = random_table(seed, 4).states([f"S{i}" for i in range(4)], {}, 3)
    after = calibrated(raw, names.LEVELS, states)
    mapped = calibrated_paths(paths, raw, after)
    npt.assert_allclose(path_quantiles(mapped, names.LEVELS), after, rtol=1e-9, atol=1e-12)


# --- look-up ----------------------------------------------------------------------------------


def test_each_step_falls_back_to_sector_global_and_identity():
    keys = [("symbol", "A"), ("sector", "Energy"), ("sector", "Energy"), *[("global", "")] * 3]
    numbers = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    table = Table.of_lists(
        levels=LEVELS,
        keys=keys,
        steps=[1, 1, 2, 3, 2, 1],
        bias=numbers,
        scale=numbers,
        offsets=[[number] * 5 for number in numbers],
    )
    states = table.states(["A", "B", "C", "Energy"], {"A": "Energy", "B": "Energy"}, 4)
    applied = [[APPLIED[place] for place in row] for row in states.applied]
    assert applied == [
        ["symbol", "sector", "global", "identity"],
        ["sector", "sector", "global", "identity"],
        ["global", "global", "global", "identity"],
        ["global", "global", "global", "identity"],
    ]
    expected = np.array([[1.0, 3, 4, 0], [2, 3, 4, 0], [6, 5, 4, 0], [6, 5, 4, 0]])
    npt.assert_array_equal(states.bias, expected)
    npt.assert_array_equal(states.scale, np.where(expected == 0, 1, expected))
    npt.assert_array_equal(states.offsets, np.repeat(expected[..., None], 5, axis=-1))


def test_no_series_have_no_states():
    assert random_table(0, 4).states([], {}, 3).offsets.shape == (0, 3, 11)


@pytest.mark.parametrize("horizon", [1, 7])
def test_a_series_is_calibrated_alone_as_among_thousands(horizon: int):
    count = 2000
    rng = np.random.default_rng(1)
    raw = np.sort(rng.normal(0, 0.01, (count, horizon, 11)), axis=-1)
    mean = rng.normal(0, 0.01, (count, horizon))
    paths = rng.normal(0, 0.01, (count, 5, horizon))
    symbols = [f"S{i}" for i in range(count)]
    sectors = dict.fromkeys(symbols[::3], "Energy")
    table = random_table(1, count)

    def numbers(rows: slice) -> list[Floats]:
        states = table.states(symbols[rows], sectors, horizon)
        after = calibrated(raw[rows], names.LEVELS, states)
        moved = calibrated_mean(mean[rows], raw[rows], after, names.LEVELS)
        return [after, moved, calibrated_paths(paths[rows], raw[rows], after)]

    together = numbers(slice(None))
    assert (together[0] != raw).any(axis=-1).mean() > 0.5
    for row in range(count):
        alone = numbers(slice(row, row + 1))
        for whole, part in zip(together, alone, strict=True):
            assert whole[row].tobytes() == part[0].tobytes()


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [names.LEVELS, LEVELS[:-1], (0.05, 0.25, 0.5, 0.75, 0.96)])
def test_a_calibration_at_other_levels_is_refused(levels: tuple[float, ...]):
    table = Table.of_lists(**lists())
    with pytest.raises(BadParameter, match="the calibration has 5 levels") as caught:
        calibrated(np.zeros((1, 1, len(levels))), levels, table.states(["A"], {}, 1))
    assert caught.value.code == "BAD_LEVELS"
    with pytest.raises(BadParameter, match="the calibration has 5 levels"):
        table.check_levels(levels)
    table.check_levels(LEVELS)
    Table.identity().check_levels(levels)


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"levels": [0.1, 0.25, 0.5, 0.75, 0.95]}, "BAD_LEVELS"),
        ({"levels": [0.05, 0.25, 0.5, 0.75, 0.9]}, "BAD_LEVELS"),
        ({"levels": [0.05, 0.5, 0.25, 0.75, 0.95]}, "BAD_LEVELS"),
        ({"levels": []}, "BAD_LEVELS"),
        ({"levels": [0.05, 0.95]}, "BAD_PARAMETER"),
        ({"offsets": [[0.0], [0.0, 1.0]]}, "BAD_PARAMETER"),
        ({"bias": [0.1, 0.2]}, "BAD_PARAMETER"),
        ({"bias": ["much"]}, "BAD_PARAMETER"),
        ({"bias": [np.nan]}, "BAD_PARAMETER"),
        ({"scale": [0.0]}, "BAD_PARAMETER"),
        ({"steps": [0]}, "BAD_PARAMETER"),
        ({"keys": [("global", "all")]}, "BAD_PARAMETER"),
        ({"keys": [("symbol", "")]}, "BAD_PARAMETER"),
        ({"keys": [("country", "US")]}, "BAD_PARAMETER"),
    ],
)
def test_wrong_tables_are_refused(changed: dict[str, Any], code: str):
    with pytest.raises(BadParameter) as caught:
        Table.of_lists(**lists(**changed))
    assert caught.value.code == code


def test_two_states_of_one_key_and_step_are_refused():
    doubled = {name: values * 2 for name, values in lists().items() if name != "levels"}
    with pytest.raises(BadParameter, match="two states"):
        Table.of_lists(levels=LEVELS, **doubled)


def test_the_kinds_are_those_of_the_ledger():
    assert KINDS == ledger_states.KINDS


def test_importing_calibration_needs_numpy_only():
    code = (
        "import sys, registry.scoring.calibration\n"
        "print({'pandas', 'scipy', 'mlflow', 'sqlalchemy', 'pydantic'} & set(sys.modules))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert printed.stdout == "set()\n"
