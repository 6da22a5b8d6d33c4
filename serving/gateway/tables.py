"""Small tables from the supervisor: sessions of calendars, calibrations of versions."""

import bisect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from registry.errors import BadHistory, NotReady
from registry.scoring.calibration_table import OLDEST, Table
from serving.messages import Calibrate, Damaged, Sessions


@dataclass(frozen=True)
class Calibration:
    """The current calibration of a version on its data set."""

    number: int | None = None  # None: the identity
    learned_until: str = ""
    method: str = ""
    table: Table | None = None
    sectors: dict[str, str] = field(default_factory=dict)
    verdicts: dict[str, str] = field(default_factory=dict)  # by step
    learned_from: dict[str, int] = field(default_factory=dict)  # nights: live and backfill
    age: int = 0  # sessions of the data set since `learned_until`

    @classmethod
    def of(cls, message: Calibrate) -> "Calibration":
        if message.number is None:
            return cls()
        return cls(
            message.number,
            message.learned_until,
            message.method,
            Table.of_lists(
                levels=message.levels,
                keys=message.keys,
                steps=message.steps,
                bias=message.bias,
                scale=message.scale,
                offsets=message.offsets,
            ),
            message.sectors,
            message.verdicts,
            message.learned_from,
            message.age,
        )

    def fits(self, levels: Sequence[float]) -> bool:
        """Whether it was learned for forecasts at these levels."""
        return self.table is None or self.table.levels in ((), tuple(levels))

    def state(self, steps: list[int], age: int) -> str:
        """The worst verdict of these steps: calibrated, stale or uncalibrated.

        At an age of more than OLDEST sessions a calibrated step is stale.
        """
        if self.number is None:
            return "uncalibrated"
        verdicts = {self.verdicts.get(str(step), "uncalibrated") for step in steps}
        if age > OLDEST:
            verdicts.add("stale")
        for verdict in ("uncalibrated", "stale"):
            if verdict in verdicts:
                return verdict
        return "calibrated"


@dataclass
class Tables:
    """What the supervisor sent last. A new table replaces the old one as a whole."""

    clock: Callable[[], float] = time.time
    _sessions: dict[str, Sessions] = field(default_factory=dict)
    _calibrations: dict[tuple[str, int], Calibration] = field(default_factory=dict)
    _damaged: set[tuple[str, int]] = field(default_factory=set)

    def take_sessions(self, sessions: Sessions) -> None:
        self._sessions[sessions.calendar] = sessions

    def take_calibration(self, message: Calibrate) -> None:
        self._calibrations[message.model, message.version] = Calibration.of(message)
        self._damaged.discard((message.model, message.version))

    def take_damaged(self, message: Damaged) -> None:
        self._damaged.add((message.model, message.version))

    def is_damaged(self, name: str, version: int) -> bool:
        """Whether the ledger's current calibration cannot be used; an older one may be in use."""
        return (name, version) in self._damaged

    def calibration(self, name: str, version: int) -> Calibration:
        return self._calibrations.get((name, version), Calibration())

    def sessions_since(self, calendar: str, day: str, cutoff: str) -> int:
        """Sessions after a day until a cutoff, both dates in text; 0 if the calendar is unknown."""
        sessions = self._sessions.get(calendar)
        if sessions is None:
            return 0
        first, last = (bisect.bisect_right(sessions.days, one) for one in (day, cutoff))
        return max(0, last - first)

    def last_sessions(self, calendar: str, number: int) -> list[str]:
        """The last `number` completed sessions. Raises NotReady, and BadHistory for too many."""
        sessions = self._sessions.get(calendar)
        if sessions is None:
            raise NotReady(f"the sessions of {calendar} are not known yet; try again in a moment")
        end = bisect.bisect_right(sessions.closes, self.clock())
        if number > end:
            raise BadHistory(
                f"series has {number} values, and {end} sessions of {calendar} are known; "
                "send their dates as ds",
                code="OUTSIDE_CALENDAR",
            )
        return sessions.days[end - number : end]
