"""The words that several events share. Every bound here is part of the contract."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct

MAX_SAFE = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly (RFC 8259 §6)."""

Sku = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z", description="stock keeping unit")
]
Slug = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,126}\Z")]
Id = Annotated[UUID, Meta(description="UUIDv7")]
Text = Annotated[str, Meta(min_length=1, max_length=500)]
LongText = Annotated[str, Meta(max_length=20_000)]
Url = Annotated[str, Meta(min_length=1, max_length=2_000)]
Count = Annotated[int, Meta(ge=0, le=MAX_SAFE)]
Quantity = Annotated[int, Meta(ge=1, le=MAX_SAFE)]
Position = Annotated[int, Meta(ge=0, le=1_000_000)]
Minor = Annotated[int, Meta(ge=0, le=MAX_SAFE, description="minor units of the currency")]
Currency = Annotated[str, Meta(pattern=r"^[A-Z]{3}\Z", description="ISO 4217")]
Time = Annotated[datetime, Meta(tz=True)]


class Line(Struct, frozen=True, kw_only=True):
    """So many units of one SKU."""

    sku: Sku
    qty: Quantity


class Shortage(Struct, frozen=True, kw_only=True):
    """One line that could not be served, and how much there was."""

    sku: Sku
    requested: Quantity
    available: Count


class PricedLine(Struct, frozen=True, kw_only=True):
    """An order line at the price that was agreed for one unit."""

    sku: Sku
    qty: Quantity
    name: Text
    unit_minor: Minor
