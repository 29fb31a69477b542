"""A category is new, renamed or moved; `path` holds the names from the root down to it."""

from datetime import date
from typing import ClassVar

from shop_contracts.events.base import Fact
from shop_contracts.types import Position, Slug, Text


class CategoryChangedV1(Fact, frozen=True, kw_only=True):
    """A category is new, renamed or moved; `path` holds the names from the root down to it."""

    KEY: ClassVar[str] = "category.changed.v1"
    SUBJECT: ClassVar[str] = "slug"
    SUNSET: ClassVar[date | None] = date(2027, 12, 31)

    slug: Slug
    name: Text
    path: list[Text]
    position: Position
