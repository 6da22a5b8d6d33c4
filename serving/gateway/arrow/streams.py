"""Arrow IPC streams, read within bounds: the columns of a flat table, as views of the body.

Every number of a stream is checked against the bytes that came. nanoarrow 0.9 reads streams, too,
but it unpacks compressed buffers to any size: 15 kB became 480 MB. Here nothing is unpacked, and
nothing is followed but what a flat table of texts, dates and numbers needs.
The form: https://arrow.apache.org/docs/format/Columnar.html and Schema.fbs, Message.fbs beside it.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.errors import TooLarge
from serving.gateway.arrow.flat import Flat, broken, part
from serving.gateway.arrow.schema import Field, Type, fields_of

MOST_CHUNKS = 100_000  # columns times messages
LONGEST_TEXT = 512  # bytes of a text that can be a symbol or a date

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

_SCHEMA, _DICTIONARY, _RECORDS = 1, 2, 3  # kinds of messages
_FILE = b"ARROW1"
_OUTSIDE = (struct.error, ValueError, IndexError)  # a number points outside of the bytes


@dataclass(frozen=True, slots=True)
class Values:
    """Numbers or dates of one message."""

    values: Array  # [rows]
    valid: Bools | None  # None: no value is null


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts of one message, decoded one by one."""

    offsets: Array  # [rows + 1], ascending, within `data`
    data: memoryview
    valid: Bools | None

    def text(self, place: int) -> str | None:
        """A text; None for null, for what is not UTF-8, and for what is too long."""
        start, end = int(self.offsets[place]), int(self.offsets[place + 1])
        if end - start > LONGEST_TEXT or (self.valid is not None and not self.valid[place]):
            return None
        try:
            return str(self.data[start:end], "utf-8")
        except UnicodeDecodeError:
            return None

    def dates(self) -> list[str | None]:
        """All texts, where only digits and signs matter: as Latin-1, that is faster."""
        offsets = self.offsets.tolist()
        first = offsets[0]
        joined = str(self.data[first : offsets[-1]], "latin-1")
        texts: list[str | None] = []
        for start, end in pairwise(offsets):
            texts.append(joined[start - first : end - first])
        if self.valid is not None:
            for place in np.flatnonzero(~self.valid):
                texts[place] = None
        return texts

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True, slots=True)
class Coded:
    """Texts of one message by their place in a dictionary."""

    codes: Values  # each valid one is a place in `texts`
    texts: Texts

    def text(self, place: int) -> str | None:
        if self.codes.valid is not None and not self.codes.valid[place]:
            return None
        return self.texts.text(int(self.codes.values[place]))

    def __len__(self) -> int:
        return len(self.codes.values)


@dataclass(frozen=True, slots=True)
class Table:
    """Columns in chunks, one of each message that has rows."""

    fields: dict[str, Field]
    numbers: dict[str, list[Values]]  # dates, too
    texts: dict[str, list[Texts | Coded]]
    rows: int


def read(body: bytes, check: Callable[[dict[str, Field]], None], most: int) -> Table:
    """The table of a stream. Raises BadHistory, and TooLarge for more than `most` values.

    `check` gets the columns before any of them is read; it must refuse those of `other` types.
    """
    if body.startswith(_FILE):
        raise broken("it is an Arrow file; send a stream (pyarrow.ipc.new_stream)")
    try:
        return _read(memoryview(body), check, most)
    except _OUTSIDE as error:
        raise broken("it breaks off or goes wrong") from error


# --- messages ---------------------------------------------------------------------------------


def _read(body: memoryview, check: Callable[[dict[str, Field]], None], most: int) -> Table:
    messages = _messages(body)
    kind, header, _ = next(messages, (0, None, None))
    if kind != _SCHEMA or header is None:
        raise broken("it does not begin with a schema")
    fields = fields_of(header)
    by_name = {field.name: field for field in fields}
    check(by_name)
    table = _Builder(fields, most)
    for number, (kind, header, content) in enumerate(messages, 1):
        if number * (len(fields) + 1) > MOST_CHUNKS:
            raise TooLarge(
                "the stream has too many messages; send larger record batches",
                code="TOO_MANY_ROWS",
            )
        table.take(kind, header, content)
    return Table(by_name, table.numbers, table.texts, table.rows)


def _messages(body: memoryview) -> Iterator[tuple[int, Flat, memoryview]]:
    """Kind, header and content of each message. The end of a stream must be marked."""
    at = 0
    while True:
        marker, size = struct.unpack_from("<iI", body, at)
        if marker != -1:
            raise broken("a message does not begin as it should")
        at += 8
        if size == 0:
            break
        message = Flat.root(part(body, at, size))
        at += size
        content = part(body, at, message.number(3, "<q"))
        at += len(content)
        header = message.table(2)
        if header is None:
            raise broken("a message has no header")
        yield message.number(1, "<B"), header, content
    if at != len(body):
        raise broken("bytes follow its end")


