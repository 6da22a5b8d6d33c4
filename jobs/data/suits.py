"""Whether a registered version can be run on a data set."""

from jobs.data.catalog import Catalog
from jobs.data.dataset import Dataset
from jobs.data.sets import Own
from registry.forecast import names
from registry.settings import Settings
from registry.versions.loaded import LoadedVersion
from registry.versions.store import Store
from registry.versions.suitability import check_universe, other_calendar


def check_suits(settings: Settings, store: Store, model: LoadedVersion, dataset: Dataset) -> None:
    """Raise BadHistory unless the data set has what the version needs.

    These are its columns, its calendar and, if the version takes market columns, its universe.
    """
    spec, reference = model.spec, model.version.reference
    Catalog(settings).check_columns(dataset, spec.columns, reference)
    if spec.calendar != dataset.calendar:
        first, last = _span(settings, dataset)
        raise other_calendar(reference, spec.calendar, dataset.name, dataset.calendar, first, last)
    facts = store.facts(model.version)
    check_universe(reference, facts, spec, dataset.name, dataset.universe.tag)


def _span(settings: Settings, dataset: Dataset) -> tuple[str, str]:
    """First and last session of a data set."""
    if isinstance(dataset, Own):
        return dataset.facts.parts[0].first, dataset.facts.parts[-1].last
    sessions = dataset.load(settings).history[names.DS]
    return f"{sessions.min():%Y-%m-%d}", f"{sessions.max():%Y-%m-%d}"
