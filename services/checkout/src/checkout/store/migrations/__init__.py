"""The schema's history, run by Alembic from code: `Database.migrate` is the only way in."""
