"""Every event of the shop, by its owner and by its routing key."""

from shop_contracts.events import catalog, checkout, search, stock
from shop_contracts.events.base import Fact

EVENTS: dict[str, tuple[type[Fact], ...]] = {
    "catalog": catalog.EVENTS,
    "stock": stock.EVENTS,
    "checkout": checkout.EVENTS,
    "search": search.EVENTS,
}

BY_KEY: dict[str, type[Fact]] = {fact.KEY: fact for facts in EVENTS.values() for fact in facts}
OWNER_OF: dict[str, str] = {fact.KEY: owner for owner, facts in EVENTS.items() for fact in facts}
