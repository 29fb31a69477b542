"""The read model in Elasticsearch: how it is kept, how it is asked. Knows no route, no broker.

Two indices, each written by compare-and-set alone: `offers` holds what stock says of a SKU, and
`products` what shoppers find, behind the alias `search`. An event about stock is put into its
offer first and into the products of that offer afterwards; a product puts its claims into the
offers of its SKUs first and reads them afterwards. So of a stock event and a product event that
run at the same time, at least one sees the other. Writing the product and reading its offers once
more closes the rest of the gap.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any, TypeVar

from aiohttp import web
from elasticsearch import AsyncElasticsearch, BadRequestError, NotFoundError

from search import domain
from search.domain import Contents, Found, Offer, Product, Query
from search.store import queries
from search.store.documents import PAGE, Documents, answering
from search.store.mappings import OFFERS, PRODUCTS, SETTINGS
from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact
from shop_contracts.types import Currency

T = TypeVar("T")

Marks = tuple[int, int]
"""The numbers of the last writes to offers and to products."""

NO_MARKS = (-1, -1)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items, so many at a time."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


class SearchStore:
    """The read model of one prefix. `currency` is that of prices where a query names none."""

    def __init__(
        self, client: AsyncElasticsearch, prefix: str, currency: Currency, *, beside: str = ""
    ) -> None:
        """With `beside`, a read model of that name which nobody asks yet."""
        self._client = client
        self._prefix = prefix
        self.currency = currency
        # alias, first index, mapping; all that is asked is read and written by the alias
        self._indices: tuple[tuple[str, str, dict[str, Any]], ...] = (
            (f"{prefix}offers", f"{prefix}search-offers", OFFERS),
            (f"{prefix}search", f"{prefix}search-products", PRODUCTS),
        )
        self._offers, self._products = (
            f"{index}-{beside}" if beside else alias for alias, index, _ in self._indices
        )
        self._by_alias = not beside
        self._documents = Documents(client, by_alias=self._by_alias)

    @property
    def names(self) -> tuple[str, str]:
        """What is written: offers, products."""
        return self._offers, self._products

    async def prepare(self) -> None:
        """Create what is missing; add new fields to what is there. Raises Unavailable."""
        async with answering():
            for alias, index, mapping in self._indices:
                # a rebuild leaves the alias on an index of another name
                if standing := await self._behind(alias):
                    await self._client.indices.put_mapping(index=alias, **mapping)
                    # a rebuild that died may have left it frozen
                    await self._thaw(standing)
                    continue
                try:
                    await self._client.indices.create(
                        index=index, settings=SETTINGS, mappings=mapping, aliases={alias: {}}
                    )
                except BadRequestError as error:
                    if error.error != "resource_already_exists_exception":
                        raise

    async def beside(self, name: str) -> "SearchStore":
        """An empty read model of that name; what a broken rebuild left behind is deleted.

        Raises Unavailable.
        """
        other = SearchStore(self._client, self._prefix, self.currency, beside=name)
        async with answering():
            for (alias, index, mapping), fresh in zip(self._indices, other.names, strict=True):
                standing = await self._behind(alias)
                for left in await self._client.indices.get(index=f"{index}-*"):
                    if left not in standing:
                        await self._client.indices.delete(index=left)
                await self._client.indices.create(index=fresh, settings=SETTINGS, mappings=mapping)
        return other

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """Nothing is written meanwhile: a worker's events wait, and searches are answered.

        What stood here stays frozen after a success, when it is asked no more: a write on its way
        must not end there. Raises Unavailable.
        """
        async with answering():
            names = [name for alias, _, _ in self._indices for name in await self._behind(alias)]
            try:
                for name in names:
                    await self._client.indices.add_block(index=name, block="write")
                yield
            except BaseException:
                await self._thaw(names)
                raise

    async def give_way_to(self, other: "SearchStore") -> list[str]:
        """From now on the other's indices are asked and written; at no moment are none.

        Returns the indices that were asked before. Raises Unavailable.
        """
        async with answering():
            actions: list[dict[str, Any]] = []
            before: list[str] = []
            for (alias, _, _), index in zip(self._indices, other.names, strict=True):
                await self._client.indices.refresh(index=index)
                old = await self._behind(alias)
                actions += [{"remove": {"index": name, "alias": alias}} for name in old]
                actions.append({"add": {"index": index, "alias": alias}})
                before += old
            await self._client.indices.update_aliases(actions=actions)
            return before

    async def forget(self, indices: Sequence[str]) -> None:
        """Delete indices that are asked no more. Raises Unavailable."""
        async with answering():
            for index in indices:
                await self._client.indices.delete(index=index)

    async def contents(self, since: Marks = NO_MARKS) -> tuple[Contents, Marks]:
        """All documents that were written after the marks, and the marks of now.

        None where there is no index. Raises Unavailable.
        """
        async with answering():
            if self._by_alias and not await self._client.indices.exists_alias(name=self._products):
                return Contents(offers={}, products={}), since
            offers, offers_mark = await self._documents.written(
                self._offers, "sku", Offer, since[0]
            )
            products, products_mark = await self._documents.written(
                self._products, "product_id", Product, since[1]
            )
            return Contents(offers=offers, products=products), (offers_mark, products_mark)

    async def take_over(self, contents: Contents) -> None:
        """Join documents of another read model into this one. Raises Unavailable and Refused."""
        async with answering():
            for offers in batched(contents.offers.values(), PAGE):
                await self._know(offers)
            for products in batched(contents.products.values(), PAGE):
                bodies = {product.product_id: product for product in products}
                await self._show(bodies, bodies)

    async def _behind(self, alias: str) -> list[str]:
        """The indices that the alias stands for."""
        if not await self._client.indices.exists_alias(name=alias):
            return []
        return list(await self._client.indices.get_alias(name=alias))

    async def _thaw(self, names: Sequence[str]) -> None:
        for name in names:
            try:
                await self._client.indices.put_settings(
                    index=name, settings={"index.blocks.write": None}
                )
            except NotFoundError:
                continue  # it was deleted meanwhile

    async def ready(self) -> None:
        """Return when the read model can be asked. Raises Unavailable."""
        async with answering():
            await self._client.search(index=self._products, size=0, track_total_hits=False)

    async def project(self, events: Sequence[Event[Fact]]) -> None:
        """Bring the read model to what `events` say; saying it again, or late, changes nothing.

        Raises Unavailable (worth a retry) and Refused.
        """
        async with answering():
            offers = await self._know(
                offer for event in events for offer in domain.offers_in(event)
            )
            bodies: dict[str, Product] = {}
            for event in events:
                body = domain.product_in(event)
                if body is not None:
                    known = bodies.get(body.product_id, body)
                    bodies[body.product_id] = domain.join_products(known, body)
            touched = {product_id for offer in offers for product_id in offer.products}
            await self._show(bodies, touched | set(bodies))

    async def _know(self, said: Iterable[Offer]) -> list[Offer]:
        """Join what is said of SKUs into their offers; the offers as they are then."""
        waiting: dict[str, Offer] = {}
        for offer in said:
            known = waiting.get(offer.sku)
            waiting[offer.sku] = domain.join_offers(known, offer) if known else offer
        settled: list[Offer] = []
        while waiting:
            seen = await self._documents.read(self._offers, waiting, Offer)
            joined = {
                sku: domain.join_offers(seen[sku].document, offer) if sku in seen else offer
                for sku, offer in waiting.items()
            }
            lost = await self._documents.write(self._offers, joined, seen)
            settled += [offer for sku, offer in joined.items() if sku not in lost]
            waiting = {sku: waiting[sku] for sku in lost}
        return settled

    async def _show(self, bodies: Mapping[str, Product], touched: Collection[str]) -> None:
        """Bring products to the newest body and the newest offers of their variants."""
        while touched:
            seen = await self._documents.read(self._products, touched, Product)
            products: dict[str, Product] = {}
            for product_id in touched:
                versions = [seen[product_id].document] if product_id in seen else []
                versions += [bodies[product_id]] if product_id in bodies else []
                if versions:  # else a claim whose product is yet to be written, and will look again
                    products[product_id] = domain.join_products(versions[0], versions[-1])
            # read after the products: an offer is never older than what a product shows of it
            skus = {variant.sku for product in products.values() for variant in product.variants}
            offers = {
                sku: offer.document
                for sku, offer in (await self._documents.read(self._offers, skus, Offer)).items()
            }
            shown = {
                product_id: domain.with_offers(product, offers)
                for product_id, product in products.items()
            }
            lost = await self._documents.write(self._products, shown, seen)
            # a new body may have passed an offer that changed and found the old body: look again
            renewed = {
                product_id
                for product_id, product in shown.items()
                if product_id not in seen
                or seen[product_id].document.catalog_version != product.catalog_version
            }
            touched = lost | renewed

    async def search(self, query: Query) -> Found:
        """One page of what `query` finds, with facets and prices. Raises Unavailable."""
        currency = query.currency or self.currency
        async with answering():
            answer = await self._client.search(
                index=self._products, **queries.body(query, currency)
            )
        return queries.found(answer.body, query, currency)


STORE = web.AppKey("store", SearchStore)
"""Where an application that asks the read model carries it."""
