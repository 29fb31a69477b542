"""Brings the schema up to date, SQLite and MariaDB alike. Knows the migrations, and no row."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.database import Database

MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATES, MIGRATE_SECONDS = "stock_migrates", 120
FIRST = "0001"


async def migrate(database: Database) -> None:
    """Bring the schema up to date. Several at once take turns; a second run changes nothing."""
    await database.write(_take_turns)


async def _take_turns(connection: AsyncConnection) -> None:
    # SQLite's writers wait for each other; MariaDB commits each change of a table by itself
    mysql = connection.dialect.name != "sqlite"
    if mysql:
        await connection.execute(sa.select(sa.func.get_lock(MIGRATES, MIGRATE_SECONDS)))
    await connection.run_sync(_upgrade)
    if mysql:
        await connection.execute(sa.select(sa.func.release_lock(MIGRATES)))


def _upgrade(connection: sa.Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("version_locations", str(MIGRATIONS / "versions"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    names = sa.inspect(connection).get_table_names()
    if "alerts" in names and "alembic_version" not in names:
        command.stamp(config, FIRST)  # made before there were versions
    command.upgrade(config, "head")
