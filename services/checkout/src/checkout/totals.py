"""Every amount of a cart or an order, derived in one place. Pure: no I/O, no clock, no cart.

Amounts are integer minor units. Prices are gross or net, as the rules say: a coupon and shipping
are meant as prices are. Tax is rounded half up for each line, and for shipping, after its share of
the discount; the total is the sum of what was rounded, never rounded again.
"""

from collections.abc import Sequence
from typing import Literal

from babel.numbers import get_currency_precision
from msgspec import Struct

from checkout.rules import Method, Rules

WHOLE = 10_000
"""Hundredths of a percent in one."""


class Item(Struct, frozen=True, kw_only=True):
    """Units of one SKU at their price."""

    sku: str
    qty: int
    unit_minor: int
    tax_class: str | None = None
    weight_g: int = 0


class Discount(Struct, frozen=True, kw_only=True):
    """What a coupon takes off: `value` is hundredths of a percent, or minor units, or nothing."""

    code: str
    kind: Literal["percent", "amount", "free_shipping"]
    value: int = 0


class LineAmounts(Struct, frozen=True, kw_only=True):
    """What one line costs; `net_minor` + `tax_minor` = `gross_minor`, which is what is paid for it.

    `goods_minor` is its units at their price, `discount_minor` its share of the discount; both are
    gross or net as prices are.
    """

    sku: str
    qty: int
    unit_minor: int
    goods_minor: int
    discount_minor: int
    tax_class: str
    rate_bp: int
    net_minor: int
    tax_minor: int
    gross_minor: int


class ShippingAmounts(Struct, frozen=True, kw_only=True):
    """What sending it costs; `price_minor` - `discount_minor` is gross or net as prices are."""

    method: str
    name: str
    price_minor: int
    discount_minor: int
    tax_class: str
    rate_bp: int
    net_minor: int
    tax_minor: int
    gross_minor: int


class TaxAmounts(Struct, frozen=True, kw_only=True):
    """All that is taxed at one rate, shipping included."""

    rate_bp: int
    net_minor: int
    tax_minor: int
    gross_minor: int


class Breakdown(Struct, frozen=True, kw_only=True):
    """All amounts of a cart or an order. An order keeps its own for ever.

    With gross prices `total_minor` = `subtotal_minor` - `discount_minor` + `shipping_minor`, and
    the tax is in it; with net prices `tax_minor` comes on top. In both `net_minor` + `tax_minor` =
    `total_minor` = the gross amounts of the lines and of shipping = those of `taxes`.
    An amount has `exponent` digits behind the point.
    """

    currency: str
    exponent: int
    prices: Literal["gross", "net"]
    country: str | None
    lines: list[LineAmounts]
    shipping: ShippingAmounts | None
    coupon: str | None
    taxes: list[TaxAmounts]
    subtotal_minor: int
    discount_minor: int
    shipping_minor: int
    net_minor: int
    tax_minor: int
    total_minor: int


class ShippingOffer(Struct, frozen=True, kw_only=True):
    """A way to send this parcel there, and its price, gross or net as prices are."""

    id: str
    name: str
    price_minor: int


def breakdown(
    items: Sequence[Item],
    rules: Rules,
    *,
    currency: str,
    country: str | None = None,
    method: str | None = None,
    discount: Discount | None = None,
) -> Breakdown:
    """What the items cost when sent to `country` by `method`; shipping is None where none fits."""
    goods = [item.unit_minor * item.qty for item in items]
    subtotal = sum(goods)
    shares = allocate(_off(discount, subtotal), goods)
    lines = [_line(item, share, rules, country) for item, share in zip(items, shares, strict=True)]
    free = discount is not None and discount.kind == "free_shipping"
    sent = _shipping(items, rules, currency, country, method, free=free)
    parts: list[LineAmounts | ShippingAmounts] = [*lines, *([sent] if sent else [])]
    taxes = _by_rate(parts)
    return Breakdown(
        currency=currency,
        exponent=get_currency_precision(currency),
        prices=rules.prices,
        country=country,
        lines=lines,
        shipping=sent,
        coupon=discount.code if discount else None,
        taxes=taxes,
        subtotal_minor=subtotal,
        discount_minor=sum(shares),
        shipping_minor=sent.price_minor - sent.discount_minor if sent else 0,
        net_minor=sum(part.net_minor for part in parts),
        tax_minor=sum(part.tax_minor for part in parts),
        total_minor=sum(part.gross_minor for part in parts),
    )


def shipping_offers(
    items: Sequence[Item], rules: Rules, *, currency: str, country: str | None
) -> list[ShippingOffer]:
    """The ways to send the items there, the cheapest first."""
    offers = [
        ShippingOffer(id=method.id, name=method.name, price_minor=price)
        for method in rules.shipping
        if items and (price := _price(method, items, currency, country)) is not None
    ]
    return sorted(offers, key=lambda offer: offer.price_minor)


