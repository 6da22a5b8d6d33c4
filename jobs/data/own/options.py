"""What a user says of a data set, beside where its rows are."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """Options of `compile` that decide how rows are judged and what is derived from them."""

    name: str
    kind: str = ""  # returns, closes or bars; empty: by the columns
    calendar: str = "XNYS"
    adjusted: bool | None = None  # whether `close` is adjusted; None: not said
    index: str = ""  # symbol of the index; empty: the members' mean return
    currency: str = ""  # a label
    fit_until: str = ""  # dates as 2018-12-31; empty: by the number of sessions
    choose_until: str = ""
