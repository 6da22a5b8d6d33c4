"""Which versions the nightly jobs work for if none is named."""

from collections.abc import Iterable

from registry.versions.version import RegisteredModel, Version


def in_production(models: Iterable[RegisteredModel]) -> list[Version]:
    """Versions in Production that Kronos Registry logged, in the order of their models."""
    served = []
    for model in models:
        for version in model.versions:
            if "production" in version.aliases and not version.foreign:
                served.append(version)
    return served
