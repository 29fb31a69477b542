"""What other services say about SKUs, as far as it prices a cart. Newer replaces older."""

from collections.abc import Collection, Sequence
from uuid import UUID

import sqlalchemy as sa
from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.database import Database
from checkout.quotes import Offer
from checkout.store import tables
from checkout.store.group import Group
from shop_contracts.envelope import Event
from shop_contracts.events.catalog import ProductPublishedV1, ProductWithdrawnV1
from shop_contracts.events.stock import PriceChangedV1

NAME_AT_MOST = 500
READING_PATIENCE = 0.005
"""How long a busy group of questions lets more come, in seconds: shoppers wait."""


class Projections:
    """Names, weights, tax classes and prices by SKU."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reading: Group[frozenset[str], dict[str, Offer]] = Group(
            database, _offers, reads=True, patience=READING_PATIENCE
        )

    async def offers(self, skus: Collection[str]) -> dict[str, Offer]:
        """What is known of these SKUs; those that nobody has told us of are missing."""
        return await self._reading.do(frozenset(skus)) if skus else {}

    async def price_changed(self, event: Event[PriceChangedV1]) -> None:
        """Take over the prices for everybody, by currency."""
        values = {
            "prices": {
                price.currency: price.amount_minor
                for price in event.data.prices
                if price.group is None and price.min_qty == 1
            },
            "version": event.meta.entityversion,
        }
        table = tables.offers

        async def work(connection: AsyncConnection) -> None:
            query = sa.select(table.c.version).where(table.c.sku == event.data.sku)
            version = await connection.scalar(query.with_for_update())
            if version is None:
                await connection.execute(sa.insert(table).values(sku=event.data.sku, **values))
            elif version < event.meta.entityversion:
                await connection.execute(
                    sa.update(table).where(table.c.sku == event.data.sku).values(**values)
                )

        await self._database.write(work)

    async def product_published(self, event: Event[ProductPublishedV1]) -> None:
        """Take over what it says of every variant; one that is no longer there is withdrawn."""
        product, version = event.data, event.meta.entityversion
        told = {
            variant.sku: {
                "name": _name(product.name, variant.options),
                "weight_g": variant.weight_g,
                "tax_class": variant.tax_class,
            }
            for variant in product.variants
        }
        table = tables.products

        async def work(connection: AsyncConnection) -> None:
            known = await _versions(connection, product.product_id, told)
            if _newest(known, product.product_id) >= version:
                return
            fresh = [sku for sku in told if sku not in known]
            if fresh:
                await connection.execute(
                    sa.insert(table),
                    [
                        {
                            "sku": sku,
                            "product_id": product.product_id,
                            "withdrawn": False,
                            "version": version,
                            **told[sku],
                        }
                        for sku in fresh
                    ],
                )
            for sku in known:
                values: dict[str, object] = {"withdrawn": True, "version": version}
                if sku in told:
                    values |= told[sku]
                    values |= {"product_id": product.product_id, "withdrawn": False}
                await connection.execute(
                    sa.update(table).where(table.c.sku == sku).values(**values)
                )

        await self._database.write(work)

    async def product_withdrawn(self, event: Event[ProductWithdrawnV1]) -> None:
        """Sell none of its variants any more, not even those that are told of too late."""
        product, version = event.data, event.meta.entityversion
        table = tables.products

        async def work(connection: AsyncConnection) -> None:
            known = await _versions(connection, product.product_id, product.skus)
            if _newest(known, product.product_id) >= version:
                return
            await connection.execute(
                sa.update(table)
                .where(table.c.product_id == product.product_id)
                .values(withdrawn=True, version=version)
            )
            fresh = [sku for sku in product.skus if sku not in known]
            if fresh:
                await connection.execute(
                    sa.insert(table),
                    [
                        {
                            "sku": sku,
                            "product_id": product.product_id,
                            "name": sku,
                            "withdrawn": True,
                            "version": version,
                        }
                        for sku in fresh
                    ],
                )

        await self._database.write(work)


async def _offers(
    connection: AsyncConnection, wanted: Sequence[frozenset[str]]
) -> list[dict[str, Offer] | Exception]:
    skus = frozenset().union(*wanted)
    known: dict[str, Offer] = {}
    # one question for both tables; a row has a price, or what a product says
    for sku, prices, name, withdrawn, weight, tax_class in await connection.execute(
        _OFFERS, {"skus": list(skus)}
    ):
        before = known.get(sku, _UNKNOWN)
        if prices is not None:
            known[sku] = structs.replace(before, prices=prices)
            continue
        known[sku] = structs.replace(
            before,
            name=name,
            withdrawn=bool(withdrawn),
            weight_g=weight or 0,
            tax_class=tax_class,
        )
    return [{sku: known[sku] for sku in some if sku in known} for some in wanted]


async def _versions(
    connection: AsyncConnection, product_id: UUID, skus: Collection[str]
) -> dict[str, tuple[UUID, int]]:
    """Owner and version of every row that the product has, had, or is told of now."""
    table = tables.products.c
    rows = await connection.execute(
        sa.select(table.sku, table.product_id, table.version)
        .where(sa.or_(table.product_id == product_id, table.sku.in_(skus)))
        .with_for_update()
    )
    return {sku: (owner, version) for sku, owner, version in rows}


def _newest(known: dict[str, tuple[UUID, int]], product_id: UUID) -> int:
    """The version that all rows of the product have been brought to."""
    return max((version for owner, version in known.values() if owner == product_id), default=-1)


def _name(product: str, options: dict[str, str]) -> str:
    if not options:
        return product
    return f"{product} ({', '.join(options.values())})"[:NAME_AT_MOST]


_NOTHING = sa.null()
_UNKNOWN = Offer()
_SKUS: sa.BindParameter[str] = sa.bindparam("skus", expanding=True)
_OFFERS = sa.union_all(
    sa.select(
        tables.offers.c.sku,
        tables.offers.c.prices,
        _NOTHING.label("name"),
        _NOTHING.label("withdrawn"),
        _NOTHING.label("weight_g"),
        _NOTHING.label("tax_class"),
    ).where(tables.offers.c.sku.in_(_SKUS)),
    sa.select(
        tables.products.c.sku,
        _NOTHING,
        tables.products.c.name,
        tables.products.c.withdrawn,
        tables.products.c.weight_g,
        tables.products.c.tax_class,
    ).where(tables.products.c.sku.in_(_SKUS)),
)
