"""What mails to customers say, in German and in English, as text and as HTML. Sends nothing.

A letter may name its reader and nobody else; its `kind` and subject are for logs and lists too, so
no name stands in them.
"""

from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from html import escape
from typing import TypeAlias

from babel.numbers import format_currency, get_currency_precision
from msgspec import Struct

from checkout.domain import Order, Status
from checkout.invoice import Document
from checkout.seller import Language
from checkout.totals import Breakdown
from shop_contracts.events.checkout import OrderRefundedV1, OrderShippedV1
from shop_contracts.events.checkout.order_cancelled_v1 import CancelReason

TIMES = "\u00d7"
LOCALES: dict[Language, str] = {"de": "de_DE", "en": "en_GB"}


class Shop(Struct, frozen=True, kw_only=True):
    """Who writes: `url` is where the shop's visitors reach it, without a slash at its end."""

    name: str = "Shopstream"
    url: str = "http://127.0.0.1:8080"
    language: Language = "en"
    invoices: bool = False


ANY_SHOP = Shop()


class Letter(Struct, frozen=True, kw_only=True):
    """A mail that is to be sent; `html` says the same as `text`."""

    kind: str
    subject: str
    text: str
    html: str | None


class Table(Struct, frozen=True):
    """Rows of a label and an amount; the last one is their sum."""

    rows: list[tuple[str, str]]


class Goods(Struct, frozen=True):
    """Things, one a line."""

    lines: list[str]


class Link(Struct, frozen=True):
    """Where to look."""

    label: str
    url: str


Part: TypeAlias = str | Table | Goods | Link

WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "hello": "Hello",
        "bye": "Kind regards",
        "total": "Total",
        "discount": "Discount",
        "shipping": "Shipping",
        "tax": "VAT",
        "order": "Your order",
        "confirmed": "Your order is confirmed",
        "confirmed_text": "Thank you. Your order is confirmed, and its payment has been taken.",
        "invoice_follows": "Your invoice follows in a mail of its own.",
        "cancelled": "Your order was cancelled",
        "cancelled_text": "Your order was cancelled.",
        "nothing_charged": "Nothing was charged.",
        "cart_kept": "Your cart is as it was.",
        "invoice": "Invoice",
        "credit_note": "Credit note",
        "invoice_text": "Your invoice is attached as a PDF.",
        "credit_note_text": "Your credit note is attached as a PDF.",
        "shipped": "Your order is on its way",
        "shipped_text": "These goods of your order have been handed over:",
        "carrier": "Carrier",
        "tracking": "Tracking number",
        "refunded": "Your refund is on its way",
        "refunded_text": "We have given back to you, the way you paid:",
    },
    "de": {
        "hello": "Guten Tag",
        "bye": "Mit freundlichen Grüßen",
        "total": "Gesamtbetrag",
        "discount": "Rabatt",
        "shipping": "Versand",
        "tax": "Umsatzsteuer",
        "order": "Ihre Bestellung",
        "confirmed": "Ihre Bestellung ist bestätigt",
        "confirmed_text": "Vielen Dank. Ihre Bestellung ist bestätigt und bezahlt.",
        "invoice_follows": "Die Rechnung folgt in einer eigenen Mail.",
        "cancelled": "Ihre Bestellung wurde storniert",
        "cancelled_text": "Ihre Bestellung wurde storniert.",
        "nothing_charged": "Es wurde nichts abgebucht.",
        "cart_kept": "Ihr Warenkorb ist noch da.",
        "invoice": "Rechnung",
        "credit_note": "Rechnungskorrektur",
        "invoice_text": "Ihre Rechnung liegt als PDF bei.",
        "credit_note_text": "Ihre Rechnungskorrektur liegt als PDF bei.",
        "shipped": "Ihre Bestellung ist unterwegs",
        "shipped_text": "Diese Artikel Ihrer Bestellung sind auf dem Weg zu Ihnen:",
        "carrier": "Versand mit",
        "tracking": "Sendungsnummer",
        "refunded": "Ihre Erstattung ist unterwegs",
        "refunded_text": "Wir haben Ihnen auf demselben Weg, auf dem Sie bezahlt haben, erstattet:",
    },
}
BECAUSE: dict[Language, dict[CancelReason, str]] = {
    "en": {
        CancelReason.OUT_OF_STOCK: "There is not enough of everything in stock.",
        CancelReason.STOCK_TIMEOUT: "We could not set the goods aside in time.",
        CancelReason.STOCK_LOST: "The goods were no longer there.",
        CancelReason.PAYMENT_DECLINED: "The payment was declined.",
        CancelReason.PAYMENT_TIMEOUT: "The payment was not authorised in time.",
        CancelReason.HOLD_EXPIRED: "The goods were set aside for too long.",
        CancelReason.CAPTURE_REFUSED: "The payment could not be taken.",
        CancelReason.BY_CUSTOMER: "You took it back.",
    },
    "de": {
        CancelReason.OUT_OF_STOCK: "Nicht alles ist in der gewünschten Menge vorrätig.",
        CancelReason.STOCK_TIMEOUT: "Wir konnten die Ware nicht rechtzeitig zurücklegen.",
        CancelReason.STOCK_LOST: "Die Ware war nicht mehr da.",
        CancelReason.PAYMENT_DECLINED: "Die Zahlung wurde abgelehnt.",
        CancelReason.PAYMENT_TIMEOUT: "Die Zahlung wurde nicht rechtzeitig freigegeben.",
        CancelReason.HOLD_EXPIRED: "Die Ware lag zu lange zurück.",
        CancelReason.CAPTURE_REFUSED: "Die Zahlung konnte nicht eingezogen werden.",
        CancelReason.BY_CUSTOMER: "Sie haben sie zurückgenommen.",
    },
}


