"""On which basis prices are: what they are multiplied by so that returns follow from them.

A close is adjusted when splits and dividends leave no jump in it. The basis is never guessed: it
follows from the columns and from `--adjusted`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jobs.data.own.options import Options
from registry.errors import BadHistory, BadParameter
from registry.forecast import names

KINDS = ("returns", "closes", "bars")
SPLIT, DIVIDEND, ADJ_CLOSE = "split", "dividend", "adj_close"
OF_BARS = (*names.OHLC, names.VOLUME)


@dataclass(frozen=True)
class Basis:
    """How prices become adjusted ones."""

    kind: str  # one of KINDS
    words: str
    needed: tuple[str, ...]  # columns without which a row is dropped
    close: str = "close"  # SQL, of the adjusted close
    factor: str = "1.0"  # SQL, of the other prices
    events: tuple[str, ...] = ()  # of SPLIT and DIVIDEND, the columns that are used
    raw: bool = False  # prices as traded, with no column of splits: a split would be a return
    stated: bool = True  # by an option or the columns
    keeps_raw: bool = False  # the close as traded is a column of its own

    @property
    def prices(self) -> tuple[str, ...]:
        """Price columns of the set."""
        return {"returns": (), "closes": ("close",), "bars": names.OHLC}[self.kind]

    @property
    def gives_amount(self) -> bool:
        """Whether the amounts are the user's."""
        return names.AMOUNT in self.needed


def choose(columns: Sequence[str], options: Options) -> Basis:
    """The basis by columns and options. Raises BadParameter and BadHistory (MISSING_COLUMN)."""
    kind = _kind(columns, options.kind)
    _check_columns(kind, columns)
    if kind == "returns":
        return Basis(kind, "log returns as given", (names.Y,))
    used = (*OF_BARS, names.AMOUNT) if kind == "bars" else ("close",)
    needed = [name for name in used if name in columns]
    unused = "; the given y is not used" if names.Y in columns else ""
    basis = _of_prices(kind, tuple(needed), columns, options.adjusted)
    return replace(basis, words=basis.words + unused)


def _kind(columns: Sequence[str], given: str) -> str:
    if given and given not in KINDS:
        raise BadParameter(f"--kind is {given[:64]!r}, expected one of {', '.join(KINDS)}")
    if given:
        return given
    if set(OF_BARS) <= set(columns):
        return "bars"
    return "closes" if {"close", ADJ_CLOSE} & set(columns) else "returns"


def _check_columns(kind: str, columns: Sequence[str]) -> None:
    """Raise BadHistory (MISSING_COLUMN) if columns that the kind needs are missing."""
    if kind == "closes" and ADJ_CLOSE in columns:
        return
    needed = {"returns": (names.Y,), "closes": ("close",), "bars": OF_BARS}[kind]
    missing = [name for name in needed if name not in columns]
    if missing:
        raise BadHistory(
            f"a data set of {kind} needs {', '.join(needed)}; missing or empty: "
            f"{', '.join(missing)}; the columns are {', '.join(columns)}; "
            "name them with --map, or choose another --kind",
            code="MISSING_COLUMN",
        )


def _of_prices(
    kind: str, needed: tuple[str, ...], columns: Sequence[str], adjusted: bool | None
) -> Basis:
    if ADJ_CLOSE in columns:
        return _beside_adjusted(kind, needed, columns, adjusted)
    if adjusted:
        return Basis(kind, "adjusted, as given", needed)
    events = tuple(name for name in (SPLIT, DIVIDEND) if name in columns)
    if events:
        given = " and ".join(f"{name}s" for name in events)
        words = f"closes as traded, adjusted for later {given}"
        return Basis(
            kind, words, needed, "close * factor", "factor", events,
            raw=SPLIT not in events, keeps_raw=True,
        )  # fmt: skip
    if adjusted is False:
        words = "as traded; dividends, if any, are in the returns"
        return Basis(kind, words, needed, raw=True)
    words = "as given; not stated whether adjusted (--adjusted yes|no)"
    return Basis(kind, words, needed, raw=True, stated=False)


def _beside_adjusted(
    kind: str, needed: tuple[str, ...], columns: Sequence[str], adjusted: bool | None
) -> Basis:
    """The basis of an adjusted close, alone or beside the close as traded."""
    if "close" not in columns:
        if adjusted is False:
            raise BadParameter("--adjusted no, but the only close is an adjusted one, adj_close")
        return Basis(kind, "adjusted, as given", (ADJ_CLOSE,), ADJ_CLOSE)
    if adjusted:
        raise BadParameter(
            "--adjusted yes says that close is adjusted, but there is adj_close, too; "
            "leave out the option, or map adj_close to close"
        )
    events = (SPLIT,) if kind == "bars" and SPLIT in columns else ()
    return Basis(
        kind, "closes as traded, multiplied by adj_close / close", (*needed, ADJ_CLOSE),
        ADJ_CLOSE, "adj_close / close", events, keeps_raw=True,
    )  # fmt: skip
