"""What stands on an invoice, as a document that never changes. Pure: no file, no table, no PDF.

An invoice is a picture of the order at the time when its number was given: who sells, who buys,
every line with its tax. Amounts are those of the order's breakdown; none is derived again.
"""

import re
import unicodedata
from collections.abc import Sequence
from datetime import date, datetime
from typing import Literal, TypeAlias

from babel import Locale
from msgspec import Struct

from checkout.purchase import Address, Entry
from checkout.seller import Language, Seller, day
from checkout.totals import Breakdown, TaxAmounts

Kind: TypeAlias = Literal["invoice", "credit_note"]

GERMAN = {"AT", "CH", "DE", "LI", "LU"}
SERIES: dict[Kind, str] = {"invoice": "", "credit_note": "C"}
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class Row(Struct, frozen=True, kw_only=True):
    """One position: `amount_minor` is what its units cost before discounts, as prices are.

    A row whose tax has several rates names none.
    """

    name: str
    sku: str
    qty: int
    unit_minor: int
    rate_bp: int | None = None
    amount_minor: int


class Document(Struct, frozen=True, kw_only=True):
    """All that is printed. `prices` says whether the rows' amounts contain their tax."""

    kind: Kind
    language: Language
    number: str
    issued_on: date
    order: str
    ordered_on: date
    about: str = ""
    """The number of the invoice that a credit note is about."""
    reason: str = ""
    seller: Seller
    buyer: list[str]
    goods_to: list[str] = []
    """Where the goods went, if not to the buyer."""
    currency: str
    exponent: int
    prices: Literal["gross", "net"]
    rows: list[Row]
    subtotal_minor: int
    coupon: str | None = None
    discount_minor: int = 0
    shipping: str | None = None
    shipping_minor: int = 0
    taxes: list[TaxAmounts]
    net_minor: int
    tax_minor: int
    total_minor: int


class Buyer(Struct, frozen=True, kw_only=True):
    """To whom it goes; a shopper may have said no more than a mail address, or be forgotten.

    `billing` is where the invoice goes when that is not where the goods go.
    """

    email: str | None = None
    name: str | None = None
    address: Address | None = None
    billing: Entry | None = None


def language_of(country: str | None, otherwise: Language) -> Language:
    """German where it is spoken, English elsewhere, the shop's own where nobody knows."""
    if country is None:
        return otherwise
    return "de" if country in GERMAN else "en"


def series(kind: Kind, at: datetime, seller: Seller) -> str:
    """Which numbers it is counted among: those of its kind and year, `2026` or `C2026`."""
    return f"{SERIES[kind]}{day(at, seller).year}"


def number(in_series: str, count: int) -> str:
    """`2026-000123`; from a million on it has more digits."""
    return f"{in_series}-{count:06d}"


def invoice(
    *,
    number: str,
    order: str,
    names: Sequence[str],
    breakdown: Breakdown,
    seller: Seller,
    buyer: Buyer,
    ordered_at: datetime,
    issued_at: datetime,
) -> Document:
    """The invoice of an order; `names` are those of the breakdown's lines, in their order."""
    billed = buyer
    if at := buyer.billing:
        billed = Buyer(name=at.name, address=at)
    country = billed.address.country if billed.address else breakdown.country
    language = language_of(country, seller.language)
    shipping = breakdown.shipping
    return Document(
        kind="invoice",
        language=language,
        number=number,
        issued_on=day(issued_at, seller),
        order=order,
        ordered_on=day(ordered_at, seller),
        seller=seller,
        buyer=lines_of(billed, language),
        goods_to=lines_of(buyer, language) if buyer.billing and buyer.address else [],
        currency=breakdown.currency,
        exponent=breakdown.exponent,
        prices=breakdown.prices,
        rows=[
            Row(
                name=printable(name),
                sku=line.sku,
                qty=line.qty,
                unit_minor=line.unit_minor,
                rate_bp=line.rate_bp,
                amount_minor=line.goods_minor,
            )
            for name, line in zip(names, breakdown.lines, strict=True)
        ],
        subtotal_minor=breakdown.subtotal_minor,
        coupon=breakdown.coupon,
        discount_minor=breakdown.discount_minor,
        shipping=printable(shipping.name) if shipping else None,
        shipping_minor=breakdown.shipping_minor,
        taxes=breakdown.taxes,
        net_minor=breakdown.net_minor,
        tax_minor=breakdown.tax_minor,
        total_minor=breakdown.total_minor,
    )


def lines_of(buyer: Buyer, language: Language) -> list[str]:
    """The address field: name, street, town, country; the mail address where there is no other."""
    if buyer.address is None:
        return [printable(line) for line in (buyer.name, buyer.email) if line]
    at = buyer.address
    country = Locale(language).territories.get(at.country, at.country)
    town = f"{at.postcode} {at.city}".strip()
    found = (buyer.name, at.street, f"{town}, {at.area}" if at.area else town, country)
    return [printable(line) for line in found if line]


def printable(text: str) -> str:
    """The text on one line, its letters whole: an umlaut of two characters becomes one."""
    return unicodedata.normalize("NFC", _CONTROLS.sub(" ", text)).strip()
