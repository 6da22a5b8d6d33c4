"""Data digest: identifies the source prices of a model, the same on every machine."""

import hashlib
from typing import Any

import numpy as np
import pandas as pd


def data_digest(*frames: pd.DataFrame) -> str:
    """sha256 (hex) over the full content of `frames` in row order: each column's name and bytes.

    Numbers are hashed as little-endian float64, dates as ISO days, names as UTF-8. Hash prices and
    keys, never logarithms: `log` may differ in the last bit between machines, a stored price does
    not.
    """
    sha = hashlib.sha256()
    for frame in frames:
        for name in frame.columns:
            content = _canonical(frame[name])
            sha.update(f"{name} {len(frame)} {len(content)}\n".encode())
            sha.update(content)
    return sha.hexdigest()


def _canonical(column: "pd.Series[Any]") -> bytes:
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        days = np.datetime_as_string(column.to_numpy(), unit="D")
        return "\n".join(days).encode()
    if pd.api.types.is_numeric_dtype(column.dtype):
        return column.to_numpy(dtype="<f8").tobytes()
    return "\n".join(column.astype(str)).encode()
