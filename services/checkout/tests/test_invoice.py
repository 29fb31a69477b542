"""Invoices as they are printed: what is read from their pages, and that it adds up."""

import re
from datetime import UTC, datetime
from typing import Any

import msgspec
import pypdfium2 as pdfium
import pytest

from checkout import drawing, invoice, seller
from checkout.invoice import Buyer, Document
from checkout.purchase import Address, Entry
from checkout.rules import Rules, parse
from checkout.seller import SellerError
from checkout.totals import Discount, Item, breakdown

LONG = (
    "Übergangsjacke „Größenwahn“ für Straßenköter, öl- und wasserabweisend, mit abnehmbarer "
    "Kapuze, zwei Innentaschen und reflektierenden Paspeln an Ärmeln und Saum, Farbe Moosgrün"
)
NAMES = [LONG, "Löffel", "Donaudampfschifffahrtsgesellschaft" * 4, "Чашка / φλιτζάνι / İstanbul"]
RULES = parse(
    """
    country = "DE"
    [taxes]
    DE = {standard = 1900, reduced = 700}
    GB = {standard = 2000}
    [[shipping]]
    id = "parcel"
    name = "Päckchen"
    tariffs = [{price_minor = {EUR = 490}}]
    """
)
SELLER = seller.parse("sample")
assert SELLER is not None


def document(
    lines: int = 3,
    country: str = "DE",
    rules: Rules = RULES,
    discount: Discount | None = None,
    name: str | None = "Dr. Adélaïde Größenwahn-Łukasiewicz",
    billing: Entry | None = None,
    **changed: Any,
) -> Document:
    items = [
        Item(
            sku=f"SKU-{i:03d}",
            qty=i % 12 + 1,
            unit_minor=1_299 + 377 * i,
            tax_class="reduced" if i % 3 == 1 else None,
        )
        for i in range(lines)
    ]
    amounts = breakdown(items, rules, currency="EUR", country=country, discount=discount)
    address = Address(
        street="Königstraße 12 b", postcode="82467", city="Garmisch-Partenkirchen", country=country
    )
    made = invoice.invoice(
        number="2026-000123",
        order="01a21020-27ae-7688-878a-79849baef60e",
        names=[NAMES[i % len(NAMES)] for i in range(lines)],
        breakdown=amounts,
        seller=SELLER,
        buyer=Buyer(email="ada@people.example", name=name, address=address, billing=billing),
        ordered_at=datetime(2026, 12, 31, 22, 30, tzinfo=UTC),
        issued_at=datetime(2026, 12, 31, 23, 30, tzinfo=UTC),
    )
    return msgspec.structs.replace(made, **changed)


def pages(pdf: bytes) -> list[str]:
    """The text of each page, its spaces made equal."""
    opened = pdfium.PdfDocument(pdf)
    texts = [page.get_textpage().get_text_bounded() for page in opened]
    opened.close()
    return [re.sub(r"[\s\u00a0\u202f]+", " ", text) for text in texts]


def cents(text: str, word: str) -> int:
    """The amount in euros behind the word."""
    found = re.search(rf"{word} (-?[\d.]+,\d\d) €", text)
    assert found is not None, (word, text)
    return int(re.sub("[.,]", "", found[1]))


