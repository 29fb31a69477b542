"""The words that several events share. Every bound here is part of the contract."""

import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Self
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
Caption = Annotated[str, Meta(max_length=500)]
LongText = Annotated[str, Meta(max_length=20_000)]
Url = Annotated[str, Meta(min_length=1, max_length=2_000)]
Count = Annotated[int, Meta(ge=0, le=MAX_SAFE)]
Quantity = Annotated[int, Meta(ge=1, le=MAX_SAFE)]
Position = Annotated[int, Meta(ge=0, le=1_000_000)]
Minor = Annotated[int, Meta(ge=0, le=MAX_SAFE, description="minor units of the currency")]
Grams = Annotated[int, Meta(ge=0, le=1_000_000_000, description="what one unit weighs, packed")]
TaxClass = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}\Z")]
Currency = Annotated[str, Meta(pattern=r"^[A-Z]{3}\Z", description="ISO 4217")]
Time = Annotated[datetime, Meta(tz=True)]

OPEN_WORD = r"^[a-z][a-z0-9_]{0,63}\Z"
"""What every word of an open enum looks like, those of later minors included."""


class OpenEnum(StrEnum):
    """Words to which a minor may add one: what this version does not know, it reads as UNKNOWN.

    A subclass has the member `UNKNOWN = "unknown"`, which nobody sends. Only an enum that was open
    in the first minor of its major may be open.
    """

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        known = isinstance(value, str) and re.match(OPEN_WORD, value)
        return cls["UNKNOWN"] if known else None


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
