"""The ledger's database (SQLite or PostgreSQL): connections, transactions and migrations."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Self, get_args, get_origin, get_type_hints

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from registry import files
from registry.errors import BadConfig, Conflict, NotReady
from registry.masking import masked
from registry.settings import Settings, sqlite_uri
from registry.waiting import said

# Not `alembic_version`: MLflow owns that table if both share one database.
VERSION_TABLE = "kronos_ledger_version"
REVISION = "0005"  # the newest migration
MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 5_203_117_402  # PostgreSQL advisory lock that is held during a migration
_BUSY_TIMEOUT_S = 30
_CONNECT_TIMEOUT_S = 8
SETTING = "KRONOS_LEDGER_URI"
PSYCOPG2 = "postgresql+psycopg2:// (with the driver: SQLAlchemy's default may not be installed)"


class UtcTime(sa.TypeDecorator[datetime]):
    """An aware datetime, stored in UTC to the microsecond. SQLite itself drops time zones."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_TYPES: dict[Any, Any] = {int: sa.Integer, str: sa.Text, datetime: UtcTime}


metadata = sa.MetaData()  # of all tables of the ledger


def table(name: str, record: type, *constraints: sa.Constraint) -> sa.Table:
    """A table whose columns are the fields of a dataclass; `id` is its key.

    An annotation is int, str or datetime. `| None` means that the column may be empty.
    `Annotated[str, sa.String(64)]` sets the column's type.
    """
    hints = get_type_hints(record, include_extras=True)
    columns = [_column(field.name, hints[field.name]) for field in fields(record)]
    return sa.Table(name, metadata, *columns, *constraints)


def _column(name: str, annotation: Any) -> "sa.Column[Any]":
    arguments = get_args(annotation)
    nullable = type(None) in arguments
    if get_origin(annotation) is Annotated:
        column_type = arguments[1]
    else:
        column_type = _TYPES[arguments[0] if nullable else annotation]
    return sa.Column(name, column_type, primary_key=name == "id", nullable=nullable)


ESCAPE = "write @, / and other special characters of a password as %40, %2F and so on"


def connect(uri: str) -> sa.Engine:
    """Engine for a ledger's URI; it opens no connection yet. Raises BadConfig for a wrong URI."""
    ledger = engine_of(uri, SETTING)
    if ledger.url.drivername == "sqlite":
        path = sqlite_file(ledger.url)
        if path is not None:
            files.make_folder(path.parent)
        sa.event.listen(ledger, "connect", _prepare_sqlite)
        sa.event.listen(ledger, "begin", _begin_sqlite)
    elif ledger.url.drivername != "postgresql+psycopg2":
        raise BadConfig(
            f"{SETTING} begins with {ledger.url.drivername}://, expected sqlite:/// or {PSYCOPG2}"
        )
    return ledger


def engine_of(uri: str, setting: str) -> sa.Engine:
    """Engine for the URI of a setting; it opens no connection yet. Raises BadConfig."""
    try:
        url = sa.make_url(uri)
        if "@" in f"{url.host}{url.database if url.host else ''}":
            raise BadConfig(f"{setting} cannot be read: {ESCAPE}")
        # Errors hide the parameters of a statement, such as the body of a request.
        return sa.create_engine(
            url, pool_pre_ping=True, hide_parameters=True, connect_args=connect_timeout(url)
        )
    except (SQLAlchemyError, ValueError) as error:
        raise BadConfig(
            f"{setting} is not a database URI like sqlite:////srv/kronos/data.db"
        ) from error
    except ImportError as error:
        raise BadConfig(
            f"{setting} begins with {url.drivername}://, whose driver is not installed; "
            f"expected sqlite:/// or {PSYCOPG2}"
        ) from error


def sqlite_file(url: sa.URL) -> Path | None:
    """The file of an SQLite database; None for a database in memory or elsewhere."""
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    if url.database == ":memory:" or url.database.startswith("file:"):
        return None
    return Path(url.database)


def connect_timeout(url: sa.URL) -> dict[str, Any]:
    """Seconds to wait for a lock of SQLite, or for a connection unless the user set that."""
    if url.drivername == "sqlite":
        return {"timeout": _BUSY_TIMEOUT_S}
    chosen = "connect_timeout" in url.query or "PGCONNECT_TIMEOUT" in os.environ
    if url.drivername != "postgresql+psycopg2" or chosen:
        return {}
    return {"connect_timeout": _CONNECT_TIMEOUT_S}


def _prepare_sqlite(connection: Any, _: Any) -> None:
    # Only an explicit BEGIN starts a transaction, so that tables are created inside one.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-64000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


class Opened:
    """A ledger, opened and migrated. A process makes one and closes it when done.

    Raises BadConfig for a wrong URI, Conflict if newer code wrote the ledger, and KronosError (code
    LEDGER_UNAVAILABLE) if the database cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.engine = connect(settings.ledger)
        try:
            bring_up_to_date(self.engine)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def write(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that writes.

    SQLite takes its write lock at once, so that no reader has to become a writer.
    """
    with _explained(engine), engine.execution_options(immediate=True).begin() as connection:
        yield connection


@contextmanager
def read(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection that only reads, all of it from one state of the database."""
    if engine.dialect.name == "postgresql":  # SQLite does so by itself
        engine = engine.execution_options(isolation_level="REPEATABLE READ")
    with _explained(engine), engine.connect() as connection:
        yield connection


@contextmanager
def _explained(engine: sa.Engine) -> Iterator[None]:
    """Turn the driver's errors into a KronosError. The caller handles a broken constraint."""
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        where = masked(str(engine.url))
        reason = masked(" ".join(str(error.orig).split()))
        raise NotReady(
            f"the ledger at {where} cannot be used: {reason}", code="LEDGER_UNAVAILABLE"
        ) from error


def bring_up_to_date(engine: sa.Engine) -> None:
    """Make or change the tables, unless they are those of this code: then nothing is locked.

    Raises Conflict if newer code wrote the ledger.
    """
    path = sqlite_file(engine.url)
    if path is not None:
        files.make_once(path, _make)
    with said(f"waiting for the ledger at {masked(str(engine.url))}"), read(engine) as connection:
        if _revision(connection) == REVISION:
            return
    with write(engine) as connection:
        _migrate(connection)


def _make(path: Path) -> None:
    """Make the file of a new ledger. Its last connection writes the log of SQLite into it."""
    new = connect(sqlite_uri(path))
    with write(new) as connection:
        _migrate(connection)
    new.dispose()


def _revision(connection: sa.Connection) -> str | None:
    """The migration that the tables are at; None for an empty database."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    revision: str | None = connection.scalar(sa.text(f"select version_num from {VERSION_TABLE}"))
    return revision


def _migrate(connection: sa.Connection) -> None:
    """Run the migrations that are missing, one process at a time."""
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    if connection.dialect.name == "postgresql":
        with said("waiting for another process, which makes the ledger's tables"):
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise Conflict(
            "the ledger was written by newer code; update this checkout", code="NEWER_LEDGER"
        ) from error
