"""A read model of the test's own, and words to say what happened in the shop."""

import secrets
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4, uuid5

import pytest
from aiohttp.test_utils import TestClient, TestServer
from elasticsearch import AsyncElasticsearch
from msgspec import Struct

from search.app import opened, web_application
from search.settings import Settings
from search.store import SearchStore
from shop_contracts import envelope
from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact
from shop_contracts.events.catalog import ProductPublishedV1, ProductWithdrawnV1
from shop_contracts.events.catalog.product_published_v1 import Category, Image, Variant
from shop_contracts.events.stock import PriceChangedV1, StockChangedV1
from shop_contracts.events.stock.price_changed_v1 import Price
from shop_contracts.events.stock.stock_changed_v1 import Cause

DAY_ONE = datetime(2026, 1, 1, tzinfo=UTC)


class Say:
    """Events of one imagined shop. Products go by a word, which also makes their slug."""

    def __init__(self) -> None:
        self._shop = uuid4()

    def id(self, product: str) -> UUID:
        return uuid5(self._shop, product)

    def published(
        self,
        product: str,
        version: int = 1,
        *,
        skus: Sequence[str] | None = None,
        name: str = "Summit Boots",
        brand: str | None = "Daybird",
        description: str = "Made for the hills.",
        categories: Sequence[str] = ("Footwear",),
        day: int = 0,
    ) -> Event[Fact]:
        return self._event(
            ProductPublishedV1(
                product_id=self.id(product),
                slug=product,
                name=name,
                brand=brand,
                description=description,
                categories=[
                    Category(slug=path.lower().replace(" ", "-"), path=[path])
                    for path in categories
                ],
                variants=[Variant(sku=sku) for sku in skus or [product]],
                images=[Image(url=f"https://images.example/{product}.webp", alt=name)],
                published_at=DAY_ONE + timedelta(days=day),
            ),
            version,
        )

    def withdrawn(self, product: str, version: int) -> Event[Fact]:
        return self._event(
            ProductWithdrawnV1(
                product_id=self.id(product), slug=product, skus=[], withdrawn_at=DAY_ONE
            ),
            version,
        )

    def stock(self, sku: str, available: int, version: int = 1) -> Event[Fact]:
        return self._event(
            StockChangedV1(
                sku=sku, on_hand=available, reserved=0, available=available, cause=Cause.ADJUSTED
            ),
            version,
        )

    def price(
        self, sku: str, amount: int, version: int = 1, *, currencies: Sequence[str] = ("EUR",)
    ) -> Event[Fact]:
        prices = [Price(currency=currency, amount_minor=amount) for currency in currencies]
        return self._event(PriceChangedV1(sku=sku, prices=prices), version)

    def _event(self, fact: Fact, version: int) -> Event[Fact]:
        return envelope.new(fact, id=uuid4(), entityversion=version)


class Shop(Struct):
    """A read model under test: its store, a browser on it, and a way round the refresh."""

    store: SearchStore
    browser: TestClient[Any, Any]
    elastic: AsyncElasticsearch
    prefix: str

    async def hears(self, *events: Event[Fact]) -> None:
        """The events are projected, and can be searched for."""
        await self.store.project(events)
        await self.elastic.indices.refresh(index=f"{self.prefix}search")

    async def forgets(self) -> None:
        """Nothing was ever said."""
        for index in ("search-products", "search-offers"):
            await self.elastic.indices.delete(index=f"{self.prefix}{index}")
        await self.store.prepare()

    async def find(self, **query: Any) -> Any:
        """The reply to a search that must be answered."""
        params = [
            (name.rstrip("_"), str(one))
            for name, value in query.items()
            for one in (value if isinstance(value, list) else [value])
        ]
        async with self.browser.get("/search", params=params) as response:
            assert 200 == response.status, await response.text()
            return await response.json()

    async def documents(self) -> dict[str, Any]:
        """All products by id, as they are kept."""
        answer = await self.elastic.search(index=f"{self.prefix}search", size=1000)
        return {hit["_id"]: hit["_source"] for hit in answer["hits"]["hits"]}


@pytest.fixture
def say() -> Say:
    return Say()


@pytest.fixture
async def shop(stack: Any, prefix: str) -> AsyncIterator[Shop]:
    own = f"{prefix}-{secrets.token_hex(3)}-"
    settings = Settings(elasticsearch_url=stack.elasticsearch_url, index_prefix=own)
    async with opened(settings, 30) as store, TestClient(TestServer(web_application(store))) as web:
        await store.prepare()
        elastic = AsyncElasticsearch(stack.elasticsearch_url)
        yield Shop(store, web, elastic, own)
        for index in ("search-products", "search-offers"):
            await elastic.indices.delete(index=f"{own}{index}")
        await elastic.close()
