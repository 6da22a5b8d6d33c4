"""What the ledger has of a data set as a whole, kept for look-ups until something else is known."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from registry.errors import BadHistory
from registry.forecast.spec import ModelSpec
from registry.ledger.archive import Known
from registry.ledger.overview import Overview
from registry.versions import suitability

Mark = tuple[int, datetime | None, bool]


@dataclass(frozen=True)
class DataSet:
    """A data set as it is between two loads."""

    name: str
    calendar: str
    symbols: tuple[str, ...]  # sorted
    overview: Overview
    mark: Mark

    def is_current(self, known: Known) -> bool:
        """Whether nothing else has become known since."""
        return self.mark == _mark(known) and not self.ended(known.instant)

    def ended(self, instant: datetime) -> bool:
        """Whether another session has become known without a load."""
        close = self.overview.next_close
        return close is not None and close <= instant


def data_set(known: Known) -> DataSet:
    """Read what all look-ups in a data set share. Raises BadHistory (EMPTY)."""
    load, overview = known.load, known.overview
    if overview is None:
        raise BadHistory(f"no session of {load.data} is known yet", code="EMPTY")
    return DataSet(load.data, load.calendar, known.symbols, overview, _mark(known))


def check_suits(
    reference: str, facts: Mapping[str, str], spec: ModelSpec, dataset: DataSet
) -> None:
    """Raise BadHistory unless the data set has the calendar of a version, and its universe."""
    has = dataset.overview
    if spec.calendar != dataset.calendar:
        first, last = f"{has.first:%Y-%m-%d}", f"{has.last:%Y-%m-%d}"
        raise suitability.other_calendar(
            reference, spec.calendar, dataset.name, dataset.calendar, first, last
        )
    suitability.check_universe(reference, facts, spec, dataset.name, has.universe)


def _mark(known: Known) -> Mark:
    """What differs between states: the load, and whether it is read as before the next load."""
    load = known.load
    return load.sequence, load.completed_at, known.instant <= load.known_from
