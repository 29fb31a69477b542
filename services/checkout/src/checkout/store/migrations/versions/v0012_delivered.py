"""When a parcel was handed over."""

import sqlalchemy as sa
from alembic import op

from chassis.database import UtcTime

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.add_column("shipments", sa.Column("delivered_at", UtcTime))
