"""Draws an invoice as a PDF: A4, one font, as many pages as it takes. Knows no order and no table.

The same document makes the same bytes. A page that is not the last ends in what it has come to, and
the next one begins with it. All measures are in points from the upper left corner of the page.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import date
from decimal import Decimal
from functools import cache
from io import BytesIO
from pathlib import Path

from babel.dates import format_date
from babel.numbers import format_currency, format_decimal
from msgspec import Struct
from reportlab.lib.colors import Color, HexColor
from reportlab.lib.pagesizes import A4
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

from checkout.invoice import Document, Kind, Row
from checkout.seller import Language

FONTS = Path(__file__).parent / "fonts"
PLAIN, BOLD = "DejaVuSansCondensed", "DejaVuSansCondensed-Bold"
WIDTH, HEIGHT = A4
LEFT, RIGHT = 20 * mm, WIDTH - 20 * mm
ADDRESS_TOP = 50 * mm
TITLE_TOP = 102 * mm
NEXT_TOP = 32 * mm
BOTTOM = HEIGHT - 38 * mm
FOOT = HEIGHT - 30 * mm
INK, QUIET, LINE, WASH = (HexColor(c) for c in ("#1d1b18", "#6a655c", "#d9d4c9", "#f4f2ec"))
ACCENT = HexColor("#1f5c4d")
SMALLEST = 5.0
GOODS_TO_LINES = 6

WORDS: dict[Language, dict[str, str]] = {
    "de": {
        "invoice": "Rechnung",
        "credit_note": "Rechnungskorrektur",
        "number": "Nummer",
        "issued": "Datum",
        "order": "Bestellung",
        "ordered": "Bestellt am",
        "goods_to": "Lieferung an",
        "about": "Zur Rechnung",
        "reason": "Grund",
        "position": "Pos.",
        "name": "Artikel",
        "qty": "Menge",
        "unit": "Einzelpreis",
        "rate": "USt.",
        "amount": "Betrag",
        "carried": "Übertrag",
        "subtotal": "Zwischensumme",
        "discount": "Rabatt",
        "deducted": "Anpassung",
        "coupon": "Gutschein",
        "shipping": "Versand",
        "net": "Netto",
        "tax": "Umsatzsteuer",
        "gross": "Brutto",
        "plus_tax": "zuzüglich Umsatzsteuer",
        "total": "Gesamtbetrag",
        "refunded": "Erstattungsbetrag",
        "paid": "Der Betrag ist bezahlt. Vielen Dank für Ihre Bestellung.",
        "given_back": "Der Betrag wird auf demselben Weg erstattet, auf dem er bezahlt wurde.",
        "page": "Seite {} von {}",
        "vat_id": "USt-IdNr.",
        "tax_number": "Steuernummer",
        "phone": "Tel.",
    },
    "en": {
        "invoice": "Invoice",
        "credit_note": "Credit note",
        "number": "Number",
        "issued": "Date",
        "order": "Order",
        "ordered": "Ordered on",
        "goods_to": "Delivered to",
        "about": "For invoice",
        "reason": "Reason",
        "position": "No.",
        "name": "Item",
        "qty": "Quantity",
        "unit": "Unit price",
        "rate": "VAT",
        "amount": "Amount",
        "carried": "Carried forward",
        "subtotal": "Subtotal",
        "discount": "Discount",
        "deducted": "Adjustment",
        "coupon": "coupon",
        "shipping": "Shipping",
        "net": "Net",
        "tax": "VAT",
        "gross": "Gross",
        "plus_tax": "plus VAT",
        "total": "Total",
        "refunded": "Total refunded",
        "paid": "The amount is paid. Thank you for your order.",
        "given_back": "The amount is given back the way it was paid.",
        "page": "Page {} of {}",
        "vat_id": "VAT ID",
        "tax_number": "Tax number",
        "phone": "Tel.",
    },
}
LOCALES: dict[Language, str] = {"de": "de_DE", "en": "en_GB"}
TOTAL: dict[Kind, str] = {"invoice": "total", "credit_note": "refunded"}
DONE: dict[Kind, str] = {"invoice": "paid", "credit_note": "given_back"}


class Column(Struct, frozen=True):
    """A column of the table of lines, by its edges; numbers stand at its right one."""

    word: str
    left: float
    right: float
    at_right: bool = True


class Piece(Struct, frozen=True):
    """What stands together on one page: its height, and how to draw it from `top` down.

    `sum_minor` is what the lines have come to after it.
    """

    height: float
    draw: Callable[["Page", float], None]
    sum_minor: int = 0
    is_line: bool = False


def draw(document: Document) -> bytes:
    """The PDF."""
    _register()
    file = BytesIO()
    canvas = Canvas(file, pagesize=A4, invariant=1, lang=document.language)
    page = Page(canvas, document)
    word = page.words
    canvas.setTitle(f"{word[document.kind]} {document.number}")
    canvas.setAuthor(document.seller.name)
    canvas.setSubject(f"{word['order']} {document.order}")
    pages = list(_paginate(_pieces(page)))
    for count, pieces in enumerate(pages, 1):
        _draw_page(page, pieces, count, len(pages), before=_sum(pages[: count - 1]))
        canvas.showPage()
    canvas.save()
    return file.getvalue()


class Page:
    """Text and lines on the canvas, in the document's words."""

    def __init__(self, canvas: Canvas, document: Document) -> None:
        self.document = document
        self.words = WORDS[document.language]
        self.locale = LOCALES[document.language]
        self._canvas = canvas

    def text(
        self,
        x: float,
        top: float,
        text: str,
        size: float = 9,
        *,
        font: str = PLAIN,
        color: Color = INK,
        at_right: bool = False,
        room: float | None = None,
    ) -> None:
        """One line, its base at `top`; it gets smaller where it has no room."""
        if room is not None:
            needed = width(text, size, font)
            size = size if needed <= room else max(SMALLEST, size * room / needed)
        self._canvas.setFillColor(color)
        self._canvas.setFont(font, size)
        put = self._canvas.drawRightString if at_right else self._canvas.drawString
        put(x, HEIGHT - top, text)

    def rule(
        self,
        top: float,
        *,
        left: float = LEFT,
        right: float = RIGHT,
        color: Color = LINE,
        thick: float = 0.6,
    ) -> None:
        self._canvas.setStrokeColor(color)
        self._canvas.setLineWidth(thick)
        self._canvas.line(left, HEIGHT - top, right, HEIGHT - top)

    def wash(self, top: float, height: float) -> None:
        self._canvas.setFillColor(WASH)
        self._canvas.rect(LEFT, HEIGHT - top - height, RIGHT - LEFT, height, stroke=0, fill=1)

    def money(self, minor: int) -> str:
        amount = Decimal(minor).scaleb(-self.document.exponent)
        return format_currency(amount, self.document.currency, locale=self.locale)

    def rate(self, basis_points: int) -> str:
        return format_decimal(Decimal(basis_points) / 100, locale=self.locale) + "\u00a0%"

    def columns(self) -> list[Column]:
        """The table's columns; without taxes there is none for their rate."""
        taxed = any(row.rate_bp for row in self.document.rows)
        x = RIGHT
        found: list[Column] = []
        for word, wide in (
            ("amount", 30 * mm),
            ("rate", 13 * mm if taxed else 0),
            ("unit", 28 * mm),
            ("qty", 15 * mm),
        ):
            if wide:
                found.append(Column(word, x - wide, x))
            x -= wide
        found.append(Column("name", LEFT + 10 * mm, x, at_right=False))
        found.append(Column("position", LEFT, LEFT + 10 * mm, at_right=False))
        return found[::-1]


