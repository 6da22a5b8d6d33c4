"""The ISINs of the built-in stocks, typed in by hand."""

import pytest

from jobs.data.sources.isins import BUILTIN


def check_sum(isin: str) -> int:
    """Luhn's sum over the digits, letters counted as 10 to 35 (ISO 6166); 0 modulo 10 if right."""
    digits = "".join(str(int(character, 36)) for character in isin)
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value // 10 + value % 10 for value in doubled)


@pytest.mark.parametrize("symbol", BUILTIN)
def test_an_isin_has_its_check_digit(symbol: str):
    isin, name = BUILTIN[symbol]
    assert len(isin) == 12
    assert check_sum(isin) % 10 == 0
    assert name


def test_a_wrong_digit_is_seen():
    assert check_sum("US0378331006") % 10 != 0


def test_no_isin_is_given_twice():
    assert len({isin for isin, _ in BUILTIN.values()}) == len(BUILTIN)
