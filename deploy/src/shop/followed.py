"""What followed an order, for `verify`: its refunds and parcels against what was sold and paid.

`breaches` is the law, pure; `read` fetches refunds and parcels from checkout's database.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from checkout.store import tables

OPEN = {"pending", "sent"}


class Refund(Struct, frozen=True, kw_only=True):
    """A refund as checkout has it; `restocked` are the units that are for sale again."""

    key: str
    state: str
    amount_minor: int
    units: dict[str, int]
    restocked: dict[str, int]


class Followed(Struct, kw_only=True):
    """What followed one order: `refunded_minor` is what its row counts as given back."""

    refunded_minor: int = 0
    refunds: list[Refund] = []
    parcels: list[dict[str, int]] = []


class Sold(Struct, frozen=True, kw_only=True):
    """What an order was for; nothing was sold unless it is confirmed."""

    confirmed: bool
    lines: Mapping[str, int]
    total_minor: int


def breaches(
    sold: Sold,
    followed: Followed,
    given: Sequence[tuple[str, int]],
    back: Mapping[str, int] | None,
    told: Counter[str] | None,
) -> Iterator[str]:
    """What does not agree, a sentence each.

    `given` is the provider's word, key and amount; `back` stock's, or None where it has forgotten;
    `told` counts the events, or is None where they are too old.
    """
    living = [one for one in followed.refunds if one.state != "refused"]
    done = [one for one in living if one.state == "done"]
    if any(one.state in OPEN for one in living):
        yield "has a refund that has not ended"
    wanted = sorted((one.key, one.amount_minor) for one in done if one.amount_minor)
    if wanted != sorted(given):
        yield f"was given back {wanted}, by the provider's ledger {sorted(given)}"
    counted = sum(one.amount_minor for one in living)
    if counted != followed.refunded_minor:
        yield f"counts {followed.refunded_minor} as given back, its refunds {counted}"
    if counted > (sold.total_minor if sold.confirmed else 0):
        yield f"gives back {counted}, more than was paid"
    sent, units = _sum(followed.parcels), _sum([one.units for one in living])
    for sku in sent.keys() | units.keys():
        has = sold.lines.get(sku, 0) if sold.confirmed else 0
        if max(sent[sku], units[sku]) > has:
            yield f"of {has} {sku} sold, {sent[sku]} were sent and {units[sku]} given back"
    restocked = +_sum([one.restocked for one in done])
    if back is not None and restocked != +Counter(back):
        yield f"puts {dict(restocked)} back for sale, stock has {dict(back)}"
    if told is not None:
        events = told["order.refunded.v1"], told["order.shipped.v1"]
        if events != (len(done), len(followed.parcels)):
            yield f"has {len(done)} refunds and {len(followed.parcels)} parcels, told are {events}"


async def read(connection: AsyncConnection) -> dict[str, Followed]:
    """All refunds and parcels, by order; orders without any are left out."""
    found: dict[str, Followed] = defaultdict(Followed)
    order, refund, parcel = tables.orders.c, tables.refunds.c, tables.shipments.c
    given, sent = tables.refund_lines.c, tables.shipment_lines.c
    units: dict[object, dict[str, int]] = defaultdict(dict)
    restocked: dict[object, dict[str, int]] = defaultdict(dict)
    for refund_id, sku, qty, restock in await connection.execute(
        sa.select(given.refund_id, given.sku, given.qty, given.restock)
    ):
        units[refund_id][sku] = qty
        if restock:
            restocked[refund_id][sku] = qty
    for row in await connection.execute(
        sa.select(refund.id, refund.order_id, refund.psp_key, refund.state, refund.amount_minor)
    ):
        found[str(row.order_id)].refunds.append(
            Refund(
                key=row.psp_key,
                state=row.state,
                amount_minor=row.amount_minor,
                units=units[row.id],
                restocked=restocked[row.id],
            )
        )
    lines: dict[object, dict[str, int]] = defaultdict(dict)
    for shipment_id, sku, qty in await connection.execute(
        sa.select(sent.shipment_id, sent.sku, sent.qty)
    ):
        lines[shipment_id][sku] = qty
    for id_, order_id in await connection.execute(sa.select(parcel.id, parcel.order_id)):
        found[str(order_id)].parcels.append(lines[id_])
    for id_, counted in await connection.execute(
        sa.select(order.id, order.refunded_minor).where(order.refunded_minor != 0)
    ):
        found[str(id_)].refunded_minor = counted
    return dict(found)


def _sum(many: Sequence[Mapping[str, int]]) -> Counter[str]:
    whole: Counter[str] = Counter()
    for one in many:
        whole.update(one)
    return whole
