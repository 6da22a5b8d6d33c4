"""Connect to MLflow: to a server that answers, or to a database that is made once.

The first contact of a process is quick to fail: a person waits for it. Later calls have the
patience that MLflow gives them, so that a short outage does not end a long training.
"""

import functools
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
import requests
import sqlalchemy as sa
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from registry import files
from registry.errors import BadConfig, KronosError, NotReady
from registry.ledger import database
from registry.masking import masked
from registry.settings import Settings, sqlite_uri
from registry.versions import environments
from registry.waiting import said

DATABASES = ("sqlite:", "postgresql", "mysql", "mssql")

# Of the first request, unless the user has set them: two attempts of four seconds.
_QUICK = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "4",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}
_LOCK = 5_203_117_403  # PostgreSQL advisory lock that is held while MLflow makes its tables
_REMEDY = "start it, or correct KRONOS_TRACKING_URI"


def connect(settings: Settings) -> MlflowClient:
    """Client of the configured tracking store and registry. They become MLflow's defaults here.

    Raises KronosError (TRACKING_UNAVAILABLE) within seconds if nothing answers at the URI, and
    BadConfig if it is none.
    """
    files.make_folder(settings.var_dir)
    before = {name: os.environ.get(name) for name in environments.URIS}
    os.environ.update(environments.of_mlflow(settings))
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    mlflow.set_tracking_uri(settings.tracking)
    mlflow.set_registry_uri(settings.tracking)
    # MLflow keeps the URIs in its module. Left in the environment, they would become the defaults
    # of the next Settings.
    for name, value in before.items():
        os.environ.pop(name)
        if value is not None:
            os.environ[name] = value
    _reach(settings.tracking, settings.artifacts)
    return MlflowClient()


@functools.cache
def _reach(uri: str, artifacts: str) -> None:
    """Once per process: raise KronosError unless the server answers or the database is ready."""
    if uri.startswith(DATABASES):
        _reach_database(uri, artifacts)
    elif uri.startswith(("http://", "https://")):
        _reach_server(uri)


# --- a server ---------------------------------------------------------------------------------


def _reach_server(uri: str) -> None:
    """Ask the server for a model, which needs its database, too."""
    where = masked(uri)
    _check_host(uri)
    try:
        with said(f"waiting for the MLflow server at {where}"), _defaults(_QUICK):
            MlflowClient().search_registered_models(max_results=1)
    except MlflowException as error:
        failure = _failure(error)
        if failure is None:  # a refusal, or no MLflow server
            message = f"{where} does not answer as an MLflow server: {masked(str(error))}"
            raise KronosError(message[:500], code="MLFLOW") from error
        reason = _reason(failure)
        if "429" in reason:  # it limits its rate, so it is there
            return
        raise _unavailable(f"the MLflow server at {where} does not answer: {reason}") from error


def _check_host(uri: str) -> None:
    """Raise BadConfig if a part of the password would be taken for host, port or path."""
    try:
        parts = urlsplit(uri)
        unclear = parts.netloc.count("@") > 1 or "@" in parts.path + parts.fragment
        _ = parts.port
    except ValueError:
        unclear = True
    if unclear:
        raise BadConfig(f"KRONOS_TRACKING_URI cannot be read: {database.ESCAPE}")


@contextmanager
def _defaults(values: Mapping[str, str]) -> Iterator[None]:
    """Set those variables in this block that the user has not set."""
    unset = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(unset)
    try:
        yield
    finally:
        for name in unset:
            del os.environ[name]


def _failure(error: BaseException) -> requests.RequestException | None:
    """The failed connection behind an error of MLflow; None if the server did answer."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, requests.RequestException):
        cause = cause.__cause__ or cause.__context__
    return cause


def _reason(error: BaseException) -> str:
    """The words of the first cause, such as `Connection refused`."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return masked(words)


def _unavailable(message: str) -> NotReady:
    return NotReady(f"{message}; {_REMEDY}", code="TRACKING_UNAVAILABLE")


# --- a database -------------------------------------------------------------------------------


def _reach_database(uri: str, artifacts: str) -> None:
    """Connect, and let one process at a time make what MLflow's database lacks."""
    engine = database.engine_of(uri, "KRONOS_TRACKING_URI")
    path = database.sqlite_file(engine.url)
    with _explained(engine):
        if path is not None:
            files.make_once(path, lambda new: _make(sqlite_uri(new), artifacts))
        with said(f"waiting for the MLflow database at {masked(str(engine.url))}"):
            engine.connect().close()
        if _is_ready(engine):
            return
        with _alone(engine, path):
            if not _is_ready(engine):
                _make(uri, artifacts)


def _is_ready(engine: sa.Engine) -> bool:
    """Whether MLflow would change nothing: its newest schema and an experiment are there."""
    from alembic.migration import MigrationContext
    from mlflow.store.db.utils import _get_latest_schema_revision

    with engine.connect() as connection:
        revision = MigrationContext.configure(connection).get_current_revision()
        if revision != _get_latest_schema_revision():
            return False
        experiments = sa.table("experiments")
        count = connection.scalar(sa.select(sa.func.count()).select_from(experiments))
        return bool(count)


def _make(uri: str, artifacts: str) -> None:
    """Make or migrate MLflow's tables, and its experiment Default."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(uri, artifacts).engine.dispose()


@contextmanager
def _alone(engine: sa.Engine, path: Path | None) -> Iterator[None]:
    """Run a block in one process at a time: by a lock in PostgreSQL, or beside SQLite's file.

    Other databases have no lock that is freed when its process is killed, in one syntax.
    """
    waiting = "waiting for another process, which makes MLflow's tables"
    if path is not None:
        with files.locked(files.lock_of(path), waiting=waiting):
            yield
    elif engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            with said(waiting):
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            yield
    else:
        yield


@contextmanager
def _explained(engine: sa.Engine) -> Iterator[None]:
    """Turn errors of the database, its driver and its migrations into a KronosError."""
    from alembic.util import CommandError

    where = masked(str(engine.url))
    try:
        yield
    except sa.exc.DBAPIError as error:
        reason = masked(" ".join(str(error.orig).split()))
        raise _unavailable(f"the MLflow database at {where} cannot be used: {reason}") from error
    except CommandError as error:
        reason = masked(str(error))
        raise _unavailable(
            f"the MLflow database at {where} cannot be migrated: {reason}"
        ) from error
    finally:
        engine.dispose()