def allocate(amount: int, weights: Sequence[int]) -> list[int]:
    """The amount in shares by weight, none lost: what is left goes to the largest remainders.

    No share exceeds its weight while the amount does not exceed them all.
    """
    whole = sum(weights)
    if whole == 0:
        return [0 for _ in weights]
    shares = [amount * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: -(amount * weights[i] % whole))
    for i in by_remainder[: amount - sum(shares)]:
        shares[i] += 1
    return shares


def of_units(amount: int, qty: int, before: int, units: int) -> int:
    """The part of a line's amount that the next `units` of its `qty` have, after `before` of them.

    All units taken one after the other, in whatever steps, have exactly the amount.
    """
    return amount * (before + units) // qty - amount * before // qty


def disagreements(found: Breakdown) -> list[str]:
    """What does not add up, a sentence each; none in any breakdown that was derived here."""
    parts: list[LineAmounts | ShippingAmounts] = [*found.lines]
    if found.shipping:
        parts.append(found.shipping)
    priced = found.subtotal_minor - found.discount_minor + found.shipping_minor
    expected = {
        "total_minor": sum(part.gross_minor for part in parts),
        "net_minor": sum(part.net_minor for part in parts),
        "tax_minor": sum(part.tax_minor for part in parts),
        "subtotal_minor": sum(line.goods_minor for line in found.lines),
        "discount_minor": sum(line.discount_minor for line in found.lines),
    }
    wrong = [
        f"{name} is {getattr(found, name)}, its parts are {amount}"
        for name, amount in expected.items()
        if getattr(found, name) != amount
    ]
    if found.total_minor != priced + (found.tax_minor if found.prices == "net" else 0):
        wrong.append(f"the total {found.total_minor} is not what its prices add up to")
    if found.taxes != _by_rate(parts):
        wrong.append("the rates do not add up to their lines")
    wrong += [
        f"net and tax are not the gross of {part}"
        for part in parts
        if part.net_minor + part.tax_minor != part.gross_minor or part.tax_minor < 0
    ]
    return wrong


def _off(discount: Discount | None, subtotal: int) -> int:
    match discount:
        case Discount(kind="percent", value=value):
            return min(_half_up(subtotal * value, WHOLE), subtotal)
        case Discount(kind="amount", value=value):
            return min(value, subtotal)
        case _:
            return 0


def _line(item: Item, discount: int, rules: Rules, country: str | None) -> LineAmounts:
    goods = item.unit_minor * item.qty
    tax_class, rate = rules.taxed_as(country, item.tax_class)
    net, tax = _taxed(goods - discount, rate, rules)
    return LineAmounts(
        sku=item.sku,
        qty=item.qty,
        unit_minor=item.unit_minor,
        goods_minor=goods,
        discount_minor=discount,
        tax_class=tax_class,
        rate_bp=rate,
        net_minor=net,
        tax_minor=tax,
        gross_minor=net + tax,
    )


def _shipping(
    items: Sequence[Item],
    rules: Rules,
    currency: str,
    country: str | None,
    wanted: str | None,
    *,
    free: bool,
) -> ShippingAmounts | None:
    offers = shipping_offers(items, rules, currency=currency, country=country)
    offer = next((offer for offer in offers if wanted in {None, offer.id}), None)
    if offer is None:
        return None
    method = next(method for method in rules.shipping if method.id == offer.id)
    tax_class, rate = rules.taxed_as(country, method.tax_class)
    discount = offer.price_minor if free else 0
    net, tax = _taxed(offer.price_minor - discount, rate, rules)
    return ShippingAmounts(
        method=offer.id,
        name=offer.name,
        price_minor=offer.price_minor,
        discount_minor=discount,
        tax_class=tax_class,
        rate_bp=rate,
        net_minor=net,
        tax_minor=tax,
        gross_minor=net + tax,
    )


def _price(method: Method, items: Sequence[Item], currency: str, country: str | None) -> int | None:
    weight = sum(item.weight_g * item.qty for item in items)
    tariff = method.tariff(country, weight, currency)
    if tariff is None:
        return None
    goods = sum(item.unit_minor * item.qty for item in items)
    free_from = tariff.free_from_minor.get(currency)
    return 0 if free_from is not None and goods >= free_from else tariff.price_minor[currency]


def _taxed(amount: int, rate: int, rules: Rules) -> tuple[int, int]:
    """Net and tax of an amount that is gross or net as prices are."""
    if rules.prices == "net":
        return amount, _half_up(amount * rate, WHOLE)
    tax = _half_up(amount * rate, WHOLE + rate)
    return amount - tax, tax


def _by_rate(parts: Sequence[LineAmounts | ShippingAmounts]) -> list[TaxAmounts]:
    return [
        TaxAmounts(
            rate_bp=rate,
            net_minor=sum(part.net_minor for part in parts if part.rate_bp == rate),
            tax_minor=sum(part.tax_minor for part in parts if part.rate_bp == rate),
            gross_minor=sum(part.gross_minor for part in parts if part.rate_bp == rate),
        )
        for rate in sorted({part.rate_bp for part in parts}, reverse=True)
    ]


def _half_up(numerator: int, denominator: int) -> int:
    """The quotient of natural numbers, its half rounded up."""
    return (2 * numerator + denominator) // (2 * denominator)
