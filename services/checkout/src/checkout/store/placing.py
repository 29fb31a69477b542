"""Placing an order once: its rows, its answer and its event, one insert each. Knows no saga."""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from msgspec import Struct, structs
from sqlalchemy.ext.asyncio import AsyncConnection

from bus import sql
from checkout import domain
from checkout.domain import Order, Status
from checkout.purchase import Purchase
from checkout.store import coupons, rows, tables
from checkout.store.coupons import Use
from checkout.store.problems import CouponRefused, IdempotencyKeyReused
from checkout.totals import Breakdown

KEPT = timedelta(days=30)
"""How long an Idempotency-Key is remembered."""


class Acceptance(Struct, frozen=True, kw_only=True):
    """The answer to a checkout: the order is durable, not yet confirmed."""

    order_id: UUID
    status: Status


class Accepted(Struct, frozen=True, kw_only=True):
    """The stored answer, byte for byte, and whether it was given before."""

    order_id: UUID
    body: bytes
    replayed: bool


class Placing(Struct, frozen=True, kw_only=True):
    """An order that is to become durable, with the answer to whoever placed it."""

    order: Order
    breakdown: Breakdown
    cart_id: str
    customer_id: UUID | None
    key: str
    fingerprint: bytes
    purchase: Purchase
    body: bytes
    traceparent: str | None


def new_id(now: datetime) -> UUID:
    """A UUIDv7 whose 74 random bits are all random: who knows some orders' ids guesses no other.

    Libraries count up within a millisecond, which leaves 32 bits to guess.
    """
    moment, chance = int(now.timestamp() * 1000), secrets.randbits(74)
    high = moment << 16 | 0x7000 | chance >> 62
    return UUID(int=high << 64 | 0b10 << 62 | chance & (1 << 62) - 1)


async def answers(
    connection: AsyncConnection, keys: Sequence[tuple[str, str]]
) -> list[Any | Exception]:
    """What was answered under each scope and key."""
    rows = await connection.execute(_ANSWERS, {"keys": list(set(keys))})
    found = {(row.scope, row.idem_key): row for row in rows}
    return [found.get(key) for key in keys]


def again(answer: Any, fingerprint: bytes) -> Accepted | IdempotencyKeyReused:
    """The answer that was given before, for whoever asks for the same."""
    if answer.fingerprint != fingerprint:
        return IdempotencyKeyReused()
    return Accepted(order_id=answer.order_id, body=answer.body, replayed=True)


async def place(
    connection: AsyncConnection, placings: Sequence[Placing]
) -> list[Accepted | Exception]:
    """Orders with their answers and events; fails as a whole when one cart is taken.

    What has its answer gets it again. Who wants a coupon that cannot be used any more fails alone.
    """
    known = await answers(connection, [(placing.cart_id, placing.key) for placing in placings])
    fresh = [placing for placing, answer in zip(placings, known, strict=True) if answer is None]
    uses = [_use(placing) for placing in fresh if placing.breakdown.coupon]
    refused = await coupons.use(connection, uses)
    if wanted := [placing for placing in fresh if placing.order.id not in refused]:
        await _insert(connection, wanted)
        await coupons.note(connection, [use for use in uses if use.order_id not in refused])
    return [
        again(answer, placing.fingerprint)
        if answer is not None
        else CouponRefused(reason=refused[placing.order.id])
        if placing.order.id in refused
        else Accepted(order_id=placing.order.id, body=placing.body, replayed=False)
        for placing, answer in zip(placings, known, strict=True)
    ]


async def _insert(connection: AsyncConnection, placings: Sequence[Placing]) -> None:
    for table, values in (
        (tables.idempotency, [_key_row(placing) for placing in placings]),
        (tables.orders, [_order_row(placing) for placing in placings]),
        (tables.order_lines, [row for placing in placings for row in _line_rows(placing.order)]),
        (tables.order_private, [_private_row(placing) for placing in placings]),
        (
            tables.order_history,
            [
                rows.moment(placing.order, None, "checkout", None, placing.order.placed_at)
                for placing in placings
            ],
        ),
    ):
        await connection.execute(sa.insert(table), values)
    await sql.add(
        connection,
        tables.outbox,
        *(
            rows.event(
                domain.placed(p.order, p.purchase.reservation_id or None),
                p.order.version,
                p.order.id,
                None,
                p.traceparent,
            )
            for p in placings
        ),
    )


def _use(placing: Placing) -> Use:
    return Use(
        order_id=placing.order.id,
        code=placing.breakdown.coupon or "",
        email=placing.purchase.email,
        currency=placing.breakdown.currency,
        goods_minor=placing.breakdown.subtotal_minor,
    )


def _key_row(placing: Placing) -> dict[str, Any]:
    return {
        "scope": placing.cart_id,
        "idem_key": placing.key,
        "fingerprint": placing.fingerprint,
        "order_id": placing.order.id,
        "body": placing.body,
        "expires_at": placing.order.placed_at + KEPT,
    }


def _order_row(placing: Placing) -> dict[str, Any]:
    order = placing.order
    return {
        "id": order.id,
        "status": order.status.value,
        "version": order.version,
        "currency": order.currency,
        "total_minor": order.total_minor,
        "breakdown": placing.breakdown,
        "reason": None,
        "shortages": [],
        "cart_id": placing.cart_id,
        "customer_id": placing.customer_id,
        "claims_cart": placing.cart_id,
        "deadline_at": order.deadline_at,
        "placed_at": order.placed_at,
        "updated_at": order.placed_at,
    }


def _line_rows(order: Order) -> list[dict[str, Any]]:
    return [
        {"order_id": order.id, "line_no": number, **structs.asdict(line)}
        for number, line in enumerate(order.lines, 1)
    ]


def _private_row(placing: Placing) -> dict[str, Any]:
    purchase = placing.purchase
    return {
        "order_id": placing.order.id,
        "email": purchase.email,
        "name": purchase.name,
        "address": msgspec.to_builtins(purchase.address),
        "billing": msgspec.to_builtins(purchase.billing_address or None),
        "payment_token": purchase.payment.token,
    }


_KEYS = tables.idempotency.c
_ANSWERS = sa.select(
    _KEYS.scope, _KEYS.idem_key, _KEYS.order_id, _KEYS.fingerprint, _KEYS.body
).where(sa.tuple_(_KEYS.scope, _KEYS.idem_key).in_(sa.bindparam("keys", expanding=True)))
