"""Coupons in SQL: made, found, used once by an order and given back with it. Knows no HTTP.

An order uses its coupon in its own transaction, which holds the coupon's row: used once means once,
however many order at the same time. The customer is known by the e-mail in `order_private` alone.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from msgspec import Struct, structs
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.database import Database
from chassis.problems import NotFound
from checkout.coupons import Coupon, CouponTerms, Why, new_code
from checkout.store import tables
from checkout.store.problems import CodeTaken


class Use(Struct, frozen=True, kw_only=True):
    """An order that is to use a coupon."""

    order_id: UUID
    code: str
    email: str
    currency: str
    goods_minor: int

    @property
    def customer(self) -> tuple[str, str]:
        """The coupon, and whose limit counts."""
        return self.code, self.email.lower()


class Coupons:
    """The coupons of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, terms: CouponTerms) -> Coupon:
        """A new coupon. Raises CodeTaken."""
        values = structs.asdict(terms) | {
            "code": terms.code or new_code(),
            "disabled": False,
            "used": 0,
            "created_at": datetime.now(UTC),
        }

        async def work(connection: AsyncConnection) -> Coupon:
            await connection.execute(sa.insert(tables.coupons).values(values))
            return (await _found(connection, [values["code"]]))[values["code"]]

        try:
            return await self._database.write(work)
        except IntegrityError as error:
            raise CodeTaken from error

    async def find(self, code: str) -> Coupon | None:
        """The coupon of that code."""
        async with self._database.read() as connection:
            return (await _found(connection, [code])).get(code)

    async def page(self, after: str, limit: int) -> list[Coupon]:
        """The coupons behind `after`, by code."""
        table = tables.coupons.c
        query = sa.select(*_COLUMNS).where(table.code > after).order_by(table.code).limit(limit)
        async with self._database.read() as connection:
            return [_coupon(row) for row in await connection.execute(query)]

    async def disable(self, code: str, *, disabled: bool) -> Coupon:
        """Let it work no more, or again. Raises NotFound."""
        table = tables.coupons

        async def work(connection: AsyncConnection) -> Coupon | None:
            await connection.execute(
                sa.update(table).where(table.c.code == code).values(disabled=disabled)
            )
            return (await _found(connection, [code])).get(code)

        coupon = await self._database.write(work)
        if coupon is None:
            raise NotFound("There is no such coupon.")
        return coupon


async def use(connection: AsyncConnection, uses: Sequence[Use]) -> dict[UUID, Why]:
    """Count the uses; those that cannot be are told, and leave nothing.

    The coupons' rows are held from here to the transaction's end.
    """
    if not uses:
        return {}
    known = await _found(connection, sorted({each.code for each in uses}), locked=True)
    times = await _times(connection, [each for each in uses if _is_limited(known.get(each.code))])
    refused: dict[UUID, Why] = {}
    taken: Counter[str] = Counter()
    now = datetime.now(UTC)
    for each in uses:
        coupon = known.get(each.code)
        why = (
            Why.UNKNOWN
            if coupon is None
            else coupon.refusal(
                now,
                currency=each.currency,
                goods_minor=each.goods_minor,
                by_customer=times[each.customer],
            )
        )
        if coupon is None or why is not None:
            refused[each.order_id] = why or Why.UNKNOWN
            continue
        known[each.code] = structs.replace(coupon, used=coupon.used + 1)
        taken[each.code] += 1
        times[each.customer] += 1
    await _add(connection, taken)
    return refused


async def note(connection: AsyncConnection, uses: Sequence[Use]) -> None:
    """Say which order uses which coupon, once the orders stand."""
    if uses:
        await connection.execute(
            sa.insert(tables.coupon_uses),
            [{"order_id": each.order_id, "code": each.code} for each in uses],
        )


async def give_back(connection: AsyncConnection, orders: Sequence[UUID]) -> None:
    """Let cancelled orders use their coupons no more; again changes nothing."""
    if not orders:
        return
    table = tables.coupon_uses
    rows = await connection.execute(sa.select(table.c.code).where(table.c.order_id.in_(orders)))
    back = Counter(row.code for row in rows)
    if not back:
        return
    await connection.execute(sa.delete(table).where(table.c.order_id.in_(orders)))
    await _add(connection, Counter({code: -count for code, count in back.items()}))


async def _add(connection: AsyncConnection, uses: Counter[str]) -> None:
    table = tables.coupons
    for code in sorted(uses):
        await connection.execute(
            sa.update(table).where(table.c.code == code).values(used=table.c.used + uses[code])
        )


async def _found(
    connection: AsyncConnection, codes: Sequence[str], *, locked: bool = False
) -> dict[str, Coupon]:
    table = tables.coupons.c
    query = sa.select(*_COLUMNS).where(table.code.in_(codes)).order_by(table.code)
    rows = await connection.execute(query.with_for_update() if locked else query)
    return {row.code: _coupon(row) for row in rows}


async def _times(connection: AsyncConnection, uses: Sequence[Use]) -> Counter[tuple[str, str]]:
    """How often each customer's orders use each coupon."""
    if not uses:
        return Counter()
    used, private = tables.coupon_uses.c, tables.order_private.c
    email = sa.func.lower(private.email)
    query = (
        sa.select(used.code, email, sa.func.count())
        .join(tables.order_private, private.order_id == used.order_id)
        .where(
            used.code.in_({each.code for each in uses}),
            email.in_({each.customer[1] for each in uses}),
        )
        .group_by(used.code, email)
    )
    rows = await connection.execute(query)
    return Counter({(code, customer): count for code, customer, count in rows})


def _is_limited(coupon: Coupon | None) -> bool:
    return coupon is not None and coupon.limit_per_customer is not None


def _coupon(row: Any) -> Coupon:
    return Coupon(**dict(zip(Coupon.__struct_fields__, row, strict=True)))


_COLUMNS = [tables.coupons.c[name] for name in Coupon.__struct_fields__]
