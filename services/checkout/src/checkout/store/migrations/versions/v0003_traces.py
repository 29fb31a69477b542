"""A payment is asked for by another process, later: it goes on in the trace of its cause."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("payments", sa.Column("traceparent", sa.String(55)))
