"""Which pages show what an event changed, as surrogate keys. Pure; knows no cache and no HTTP.

The keys are those that the services put on their pages: `p-<product>`, `c-<category>`, `s-<sku>`,
`home`, `nav`.
"""

from collections.abc import Callable, Iterable, MutableMapping
from typing import Any

from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact
from shop_contracts.events.catalog import (
    CategoryChangedV2,
    ProductPublishedV1,
    ProductWithdrawnV1,
)
from shop_contracts.events.stock import PriceChangedV1, StockChangedV1

PLENTY = 10
"""From so many units on a page shows no number: no page may count higher than this."""


class Shown:
    """What the pages show of each SKU's stock, as far as events have told."""

    def __init__(self) -> None:
        self._units: MutableMapping[str, int] = {}

    def changes(self, fact: StockChangedV1) -> bool:
        """Whether a page that was right before is wrong now. Unknown before counts as wrong."""
        shown = min(fact.available, PLENTY)
        before = self._units.get(fact.sku)
        self._units[fact.sku] = shown
        return before != shown


def keys(shown: Shown, events: Iterable[Event[Fact]]) -> set[str]:
    """The surrogate keys of all pages that these events made wrong."""
    found: set[str] = set()
    for event in events:
        rule = KEYS.get(type(event.data))
        if rule is not None:
            found |= rule(shown, event.data)
    return found


def _published(_: Shown, fact: ProductPublishedV1) -> set[str]:
    lists = {f"c-{category.slug}" for category in fact.categories}
    return {f"p-{fact.product_id}", "home"} | lists | _ancestors(lists)


def _ancestors(lists: set[str]) -> set[str]:
    # a category's slug is its path: a page of a category lists what stands below it too
    return {
        "--".join(parts[:depth])
        for parts in (name.split("--") for name in lists)
        for depth in range(1, len(parts))
    }


def _withdrawn(_: Shown, fact: ProductWithdrawnV1) -> set[str]:
    return {f"p-{fact.product_id}", "home"}


def _category(_: Shown, fact: CategoryChangedV2) -> set[str]:
    # the page of a category lists those below it
    lists = {f"c-{step.slug}" for step in fact.path if step.slug}
    return {f"c-{fact.slug}", "nav", "home"} | lists


def _stock(shown: Shown, fact: StockChangedV1) -> set[str]:
    return {f"s-{fact.sku}"} if shown.changes(fact) else set()


def _price(_: Shown, fact: PriceChangedV1) -> set[str]:
    return {f"s-{fact.sku}"}


KEYS: dict[type[Fact], Callable[[Shown, Any], set[str]]] = {
    ProductPublishedV1: _published,
    ProductWithdrawnV1: _withdrawn,
    CategoryChangedV2: _category,
    StockChangedV1: _stock,
    PriceChangedV1: _price,
}
