"""A reply as an Arrow table: a row for each series and step."""

import io
from typing import Any

import msgspec
import numpy as np

from registry.forecast import names
from serving.gateway.arrow.streams import Array

METADATA = b"kronos"  # key in the schema: what is no number, as JSON


def stream(content: dict[str, Any]) -> bytes:
    """The reply in JSON as a stream: a row for each series and step, in the order of the request.

    What is no number stands as JSON in the metadata of the schema.
    """
    forecasts = content.get("forecasts", [content])
    meta = content["meta"]
    rest = [{"symbol": one["symbol"], "meta": one["meta"]} for one in forecasts]
    kept = {**content, "forecasts": rest} if "forecasts" in content else rest[0]
    symbols: list[str] = []
    steps: list[int] = []
    days: list[str] = []
    flat: list[float] = []
    for one in forecasts:
        sessions = one["meta"]["sessions"]
        for step, mean in one["yhat"].items():
            symbols.append(one["symbol"])
            steps.append(int(step))
            days.append(sessions[step])
            flat.append(mean)
            flat += one["q"][step].values()
    keys = [names.MEAN, *map(names.quantile_column, meta["quantiles"])]
    numbers = np.array(flat, dtype=np.float64).reshape(len(steps), len(keys))
    return _written(symbols, steps, days, dict(zip(keys, numbers.T, strict=True)), kept)


def _written(
    symbols: list[str],
    steps: list[int],
    days: list[str],
    numbers: dict[str, Array],
    metadata: dict[str, Any],
) -> bytes:
    """The columns as one record batch. nanoarrow is imported when it is first needed: 3 MB."""
    import nanoarrow as na
    from nanoarrow.ipc import StreamWriter

    rows = len(symbols)
    dates = np.array(days, dtype="M8[D]").astype(np.int32)
    whole = np.array(steps, dtype=np.int32)
    columns = {
        names.UNIQUE_ID: na.c_array(symbols, na.string()),
        names.STEP: na.c_array_from_buffers(na.int32(), rows, [None, whole]),
        names.DS: na.c_array_from_buffers(na.date32(), rows, [None, dates]),
    }
    for name, column in numbers.items():
        values = np.ascontiguousarray(column)
        columns[name] = na.c_array_from_buffers(na.float64(), rows, [None, values])
    fields = {name: column.schema for name, column in columns.items()}
    schema = na.c_schema(na.struct(fields, nullable=False))
    schema = schema.modify(metadata={METADATA: msgspec.json.encode(metadata)})
    children = list(columns.values())
    batch = na.c_array_from_buffers(schema, rows, [None], children=children)
    out = io.BytesIO()
    with StreamWriter.from_writable(out) as writer:
        writer.write_stream(batch)
    return out.getvalue()
