"""Brings a database's schema up to date by Alembic, SQLite and MariaDB alike. Knows no table.

Needs Alembic, which only services with a database install.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.database import Database

TURN_SECONDS = 120
FIRST = "0001"


class History(Struct, frozen=True, kw_only=True):
    """The migrations of one service."""

    service: str
    folder: Path
    """Holds `env.py` and `versions`."""
    known_by: str
    """A table of the first version: a database with it and without a version is taken as that."""

    async def migrate(self, database: Database) -> None:
        """Bring the schema up to date. Several at once take turns; a second run changes nothing."""
        await database.write(self._take_turns)

    async def _take_turns(self, connection: AsyncConnection) -> None:
        # SQLite's writers wait for each other; MariaDB commits each change of a table by itself
        mysql = connection.dialect.name != "sqlite"
        turn = f"{self.service}_migrates"
        if mysql:
            await connection.execute(sa.select(sa.func.get_lock(turn, TURN_SECONDS)))
        await connection.run_sync(self.upgrade)
        if mysql:
            await connection.execute(sa.select(sa.func.release_lock(turn)))

    def upgrade(self, connection: sa.Connection, to: str = "head") -> None:
        """Run the migrations up to a version, within the connection's transaction."""
        config = Config()
        config.set_main_option("script_location", str(self.folder))
        config.set_main_option("version_locations", str(self.folder / "versions"))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        names = sa.inspect(connection).get_table_names()
        if self.known_by in names and "alembic_version" not in names:
            command.stamp(config, FIRST)
        command.upgrade(config, to)
