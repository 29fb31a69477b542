"""A search was answered; one of `one_in` searches is told."""

from typing import ClassVar

from msgspec import Struct

from shop_contracts.events.base import Fact
from shop_contracts.types import Caption, Count, Id, Quantity, Text


class Facet(Struct, frozen=True, kw_only=True):
    """A facet that narrowed the search, and the values that were picked in it."""

    name: Text
    values: list[Text]


class SearchPerformedV1(Fact, frozen=True, kw_only=True):
    """A search was answered; one of `one_in` searches is told.

    `query` is normalised (lower case, single spaces) and empty where a shopper only browsed;
    nothing tells who searched.
    """

    KEY: ClassVar[str] = "search.performed.v1"
    SUBJECT: ClassVar[str] = "search_id"

    search_id: Id
    query: Caption
    hits: Count
    facets: list[Facet] = []
    one_in: Quantity = 1
