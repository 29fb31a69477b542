"""What every event's data has in common: its routing key and whom it is about."""

from typing import ClassVar

from msgspec import Struct


class Fact(Struct, frozen=True, kw_only=True):
    """An event's data. `KEY` is its routing key, `SUBJECT` the field with the aggregate's id."""

    KEY: ClassVar[str]
    SUBJECT: ClassVar[str]
