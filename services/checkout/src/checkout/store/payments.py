"""Payment operations as rows: who may ask the provider, when, and again when. Moves no order."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from checkout.domain import Asked, Op
from checkout.store import tables
from checkout.store.rows import CONSUMER

PAYMENTS = "payments"
"""The source of webhooks, in the inbox."""
HINT = timedelta(seconds=1)
"""How long the answer itself may take after a webhook has told of it."""


class Ask(Struct, frozen=True, kw_only=True):
    """A payment operation that this process has claimed and is to ask the provider for."""

    order_id: UUID
    op: Op
    key: str
    attempt: int
    amount_minor: int
    currency: str
    token: str
    ref: str
    traceparent: str = ""


async def due(connection: AsyncConnection) -> bool:
    """Whether there is anything to ask for: an idle look must not take SQLite's write lock."""
    return await connection.scalar(_DUE, {"now": datetime.now(UTC)}) is not None


async def claim(connection: AsyncConnection, limit: int, lease: timedelta) -> list[Ask]:
    """Operations to ask the provider for; nobody else gets them for as long as `lease`."""
    now = datetime.now(UTC)
    found = await connection.execute(_FREE, {"now": now, "most": limit})
    claimed = [(row.order_id, row.op) for row in found]
    for op in {op for _, op in claimed}:
        # pairs would be looked for in all rows
        orders = [order_id for order_id, each in claimed if each == op]
        await connection.execute(_CLAIM, {"ids": orders, "which": op, "until": now + lease})
    return await _asks(connection, claimed)


async def postpone(connection: AsyncConnection, ask: Ask, pause: timedelta) -> None:
    """Ask again after `pause`: the provider gave no answer."""
    table = tables.payments
    await connection.execute(
        sa.update(table)
        .where(
            table.c.order_id == ask.order_id,
            table.c.op == ask.op.value,
            table.c.state == Asked.SENT.value,
        )
        .values(next_at=datetime.now(UTC) + pause)
    )


async def notice(
    connection: AsyncConnection, notices: Sequence[tuple[str, str]]
) -> list[bool | Exception]:
    """Make the operations due that notices are about; each notice counts once."""
    now = datetime.now(UTC)
    known = set(await connection.scalars(_KNOWN, {"events": {id_ for id_, _ in notices}}))
    first: list[bool | Exception] = []
    fresh: dict[str, str] = {}
    for id_, key in notices:
        first.append(id_ not in known and id_ not in fresh)
        if first[-1]:
            fresh[id_] = key
    if fresh:
        await connection.execute(
            sa.insert(tables.inbox),
            [
                {
                    "consumer": CONSUMER,
                    "source": PAYMENTS,
                    "event_id": id_,
                    "received_at": now.replace(tzinfo=None),
                }
                for id_ in fresh
            ],
        )
        for hasten in _HASTEN:
            await connection.execute(hasten, {"keys": set(fresh.values()), "soon": now + HINT})
    return first


async def _asks(connection: AsyncConnection, claimed: Sequence[tuple[UUID, str]]) -> list[Ask]:
    if not claimed:
        return []
    rows = await connection.execute(_ASKS, {"ids": {order_id for order_id, _ in claimed}})
    wanted = set(claimed)
    return [
        Ask(
            order_id=row.order_id,
            op=Op(row.op),
            key=row.psp_key,
            attempt=row.attempt,
            amount_minor=row.amount_minor,
            currency=row.currency,
            token=row.payment_token,
            ref=row.psp_ref or "",
            traceparent=row.traceparent or "",
        )
        for row in rows
        if (row.order_id, row.op) in wanted
    ]


# built once: to build a query and its key anew costs as much as to send it
_PAYMENT, _AUTH = tables.payments.c, tables.payments.alias("auth")
_IDS: sa.BindParameter[UUID] = sa.bindparam("ids", expanding=True)
_DUE = sa.select(_PAYMENT.op).where(_PAYMENT.next_at <= sa.bindparam("now")).limit(1)
_FREE = (
    sa.select(_PAYMENT.order_id, _PAYMENT.op)
    .where(_PAYMENT.next_at <= sa.bindparam("now"))
    .order_by(_PAYMENT.next_at)
    .limit(sa.bindparam("most"))
    .with_for_update(skip_locked=True)
)
_CLAIM = (
    sa.update(tables.payments)
    .where(_PAYMENT.order_id.in_(_IDS), _PAYMENT.op == sa.bindparam("which"))
    .values(state=Asked.SENT.value, attempt=_PAYMENT.attempt + 1, next_at=sa.bindparam("until"))
)
_ASKS = (
    sa.select(
        _PAYMENT.order_id,
        _PAYMENT.op,
        _PAYMENT.psp_key,
        _PAYMENT.attempt,
        _PAYMENT.amount_minor,
        _PAYMENT.traceparent,
        tables.orders.c.currency,
        tables.order_private.c.payment_token,
        _AUTH.c.psp_ref,
    )
    .join(tables.orders, tables.orders.c.id == _PAYMENT.order_id)
    .join(tables.order_private, tables.order_private.c.order_id == _PAYMENT.order_id)
    .outerjoin(_AUTH, sa.and_(_AUTH.c.order_id == _PAYMENT.order_id, _AUTH.c.op == Op.AUTH.value))
    .where(_PAYMENT.order_id.in_(_IDS))
)
_KNOWN = sa.select(tables.inbox.c.event_id).where(
    tables.inbox.c.consumer == CONSUMER,
    tables.inbox.c.source == PAYMENTS,
    tables.inbox.c.event_id.in_(sa.bindparam("events", expanding=True)),
)
_HASTEN = [
    sa.update(table)
    .where(
        table.c.psp_key.in_(sa.bindparam("keys", expanding=True)),
        table.c.state == Asked.SENT.value,
        table.c.next_at > sa.bindparam("soon"),
    )
    .values(next_at=sa.bindparam("soon"))
    for table in (tables.payments, tables.refunds)
]
