"""A forecast of many series in passes of a model."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from jobs.running.progress import Progress, silent
from registry.forecast.arrays import Floats
from registry.forecast.forecast import Forecast
from registry.forecast.history import History
from registry.forecast.spec import Request
from registry.versions.loaded import LoadedVersion

CHUNK = 1000  # series in one pass, so that memory stays bounded; joint models take all


def predict(
    model: LoadedVersion, history: History, request: Request, progress: Progress = silent
) -> Forecast:
    """The forecast at the model's levels. A series gets the same numbers in every pass."""
    number = len(history.ids)
    size = number if model.spec.joint else CHUNK
    unremarked = replace(history, notes={}, refused=())
    label = f"forecasting {number} series"
    parts = []
    for start in range(0, number, size):
        progress(label, start / number)
        places = np.arange(start, min(start + size, number))
        parts.append(model.predict(unremarked.only(places), request))
    progress(label, 1.0)
    whole = joined(parts)
    return replace(whole, notes={**whole.notes, **history.notes})


def joined(parts: Sequence[Forecast]) -> Forecast:
    """The forecasts of different series as one."""
    first = parts[0]
    if len(parts) == 1:
        return first
    measured = {}
    for name in first.measured:
        measured[name] = np.concatenate([part.measured[name] for part in parts])
    return replace(
        first,
        unique_id=tuple(name for part in parts for name in part.unique_id),
        cutoffs=np.concatenate([part.cutoffs for part in parts]),
        quantiles=np.concatenate([part.quantiles for part in parts]),
        mean=np.concatenate([part.mean for part in parts]),
        paths=_together([part.paths for part in parts]),
        price_paths=_together([part.price_paths for part in parts]),
        notes=_notes(parts),
        measured=measured,
    )


def only(whole: Forecast, symbols: Collection[str]) -> Forecast:
    """The part of a forecast that is of these symbols."""
    kept = np.flatnonzero(np.isin(whole.unique_id, list(symbols)))
    return replace(
        whole,
        unique_id=tuple(whole.unique_id[i] for i in kept),
        cutoffs=whole.cutoffs[kept],
        quantiles=whole.quantiles[kept],
        mean=whole.mean[kept],
        paths=None if whole.paths is None else whole.paths[kept],
        price_paths=None if whole.price_paths is None else whole.price_paths[kept],
        measured={name: values[kept] for name, values in whole.measured.items()},
    )


def _together(arrays: Sequence[Floats | None]) -> Floats | None:
    known = [array for array in arrays if array is not None]
    return np.concatenate(known) if known else None


def _notes(parts: Sequence[Forecast]) -> dict[str, str]:
    """The notes of all parts; different texts under one name follow each other."""
    notes: dict[str, str] = {}
    for part in parts:
        for name, text in part.notes.items():
            known = notes.get(name, text)
            notes[name] = known if text in known else f"{known}; {text}"
    return notes
