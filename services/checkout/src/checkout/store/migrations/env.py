"""What Alembic runs: the migrations, on the connection that `chassis.schema` holds."""

from alembic import context

from checkout.store.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
