"""A clock for the ledger and its jobs, so that tests have nights."""

import sys
from datetime import date, datetime, timedelta

import pytest

from registry.ledger import claims, instants


class Clock:
    """The time that the ledger reads. Each reading is a millisecond after the one before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, calendar: str = "XNYS") -> None:
        self.at = claims.now()
        self._calendar = calendar
        real = claims.now
        for module in list(sys.modules.values()):
            if getattr(module, "now", None) is real:
                monkeypatch.setattr(module, "now", self)

    def __call__(self) -> datetime:
        self.at += timedelta(milliseconds=1)
        return self.at

    def after(self, session: date, hours: float = 1.0) -> None:
        """Set the clock to some hours after a session's close."""
        self.at = instants.close_of(self._calendar, session) + timedelta(hours=hours)
