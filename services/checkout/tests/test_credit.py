"""Credit notes: their tax is that of what was refunded, their numbers are a series of their own."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import msgspec
import pypdfium2 as pdfium
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from chassis.database import Database
from checkout import drawing, invoice, paper, seller
from checkout.after import (
    Back,
    Refund,
    RefundLine,
    RefundState,
    RefundWanted,
    ShipmentWanted,
    Units,
)
from checkout.credit import credit_note
from checkout.domain import Approved, Timers
from checkout.invoice import Buyer, Document
from checkout.letters import Shop
from checkout.rules import Rules
from checkout.store import tables
from checkout.store.after import After
from checkout.store.invoices import Invoices
from checkout.store.orders import Orders
from checkout.totals import Breakdown, Item, breakdown
from notify.mail import Mail

SELLER = seller.parse("sample")
assert SELLER is not None
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
RULES = Rules(country="DE", taxes={"DE": {"standard": 1_900, "reduced": 700}})


def sold(*units: tuple[int, int, str], prices: Any = "gross") -> tuple[Breakdown, Document]:
    """An order of lines of (qty, unit, tax class), and its invoice."""
    rules = msgspec.structs.replace(RULES, prices=prices)
    items = [
        Item(sku=f"S{i}", qty=qty, unit_minor=unit, tax_class=tax_class)
        for i, (qty, unit, tax_class) in enumerate(units)
    ]
    amounts = breakdown(items, rules, currency="EUR", country="DE")
    made = invoice.invoice(
        number="2026-000007",
        order=str(uuid4()),
        names=[f"Ding {item.sku}" for item in items],
        breakdown=amounts,
        seller=SELLER,
        buyer=Buyer(email="ada@people.example", name="Ada"),
        ordered_at=NOW,
        issued_at=NOW,
    )
    return amounts, made


def refund(amount: int, *lines: tuple[str, int, int], reason: Any = "returned") -> Refund:
    return Refund(
        refund_id=uuid4(),
        state=RefundState.REFUNDED,
        lines=[RefundLine(sku=s, qty=q, restock=True, worth_minor=w) for s, q, w in lines],
        shipping_minor=0,
        amount_minor=amount,
        reason=reason,
        requested_at=NOW,
    )


@given(
    st.lists(
        st.tuples(
            st.integers(1, 9), st.integers(1, 99_999), st.sampled_from(["standard", "reduced"])
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(["gross", "net"]),
    st.data(),
)
def test_a_credit_note_adds_up_and_one_of_all_has_all_the_tax(
    units: list[tuple[int, int, str]], prices: str, data: st.DataObject
) -> None:
    amounts, made = sold(*units, prices=prices)
    whole = [(line.sku, line.qty, line.gross_minor) for line in amounts.lines]
    some = data.draw(st.lists(st.sampled_from(whole), unique=True))
    amount = data.draw(st.integers(1, amounts.total_minor))
    assert SELLER is not None

    partly = credit_note(made, amounts, refund(amount, *some), SELLER, NOW)
    assert amount == partly.total_minor == partly.net_minor + partly.tax_minor
    assert amount == sum(tax.gross_minor for tax in partly.taxes)
    assert all(0 <= tax.tax_minor <= tax.gross_minor for tax in partly.taxes)
    assert amount == partly.subtotal_minor - partly.discount_minor + partly.shipping_minor

    entire = credit_note(made, amounts, refund(amounts.total_minor, *whole), SELLER, NOW)
    assert amounts.taxes == entire.taxes
    assert amounts.tax_minor == entire.tax_minor


def test_a_credit_note_says_what_it_is_about() -> None:
    amounts, made = sold((3, 1_000, "standard"), (1, 500, "reduced"))
    assert SELLER is not None
    note = credit_note(made, amounts, refund(900, ("S0", 1, 1_000)), SELLER, NOW)
    note = msgspec.structs.replace(note, number="C2026-000001", language="de")
    text = pdfium.PdfDocument(drawing.draw(note))[0].get_textpage().get_text_bounded()
    text = re.sub(r"\s+", " ", text)

    for said in (
        "Rechnungskorrektur C2026-000001",
        "2026-000007",
        "Grund: ",
        "Ding S0",
        "Anpassung -1,00 €",
        "Erstattungsbetrag 9,00 €",
        "19 % 7,56 € 1,44 € 9,00 €",
    ):
        assert said in text


async def test_a_refund_is_told_and_gets_a_credit_note_with_a_number_of_its_own_series(
    database: Database, make: Any
) -> None:
    shop = Shop(invoices=True)
    orders, after = Orders(database, Timers(), shop), After(database, shop)
    key = "key-0123456789abcdef"
    placed = await orders.place("c" * 32, key, b"", make.a_purchase(), make.a_quote(2, 1_000))
    await make.authorise(orders, str(placed.order_id))
    await orders.apply(placed.order_id, make.committed(placed.order_id))
    for ask in await orders.claim_payments(1, timedelta(seconds=30)):
        await orders.answered(ask, Approved("pi"))
    assert SELLER is not None
    invoices = Invoices(database, SELLER, shop)
    while await paper.step(invoices):
        pass
    parcel = ShipmentWanted(lines=[Units(sku="LAMP-1", qty=1)], carrier="Post", tracking="T-1")
    for _ in range(2):
        await after.ship(placed.order_id, key, parcel)
    wanted = RefundWanted(lines=[Back(sku="LAMP-1", qty=1)], reason="damaged")
    await after.refund(placed.order_id, key, wanted)
    (claimed,) = await after.claim(1, timedelta(seconds=30))
    for _ in range(2):
        await after.answered(claimed, Approved("re"))
    while await paper.step(invoices):
        pass

    async with database.read() as connection:
        table = tables.notices.deliveries
        rows = (await connection.execute(sa.select(table).order_by(table.c.seq))).all()
        numbers = list(
            await connection.scalars(
                sa.select(tables.invoices.c.number).order_by(tables.invoices.c.number)
            )
        )
    mails = {row.type: msgspec.json.decode(row.body, type=Mail) for row in rows}
    assert [
        "order.confirmed",
        "order.invoice",
        "order.shipped",
        "order.refunded",
        "order.credit_note",
    ] == [row.type for row in rows]
    for said in ("Carrier: Post", "Tracking number: T-1", "1 \u00d7 Lamp"):
        assert said in mails["order.shipped"].text
    assert "€10.00" in mails["order.refunded"].text
    assert [1, 1] == [
        len(mails[f"order.{kind}"].attachments) for kind in ("invoice", "credit_note")
    ]
    year = numbers[0][:4]
    assert [f"{year}-000001", f"C{year}-000001"] == numbers
