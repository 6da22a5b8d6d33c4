"""Learning a calibration: three days by hand, properties of the fold, and what it may never see."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import numpy.testing as npt
import pytest
import tracking_reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri

from registry.errors import BadParameter
from registry.forecast import names
from registry.forecast.arrays import Floats
from registry.scoring.calibration import calibrated
from registry.scoring.learning.aci import Aci
from registry.scoring.learning.ewma import NORMAL, Ewma
from registry.scoring.learning.keys import Keys
from registry.scoring.learning.learner import METHODS, Learner, Lesson, Limits
from registry.scoring.learning.memory import Memory
from registry.scoring.learning.nights import Matured, Night
from registry.scoring.learning.pooling import shrunk
from registry.scoring.learning.tracking import Tracking

LEVELS = (0.05, 0.5, 0.95)
SHAPE = np.array([-0.5, 0.0, 0.5])  # a width of 1
SECTORS = {"AAA": "Energy", "BBB": "Energy", "CCC": "Utilities", "DDD": ""}
FIRST = date(2020, 1, 1)
UNLIMITED = Limits(np.inf, np.inf, np.inf)  # change in a night


def night(day: int, outcomes: dict[str, float], step: int = 1) -> Night:
    """A night of one step, whose forecasts all have quantiles -0.5, 0 and 0.5."""
    symbols = tuple(sorted(outcomes))
    y = np.array([outcomes[symbol] for symbol in symbols])
    matured = Matured(step, symbols, y, np.tile(SHAPE, (len(y), 1)))
    return Night(FIRST + timedelta(day), (matured,))


def random_nights(seed: int, count: int, *, horizon: int = 2, some: float = 0.8) -> list[Night]:
    """Nights of four symbols at the default levels; an outcome is missing now and then."""
    rng = np.random.default_rng(seed)
    shape = np.linspace(-0.02, 0.02, len(names.LEVELS))
    nights = []
    for day in range(count):
        matured = []
        for step in range(1, horizon + 1):
            symbols = tuple(symbol for symbol in SECTORS if rng.random() < some)
            if symbols:
                y = rng.normal(0, 0.015, len(symbols))
                centre = rng.normal(0, 0.002, (len(symbols), 1))
                quantiles = centre + rng.uniform(0.5, 2, (len(symbols), 1)) * shape
                matured.append(Matured(step, symbols, y, quantiles))
        nights.append(Night(FIRST + timedelta(day), tuple(matured)))
    return nights


def fold(learner: Learner, nights: Sequence[Night], memory: Memory | None = None) -> list[Lesson]:
    lessons = []
    memory = memory or learner.start()
    for each in nights:
        lesson = learner.learn(memory, each)
        lessons.append(lesson)
        memory = lesson.memory
    return lessons


def learned(method: str, nights: Sequence[Night], horizon: int = 2) -> Memory:
    learner = Learner(method, names.LEVELS, horizon, SECTORS)
    return fold(learner, nights)[-1].memory


def assert_same(one: Memory, other: Memory) -> None:
    """The same bits in every array."""
    first, second = one.to_arrays(), other.to_arrays()
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert array.dtype == second[name].dtype, name
        assert array.tobytes() == second[name].tobytes(), name


# --- three days by hand -----------------------------------------------------------------------


def test_tracking_of_three_days_by_hand() -> None:
    """One symbol in a sector, step 1; outcomes 0.6, -0.2 and 0.6 of forecasts (-0.5, 0, 0.5).

    The numbers of a night come into force two nights later: the forecast that matures in night 3
    was issued before night 2 was learned, by the numbers after night 1.
    """
    method = Tracking(
        LEVELS,
        offset_rates=(0.02, 0.01, 0.01),
        scale_rates=(0.06, 0.03, 0.03),
        bias_rate=0.03,
        evidence_weight=5.0,
        evidence_half_life=1.0,
        bias_doubt=0.0,
    )
    learner = Learner(method, LEVELS, 1, {"AAA": "Energy"}, UNLIMITED)
    lessons = fold(learner, [night(day, {"AAA": y}) for day, y in enumerate((0.6, -0.2, 0.6))])
    parts = [lesson.memory.parts for lesson in lessons]

    # Night 1, raw forecast. 0.6 is above all three: gaps = levels = (.05, .5, .95).
    # Offsets move by rate x gap x weight, with weights 1, 0.02 and 1: the global part by
    # .02 (.05, .01, .95), those of sector and symbol by half of it.
    expected = np.array([0.001, 0.0002, 0.019])
    npt.assert_allclose(parts[0]["offsets"][0, 0], expected, atol=1e-9)
    npt.assert_allclose(parts[0]["offsets"][0, 1], expected / 2, atol=1e-9)
    npt.assert_allclose(parts[0]["offsets"][0, 2], expected / 2, atol=1e-9)
    # Slope of the scale: mean of gap x distance = (-.025 + 0 + .475) / 3 = .15.
    npt.assert_allclose(parts[0]["log_scale"][0], [0.009, 0.0045, 0.0045], atol=1e-9)
    # Slope of the bias: (.05 + .5 + .95) / 3 = .5. Neither shadow has saved anything yet.
    npt.assert_allclose(parts[0]["bias"][0, 0], 0.015, atol=1e-9)
    npt.assert_allclose(parts[0]["scale_evidence"][0, 0], 0.0, atol=1e-9)

    # Night 2, again a raw forecast. -0.2 is above the first: gaps = (.05, -.5, -.05).
    # Global offsets: (.001 + .001, .0002 - .0002, .019 - .001).
    npt.assert_allclose(parts[1]["offsets"][0, 0], [0.002, 0.0, 0.018], atol=1e-9)
    # Slope of sector and symbol: (-.025 - .025) / 3 = -.016667; x .03 = -.0005.
    npt.assert_allclose(parts[1]["log_scale"][0, 1:], [0.004, 0.004], atol=1e-8)
    # The shadows were raw forecasts too when this one was issued: nothing saved, and slopes
    # -.016667 and (.05 - .5 - .05) / 3 = -.1666667.
    npt.assert_allclose(parts[1]["log_scale"][0, 0], 0.009 - 0.001, atol=1e-8)
    npt.assert_allclose(parts[1]["bias"][0, 0], 0.015 - 0.005, atol=1e-8)
    npt.assert_allclose(parts[1]["scale_evidence"][0, 0], 0.0, atol=1e-9)

    # Night 3, issued after night 1: scale exp(.0045 + .0045 + .009 / 2) = exp(.0135), bias
    # .015 / 2 = .0075 as no evidence is a trust of a half, offsets 2 x (.001, .0002, .019).
    # The upper quantile is .0075 + .5 x 1.0135915 + .038 = .5522958, below 0.6: gaps = levels.
    npt.assert_allclose(lessons[2].calibrated[0][0], [-0.4972958, 0.0079, 0.5522958], atol=1e-6)
    npt.assert_allclose(parts[2]["offsets"][0, 0], [0.003, 0.0002, 0.037], atol=1e-9)
    # Slope: gap x scale x distance = 1.0135915 x .15 = .1520387; x .03 = .0045612.
    npt.assert_allclose(parts[2]["log_scale"][0, 2], 0.004 + 0.0045612, atol=1e-7)
    # The shadow had the scale exp(.009) = 1.0090406: slope 1.0090406 x .15 = .1513561; x .06.
    npt.assert_allclose(parts[2]["log_scale"][0, 0], 0.008 + 0.0090814, atol=1e-7)
    # Pinball of the raw forecast: .05 x 1.1, .5 x .6, .95 x .1, mean .15. Of the shadow with
    # -.5045203 and .5045203: .05 x 1.1045203, .3, .95 x .0954797, mean .1486439.
    # Saved: .0013561 / .15 = .0090406; x 5 = .045203.
    npt.assert_allclose(parts[2]["scale_evidence"][0, 0], 0.045203, atol=1e-5)
    # The shadow with the bias .015: .05 x 1.085, .5 x .585, .95 x .085, mean .1425. Saved .05.
    npt.assert_allclose(parts[2]["bias_evidence"][0, 0], 0.25, atol=1e-6)
    npt.assert_allclose(parts[2]["bias"][0, 0], 0.010 + 0.03 * 0.5, atol=1e-8)


def test_ewma_of_three_days_by_hand() -> None:
    """Half-lives of one session and a kappa of 1; outcomes 0.3, -0.1 and 4.0 of one symbol."""
    learner = Learner(
        Ewma(LEVELS, 1.0, 1.0, scale_kappa=1.0, bias_kappa=1.0, outlier=3.0),
        LEVELS,
        1,
        {"AAA": "Energy"},
        UNLIMITED,
    )
    lessons = fold(learner, [night(day, {"AAA": y}) for day, y in enumerate((0.3, -0.1, 4.0))])
    parts = [lesson.memory.parts for lesson in lessons]

    # A normal forecast of width 1 has a mean |z| of .2425397.
    npt.assert_allclose(NORMAL, 0.2425397, atol=1e-6)
    # Night 1: size .3 / .2425397 = 1.2369110 with weight 1, lean .3.
    npt.assert_allclose(parts[0]["size"][0], [1.2369110] * 3, atol=1e-6)
    npt.assert_allclose(parts[0]["lean"][0], [0.3] * 3, atol=1e-9)
    # Night 2: half of it is kept. Size .6184555 + .4123036 = 1.0307591, weight .5 + 1 = 1.5.
    npt.assert_allclose(parts[1]["size"][0, 2], 1.0307591, atol=1e-6)
    npt.assert_allclose(parts[1]["size_weight"][0, 2], 1.5, atol=1e-9)
    npt.assert_allclose(parts[1]["lean"][0, 2], 0.5 * 0.3 - 0.1, atol=1e-9)
    # Scale 1.0307591 / 1.5 = .6871727, logarithm -.3751696. Weight 1.5 / 2.5 = .6 of each key:
    # the global key keeps .6, the sector .6 + .4 x .6 = .84, the symbol .6 + .4 x .84 = .936.
    target = learner.method.states(dict(parts[1]), lessons[1].memory.keys)
    npt.assert_allclose(target[1][0], np.exp(-0.3751696 * np.array([0.6, 0.84, 0.936])), atol=1e-6)
    # Lean .05 / 1.5 = .0333333, shrunk in the same way.
    npt.assert_allclose(target[0][0], 0.0333333 * np.array([0.6, 0.84, 0.936]), atol=1e-6)
    # Night 3: 4.0 is more than three widths away. It is counted, and nothing moves.
    assert [lesson.rejected for lesson in lessons] == [0, 0, 1]
    npt.assert_array_equal(parts[2]["size"], parts[1]["size"])


def test_aci_of_three_days_by_hand() -> None:
    """gamma 0.1; outcomes 0.6, -0.2 and 0.6; then quantiles of three scores."""
    learner = Learner(Aci(LEVELS, gamma=0.1, window=4), LEVELS, 1, {"AAA": "Energy"}, UNLIMITED)
    lessons = fold(learner, [night(day, {"AAA": y}) for day, y in enumerate((0.6, -0.2, 0.6))])
    adaptive = [lesson.memory.parts["adaptive"][0] for lesson in lessons]
    # Night 1: above all quantiles, gaps (.05, .5, .95): a = (.05, .5, .95) + .1 x gap.
    npt.assert_allclose(adaptive[0], [[0.055, 0.55, 1.045]] * 3, atol=1e-9)
    # Night 2: gaps (.05, -.5, -.05).
    npt.assert_allclose(adaptive[1], [[0.06, 0.5, 1.04]] * 3, atol=1e-9)
    # Night 3: fewer than 20 scores, so the forecast was issued raw; gaps (.05, .5, .95).
    npt.assert_allclose(adaptive[2], [[0.065, 0.55, 1.135]] * 3, atol=1e-9)
    scores = lessons[2].memory.parts["scores"][0, 2]
    npt.assert_array_equal(scores, [0.6, -0.2, 0.6, np.inf])
    npt.assert_array_equal(lessons[2].states.offsets, 0.0)


def test_aci_reads_a_quantile_of_the_trailing_scores_at_the_adaptive_level() -> None:
    method = Aci(LEVELS, window=20, kappa=0.0)
    parts = method.start(1, 3)
    parts = {name: np.repeat(part, 2, axis=1) for name, part in parts.items()}
    # Scores 0, 0.1, ..., 1.9; the j-th lies at the level j / 19.
    parts["scores"][0, 1] = np.arange(20)[::-1] / 10
    parts["count"][:] = 20
    parts["shape"][:] = SHAPE
    parts["adaptive"][0] = [0.125, 0.5, 1.01]
    _, _, offsets = method.states(parts, Keys((), ("AAA",), np.array([-1])))
    # At .125 x 19 = 2.375: .2375; at .5: between .9 and 1.0; above 1: the cap.
    npt.assert_allclose(offsets[0, 1], [0.2375 + 0.5, 0.95, 3.0 - 0.5], atol=1e-9)


# --- properties -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000), kept=st.integers(0, 12))
def test_a_fold_in_one_go_equals_night_by_night_through_arrays(
    method: str, seed: int, kept: int
) -> None:
    nights = random_nights(seed, 12)
    learner = Learner(method, names.LEVELS, 2, SECTORS)
    memory = learner.start()
    for each in nights:
        memory = Memory.of_arrays(learner.learn(memory, each).memory.to_arrays())
    in_one_go = learned(method, nights)
    assert_same(memory, in_one_go)
    first = fold(learner, nights[:kept])
    resumed = fold(learner, nights[kept:], first[-1].memory if first else None)
    last = resumed[-1].memory if resumed else first[-1].memory
    assert_same(last, in_one_go)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(6)))
def test_the_order_of_symbols_changes_no_bit(method: str, seed: int, order: Sequence[int]) -> None:
    """Symbols that swap their names, and so their places, swap their states."""
    rng = np.random.default_rng(seed)
    symbols = tuple(f"S{place}" for place in range(6))
    y = rng.normal(0, 0.02, (30, 6))
    scale = rng.uniform(0.5, 2, (30, 6, 1))
    quantiles = scale * np.linspace(-0.02, 0.02, len(names.LEVELS))
    sectors = {symbol: "AB"[place % 2] for place, symbol in enumerate(symbols)}
    renamed = {symbols[new]: sectors[symbols[old]] for new, old in enumerate(order)}
    both = []
    for places, sector_of in ((list(range(6)), sectors), (list(order), renamed)):
        nights = []
        for day in range(30):
            matured = Matured(1, symbols, y[day, places], quantiles[day, places])
            nights.append(Night(FIRST + timedelta(day), (matured,)))
        both.append(fold(Learner(method, names.LEVELS, 1, sector_of), nights)[-1].states)
    rows = [*range(3), *(3 + np.array(order))]
    npt.assert_array_equal(both[1].offsets, both[0].offsets[:, rows])
    npt.assert_array_equal(both[1].scale, both[0].scale[:, rows])
    npt.assert_array_equal(both[1].bias, both[0].bias[:, rows])


@pytest.mark.parametrize("method", METHODS)
def test_the_part_of_a_symbol_never_learns_from_another_one(method: str) -> None:
    nights = random_nights(1, 30, some=1.0)
    memory = learned(method, nights[:-1])
    learner = Learner(method, names.LEVELS, 2, SECTORS)
    changed = []
    for matured in nights[-1].matured:
        y = matured.y.copy()
        y[1:] += 0.03
        changed.append(replace(matured, y=y))
    plain = learner.learn(memory, nights[-1]).memory
    other = learner.learn(memory, Night(nights[-1].session, tuple(changed))).memory
    row = plain.keys.names.index(("symbol", "AAA"))
    for name, part in plain.parts.items():
        if name in learner.method.shared:
            continue
        npt.assert_array_equal(part[:, row], other.parts[name][:, row], name)
    assert not np.array_equal(
        plain.issued[-1].offsets + plain.issued[-1].scale[..., None],
        other.issued[-1].offsets + other.issued[-1].scale[..., None],
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_later_night_changes_nothing_before_it(method: str) -> None:
    """What matures in night i at step h was issued by what was known after night i - h - 1."""
    learner = Learner(method, names.LEVELS, 2, SECTORS)
    nights = random_nights(2, 60, some=1.0)
    plain = fold(learner, nights)
    for poisoned in range(40, 45):
        changed = []
        for matured in nights[poisoned].matured:
            changed.append(replace(matured, y=matured.y + 0.5))
        later = list(nights)
        later[poisoned] = Night(nights[poisoned].session, tuple(changed))
        lessons = fold(learner, later)
        for step in (1, 2):
            for at in range(poisoned + step + 1):
                same = lessons[at].calibrated[step - 1]
                npt.assert_array_equal(same, plain[at].calibrated[step - 1])
            first_after = poisoned + step + 1
            moved = lessons[first_after].calibrated[step - 1]
            assert not np.array_equal(moved, plain[first_after].calibrated[step - 1])


@pytest.mark.parametrize("method", METHODS)
def test_calibrated_quantiles_are_those_that_the_published_table_gives(method: str) -> None:
    """Symbols appear one after the other; a new one is served by its sector, or by all."""
    learner = Learner(method, names.LEVELS, 2, SECTORS)
    nights = random_nights(3, 40, some=0.3)
    lessons = fold(learner, nights)
    tables = [lesson.states.table(names.LEVELS) for lesson in lessons]
    compared = 0
    for at, (each, lesson) in enumerate(zip(nights, lessons, strict=True)):
        for matured, quantiles in zip(each.matured, lesson.calibrated, strict=True):
            before = at - matured.step - 1
            if before < 0:
                npt.assert_array_equal(quantiles, matured.quantiles)
                continue
            states = tables[before].states(matured.symbols, SECTORS, 2)
            both_steps = np.repeat(matured.quantiles[:, None], 2, axis=1)
            served = calibrated(both_steps, names.LEVELS, states)[:, matured.step - 1]
            npt.assert_array_equal(quantiles, served)
            compared += 1
    assert compared > 20


# --- bounds -----------------------------------------------------------------------------------


def adversary(seed: int, kind: int, count: int) -> Floats:
    """Outcomes within three widths: random, one-sided, alternating, or ever wider."""
    rng = np.random.default_rng(seed)
    if kind == 0:
        return rng.uniform(-3, 3, count)
    if kind == 1:
        return np.abs(rng.standard_t(2, count)).clip(0, 3)
    if kind == 2:
        return np.where(np.arange(count) // int(rng.integers(1, 50)) % 2, 3.0, -3.0)
    return rng.normal(0, 1, count).clip(-1, 1) * np.linspace(0, 3, count)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.integers(0, 3))
def test_tracking_covers_any_sequence_in_the_long_run(seed: int, kind: int) -> None:
    """|share below - level| <= (b + eta) / (eta T) with b the reach of the offset, in widths.

    Angelopoulos, Candes and Tibshirani, Prop. 1. An offset never needs to reach further than the
    outcome's 3 widths, the 1 of the bias and half of the largest scale exp(2); the numbers come
    into force two nights later, which adds two rates.
    """
    count, eta = 700, 0.06
    learner = Learner(
        Tracking(LEVELS, offset_rates=(eta / 2, 0.0, eta / 2)), LEVELS, 1, {}, UNLIMITED
    )
    nights = [night(day, {"AAA": y}) for day, y in enumerate(adversary(seed, kind, count))]
    memory = learner.start()
    below = np.zeros(3)
    for each in nights:
        states = memory.issued[0]  # of the night before the cutoff
        row = min(1, len(states.keys) - 1)
        scaled = states.scale[0, row] * SHAPE
        issued = states.bias[0, row] + scaled + states.offsets[0, row]  # before sorting
        below += each.matured[0].y[0] <= issued
        memory = learner.learn(memory, each).memory
    reach = 3 + 1 + np.exp(2.0) / 2
    weights = np.array([1.0, 0.02, 1.0])
    bound = (reach + 3 * eta * weights) / (eta * weights * count)
    assert (np.abs(below / count - np.array(LEVELS)) <= bound).all()
    # The share is exactly what the offset says, because the sum of moves telescopes.
    offset = memory.parts["offsets"][0, 0] + memory.parts["offsets"][0, -1]
    npt.assert_allclose(
        np.array(LEVELS) - below / count, offset / (eta * weights * count), atol=1e-6
    )


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.integers(0, 2))
def test_adaptive_levels_cover_any_sequence_in_the_long_run(seed: int, kind: int) -> None:
    """|share below - level| <= (max(a, 1 - a) + gamma) / (gamma T), Gibbs and Candes, Prop. 4.1.

    A quantile beyond the scores is 3 widths away, as far as any of these outcomes. The nightly
    limit of a change is lifted; the delay of two nights adds two gammas.
    """
    count, gamma = 500, 0.05
    learner = Learner(Aci(LEVELS, gamma=gamma, window=50, kappa=0.0), LEVELS, 1, {}, UNLIMITED)
    outcomes = 0.99 * adversary(seed, kind, count)
    below = np.zeros(3)
    lessons = fold(learner, [night(day, {"AAA": y}) for day, y in enumerate(outcomes)])
    for lesson, y in zip(lessons, outcomes, strict=True):
        below += y <= lesson.calibrated[0][0]
    warm_up = 25 / count  # raw until there are 20 scores
    bound = (0.95 + 3 * gamma) / (gamma * count) + warm_up
    assert (np.abs(below / count - np.array(LEVELS)) <= bound).all()


# --- the slow obvious version -----------------------------------------------------------------


def test_tracking_equals_a_loop_over_rows() -> None:
    nights = random_nights(4, 60, some=0.6)
    method = Tracking(names.LEVELS, scale_rates=(0.0, 0.0, 0.0), bias_rate=0.0)
    learner = Learner(method, names.LEVELS, 2, SECTORS)
    last = fold(learner, nights)[-1]
    states, trail = last.states, last.memory.trail
    loop = tracking_reference.Loop(names.LEVELS, 2, SECTORS)
    slow = [loop.learn(each) for each in nights][-1]
    for (step, kind), scores in loop.scores.items():
        at = (-1, step - 1, kind)
        sums = [trail.crps[at], *trail.covered[at], *trail.below[at]]
        npt.assert_allclose(sums, scores, atol=1e-9)
    assert loop.scores
    assert len(slow) == 2 * len(states.keys)
    for row, (_, name) in enumerate(states.keys.names):
        for step in (1, 2):
            npt.assert_allclose(states.offsets[step - 1, row], slow[name, step], atol=1e-9)


# --- pooling ----------------------------------------------------------------------------------


def test_partial_pooling_lowers_the_error_of_a_scale() -> None:
    """300 symbols with 20 outcomes of Student's t with 5 degrees of freedom each.

    Measured before with root mean squares: error .23 alone, .13 at kappa 20, .11 at 40, .10 at 80,
    .15 with the global scale for all.
    """
    rng = np.random.default_rng(5)
    sector_of = np.arange(300) % 10
    truth = rng.normal(0, 0.1, 10)[sector_of] + rng.normal(0, 0.1, 300)
    outcomes = rng.standard_t(5, (20, 300)) / np.sqrt(5 / 3) * np.exp(truth)
    alone = 0.5 * np.log((outcomes**2).mean(axis=0))
    sectors = np.array([alone[sector_of == sector].mean() for sector in range(10)])
    keys = Keys(tuple("abcdefghij"), tuple(f"S{i:03d}" for i in range(300)), sector_of)
    values = np.concatenate([[alone.mean()], sectors, alone])[None]

    def error(kappa: float) -> float:
        kept = np.full(300, 20 / (20 + kappa))
        weights = np.concatenate([np.ones(11), kept])[None]
        estimate = shrunk(values, weights, keys)[0, 11:]
        return float(np.sqrt(np.mean((estimate - estimate.mean() - truth + truth.mean()) ** 2)))

    errors = [error(kappa) for kappa in (0.0, 10.0, 20.0, 40.0, 80.0)]
    assert errors == sorted(errors, reverse=True)
    npt.assert_allclose(errors, [0.24, 0.17, 0.14, 0.11, 0.10], atol=0.03)


# --- a break, and a poisoned night ------------------------------------------------------------


def coverage_by_night(y: Floats) -> Floats:
    """Coverage [T] of the 90 % band by tracking, for outcomes [T, N] of one unchanged forecast."""
    symbols = tuple(f"S{place:02d}" for place in range(y.shape[1]))
    sectors = {symbol: "AB"[place % 2] for place, symbol in enumerate(symbols)}
    quantiles = np.tile(ndtri(names.LEVELS), (len(symbols), 1))
    nights = []
    for day, row in enumerate(y):
        nights.append(Night(FIRST + timedelta(day), (Matured(1, symbols, row, quantiles),)))
    covered = []
    for lesson, row in zip(
        fold(Learner("tracking", names.LEVELS, 1, sectors), nights), y, strict=True
    ):
        band = lesson.calibrated[0]
        covered.append(np.mean((band[:, 0] <= row) & (row <= band[:, -1])))
    return np.array(covered)


def test_tracking_covers_a_doubled_volatility_within_100_sessions() -> None:
    y = np.random.default_rng(9).normal(size=(350, 20))
    y[250:] *= 2
    coverage = coverage_by_night(y)
    npt.assert_allclose(coverage[:250].mean(), 0.9, atol=0.01)
    npt.assert_allclose(coverage[252:260].mean(), 0.59, atol=0.08)  # 2 Phi(1.645 / 2) - 1
    npt.assert_allclose(coverage[330:].mean(), 0.9, atol=0.02)


def test_one_poisoned_night_moves_the_coverage_by_less_than_a_point() -> None:
    y = np.random.default_rng(10).normal(size=(160, 20))
    poisoned = y.copy()
    poisoned[100] *= 20
    moved = coverage_by_night(poisoned)[101:].mean() - coverage_by_night(y)[101:].mean()
    assert abs(moved) < 0.01


# --- symbols that come and go, limits, refusals -----------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_symbol_that_vanishes_keeps_its_part(method: str) -> None:
    nights = random_nights(6, 30, some=1.0)
    memory = learned(method, nights)
    later = []
    for each in random_nights(7, 60, some=1.0)[30:]:
        matured = []
        for one in each.matured:
            matured.append(Matured(one.step, one.symbols[1:], one.y[1:], one.quantiles[1:]))
        later.append(Night(each.session, tuple(matured)))
    learner = Learner(method, names.LEVELS, 2, SECTORS)
    after = fold(learner, later, memory)[-1].memory
    row = after.keys.names.index(("symbol", "AAA"))
    for name, part in memory.parts.items():
        if name in learner.method.shared:
            continue
        npt.assert_array_equal(after.parts[name][:, row], part[:, row], name)


def test_a_new_symbol_starts_at_its_sector() -> None:
    learner = Learner("tracking", LEVELS, 1, SECTORS)
    memory = fold(learner, [night(day, {"AAA": 0.6}) for day in range(5)])[-1].memory
    lesson = learner.learn(memory, night(5, {"AAA": 0.6, "BBB": 0.6, "CCC": 0.6}))
    rows = {name: row for row, name in enumerate(memory.keys.names)}
    by_sector = memory.issued[-2].calibrated(
        1, np.array([rows["sector", "Energy"]]), SHAPE[None], LEVELS
    )
    by_all = memory.issued[-2].calibrated(1, np.array([0]), SHAPE[None], LEVELS)
    npt.assert_array_equal(lesson.calibrated[0][1:2], by_sector)
    npt.assert_array_equal(lesson.calibrated[0][2:], by_all)
    assert lesson.memory.keys.names == (
        ("global", ""),
        ("sector", "Energy"),
        ("sector", "Utilities"),
        ("symbol", "AAA"),
        ("symbol", "BBB"),
        ("symbol", "CCC"),
    )
    assert lesson.memory.learned == 8


def test_the_nightly_change_is_limited_and_the_symbols_are_named() -> None:
    learner = Learner("ewma", LEVELS, 1, SECTORS)
    lesson = learner.learn(learner.start(), night(0, {"AAA": 0.2425, "CCC": 2.9}))
    # CCC has twelve times the usual size; its scale may rise by 5 per cent a night.
    npt.assert_allclose(lesson.states.scale.max(), np.exp(0.05), rtol=1e-12)
    assert lesson.clipped == ("CCC",)
    quiet = learner.learn(learner.start(), night(0, {"AAA": 0.2425, "BBB": -0.2425}))
    assert quiet.clipped == ()


def test_a_forecast_without_a_width_is_not_learned_from() -> None:
    learner = Learner("tracking", LEVELS, 1, SECTORS)
    flat = Matured(1, ("AAA",), np.array([0.1]), np.zeros((1, 3)))
    lesson = learner.learn(learner.start(), Night(FIRST, (flat,)))
    assert lesson.rejected == 1
    npt.assert_array_equal(lesson.states.offsets, 0.0)


def test_an_empty_night_only_moves_the_date() -> None:
    learner = Learner("tracking", LEVELS, 1, SECTORS)
    memory = learner.learn(learner.start(), night(0, {"AAA": 0.6})).memory
    after = learner.learn(memory, Night(FIRST + timedelta(1), ())).memory
    assert after.learned_until == FIRST + timedelta(1)
    assert after.learned == memory.learned
    npt.assert_array_equal(after.trail.sessions, memory.trail.sessions)
    npt.assert_array_equal(after.issued[0].offsets, memory.issued[1].offsets)


@pytest.mark.parametrize("levels", [(0.1, 0.5, 0.9), (0.05, 0.5), (), (0.95, 0.5, 0.05)])
def test_levels_that_no_calibration_has_are_refused(levels: tuple[float, ...]) -> None:
    with pytest.raises(BadParameter) as refused:
        Learner("tracking", levels, 1, {})
    assert refused.value.code == "BAD_LEVELS"


def test_bad_nights_are_refused() -> None:
    learner = Learner("tracking", LEVELS, 1, SECTORS)
    memory = learner.learn(learner.start(), night(3, {"AAA": 0.1})).memory
    good = night(4, {"AAA": 0.1, "BBB": 0.2}).matured[0]
    later = FIRST + timedelta(4)
    cases = {
        "learned already": night(3, {"AAA": 0.1}),
        "expected ascending ones": night(4, {"AAA": 0.1}, step=2),
        "not sorted": Night(later, (replace(good, symbols=("BBB", "AAA")),)),
        "not finite": Night(later, (replace(good, y=np.array([0.1, np.nan])),)),
        "quantiles cross": Night(later, (replace(good, quantiles=good.quantiles[:, ::-1]),)),
        "have shape|has shape": Night(later, (replace(good, y=np.array([0.1])),)),
    }
    for message, bad in cases.items():
        with pytest.raises(BadParameter, match=message):
            learner.learn(memory, bad)
    with pytest.raises(BadParameter, match="no method"):
        Learner("magic", LEVELS, 1, {})
    with pytest.raises(BadParameter, match="learn again"):
        Learner("aci", LEVELS, 1, {}).learn(memory, night(4, {"AAA": 0.1}))
    other_rates = Learner(Tracking(LEVELS, bias_rate=0.01), LEVELS, 1, {})
    with pytest.raises(BadParameter, match="learn again"):
        other_rates.learn(memory, night(4, {"AAA": 0.1}))
    with pytest.raises(BadParameter, match="not those of a memory"):
        Memory.of_arrays({"levels": np.array(LEVELS)})


def test_the_effect_of_states_is_measured_on_the_last_sixty_nights() -> None:
    """A scale of 2 on forecasts half as wide as the outcomes saves CRPS."""
    rng = np.random.default_rng(8)
    nights = [night(day, {"AAA": y}) for day, y in enumerate(rng.normal(0, 0.6, 100))]
    learner = Learner("tracking", LEVELS, 1, SECTORS)
    lesson = fold(learner, nights)[-1]
    wide = replace(lesson.states, scale=np.full_like(lesson.states.scale, 2.0))
    before, after = learner.effect(wide, nights)
    same = learner.effect(wide.table(LEVELS), nights[40:])
    assert after < 0.95 * before
    assert same == (before, after)
    assert np.isnan(learner.effect(wide, [])).all()
