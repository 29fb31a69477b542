"""What a cart costs at the prices in force, and the ways to send it. No I/O, and no order."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from msgspec import Meta, Struct

from checkout.coupons import CartCoupon
from checkout.rules import Country, Rules, Word
from checkout.totals import (
    Breakdown,
    Discount,
    Item,
    ShippingOffer,
    breakdown,
    shipping_offers,
)
from shop_contracts.types import MAX_SAFE, Currency, PricedLine, Sku

MAX_LINES = 100
MAX_QTY = 999

Qty = Annotated[int, Meta(ge=1, le=MAX_QTY)]


class Cart(Struct, frozen=True, kw_only=True):
    """What a shopper wants, by SKU; `version` grows with each change.

    `seen` are the prices, by currency, that stood there when a line was last changed.
    """

    id: str
    version: int
    lines: dict[str, int]
    seen: dict[str, dict[str, int]] = {}
    coupon: str | None = None


class Offer(Struct, frozen=True, kw_only=True):
    """What checkout knows of one SKU: its name, its price by currency, whether it is withdrawn."""

    name: str | None = None
    prices: dict[str, int] = {}
    withdrawn: bool = False
    tax_class: str | None = None
    weight_g: int = 0


class Delivery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where it goes and how: without a country to the shop's own, without a method the cheapest."""

    country: Country | None = None
    shipping_method: Word | None = None


ANYWHERE = Delivery()
UNSEEN: Mapping[str, Mapping[str, int]] = {}


class CartLine(Struct, frozen=True, kw_only=True):
    """One line as a shopper sees it; without a price it cannot be ordered.

    `seen_minor` is what a unit cost when the shopper last changed the line.
    """

    sku: Sku
    name: str
    qty: Qty
    unit_minor: int | None
    total_minor: int | None
    seen_minor: int | None = None


class Quote(Struct, frozen=True, kw_only=True):
    """A cart at the prices in force, and the ways to send it, the cheapest first.

    `breakdown` is None while a line has no price. It is not `deliverable` where no way leads.
    """

    currency: Currency
    lines: list[CartLine]
    breakdown: Breakdown | None
    methods: list[ShippingOffer] = []
    deliverable: bool = True
    coupon: CartCoupon | None = None

    @property
    def total_minor(self) -> int | None:
        """What is to be paid; None while a line has no price, or nobody sends it there."""
        return self.breakdown.total_minor if self.breakdown and self.deliverable else None

    @property
    def unavailable(self) -> list[str]:
        """The SKUs that nobody can order just now."""
        return [line.sku for line in self.lines if line.unit_minor is None]

    def agreed(self) -> list[PricedLine]:
        """The lines of an order; only of a quote with a total."""
        return [
            PricedLine(sku=line.sku, qty=line.qty, name=line.name, unit_minor=line.unit_minor or 0)
            for line in self.lines
        ]


NO_RULES = Rules()


def quote(
    lines: Mapping[str, int],
    offers: Mapping[str, Offer],
    *,
    currency: str | None,
    preferred: str,
    rules: Rules = NO_RULES,
    delivery: Delivery = ANYWHERE,
    coupon: CartCoupon | None = None,
    discount: Discount | None = None,
    seen: Mapping[str, Mapping[str, int]] = UNSEEN,
) -> Quote:
    """What the lines cost in `currency`, or else in one currency that has a price for them all.

    Of several such currencies `preferred` wins, then the first by name. `discount` is what the
    cart's coupon takes off.
    """
    country, method = delivery.country or rules.country, delivery.shipping_method
    chosen = currency or _common_currency([offers.get(sku, Offer()) for sku in lines], preferred)
    priced = [
        _line(sku, qty, offers.get(sku, Offer()), chosen, seen.get(sku, {}))
        for sku, qty in sorted(lines.items())
    ]
    items = [
        _item(line.sku, line.qty, line.unit_minor, offers[line.sku])
        for line in priced
        if line.unit_minor is not None
    ]
    found = breakdown(
        items, rules, currency=chosen, country=country, method=method, discount=discount
    )
    whole = len(items) == len(priced) and max(found.subtotal_minor, found.total_minor) <= MAX_SAFE
    return Quote(
        currency=chosen,
        lines=priced,
        breakdown=found if whole else None,
        deliverable=not items
        or (rules.serves(country) and (not rules.shipping or found.shipping is not None)),
        coupon=coupon,
        methods=shipping_offers(items, rules, currency=chosen, country=country),
    )


def _item(sku: str, qty: int, unit: int, offer: Offer) -> Item:
    return Item(
        sku=sku, qty=qty, unit_minor=unit, tax_class=offer.tax_class, weight_g=offer.weight_g
    )


def plain(lines: Sequence[PricedLine], currency: str) -> Breakdown:
    """What the lines cost where there is neither tax, shipping nor discount."""
    items = [Item(sku=line.sku, qty=line.qty, unit_minor=line.unit_minor) for line in lines]
    return breakdown(items, NO_RULES, currency=currency)


def _common_currency(offers: Sequence[Offer], preferred: str) -> str:
    sold = [set(offer.prices) for offer in offers if offer.prices and not offer.withdrawn]
    common = set[str].intersection(*sold) if sold else {preferred}
    return preferred if preferred in common or not common else min(common)


def _line(sku: str, qty: int, offer: Offer, currency: str, seen: Mapping[str, int]) -> CartLine:
    unit = None if offer.withdrawn else offer.prices.get(currency)
    return CartLine(
        sku=sku,
        # a product that catalog has not told us of yet is sold under its SKU
        name=offer.name or sku,
        qty=qty,
        unit_minor=unit,
        total_minor=None if unit is None else unit * qty,
        seen_minor=seen.get(currency),
    )
