"""What every version forecast, and what came of it.

with TrackRecord(Settings()) as record:
    record.forecasts(model="har", data="panel", as_of="2022-06-30")
    record.scores(by=["model", "step", "month"])
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from registry.errors import KronosError
from registry.ledger import database, forecasts, grouping, outcomes, scores
from registry.ledger.instants import When
from registry.ledger.issue import Blocks, Issue
from registry.ledger.recording import Counts
from registry.ledger.selection import Selection


class TrackRecord(database.Opened):
    """The forecasts of a ledger with their scores.

    Readers take conditions by keyword, the fields of Selection: model, version, data, source,
    symbols, since, until (both of cutoffs), registry. `as_of` is a date, which means the close of
    its session, or a time with a zone; None: now. Readers raise BadParameter, and NotFound for a
    symbol that the ledger lacks.
    """

    def issue(self, issued: Issue, blocks: Blocks) -> bool:
        """Record a forecast. As `registry.ledger.forecasts.issue`."""
        return forecasts.issue(self.engine, issued, blocks)

    def issue_all(self, given: Sequence[tuple[Issue, Blocks]]) -> list[tuple[Issue, KronosError]]:
        """Record many forecasts. As `registry.ledger.forecasts.issue_all`."""
        return forecasts.issue_all(self.engine, given)

    def score(self, forecast_id: str, step: int, rows: pd.DataFrame) -> Counts:
        """Record the scores of a step. As `registry.ledger.scores.score`."""
        return scores.score(self.engine, forecast_id, step, rows)

    def forecasts(
        self, *, calibrated: bool = False, as_of: When = None, **conditions: Any
    ) -> pd.DataFrame:
        """Forecasts with their outcomes. As `registry.ledger.outcomes.frame`."""
        selection = Selection(**conditions)
        with database.read(self.engine) as connection:
            return outcomes.frame(connection, selection.known(connection, as_of), calibrated)

    def scores(
        self,
        by: Sequence[str] = ("model", "version", "step"),
        *,
        as_of: When = None,
        **conditions: Any,
    ) -> pd.DataFrame:
        """Coverage and CRPS of groups. As `registry.ledger.grouping.frame`."""
        selection = Selection(**conditions)
        with database.read(self.engine) as connection:
            return grouping.frame(connection, selection.known(connection, as_of), by)