class _Builder:
    """Takes the messages after the schema."""

    def __init__(self, fields: list[Field], most: int) -> None:
        self.numbers: dict[str, list[Values]] = {}
        self.texts: dict[str, list[Texts | Coded]] = {}
        self.rows = 0
        self._fields = fields
        self._most = most
        self._columns = max(1, sum(field.type.kind == "number" for field in fields))
        self._dictionaries: dict[int, Texts] = {}
        self._types = {field.dictionary: field.type for field in fields}

    def take(self, kind: int, header: Flat, content: memoryview) -> None:
        if kind == _RECORDS:
            self._records(header, content)
        elif kind == _DICTIONARY:
            self._dictionary(header, content)
        else:
            raise broken("a message is neither a record batch nor a dictionary")

    def _records(self, header: Flat, content: memoryview) -> None:
        records = _Records(header, content)
        self.rows += records.rows
        if self.rows * self._columns > self._most:
            raise TooLarge(
                f"the table has more than {self._most} values; send several requests",
                code="TOO_MANY_ROWS",
            )
        if not records.rows:
            return
        for field in self._fields:
            self._take_column(field, records)
        records.end()

    def _take_column(self, field: Field, records: "_Records") -> None:
        if field.type.kind != "text":
            column = records.values(field.type.dtype)
            self.numbers.setdefault(field.name, []).append(column)
            return
        texts = self.texts.setdefault(field.name, [])
        if field.dictionary is None:
            texts.append(records.texts(field.type))
        else:
            texts.append(self._coded(field, field.dictionary, records))

    def _coded(self, field: Field, dictionary: int, records: "_Records") -> Coded:
        texts = self._dictionaries.get(dictionary)
        if texts is None:
            raise broken("a dictionary is missing")
        codes = records.values(field.codes)
        valid = codes.values if codes.valid is None else codes.values[codes.valid]
        if len(valid) and not 0 <= int(valid.min()) <= int(valid.max()) < len(texts):
            raise broken("a value points outside of its dictionary")
        return Coded(codes, texts)

    def _dictionary(self, header: Flat, content: memoryview) -> None:
        """A dictionary, in place of an earlier one."""
        number = header.number(0, "<q")
        records = header.table(1)
        if number not in self._types or records is None:
            raise broken("a dictionary belongs to no column")
        if header.number(2, "<?"):
            raise broken("a dictionary only adds to an earlier one; send it whole")
        self._dictionaries[number] = _Records(records, content).texts(self._types[number])


# --- record batches ---------------------------------------------------------------------------


class _Records:
    """The buffers of a record batch, taken one after the other."""

    def __init__(self, header: Flat, content: memoryview) -> None:
        if header.has(3):
            raise broken("it is compressed; write it with compression=None")
        self.rows: int = header.number(0, "<q")
        if self.rows < 0:
            raise broken("a record batch has less than no rows")
        self._nodes = iter(header.pairs(1))
        self._buffers = iter(header.pairs(2))
        self._content = content
        self._unread = len(content)

    def values(self, dtype: str) -> Values:
        valid = self._valid()
        return Values(self._array(self._buffer(), dtype, self.rows), valid)

    def texts(self, type: Type) -> Texts:
        valid = self._valid()
        offsets, data = self._buffer(), self._buffer()
        if not self.rows:
            return Texts(np.zeros(1, dtype=type.dtype), data, None)
        places = self._array(offsets, type.dtype, self.rows + 1)
        ascend = bool((places[1:] >= places[:-1]).all())
        if not ascend or places[0] < 0 or places[-1] > len(data):
            raise broken("a text reaches outside of its column")
        return Texts(places, data, valid)

    def end(self) -> None:
        """Check that no column is left."""
        if next(self._nodes, None) or next(self._buffers, None):
            raise broken("a record batch has more columns than the schema")

    def _valid(self) -> Bools | None:
        """Which values of the next column are not null."""
        rows, nulls = next(self._nodes, (-1, 0))
        if rows != self.rows:
            raise broken("the columns of a record batch differ in length")
        bits = self._buffer()
        if not nulls or not bits:
            return None
        array = self._array(bits, "u1", (rows + 7) // 8)
        return np.unpackbits(array, count=rows, bitorder="little").view(np.bool_)

    def _buffer(self) -> memoryview:
        """The next buffer. Those of a batch may not share bytes, or few would become many."""
        start, size = next(self._buffers, (-1, 0))
        buffer = part(self._content, start, size)
        self._unread -= size
        if self._unread < 0:
            raise broken("columns share their bytes")
        return buffer

    @staticmethod
    def _array(buffer: memoryview, dtype: str, count: int) -> Array:
        if len(buffer) < count * np.dtype(dtype).itemsize:
            raise broken("a column is shorter than its record batch")
        return np.frombuffer(buffer, dtype, count)
