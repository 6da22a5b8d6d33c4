"""The columns of an Arrow stream: which they are, and how their values are stored."""

from dataclasses import dataclass
from typing import Literal

from registry.errors import BadHistory
from serving.gateway.arrow.flat import Flat, broken

_INT, _FLOAT, _UTF8, _DATE, _TIMESTAMP, _LARGE_UTF8 = 2, 3, 5, 8, 10, 20  # types
_DAY_S = 86_400
_UNITS = (1, 10**3, 10**6, 10**9)  # of a second, by TimeUnit


@dataclass(frozen=True, slots=True)
class Type:
    """How values are stored; `other` is none that can be read here."""

    kind: Literal["number", "text", "date", "other"]
    dtype: str = ""  # of numbers and dates; of a text's offsets
    per_day: int = 1  # units of a date in a day
    zoned: bool = False


@dataclass(frozen=True, slots=True)
class Field:
    """A column. With a dictionary, `type` is that of the dictionary's values."""

    name: str
    type: Type
    dictionary: int | None = None
    codes: str = ""  # dtype of the places in the dictionary


def fields_of(schema: Flat) -> list[Field]:
    """The columns in their order. Raises BadHistory."""
    if schema.number(0, "<h"):
        raise broken("its numbers are big-endian")
    fields = [_field(table) for table in schema.tables(1)]
    names = {field.name for field in fields}
    if len(names) < len(fields):
        raise BadHistory("the table has a column twice", code="DUPLICATE_COLUMN")
    return fields


def _field(table: Flat) -> Field:
    name = table.text(0)
    type = _type(table.number(2, "<B"), table.table(3))
    dictionary = table.table(4)
    if table.count(5):  # columns in a column
        return Field(name, Type("other"))
    if dictionary is None:
        return Field(name, type)
    if type.kind != "text":
        return Field(name, Type("other"))
    index = dictionary.table(1)
    codes = "<i4" if index is None else _int(index)
    return Field(name, type, dictionary.number(0, "<q"), codes)


def _type(kind: int, table: Flat | None) -> Type:
    if kind == _UTF8:
        return Type("text", "<i4")
    if kind == _LARGE_UTF8:
        return Type("text", "<i8")
    if table is None:
        return Type("other")
    if kind == _INT:
        return Type("number", _int(table))
    if kind == _FLOAT:
        return Type("number", ("<f2", "<f4", "<f8")[table.number(0, "<H")])
    if kind == _DATE:
        in_ms = table.number(0, "<h", 1)
        return Type("date", "<i8", _DAY_S * 1000) if in_ms else Type("date", "<i4")
    if kind == _TIMESTAMP:
        return Type("date", "<i8", _DAY_S * _UNITS[table.number(0, "<H")], table.has(1))
    return Type("other")


def _int(table: Flat) -> str:
    bits = table.number(0, "<i")
    if bits not in (8, 16, 32, 64):
        raise broken("a whole number has an odd size")
    return f"<{'i' if table.number(1, '<?') else 'u'}{bits // 8}"
