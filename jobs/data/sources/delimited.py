"""CSV files: checked as bytes, their header read here, their rows by DuckDB as text."""

import codecs
import csv
import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import duckdb

from jobs.data.sources.engine import file_list, literal
from jobs.data.sources.table import Column, Table, numbered
from registry.errors import BadHistory
from registry.text import printable

DELIMITERS = (",", ";", "\t")
FIRST_ROW = 2  # line of the first row, after the header
_CHUNK = 1 << 20
_LONGEST_HEADER = 1 << 21
_BLANK_LINE = re.compile(rb"\n\r?\n(?=[\r\n]*[^\r\n])")
_LINE = re.compile(r"CSV Error on Line: (\d+)")
_FILE = re.compile(r"^  file = (.*)$", re.MULTILINE)
_CELLS = re.compile(r"Expected Number of Columns: (\d+) Found: (\d+)")

Header = tuple[str, ...]


def tables(paths: Sequence[str]) -> list[Table]:
    """Tables of the files, one for each header. Raises BadHistory for bytes that are no CSV."""
    by_header: dict[tuple[Header, str], list[str]] = {}
    unended = set()
    for path in paths:
        if not check_bytes(path):
            unended.add(path)
        by_header.setdefault(read_header(path), []).append(path)
    made = []
    for (header, delimiter), files in by_header.items():
        table = _table(header, delimiter, files)
        made.append(replace(table, unended=tuple(path for path in files if path in unended)))
    return made


def read_header(path: str) -> tuple[Header, str]:
    """Names of the columns, without blanks around them, and the delimiter between them.

    The delimiter is that of `,`, `;` and tab which makes the most columns.
    """
    with _opened(path) as file:
        start = file.read(_LONGEST_HEADER).decode("utf-8-sig", errors="ignore")
    lines = re.split(r"\r\n|\n|\r", start, maxsplit=2)
    if not lines[0].strip():
        state = "begins with an empty line" if start else "is empty"
        raise _refused(path, f"{state}; expected a line with the names of the columns")
    if len(lines) == 3 and re.match("Ticker[,;\t]", lines[1]):
        raise _refused(path, "a second header line; tell yfinance multi_level_index=False", 2)
    headers = {delimiter: _split(path, lines[0], delimiter) for delimiter in DELIMITERS}
    delimiter = max(DELIMITERS, key=lambda each: len(headers[each]))
    _check_header(path, headers[delimiter])
    return headers[delimiter], delimiter


def _split(path: str, line: str, delimiter: str) -> Header:
    try:
        cells = next(csv.reader([line], delimiter=delimiter))
    except csv.Error as error:
        raise _refused(path, f"no line with the names of columns: {error}", 1) from error
    return tuple(cell.strip() for cell in cells)


def check_bytes(path: str) -> bool:
    """Whether the last line has an end.

    Raises BadHistory for a NUL byte, for bytes that are not UTF-8 and for a line without cells.
    Empty lines at the end are left alone.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    row = 1  # of the first byte of the chunk
    ends = b""  # line ends just before the chunk
    for chunk in _chunks(path):
        _check_encoding(path, decoder, chunk, row)
        window = ends + chunk
        blank = _BLANK_LINE.search(window)
        if blank is not None:
            line = row - ends.count(b"\n") + window[: blank.start()].count(b"\n") + 1
            raise _refused(path, "an empty line between others; remove it", line)
        ends = window[len(window.rstrip(b"\r\n")) :]
        row += chunk.count(b"\n")
    if row > 1 or ends:
        _check_encoding(path, decoder, b"", row, final=True)
    return bool(ends)


def _check_encoding(
    path: str, decoder: codecs.IncrementalDecoder, chunk: bytes, row: int, *, final: bool = False
) -> None:
    if row == 1:
        _check_start(path, chunk)
    try:
        decoder.decode(chunk, final)
    except UnicodeDecodeError as error:
        line = row + error.object[: error.start].count(b"\n")
        byte = error.object[error.start]
        raise _refused(
            path, f"the byte 0x{byte:02x} is not UTF-8; save the file as UTF-8", line
        ) from error
    nul = chunk.find(0)
    if nul >= 0:
        line = row + chunk[:nul].count(b"\n")
        raise _refused(path, "a NUL byte, which no text file has; write the file again", line)


def _check_start(path: str, chunk: bytes) -> None:
    if chunk.startswith(b"PAR1"):
        raise _refused(path, "is a Parquet file; say --source parquet")
    if chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise _refused(path, "is UTF-16 text; save the file as UTF-8")
    if chunk.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise _refused(path, "is a workbook or an archive; save the sheet as CSV")


def _check_header(path: str, header: Header) -> None:
    seen: set[str] = set()
    for number, name in enumerate(header, start=1):
        if name and name in seen:
            raise BadHistory(
                f"{printable(path)}, row 1: the column {name[:64]!r} is there twice, the second "
                f"time as number {number}; rename one",
                code="DUPLICATE_COLUMN",
            )
        seen.add(name)


def _table(header: Header, delimiter: str, files: list[str]) -> Table:
    types = ", ".join(f"c{number}: 'VARCHAR'" for number in range(len(header)))
    relation = (
        f"read_csv({file_list(files)}, auto_detect=false, header=true, delim={literal(delimiter)}, "
        f"quote='\"', escape='\"', nullstr='', strict_mode=true, columns={{{types}}}, "
        f"filename='file') AS cells({numbered(len(header))}, file)"
    )
    columns = tuple(Column(name, "VARCHAR", printable(files[0])) for name in header)
    return Table(relation, columns, tuple(files), delimiter)


@contextmanager
def explained() -> Iterator[None]:
    """Turn DuckDB's errors about the form of a CSV file into errors of one line."""
    try:
        yield
    except duckdb.InvalidInputException as error:
        text = str(error)
        file = _FILE.search(text)
        if file is None:
            raise
        line = _LINE.search(text)
        row = int(line[1]) if line else _other_line_end(file[1])
        raise _refused(file[1], _reason(text), row) from error


def _reason(text: str) -> str:
    cells = _CELLS.search(text)
    if cells is not None:
        expected, found = int(cells[1]), int(cells[2])
        advice = "is the file cut?" if found < expected else "quote a cell that holds a delimiter"
        return f"{found} cells, expected {expected} as in the header; {advice}"
    if "unterminated quote" in text:
        return "a quote that is never closed; close or remove it"
    if "Maximum line size" in text:
        return "a line of more than 2 MB; is its end missing?"
    return "cannot be read as CSV; write all line ends alike, and a quote in a cell as two"


def _other_line_end(path: str) -> int | None:
    """The first row whose line ends otherwise than the header."""
    with _opened(path) as file:
        ends = file.readline().endswith(b"\r\n")
        for row, line in enumerate(file, start=2):
            if line.endswith(b"\n") and line.endswith(b"\r\n") != ends:
                return row
    return None


def _chunks(path: str) -> Iterator[bytes]:
    with _opened(path) as file:
        while chunk := file.read(_CHUNK):
            yield chunk


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked. Raises BadHistory if they cannot be."""
    packed = path.lower().endswith(".gz")
    try:
        with gzip.open(path) if packed else Path(path).open("rb") as file:
            yield file  # type: ignore[misc]
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _refused(path, f"cannot be unpacked: {error}; is the file cut?") from error


def _refused(path: str, reason: str, row: int | None = None) -> BadHistory:
    place = printable(path) if row is None else f"{printable(path)}, row {row}:"
    return BadHistory(f"{place} {reason}", code="BAD_FILE")
