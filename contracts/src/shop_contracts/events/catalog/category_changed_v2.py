"""A category is new, renamed or moved."""

from typing import ClassVar

from msgspec import Struct

from shop_contracts.events.base import Fact
from shop_contracts.types import Position, Slug, Text


class Step(Struct, frozen=True, kw_only=True):
    """A category on the way from the root; in what was told before v2 its slug may be unknown."""

    slug: Slug | None = None
    name: Text


class CategoryChangedV2(Fact, frozen=True, kw_only=True):
    """A category is new, renamed or moved.

    `path` leads from the root down to the category itself, so that each step can be linked.
    """

    KEY: ClassVar[str] = "category.changed.v2"
    SUBJECT: ClassVar[str] = "slug"

    slug: Slug
    name: Text
    path: list[Step]
    position: Position
