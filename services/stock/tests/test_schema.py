"""The schema's history leads to the tables that the code speaks of, on both databases."""

import asyncio

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from chassis.database import Database
from stock import schema, tables
from stock.waiting import TABLES

pytestmark = pytest.mark.connected


async def test_the_migrations_lead_to_the_tables_of_the_code(sql: Database) -> None:
    assert TABLES.webhooks.metadata is tables.METADATA

    def differences(connection: sa.Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        return list(compare_metadata(context, tables.METADATA))

    async with sql.engine.connect() as connection:
        assert [] == await connection.run_sync(differences)


async def test_a_second_migration_changes_nothing_and_several_take_turns(sql: Database) -> None:
    await asyncio.gather(*(schema.HISTORY.migrate(sql) for _ in range(3)))

    async with sql.read() as connection:
        assert 1 == len((await connection.execute(sa.text("SELECT * FROM alembic_version"))).all())


async def test_a_database_from_before_there_were_versions_is_adopted(sql: Database) -> None:
    async with sql.engine.begin() as connection:
        await connection.execute(sa.text("DROP TABLE alembic_version"))
        for table in tables.JOURNAL:
            await connection.run_sync(table.drop)

    await schema.HISTORY.migrate(sql)

    async with sql.engine.connect() as connection:
        names = await connection.run_sync(lambda bound: sa.inspect(bound).get_table_names())
    assert {table.name for table in tables.JOURNAL} <= set(names)
