"""What a SKU weighs and how it is taxed, as its product says."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("products", sa.Column("weight_g", sa.BigInteger()))
    op.add_column("products", sa.Column("tax_class", sa.String(32)))
