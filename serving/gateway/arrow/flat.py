"""Tables of a flatbuffer, read within bounds."""

import struct

from registry.errors import BadHistory

MOST_COLUMNS = 256
LONGEST_NAME = 256  # bytes of a column's name


class Flat:
    """A table of a flatbuffer. Fields are numbered as in Arrow's .fbs files.

    A place outside of the bytes raises struct.error or ValueError.
    """

    __slots__ = ("_at", "_content", "_places")

    def __init__(self, content: memoryview, at: int) -> None:
        table = at - read_number(content, "<i", at)
        size = read_number(content, "<H", table)
        self._content = content
        self._at = at
        self._places = part(content, table + 4, max(size - 4, 0))

    @classmethod
    def root(cls, content: memoryview) -> "Flat":
        return cls(content, read_number(content, "<I", 0))

    def has(self, field: int) -> bool:
        return self._place(field) is not None

    def number(self, field: int, form: str, default: int = 0) -> int:
        place = self._place(field)
        return default if place is None else read_number(self._content, form, place)

    def table(self, field: int) -> "Flat | None":
        place = self._target(field)
        return None if place is None else Flat(self._content, place)

    def count(self, field: int) -> int:
        """Length of a list."""
        return self._vector(field)[1]

    def tables(self, field: int) -> list["Flat"]:
        """A list of tables, one of each column."""
        start, length = self._vector(field)
        if length > MOST_COLUMNS:
            raise BadHistory(f"the table has more than {MOST_COLUMNS} columns", code="NOT_A_TABLE")
        tables = []
        for place in range(start, start + 4 * length, 4):
            tables.append(Flat(self._content, place + read_number(self._content, "<I", place)))
        return tables

    def text(self, field: int) -> str:
        start, length = self._vector(field)
        if length > LONGEST_NAME:
            raise BadHistory("a column's name is too long", code="NOT_A_TABLE")
        return str(part(self._content, start, length), "utf-8")

    def pairs(self, field: int) -> list[tuple[int, int]]:
        """A list of structs of two int64."""
        start, length = self._vector(field)
        if length > 3 * MOST_COLUMNS:
            raise broken("a record batch has more columns than the schema")
        return list(struct.iter_unpack("<qq", part(self._content, start, 16 * length)))

    def _place(self, field: int) -> int | None:
        if len(self._places) < 2 * field + 2:
            return None
        place = read_number(self._places, "<H", 2 * field)
        return self._at + place if place else None

    def _target(self, field: int) -> int | None:
        """What a field points to."""
        place = self._place(field)
        return None if place is None else place + read_number(self._content, "<I", place)

    def _vector(self, field: int) -> tuple[int, int]:
        """Start and length of a list; without the field, it is empty."""
        place = self._target(field)
        return (0, 0) if place is None else (place + 4, read_number(self._content, "<I", place))


def read_number(content: memoryview, form: str, at: int) -> int:
    if at < 0:  # struct would count from the end
        raise ValueError("a place before the bytes")
    number: int = struct.unpack_from(form, content, at)[0]
    return number


def part(content: memoryview, start: int, size: int) -> memoryview:
    """Bytes of a memoryview, all of which must be there."""
    if start < 0 or size < 0 or start + size > len(content):
        raise ValueError("a place outside of the bytes")
    return content[start : start + size]


def broken(reason: str) -> BadHistory:
    return BadHistory(f"the body is no Arrow stream that can be read: {reason}", code="NOT_A_TABLE")
