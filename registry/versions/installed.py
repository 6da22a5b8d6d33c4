"""Packages that a version needs, compared with those that are installed."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from registry.errors import KronosError


def check(root: Path, uri: str) -> None:
    """Raise KronosError if a package of the version at `root` is not installed.

    MLflow itself warns if a package is installed in another release than the version's.
    """
    lines = (root / "requirements.txt").read_text().split()
    missing = [line for line in lines if not _installed(line.partition("==")[0])]
    if missing:
        raise KronosError(
            f"{uri} needs packages that are not installed here: {', '.join(missing)}; install "
            "them, or for the container image add them to requirements-inference.in, run "
            "`make lock` and build the image again",
            code="PACKAGE_MISSING",
        )


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
