"""What stands on a credit note: the money that a refund gave back, with its tax. Pure.

A refund's amount is shared among what it is for, by what was paid for each; the tax in a share is
as much of the part's tax as the share is of its amount, so that all of a part has all of its tax.
"""

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct, structs

from checkout.after import Refund
from checkout.invoice import Document, Row
from checkout.seller import Language, Seller, day
from checkout.totals import Breakdown, LineAmounts, ShippingAmounts, TaxAmounts, allocate

REASONS: dict[Language, dict[str, str]] = {
    "de": {
        "returned": "Rückgabe",
        "damaged": "Beschädigt",
        "not_delivered": "Nicht zugestellt",
        "goodwill": "Kulanz",
    },
    "en": {
        "returned": "Returned",
        "damaged": "Damaged",
        "not_delivered": "Not delivered",
        "goodwill": "Goodwill",
    },
}


class _Part(Struct, frozen=True):
    """Something that money is given back for: `gross_minor` and the tax in it were paid."""

    rate_bp: int
    weight: int
    gross_minor: int
    tax_minor: int


def credit_note(
    invoice: Document, breakdown: Breakdown, refund: Refund, seller: Seller, issued_at: datetime
) -> Document:
    """The credit note of a refund, without its number. Its amounts contain their tax."""
    sold = {line.sku: line for line in breakdown.lines}
    names = {row.sku: row.name for row in invoice.rows}
    reason = REASONS[invoice.language][refund.reason]
    rows = [
        Row(
            name=names[line.sku],
            sku=line.sku,
            qty=line.qty,
            unit_minor=line.worth_minor // line.qty,
            rate_bp=sold[line.sku].rate_bp,
            amount_minor=line.worth_minor,
        )
        for line in refund.lines
    ]
    shipping = refund.shipping_minor or 0
    worth = sum(row.amount_minor for row in rows) + shipping
    if worth == 0:
        # money for nothing in particular is money for everything
        amount = refund.amount_minor
        rows = [Row(name=reason, sku=reason, qty=1, unit_minor=amount, amount_minor=amount)]
        worth = amount
    taxes = _taxes(breakdown, refund)
    tax = sum(each.tax_minor for each in taxes)
    return structs.replace(
        invoice,
        kind="credit_note",
        number="",
        about=invoice.number,
        reason=reason,
        seller=seller,
        issued_on=day(issued_at, seller),
        prices="gross",
        rows=rows,
        subtotal_minor=sum(row.amount_minor for row in rows),
        coupon=None,
        discount_minor=worth - refund.amount_minor,
        shipping=invoice.shipping if shipping else None,
        shipping_minor=shipping,
        taxes=taxes,
        net_minor=refund.amount_minor - tax,
        tax_minor=tax,
        total_minor=refund.amount_minor,
    )


def _taxes(breakdown: Breakdown, refund: Refund) -> list[TaxAmounts]:
    parts = _parts(breakdown, refund)
    shares = allocate(refund.amount_minor, [part.weight for part in parts])
    taxed = [
        (part.rate_bp, share, _half_up(part.tax_minor * share, part.gross_minor))
        for part, share in zip(parts, shares, strict=True)
    ]
    return [
        TaxAmounts(
            rate_bp=rate,
            net_minor=sum(share - tax for each, share, tax in taxed if each == rate),
            tax_minor=sum(tax for each, _, tax in taxed if each == rate),
            gross_minor=sum(share for each, share, _ in taxed if each == rate),
        )
        for rate in sorted({rate for rate, share, _ in taxed if share}, reverse=True)
    ]


def _parts(breakdown: Breakdown, refund: Refund) -> Sequence[_Part]:
    sold = {line.sku: line for line in breakdown.lines}
    sent = breakdown.shipping
    parts = [
        _Part(line.rate_bp, back.worth_minor, line.gross_minor, line.tax_minor)
        for back in refund.lines
        if back.worth_minor and (line := sold[back.sku])
    ]
    if refund.shipping_minor and sent:
        parts.append(_Part(sent.rate_bp, refund.shipping_minor, sent.gross_minor, sent.tax_minor))
    if parts:
        return parts
    whole: list[LineAmounts | ShippingAmounts] = [*breakdown.lines, *([sent] if sent else [])]
    return [
        _Part(part.rate_bp, part.gross_minor, part.gross_minor, part.tax_minor)
        for part in whole
        if part.gross_minor
    ]


def _half_up(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)
