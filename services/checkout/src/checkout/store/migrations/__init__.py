"""The schema's history, run by Alembic from code: `schema.HISTORY` is the only way in."""
