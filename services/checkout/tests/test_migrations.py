"""The schema's history leads to the tables that the code speaks of, on both databases."""

import asyncio

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from chassis.database import Database
from chassis.schema import FIRST
from checkout.store import tables
from checkout.store.schema import HISTORY


async def test_the_migrations_lead_to_the_tables_of_the_code(database: Database) -> None:
    def differences(connection: sa.Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        return list(compare_metadata(context, tables.METADATA))

    async with database.engine.connect() as connection:
        assert [] == await connection.run_sync(differences)


async def test_a_second_migration_changes_nothing_and_several_take_turns(
    database: Database,
) -> None:
    await asyncio.gather(*(HISTORY.migrate(database) for _ in range(3)))

    async with database.read() as connection:
        assert 1 == len((await connection.execute(sa.text("SELECT * FROM alembic_version"))).all())


async def test_a_database_from_before_there_were_versions_is_adopted(database: Database) -> None:
    def first_version(connection: sa.Connection) -> None:
        tables.METADATA.drop_all(connection)
        sa.Table("alembic_version", sa.MetaData()).drop(connection)
        HISTORY.upgrade(connection, FIRST)
        sa.Table("alembic_version", sa.MetaData()).drop(connection)

    async with database.engine.begin() as connection:
        await connection.run_sync(first_version)

    await HISTORY.migrate(database)

    async with database.engine.connect() as connection:
        found = await connection.run_sync(lambda bound: sa.inspect(bound).get_indexes("orders"))
    assert "ix_orders_status" in {index["name"] for index in found}
