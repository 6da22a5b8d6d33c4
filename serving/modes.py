"""What `kronos` means under KRONOS_MODE: a version of kronos, or the labelled simulator instead."""

from dataclasses import dataclass
from typing import Literal

from registry.errors import Corrupt, KronosError, NotFound
from registry.ledger.promotions import Ledger
from registry.promotion import evidence
from registry.versions.store import Store
from registry.versions.version import Version

KRONOS = "kronos"
SIMULATED = "kronos_simulated"
_REMEDY = (
    f"put a version in Production: `python -m jobs train {SIMULATED}` (or {KRONOS}), then "
    f"`python -m registry promote {SIMULATED} VERSION`"
)

Mode = Literal["auto", "kronos", "simulated"]


@dataclass(frozen=True)
class Choice:
    """A verified version.

    For `kronos`, `mode` is the model that stands behind the name. `instead` is the error that kept
    kronos from being served, if the simulator replaces it.
    """

    version: Version
    mode: Literal["kronos", "simulated"] | None = None
    instead: KronosError | None = None

    def facts(self) -> dict[str, str]:
        """Keys for the line of JSON that describes the server."""
        return {"asked": KRONOS, "mode": self.mode} if self.mode else {}


def choose(store: Store, ledger: Ledger, reference: str, mode: Mode) -> Choice:
    """The version that `reference` names, with its bytes verified. Raises NotFound, Corrupt.

    The bytes are those that were registered and, by the ledger, promoted.

    Only the bare name `kronos` depends on the mode; kronos/3 or kronos@staging names a version. An
    outage of the registry is raised: it is no reason to simulate.
    """
    if reference != KRONOS:
        return Choice(_verified(store, ledger, reference))
    if mode == "simulated":
        return Choice(_simulated(store, ledger), "simulated")
    try:
        return Choice(_verified(store, ledger, KRONOS), "kronos")
    except (NotFound, Corrupt) as error:
        if mode == "kronos":
            raise type(error)(
                f"{error.message}; KRONOS_MODE=kronos lets nothing else answer in its place"
            ) from error
        return Choice(_simulated(store, ledger, error), "simulated", error)


def _verified(store: Store, ledger: Ledger, reference: str) -> Version:
    version = store.resolve(reference)
    evidence.fetch(store, ledger.records(version.name), version)
    return version


def _simulated(store: Store, ledger: Ledger, instead: KronosError | None = None) -> Version:
    """The simulator in Production. Raises an error about both models if it is missing too."""
    try:
        return _verified(store, ledger, SIMULATED)
    except (NotFound, Corrupt) as error:
        if instead is None:
            raise type(error)(f"{error.message}; {_REMEDY}") from error
        kind = Corrupt if isinstance(instead, Corrupt) else type(error)
        raise kind(
            f"neither {KRONOS} nor {SIMULATED} can be served: {instead.message}; {error.message}; "
            f"{_REMEDY}"
        ) from error
