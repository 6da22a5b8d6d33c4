"""The form of a call to a scorer: columns of several series in, packed blocks of numbers out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from registry.codes import from_code
from registry.errors import BadForecast, KronosError
from registry.forecast import names

Floats = npt.NDArray[np.float64]

JSON = b"application/json"
_json = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Series:
    """The history of one symbol. Each column is JSON: its values between commas."""

    symbol: str
    rows: int
    columns: dict[str, bytes]  # ds, y and what the version declares


@dataclass(frozen=True, slots=True)
class Row:
    """The raw forecast of one series."""

    sessions: list[str]  # [H] session dates
    values: Floats  # [H, 1 + Q]: mean, then quantiles at the version's levels
    paths: Floats | None = None  # [S, H] returns
    prices: Floats | None = None  # [S, H, 6] bars


@dataclass(frozen=True, slots=True)
class Answer:
    """What a version said of several series: a row, or the error that refused the series."""

    rows: dict[str, Row | KronosError]
    notes: dict[str, str]


class _Block(msgspec.Struct):
    shape: list[int]
    data: bytes  # base64 in JSON

    def array(self) -> Floats:
        flat = np.frombuffer(self.data, dtype="<f8").astype(np.float64, copy=False)
        if not np.isfinite(flat).all():
            raise BadForecast("a forecast holds a value that is not finite")
        return flat.reshape(self.shape)


class _Refused(msgspec.Struct):
    unique_id: str
    code: str
    message: str


class _Packed(msgspec.Struct):
    unique_id: list[str]
    ds: list[list[str]]
    shape: list[int]
    data: bytes
    notes: dict[str, str] = {}
    model: str = ""
    version: int | None = None
    refused: list[_Refused] = []
    paths: _Block | None = None
    price_paths: _Block | None = None


class _Reply(msgspec.Struct):
    predictions: _Packed


class _Error(msgspec.Struct):
    """MLflow has our code in `code`, and its own in `error_code`."""

    message: str = ""
    code: str = ""
    error_code: str = ""


_decode = msgspec.json.Decoder(_Reply).decode
_decode_error = msgspec.json.Decoder(_Error).decode


def values(column: Sequence[Any]) -> bytes:
    """A list as JSON without its brackets."""
    return _json(column)[1:-1]


def body(series: Sequence[Series], parameters: bytes) -> bytes:
    """The body of a call. `series` are sorted by symbol; `parameters` is JSON of an object."""
    columns = [b'{"inputs":{"unique_id":[', b",".join(map(_repeated, series)), b"]"]
    for name in series[0].columns:
        joined = b",".join([one.columns[name] for one in series])
        columns += [b",", _json(name), b":[", joined, b"]"]
    return b"".join([*columns, b'},"params":', parameters, b"}"])


def _repeated(series: Series) -> bytes:
    return b",".join([_json(series.symbol)] * series.rows)


def parameters(horizon: int, seed: int | None, options: dict[str, Any]) -> bytes:
    """Parameters of a call. Quantiles come at the version's levels, since those are calibrated."""
    named: dict[str, Any] = {**options, "horizon": horizon, "output": names.OUTPUTS[2]}
    if seed is not None:
        named["seed"] = seed
    return _json(named)


def read(content: bytes, name: str, version: int) -> Answer:
    """The answer in the body of a reply of 200. Raises BadForecast for what is none.

    `name` and `version` are those that should have answered.
    """
    unreadable = f"{name} version {version} sent a reply that cannot be read"
    try:
        packed = _decode(content).predictions
    except msgspec.DecodeError as error:
        raise BadForecast(unreadable) from error
    if (packed.model, packed.version) != (name, version):
        raise BadForecast(
            f"{packed.model} version {packed.version} answered for {name} version {version}"
        )
    try:
        of_series = _rows(packed)
        rows: dict[str, Row | KronosError] = dict(zip(packed.unique_id, of_series, strict=True))
    except (ValueError, IndexError) as error:  # a block has another shape than the lists
        raise BadForecast(unreadable) from error
    for one in packed.refused:
        rows[one.unique_id] = from_code(one.code, one.message, 400)
    return Answer(rows, packed.notes)


def _rows(packed: _Packed) -> list[Row]:
    numbers = _Block(packed.shape, packed.data).array()
    paths = packed.paths.array() if packed.paths else None
    prices = packed.price_paths.array() if packed.price_paths else None
    rows = []
    for place, sessions in enumerate(packed.ds):
        row = Row(
            sessions,
            numbers[place],
            None if paths is None else paths[place],
            None if prices is None else prices[place],
        )
        rows.append(row)
    return rows


def error(status: int, content: bytes) -> KronosError:
    """The error in the body of another reply."""
    try:
        sent = _decode_error(content)
    except msgspec.DecodeError:
        return KronosError(f"the scorer answered {status} in words that cannot be read")
    if not sent.code:
        return KronosError(f"the scorer answered {status}")
    return from_code(sent.code, sent.message, status)