def width(text: str, size: float, font: str = PLAIN) -> float:
    """How wide the text is."""
    return pdfmetrics.stringWidth(text, font, size)


def wrap(text: str, room: float, size: float, font: str = PLAIN) -> list[str]:
    """The text in lines that fit; a word that is longer than a line is cut."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        joined = f"{line} {word}" if line else word
        if width(joined, size, font) <= room:
            line = joined
            continue
        if line:
            lines.append(line)
        line = word
        while width(line, size, font) > room:
            cut = next(i for i in range(len(line), 0, -1) if width(line[:i], size, font) <= room)
            lines.append(line[:cut])
            line = line[cut:]
    return [*lines, line] if line else lines


@cache
def _register() -> None:
    for font in (PLAIN, BOLD):
        pdfmetrics.registerFont(TTFont(font, FONTS / f"{font}.ttf"))


# ---- what is on it, piece by piece ----


def _pieces(page: Page) -> Iterator[Piece]:
    total = 0
    columns = page.columns()
    for position, row in enumerate(page.document.rows, 1):
        total += row.amount_minor
        yield _line(row, position, total, columns)
    yield _totals(page, total)
    if page.document.tax_minor:
        yield _taxes(page)
    yield _words(page)


def _line(row: Row, position: int, total: int, columns: Sequence[Column]) -> Piece:
    by_word = {column.word: column for column in columns}
    name = by_word["name"]
    lines = wrap(row.name, name.right - name.left - 6, 9)
    skus = wrap(row.sku, name.right - name.left - 6, 7) if row.sku != row.name else []
    height = 12 * len(lines) + 9 * len(skus) + 8

    def draw(page: Page, top: float) -> None:
        base = top + 13
        page.text(LEFT + 3, base, str(position), color=QUIET)
        for i, line in enumerate(lines):
            page.text(name.left, base + 12 * i, line)
        for i, sku in enumerate(skus):
            page.text(name.left, base + 12 * len(lines) + 9 * i - 2, sku, 7, color=QUIET)
        values = {
            "qty": format_decimal(row.qty, locale=page.locale),
            "unit": page.money(row.unit_minor),
            "rate": "" if row.rate_bp is None else page.rate(row.rate_bp),
            "amount": page.money(row.amount_minor),
        }
        for word, value in values.items():
            if column := by_word.get(word):
                room = column.right - column.left - 5
                page.text(column.right - 3, base, value, at_right=True, room=room)
        page.rule(top + height)

    return Piece(height, draw, total, is_line=True)


def _totals(page: Page, subtotal: int) -> Piece:
    document, word = page.document, page.words
    net = document.prices == "net" and document.tax_minor > 0
    coupon = f"{word['coupon']} {document.coupon}" if document.coupon else ""
    subtotal_word = f"{word['subtotal']} ({word['net'].lower()})" if net else word["subtotal"]
    found = [(subtotal_word, document.subtotal_minor, False)]
    if document.discount_minor:
        less = word["discount" if document.kind == "invoice" else "deducted"]
        found.append((_with(less, coupon), -document.discount_minor, False))
    if document.shipping is not None:
        # a coupon without a discount made it free
        free = coupon if not document.discount_minor else ""
        label = _with(word["shipping"], document.shipping, free)
        found.append((label, document.shipping_minor, False))
    if net:
        found.append((word["net"], document.net_minor, False))
        found.append((word["plus_tax"], document.tax_minor, False))
    found.append((word[TOTAL[document.kind]], document.total_minor, True))
    left = LEFT + 70 * mm
    height = 14 + 15 * len(found) + 10

    def draw(page: Page, top: float) -> None:
        base = top + 20
        for label, minor, last in found:
            font, size = (BOLD, 11) if last else (PLAIN, 9)
            if last:
                page.rule(base - 10, left=left, color=INK)
                base += 5
            amount = page.money(minor)
            room = RIGHT - left - width(amount, size, font) - 14
            page.text(left, base, label, size, font=font, room=room)
            page.text(RIGHT - 3, base, amount, size, font=font, at_right=True)
            base += 15

    return Piece(height, draw, subtotal)


def _taxes(page: Page) -> Piece:
    document = page.document
    edges = [LEFT + 12 * mm, LEFT + 47 * mm, LEFT + 80 * mm, LEFT + 115 * mm]
    height = 16 + 12 * (len(document.taxes) + 1)

    def draw(page: Page, top: float) -> None:
        base = top + 16
        for edge, word in zip(edges, ("rate", "net", "tax", "gross"), strict=True):
            page.text(edge, base, page.words[word], 8, color=QUIET, at_right=True)
        page.rule(base + 4, right=edges[-1])
        for tax in document.taxes:
            base += 13
            values = [
                page.rate(tax.rate_bp),
                *map(page.money, (tax.net_minor, tax.tax_minor, tax.gross_minor)),
            ]
            for edge, value in zip(edges, values, strict=True):
                page.text(edge, base, value, 8, at_right=True)

    return Piece(height, draw)


def _words(page: Page) -> Piece:
    document, seller = page.document, page.document.seller
    said = [
        document.reason and f"{page.words['reason']}: {document.reason}",
        "" if document.tax_minor else seller.untaxed.get(document.language, ""),
        page.words[DONE[document.kind]],
        seller.terms.get(document.language, "") if document.kind == "invoice" else "",
    ]
    lines = [line for each in said if each for line in wrap(each, RIGHT - LEFT, 9)]

    def draw(page: Page, top: float) -> None:
        for i, line in enumerate(lines):
            page.text(LEFT, top + 26 + 13 * i, line)

    return Piece(26 + 13 * len(lines), draw)


# ---- pages ----

HEAD_HEIGHT = 20.0
CARRIED_HEIGHT = 20.0


def _paginate(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    """The pieces by page. A page with lines that others follow keeps room for their sum."""
    on_page: list[Piece] = []
    top = _table_top(first=True) + HEAD_HEIGHT
    for piece in pieces:
        needed = piece.height + (CARRIED_HEIGHT if piece.is_line else 0)
        if on_page and top + needed > BOTTOM:
            yield on_page
            on_page = []
            top = _table_top(first=False) + HEAD_HEIGHT + CARRIED_HEIGHT
        on_page.append(piece)
        top += piece.height
    yield on_page


def _table_top(*, first: bool) -> float:
    return TITLE_TOP + 12 if first else NEXT_TOP


def _sum(pages: Sequence[Sequence[Piece]]) -> int:
    return max((piece.sum_minor for page in pages for piece in page), default=0)


def _draw_page(page: Page, pieces: Sequence[Piece], count: int, of: int, *, before: int) -> None:
    if count == 1:
        _draw_letterhead(page)
    else:
        _draw_running_head(page)
    _draw_foot(page, count, of)
    top = _table_top(first=count == 1)
    # behind the totals there is nothing to carry
    more = count < of and pieces[-1].is_line
    if count == 1 or pieces[0].is_line or pieces[0].sum_minor:
        _draw_table_head(page, top)
        top += HEAD_HEIGHT
        if count > 1:
            _draw_carried(page, top, before)
            top += CARRIED_HEIGHT
    for piece in pieces:
        piece.draw(page, top)
        top += piece.height
    if more:
        _draw_carried(page, top, _sum([pieces]))


def _draw_table_head(page: Page, top: float) -> None:
    page.wash(top, HEAD_HEIGHT - 2)
    for column in page.columns():
        at = column.right - 3 if column.at_right else column.left
        at += 3 if column.word == "position" else 0
        page.text(at, top + 12.5, page.words[column.word], 8, font=BOLD, at_right=column.at_right)


def _draw_carried(page: Page, top: float, minor: int) -> None:
    name = next(column for column in page.columns() if column.word == "name")
    page.text(name.left, top + 13, page.words["carried"], 8.5, color=QUIET)
    page.text(RIGHT - 3, top + 13, page.money(minor), 8.5, color=QUIET, at_right=True)
    page.rule(top + CARRIED_HEIGHT)


def _draw_letterhead(page: Page) -> None:
    document, seller, word = page.document, page.document.seller, page.words
    page.text(LEFT, 24 * mm, seller.name, 17, font=BOLD, color=ACCENT, room=110 * mm)
    for i, line in enumerate(filter(None, (seller.website, seller.email, seller.phone))):
        page.text(RIGHT, 18 * mm + 10 * i, line, 8, color=QUIET, at_right=True, room=55 * mm)
    page.rule(29 * mm, color=ACCENT, thick=1.2)
    sender = " · ".join((seller.name, *seller.address))
    page.text(LEFT, ADDRESS_TOP - 4, sender, 6.5, color=QUIET, room=85 * mm)
    page.rule(ADDRESS_TOP, right=LEFT + 85 * mm)
    lines = [part for line in document.buyer for part in wrap(line, 85 * mm, 10)]
    for i, line in enumerate(lines[:9]):
        page.text(LEFT, ADDRESS_TOP + 16 + 13.5 * i, line, 10)
    facts = [
        (word["number"], document.number),
        (word["issued"], _day(page, document.issued_on)),
        *([(word["about"], document.about)] if document.about else []),
        (word["ordered"], _day(page, document.ordered_on)),
        (word["order"], document.order),
    ]
    base = ADDRESS_TOP + 16
    for label, value in facts:
        page.text(LEFT + 95 * mm, base, label, 8.5, color=QUIET)
        page.text(RIGHT, base, value, 9, at_right=True, room=52 * mm)
        base += 15
    if document.goods_to:
        page.text(LEFT + 95 * mm, base, word["goods_to"], 8.5, color=QUIET)
        parts = [part for line in document.goods_to for part in wrap(line, 52 * mm, 8.5)]
        for i, part in enumerate(parts[:GOODS_TO_LINES]):
            page.text(RIGHT, base + 11 * i, part, 8.5, at_right=True)
    page.text(LEFT, TITLE_TOP, f"{word[document.kind]} {document.number}", 16, font=BOLD)


def _draw_running_head(page: Page) -> None:
    document = page.document
    page.text(LEFT, 22 * mm, document.seller.name, 9, font=BOLD, color=ACCENT, room=100 * mm)
    title = f"{page.words[document.kind]} {document.number}"
    page.text(RIGHT, 22 * mm, title, 9, color=QUIET, at_right=True)
    page.rule(25 * mm, color=ACCENT)


def _draw_foot(page: Page, count: int, of: int) -> None:
    seller, word = page.document.seller, page.words
    page.text(RIGHT, FOOT - 6, word["page"].format(count, of), 8, color=QUIET, at_right=True)
    page.rule(FOOT)
    columns = [
        [seller.name, *seller.address],
        [seller.website, seller.email, _named(word["phone"], seller.phone)],
        [
            _named(word["vat_id"] + ":", seller.vat_id),
            _named(word["tax_number"] + ":", seller.tax_number),
            seller.register,
            seller.managers,
        ],
        [seller.bank, _named("IBAN", seller.iban), _named("BIC", seller.bic)],
    ]
    filled = [lines for column in columns if (lines := [line for line in column if line])]
    wide = (RIGHT - LEFT) / len(filled)
    for i, lines in enumerate(filled):
        for j, line in enumerate(lines[:6]):
            page.text(LEFT + wide * i, FOOT + 12 + 9 * j, line, 7, color=QUIET, room=wide - 8)


def _with(label: str, *details: str) -> str:
    """The label, and in brackets what is to be said of it."""
    given = ", ".join(filter(None, details))
    return f"{label} ({given})" if given else label


def _named(name: str, value: str) -> str:
    return f"{name} {value}" if value else ""


def _day(page: Page, day: date) -> str:
    return format_date(day, "long", locale=page.locale)
