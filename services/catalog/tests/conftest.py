"""A catalogue of the session's own on the real Elasticsearch, and one that starts empty."""

import hashlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer
from elasticsearch import AsyncElasticsearch

from catalog import app
from catalog.domain import Draft, VariantIn
from catalog.settings import Settings
from catalog.store import CatalogStore
from shop_contracts.envelope import Event, decode
from shop_contracts.events.base import Fact

KEY = "k_test_" + "s" * 40
READER = "k_reader_" + "r" * 40
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
async def client(stack: Any) -> AsyncIterator[AsyncElasticsearch]:
    async with AsyncElasticsearch(
        stack.elasticsearch_url, request_timeout=30, max_retries=0
    ) as client:
        yield client


@asynccontextmanager
async def _catalogue(client: AsyncElasticsearch, prefix: str) -> AsyncIterator[CatalogStore]:
    store = CatalogStore(client, prefix, patience=0.3)
    await store.prepare()
    yield store
    names = store.names
    for index in (names.products, names.categories, names.skus, names.slugs):
        await client.indices.delete(index=index)


@pytest.fixture(scope="session")
async def store(client: AsyncElasticsearch, prefix: str) -> AsyncIterator[CatalogStore]:
    """The catalogue that tests share; they take products of their own from `draft`."""
    async with _catalogue(client, f"{prefix}-") as store:
        yield store


@pytest.fixture
async def fresh(client: AsyncElasticsearch, prefix: str) -> AsyncIterator[CatalogStore]:
    """An empty catalogue, for tests that count."""
    async with _catalogue(client, f"{prefix}-{next(_numbers)}-") as store:
        yield store


@pytest.fixture
def draft() -> Callable[..., Draft]:
    """A draft that no other test has; `skus` says how many variants it has."""

    def make(skus: int = 1, **rest: Any) -> Draft:
        number = next(_numbers)
        variants = [VariantIn(sku=f"TENT-{number}-{n}") for n in range(skus)]
        return Draft(**({"name": f"Tarn tent {number}", "variants": variants} | rest))

    return make


@pytest.fixture(scope="session")
def settings(stack: Any, prefix: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    keys = tmp_path_factory.mktemp("catalog") / "keys.json"
    keys.write_bytes(
        msgspec.json.encode(
            {
                "test": {
                    "sha256": hashlib.sha256(KEY.encode()).hexdigest(),
                    "scopes": ["catalog:write"],
                },
                "reader": {"sha256": hashlib.sha256(READER.encode()).hexdigest(), "scopes": []},
            }
        )
    )
    return Settings(
        elasticsearch_url=stack.elasticsearch_url,
        api_keys_file=str(keys),
        index_prefix=f"{prefix}-",
        spool_dir=keys.parent / "spool",
        profile="test",
    )


@pytest.fixture(scope="session")
async def http(settings: Settings, store: CatalogStore) -> AsyncIterator[TestClient[Any, Any]]:
    """The service over HTTP, on the shared catalogue."""
    assert settings.index_prefix == store.names.prefix
    async with TestClient(TestServer(app.application(settings))) as http:
        yield http


@pytest.fixture
def write() -> dict[str, str]:
    """Headers of somebody who may write."""
    return {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def reader() -> dict[str, str]:
    """Headers of somebody who may not."""
    return {"Authorization": f"Bearer {READER}"}


@pytest.fixture
def pending(
    client: AsyncElasticsearch,
) -> Callable[[CatalogStore, str], Awaitable[Sequence[Event[Fact]]]]:
    """The events that wait in a document."""

    async def events(store: CatalogStore, product_id: object) -> Sequence[Event[Fact]]:
        found = await client.get(index=store.names.products, id=str(product_id))
        return [decode(body.encode()) for body in found["_source"]["pending_events"]]

    return events


@pytest.fixture
def data() -> Callable[[str], Path]:
    """A file of the real product data that lies beside the repository."""

    def path(name: str) -> Path:
        found = Path(__file__).parents[3].parent / "shared" / "data" / name
        if not found.exists():
            pytest.skip(f"the product data of others is not beside the repository: {name}")
        return found

    return path
