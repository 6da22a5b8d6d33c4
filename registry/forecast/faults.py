"""Faults of single series: what a check of a history finds."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from registry.forecast.history import History


@dataclass(frozen=True)
class Fault:
    """What is wrong with a series of a history. `text` follows its name: "has ..."."""

    series: int  # its number in the history, from 0
    code: str
    text: str


def in_rows(
    history: History, wrong: Any, phrase: str, code: str, advice: str = ""
) -> Iterator[Fault]:
    """A fault for each series with a wrong row: how many, and the first one's date."""
    if not wrong.any():
        return
    counts = np.add.reduceat(wrong, history.bounds[:-1], dtype=np.int64)
    for series in np.flatnonzero(counts):
        start, end = history.bounds[series], history.bounds[series + 1]
        first = history.ds[start + np.argmax(wrong[start:end])]
        text = (
            f"has {phrase} in {counts[series]} of {end - start} sessions, first on {first}{advice}"
        )
        yield Fault(int(series), code, text)
