"""The schema's history, run by Alembic from code: `stock.schema` is the only way in."""