def test_an_invoice_says_who_sells_who_buys_what_and_for_how_much() -> None:
    made = document(discount=Discount(code="HERBST10", kind="percent", value=1_000))
    (text,) = pages(drawing.draw(made))

    for said in (
        "Rechnung 2026-000123",
        "1. Januar 2027",  # where the seller is, the year is over
        "31. Dezember 2026",
        "Dr. Adélaïde Größenwahn-Łukasiewicz",
        "Königstraße 12 b",
        "82467 Garmisch-Partenkirchen",
        "Deutschland",
        "USt-IdNr.: DE000000000",
        "Übergangsjacke „Größenwahn“ für",
        "SKU-002",
        "Gutschein HERBST10",
        "Päckchen",
        "Seite 1 von 1",
    ):
        assert said in text
    assert made.subtotal_minor == cents(text, "Zwischensumme")
    assert -made.discount_minor == cents(text, r"Rabatt \(Gutschein HERBST10\)")
    assert 490 == cents(text, r"Versand \(Päckchen\)")
    assert made.total_minor == cents(text, "Gesamtbetrag")
    assert made.total_minor == made.subtotal_minor - made.discount_minor + 490
    rates = re.findall(r"(\d+) % ([\d.]+,\d\d) € ([\d.]+,\d\d) € ([\d.]+,\d\d) €", text)
    read = [[int(re.sub("[.,]", "", figure)) for figure in rate] for rate in rates]
    assert [[19, 7][i : i + 1] + values[1:] for i, values in enumerate(read)] == [
        [tax.rate_bp // 100, tax.net_minor, tax.tax_minor, tax.gross_minor] for tax in made.taxes
    ]
    assert made.total_minor == sum(gross for *_, gross in read)


def test_sixty_lines_go_over_pages_and_each_says_how_far_it_has_come() -> None:
    made = document(60)
    texts = pages(drawing.draw(made))

    assert len(texts) > 2
    carried = 0
    for number, text in enumerate(texts, 1):
        assert f"Seite {number} von {len(texts)}" in text
        assert "Artikel Menge Einzelpreis USt. Betrag" in text
        assert "Rechnung 2026-000123" in text
        sums = [
            int(re.sub("[.,]", "", found))
            for found in re.findall(r"Übertrag ([\d.]+,\d\d) €", text)
        ]
        assert [carried] * (number > 1) == sums[: number > 1]
        carried = sums[-1]
    printed = [sku for text in texts for sku in re.findall(r"SKU-\d{3}", text)]

    assert [row.sku for row in made.rows] == printed
    assert made.total_minor == cents(texts[-1], "Gesamtbetrag")


def test_net_prices_get_their_tax_on_top_and_other_countries_read_english() -> None:
    rules = msgspec.structs.replace(RULES, prices="net")
    made = document(country="GB", rules=rules)
    (text,) = pages(drawing.draw(made))

    assert "Invoice 2026-000123" in text
    assert "United Kingdom" in text
    assert f"plus VAT €{made.tax_minor / 100:,.2f}" in text
    assert f"Total €{made.total_minor / 100:,.2f}" in text


def test_without_taxes_none_are_printed_and_the_seller_says_why() -> None:
    (text,) = pages(drawing.draw(document(rules=Rules())))

    assert "USt. Betrag" not in text
    assert "Ohne Ausweis von Umsatzsteuer." in text


def test_a_bill_that_goes_elsewhere_says_where_the_goods_went() -> None:
    billing = Entry(name="Engines Ltd", street="Ring 2", postcode="1010", city="Wien", country="AT")

    made = document(billing=billing)
    (text,) = pages(drawing.draw(made))

    assert ["Engines Ltd", "Ring 2", "1010 Wien", "Österreich"] == made.buyer
    assert ["Dr. Adélaïde Größenwahn-Łukasiewicz", "Königstraße 12 b"] == made.goods_to[:2]
    assert text.index("Engines Ltd") < text.index("Lieferung an") < text.index("Königstraße 12 b")
    assert "Lieferung an" not in pages(drawing.draw(document()))[0]


def test_the_same_document_makes_the_same_bytes() -> None:
    made = document(60)

    assert drawing.draw(made) == drawing.draw(made)


@pytest.mark.parametrize(
    "name", ["x" * 500, "\U0001f9e2 قبعة 帽子", "a\nb\tc\x00", "<b>&amp;</b>", "u\u0308"]
)
def test_any_name_can_be_printed(name: str) -> None:
    made = document(1, name=invoice.printable(name))
    rows = [msgspec.structs.replace(made.rows[0], name=invoice.printable(name))]
    (text,) = pages(drawing.draw(msgspec.structs.replace(made, rows=rows, total_minor=2**53)))

    assert "Gesamtbetrag" in text


def test_a_document_is_read_back_as_it_was_written() -> None:
    made = document()

    assert made == msgspec.json.decode(msgspec.json.encode(made), type=Document)


@pytest.mark.parametrize(
    "text",
    ["name = 1", 'name = "x"', 'name = "x"\naddress = []', "what", 'name="x"\naddress=["y"]\nz=1'],
)
def test_a_seller_who_is_none_is_refused_at_start(text: str) -> None:
    with pytest.raises(SellerError):
        seller.parse(text)


def test_a_time_zone_that_is_nowhere_is_refused_at_start() -> None:
    with pytest.raises(SellerError, match="Mars"):
        seller.parse('name = "x"\naddress = ["y"]\ntime_zone = "Mars/Olympus"')


def test_nobody_sells_where_nothing_is_said() -> None:
    assert seller.parse(" ") is None