def ended(
    shop: Shop, order: Order, breakdown: Breakdown, name: str | None, language: Language
) -> Letter:
    """An order has come to its end: confirmed, or cancelled and why."""
    word = WORDS[language]
    if order.status is Status.CONFIRMED:
        parts: list[Part] = [word["confirmed_text"], _amounts(order, breakdown, language)]
        if shop.invoices:
            parts.append(word["invoice_follows"])
    else:
        because = BECAUSE[language].get(order.reason) if order.reason else None
        said = (word["cancelled_text"], because, word["nothing_charged"])
        parts = [" ".join(filter(None, said)), _amounts(order, breakdown, language)]
        if order.reason is not CancelReason.BY_CUSTOMER:
            parts.append(word["cart_kept"])
    parts.append(_link(shop, str(order.id), language))
    status = order.status.value
    return _letter(shop, f"order.{status}", word[status], parts, name, language)


def invoice(shop: Shop, document: Document, name: str | None) -> Letter:
    """Goes with the PDF of an invoice or a credit note."""
    word = WORDS[document.language]
    parts: list[Part] = [
        word[f"{document.kind}_text"],
        _link(shop, document.order, document.language),
    ]
    subject = f"{word[document.kind]} {document.number}"
    return _letter(shop, f"order.{document.kind}", subject, parts, name, document.language)


def shipped(
    shop: Shop, order: Order, parcel: OrderShippedV1, name: str | None, language: Language
) -> Letter:
    """A parcel has left."""
    word = WORDS[language]
    names = {line.sku: line.name for line in order.lines}
    goods = [f"{line.qty} {TIMES} {names.get(line.sku, line.sku)}" for line in parcel.lines]
    by = [f"{word['carrier']}: {parcel.carrier}"]
    if parcel.tracking:
        by.append(f"{word['tracking']}: {parcel.tracking}")
    parts: list[Part] = [
        word["shipped_text"],
        Goods(goods),
        Goods(by),
        _link(shop, str(order.id), language),
    ]
    return _letter(shop, "order.shipped", word["shipped"], parts, name, language)


def refunded(
    shop: Shop, order: Order, refund: OrderRefundedV1, name: str | None, language: Language
) -> Letter:
    """Money has been given back."""
    word = WORDS[language]
    amount = money(refund.amount_minor, refund.currency, language)
    parts: list[Part] = [f"{word['refunded_text']} {amount}"]
    if refund.lines:
        parts.append(Goods([f"{line.qty} {TIMES} {line.name}" for line in refund.lines]))
    parts.append(_link(shop, str(order.id), language))
    return _letter(shop, "order.refunded", word["refunded"], parts, name, language)


