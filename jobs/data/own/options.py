"""What a user says of a data set, beside where its rows are."""

from dataclasses import dataclass

from registry.errors import BadParameter

DEFAULT_CALENDAR = "XNYS"


@dataclass(frozen=True)
class Options:
    """Options of `compile` that decide how rows are judged and what is derived from them."""

    name: str
    kind: str = ""  # returns, closes or bars; empty: by the columns
    calendar: str = ""  # of exchange_calendars; empty: DEFAULT_CALENDAR
    adjusted: bool | None = None  # whether `close` is adjusted; None: not said
    index: str = ""  # symbol of the index; empty: the members' mean return
    currency: str = ""  # a label
    fit_until: str = ""  # dates as 2018-12-31; empty: by the number of sessions
    choose_until: str = ""
    sectors: str = ""  # CSV file with the sector of each symbol

    @property
    def exchange(self) -> str:
        """The calendar that counts, under its own name: LSE is XLON."""
        # Packages of calendars take a while to import.
        from exchange_calendars import resolve_alias
        from exchange_calendars.errors import InvalidCalendarName

        name = self.calendar or DEFAULT_CALENDAR
        try:
            return str(resolve_alias(name))
        except InvalidCalendarName:
            return name  # refused when its sessions are asked for


def yes_or_no(text: str, option: str) -> bool | None:
    """True for yes, False for no, None for no text. Raises BadParameter for other text."""
    if text not in ("", "yes", "no"):
        raise BadParameter(f"{option} is {text[:64]!r}, expected yes or no")
    return {"yes": True, "no": False}.get(text)
