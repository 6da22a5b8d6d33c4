"""The history of one symbol, and where its parts come from."""

from dataclasses import dataclass, field

from serving.gateway.calls import Series

SENT, LEDGER, ASSUMED = "sent", "ledger", "assumed"


@dataclass(slots=True)
class History:
    """`series` is what the version gets."""

    series: Series
    cutoff: str
    close: float | None = None  # of the last bar
    y: str = SENT  # sent | ledger
    ds: str = SENT  # sent | ledger | assumed
    covariates: dict[str, str] = field(default_factory=dict)  # by column: sent | ledger
    notes: list[str] = field(default_factory=list)