def _amounts(order: Order, breakdown: Breakdown, language: Language) -> Table:
    word = WORDS[language]
    found = [
        (f"{line.qty} {TIMES} {named.name}", line.goods_minor)
        for named, line in zip(order.lines, breakdown.lines, strict=True)
    ]
    if breakdown.discount_minor:
        found.append((word["discount"], -breakdown.discount_minor))
    if breakdown.shipping:
        label = f"{word['shipping']} ({breakdown.shipping.name})"
        found.append((label, breakdown.shipping_minor))
    if breakdown.prices == "net" and breakdown.tax_minor:
        found.append((word["tax"], breakdown.tax_minor))
    found.append((word["total"], breakdown.total_minor))
    return Table([(label, money(minor, order.currency, language)) for label, minor in found])


@lru_cache(maxsize=4_096)
def money(minor: int, currency: str, language: Language) -> str:
    """The amount as it is written in that language."""
    # prices repeat, and writing one takes as long as the rest of a mail
    amount = Decimal(minor).scaleb(-get_currency_precision(currency))
    return format_currency(amount, currency, locale=LOCALES[language])


def _link(shop: Shop, order: str, language: Language) -> Link:
    return Link(WORDS[language]["order"], f"{shop.url}/orders/{order}")


def _letter(
    shop: Shop, kind: str, subject: str, parts: Sequence[Part], name: str | None, language: Language
) -> Letter:
    word = WORDS[language]
    greeting = f"{word['hello']} {name}," if name else f"{word['hello']},"
    whole: list[Part] = [greeting, *parts, word["bye"]]
    return Letter(
        kind=kind,
        subject=subject,
        text="\n\n".join(_text(part) for part in whole) + f"\n{shop.name}\n{shop.url}\n",
        html=_PAGE.format(
            language=language,
            title=escape(subject),
            body="\n".join(_html(part) for part in whole),
            shop=escape(shop.name),
            url=escape(shop.url),
        ),
    )


def _text(part: Part) -> str:
    match part:
        case Table(rows):
            wide = max(len(amount) for _, amount in rows)
            *goods, (label, amount) = [(text, amount.rjust(wide)) for text, amount in rows]
            lines = [f"  {amount}  {text}" for text, amount in goods]
            return "\n".join([*lines, f"  {'-' * wide}", f"  {amount}  {label}"])
        case Goods(lines):
            return "\n".join(f"  {line}" for line in lines)
        case Link(label, url):
            return f"{label}: {url}"
        case _:
            return part


def _html(part: Part) -> str:
    match part:
        case Table(rows):
            *goods, total = rows
            cells = "".join(_ROW.format(text=escape(t), cost=escape(c)) for t, c in goods)
            cells += _SUM.format(text=escape(total[0]), cost=escape(total[1]))
            return f'<table style="border-collapse:collapse;width:100%">{cells}</table>'
        case Goods(lines):
            return f"<p>{'<br>'.join(escape(line) for line in lines)}</p>"
        case Link(label, url):
            return f'<p><a href="{escape(url)}" style="color:#1f5c4d">{escape(label)}</a></p>'
        case _:
            return f"<p>{escape(part)}</p>"


_ROW = (
    '<tr><td style="padding:4px 16px 4px 0">{text}</td>'
    '<td style="padding:4px 0;text-align:right;white-space:nowrap">{cost}</td></tr>'
)
_SUM = (
    '<tr style="border-top:1px solid #d9d4c9"><th style="padding:8px 16px 4px 0;text-align:left">'
    '{text}</th><th style="padding:8px 0 4px;text-align:right;white-space:nowrap">{cost}</th></tr>'
)
_PAGE = """<!doctype html>
<html lang="{language}"><head><meta charset="utf-8"><title>{title}</title></head>
<body style="margin:0;padding:24px;background:#fbfaf7;color:#1d1b18;\
font:16px/1.5 system-ui,'Segoe UI',Roboto,sans-serif">
<div style="max-width:560px;margin:0 auto">
<h1 style="font:600 24px/1.2 Georgia,serif">{title}</h1>
{body}
<p style="color:#6a655c">{shop}<br><a href="{url}" style="color:#6a655c">{url}</a></p>
</div></body></html>
"""
