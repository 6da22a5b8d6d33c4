"""Random numbers of a path and a step: their values never change, and what they depend on."""

import hashlib
import struct

import numpy as np
import numpy.testing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from mlprojects.kronos import keys

DAY = np.datetime64("2022-12-28")
MASK = 2**64 - 1


def philox(counter: int, key: int) -> list[int]:
    """Four words of Philox4x64-10 of Salmon et al. (SC11, section 3.3), in Python's integers."""
    c = [(counter >> shift) & MASK for shift in (0, 64, 128, 192)]
    k = [key & MASK, key >> 64]
    for _ in range(10):
        left, right = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(right >> 64) ^ c[1] ^ k[0], right & MASK, (left >> 64) ^ c[3] ^ k[1], left & MASK]
        k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
    return c


def test_the_slow_philox_gives_the_known_answers_of_its_authors():
    # Random123, kat_vectors, philox4x64 10: all zero, and the digits of pi
    assert philox(0, 0) == [
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    ]
    digits = [0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89]
    key = [0x452821E638D01377, 0xBE5466CF34E90C6C]
    counter = sum(word << 64 * i for i, word in enumerate(digits))
    assert philox(counter, key[0] + (key[1] << 64)) == [
        0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6,
    ]  # fmt: skip


@pytest.mark.parametrize("per_step", [1, 2])
@pytest.mark.parametrize(("path", "step"), [(0, 0), (0, 5), (2, 63), (1, 64), (2, 130)])
def test_a_number_is_53_bits_of_the_word_at_its_own_place(path: int, step: int, per_step: int):
    key = keys.series_key(0, "AAPL", DAY)
    drawn = keys.uniforms(key, 3, 131, per_step)
    block, place = divmod(step, 64)
    for j in range(per_step):
        word = (path * 64 + place) * per_step + j
        # NumPy counts up before it computes, so the first words are those of counter 1.
        expected = philox((block << 192) + word // 4 + 1, key)[word % 4]
        assert drawn[path, step, j] == (expected >> 11) / 2**53


@given(
    key=st.integers(0, 2**128 - 1),
    paths=st.integers(1, 9),
    steps=st.integers(1, 140),
    per_step=st.integers(1, 3),
    fewer_paths=st.integers(1, 9),
    fewer_steps=st.integers(1, 140),
)
def test_fewer_paths_and_steps_are_the_first_of_more(
    key: int, paths: int, steps: int, per_step: int, fewer_paths: int, fewer_steps: int
):
    more = keys.uniforms(key, paths, steps, per_step)
    s, h = min(paths, fewer_paths), min(steps, fewer_steps)
    assert more.shape == (paths, steps, per_step)
    assert more.dtype == np.float64
    npt.assert_array_equal(keys.uniforms(key, s, h, per_step), more[:s, :h])


def test_numbers_are_uniform_on_zero_to_one_and_never_one():
    drawn = keys.uniforms(keys.series_key(3, "KO", DAY), 400, 130, 2)
    assert drawn.min() >= 0.0
    assert drawn.max() < 1.0
    assert kstest(drawn.ravel(), "uniform").pvalue > 0.01


def test_paths_steps_and_numbers_of_a_step_are_not_correlated():
    drawn = keys.uniforms(keys.series_key(3, "KO", DAY), 4000, 66, 2) - 0.5
    for a, b in (
        (drawn[0::2], drawn[1::2]),
        (drawn[:, 0], drawn[:, 64]),
        (drawn[:, :-1], drawn[:, 1:]),
        (drawn[..., 0], drawn[..., 1]),
    ):
        assert abs(np.mean(a * b) * 12) * np.sqrt(a.size) < 4


@pytest.mark.parametrize(
    "other",
    [(1, "AAPL", DAY), (0, "AAPM", DAY), (0, "AAPL", DAY + 1), (0, "aapl", DAY), (0, " AAPL", DAY)],
)
def test_another_seed_symbol_or_cutoff_draws_other_numbers_without_correlation(
    other: tuple[int, str, np.datetime64],
):
    first = keys.uniforms(keys.series_key(0, "AAPL", DAY), 1000, 64, 1) - 0.5
    second = keys.uniforms(keys.series_key(*other), 1000, 64, 1) - 0.5
    assert abs(np.mean(first * second) * 12) * np.sqrt(first.size) < 4


@pytest.mark.parametrize("step", [0, 1, 63])
def test_an_exponential_is_minus_the_log_of_23_bits_of_the_word_at_its_own_place(step: int):
    key = keys.series_key(0, "AAPL", DAY)
    drawn = keys.exponentials(key, step, range(3), 2, 8)
    for place, value in enumerate(drawn.ravel()):
        word = philox((1 << 255) + (step << 192) + place // 8 + 1, key)[place // 2 % 4]
        bits = (word >> 32 * (place % 2) & 0xFFFFFFFF) >> 9
        npt.assert_allclose(value, -np.log((bits + 0.5) / 2**23), rtol=1e-5, atol=1e-7)


@given(
    key=st.integers(0, 2**128 - 1),
    step=st.integers(0, 70),
    paths=st.integers(1, 9),
    fewer=st.integers(1, 9),
)
def test_exponentials_of_some_paths_are_those_of_all(key: int, step: int, paths: int, fewer: int):
    of_all = keys.exponentials(key, step, range(paths), 2, 16)
    fewer = min(paths, fewer)
    first = keys.exponentials(key, step, range(fewer), 2, 16)
    npt.assert_array_equal(first, of_all[:fewer])
    others = keys.exponentials(key, step, range(fewer, paths), 2, 16)
    npt.assert_array_equal(others, of_all[fewer:])


def test_exponentials_are_positive_and_exponential_and_of_each_step_anew():
    key = keys.series_key(3, "KO", DAY)
    first, second = (keys.exponentials(key, step, range(200), 2, 64) for step in (0, 1))
    assert min(first.min(), second.min()) > 0.0
    assert kstest(np.concatenate([first, second]).ravel(), "expon").pvalue > 0.01
    assert abs(np.mean((first - 1.0) * (second - 1.0))) * np.sqrt(first.size) < 4


def test_a_race_is_won_as_often_as_its_probability_says():
    p = np.array([0.6, 0.25, 0.1, 0.05])
    e = keys.exponentials(keys.series_key(4, "KO", DAY), 0, range(20_000), 1, 8)[:, 0, :4]
    share = np.bincount(np.argmax(p / e, axis=1), minlength=4) / 20_000
    npt.assert_array_less(np.abs(share - p), 4 * np.sqrt(p * (1 - p) / 20_000))


def test_neighbouring_keys_draw_other_numbers():
    assert not np.any(keys.uniforms(6, 100, 64, 1) == keys.uniforms(7, 100, 64, 1))


def test_a_key_is_the_first_128_bits_of_a_sha256():
    first, second = struct.unpack(">QQ", hashlib.sha256(b"7 2022-12-28 AAPL").digest()[:16])
    assert keys.series_key(7, "AAPL", DAY) == (first << 64) + second


def test_the_unit_of_the_cutoff_does_not_matter():
    in_ns = keys.series_key(7, "AAPL", DAY.astype("datetime64[ns]"))
    assert in_ns == keys.series_key(7, "AAPL", DAY)


def test_a_symbol_of_any_script_and_a_large_seed_have_a_key():
    assert 0 <= keys.series_key(2**63 - 1, "株式.T", DAY) < 2**128
