"""Units and prices of a SKU together, as pages show and feeds set them. Knows no hold."""

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct
from redis.asyncio import Redis

from stock.domain import Action, Adjust
from stock.install import Install
from stock.parts import ask_time, clock
from stock.prices import Priced, PriceEntry, boundary, in_force, moment, read_prices
from stock.slots import Slots, answering
from stock.store.price_plans import FIELDS, Edited, PricePlans
from stock.store.quantities import Adjusted, Quantities

Verdict = Literal[Edited, "short"]


class Offer(Struct, frozen=True, kw_only=True):
    """What a feed says of one SKU: units on hand (None = nothing) and prices for everybody."""

    sku: str
    stock: int | None = None
    prices: Sequence[PriceEntry] = ()


class Offers:
    """What crosses units and prices."""

    def __init__(
        self,
        redis: Redis,
        slots: Slots,
        install: Install,
        quantities: Quantities,
        prices: PricePlans,
    ) -> None:
        self._redis: Any = redis
        self._slots = slots
        self._install = install
        self._quantities = quantities
        self._prices = prices

    async def get(self, sku: str) -> tuple[int, Priced]:
        """Units available (0 for an unknown SKU) and prices in force, in one round trip."""
        slot = self._slots.at(sku)
        with answering:
            pipe = self._redis.pipeline(transaction=False)
            ask_time(pipe, self._redis)
            pipe.hget(slot.quantity(sku), "avail")
            pipe.hmget(slot.price(sku), FIELDS)
            clocked, available, (plan, prices, version, _) = await pipe.execute()
        if available is None or version is None:
            await self._install.refuse_empty([sku])
        entries, now = read_prices(plan or prices or ""), moment(clock(clocked))
        return int(available or 0), Priced(
            sku=sku,
            prices=in_force(entries, now),
            version=int(version or 0),
            valid_until=boundary(entries, now),
        )

    async def put(self, offers: Sequence[Offer], traceparent: str = "") -> list[Verdict]:
        """Set the units on hand and merge the prices of many SKUs, a few round trips for all.

        "short": fewer units than are reserved, so nothing of that offer's stock was changed.
        "full": its plan of prices would be too long, and was left as it is.
        """
        changes: list[set[Verdict]] = [set() for _ in offers]
        stocked = [place for place, offer in enumerate(offers) if offer.stock is not None]
        adjusted = await self._quantities.adjust_many(
            [
                (
                    offers[place].sku,
                    Adjust(stock=offers[place].stock or 0, action=Action.SET, reason="import"),
                    None,
                )
                for place in stocked
            ],
            traceparent,
        )
        for place, result in zip(stocked, adjusted, strict=True):
            changes[place].add(result.change if isinstance(result, Adjusted) else "short")
        priced = [place for place, offer in enumerate(offers) if offer.prices]
        edited = await self._prices.edit(
            [(offers[place].sku, "merge", offers[place].prices) for place in priced], traceparent
        )
        for place, change in zip(priced, edited, strict=True):
            changes[place].add(change)
        ranked: tuple[Verdict, ...] = ("short", "full", "created", "updated")
        return [next((r for r in ranked if r in seen), "unchanged") for seen in changes]
