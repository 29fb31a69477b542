"""What every event's data has in common: its name, its version and whom it is about."""

from datetime import date
from typing import ClassVar

from msgspec import Struct


class Fact(Struct, frozen=True, kw_only=True):
    """An event's data. `KEY` is its routing key, `SUBJECT` the field with the aggregate's id.

    `MINOR` grows by one with each compatible change. `SUNSET` is the day after which this major is
    no longer sent. `RESERVED` holds the names of removed fields, which are never used again.
    """

    KEY: ClassVar[str]
    SUBJECT: ClassVar[str]
    MINOR: ClassVar[int] = 0
    SUNSET: ClassVar[date | None] = None
    RESERVED: ClassVar[tuple[str, ...]] = ()


def name_of(key: str) -> str:
    """`stock.changed` of `stock.changed.v2`."""
    return key.rpartition(".v")[0]


def major_of(key: str) -> int:
    """2 of `stock.changed.v2`."""
    return int(key.rpartition(".v")[2])


def dataschema(fact: type[Fact]) -> str:
    """The id of the schema that the fact is written by: `urn:shop:stock.changed:2.0`."""
    return f"urn:shop:{name_of(fact.KEY)}:{major_of(fact.KEY)}.{fact.MINOR}"
