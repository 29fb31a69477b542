"""Imports on a real Elasticsearch, with product data that others made."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from elasticsearch import AsyncElasticsearch

from catalog import domain
from catalog.domain import Draft, VariantIn
from catalog.store import CatalogStore
from catalog.worker import take
from chassis.problems import Gone
from feeds import jobs
from feeds.jobs import Counts, Job
from feeds.rows import Product, Row, Variant
from shop_contracts.envelope import Event, decode
from shop_contracts.events.base import Fact

pytestmark = pytest.mark.connected

Make = Callable[..., Draft]


async def carry(
    store: CatalogStore,
    spool: Path,
    files: Sequence[Path],
    how: str,
    mapping: str = "",
) -> Job:
    async def parts() -> AsyncIterator[jobs.Part]:
        for file in files:
            yield file.name, chunks(file)

    async def chunks(file: Path) -> AsyncIterator[bytes]:
        yield await asyncio.to_thread(file.read_bytes)

    async def apply(rows: Sequence[Row]) -> Sequence[jobs.Outcome]:
        return await take(store, rows)

    job = await jobs.spool(spool, parts(), format=how, mapping=mapping)
    return await jobs.run(spool / job.id, apply)


async def waiting(client: AsyncElasticsearch, store: CatalogStore) -> list[Event[Fact]]:
    """Every event that waits in any document."""
    await client.indices.refresh(index=store.names.with_events)
    found = await client.search(index=store.names.with_events, size=10_000)
    return [
        decode(body.encode())
        for hit in found["hits"]["hits"]
        for body in hit["_source"]["pending_events"]
    ]


def row(key: str, **fields: Any) -> Row:
    product = {"key": key, "name": f"Tent {key}", "variants": [Variant(sku=key)]} | fields
    return Row(source="feed", line=1, product=Product(**product), offers=[])


async def test_eshop_goes_in_whole_and_a_second_import_says_nothing(
    fresh: CatalogStore, client: AsyncElasticsearch, data: Callable[[str], Path], tmp_path: Path
) -> None:
    feed = [data("eshop/catalog.json")]

    first = await carry(fresh, tmp_path, feed, "json", "eshop")
    before = await waiting(client, fresh)
    second = await carry(fresh, tmp_path, feed, "json", "eshop")

    assert Counts(created=101) == first.counts
    assert Counts(unchanged=101) == second.counts
    told = {"product.published.v1", "category.changed.v1", "category.changed.v2"}
    assert told == {event.meta.key for event in before}
    assert 101 == sum(event.meta.key == "product.published.v1" for event in before)
    assert {event.meta.id for event in before} == {
        event.meta.id for event in await waiting(client, fresh)
    }
    assert "Cycling" in {node.name for node in await fresh.categories()}


async def test_the_dirty_rows_of_oscar_are_named_and_the_rest_goes_in(
    fresh: CatalogStore, client: AsyncElasticsearch, data: Callable[[str], Path], tmp_path: Path
) -> None:
    names = ("computers-in-fiction", "essential", "hacking")
    feed = [data(f"oscar-books/books.{name}.csv") for name in names]

    first = await carry(fresh, tmp_path, feed, "csv", "oscar-books")
    before = await waiting(client, fresh)
    second = await carry(fresh, tmp_path, feed, "csv", "oscar-books")

    assert Counts(created=197, failed=4) == first.counts
    assert 201 == first.rows
    assert ["duplicate-sku", "duplicate-sku", "duplicate-sku", "markup-in-text"] == sorted(
        error.code for error in first.errors
    )
    assert all(error.line and error.source and error.reason for error in first.errors)
    assert 16 == sum(note.reason == "the description is empty" for note in first.notes)
    assert Counts(unchanged=197, failed=4) == second.counts
    assert len(before) == len(await waiting(client, fresh))
    tree = domain.tree(await fresh.categories())
    assert ["Books"] == [root.name for root in tree]


async def test_dummyjson_goes_in_whole(
    fresh: CatalogStore, data: Callable[[str], Path], client: AsyncElasticsearch, tmp_path: Path
) -> None:
    job = await carry(fresh, tmp_path, [data("dummyjson/products.json")], "json", "dummyjson")
    await client.indices.refresh(index=fresh.names.with_events)

    products = [each for page in (1, 2) for each in (await fresh.page(page, 100))[0]]

    assert Counts(created=194) == job.counts
    assert 194 == len(products)
    assert 92 == sum(product.brand is None for product in products)
    assert 24 == len(await fresh.categories())


async def test_a_thousand_products_go_in_and_only_what_changed_says_so(
    fresh: CatalogStore, client: AsyncElasticsearch, tmp_path: Path
) -> None:
    feed = tmp_path / "feed.ndjson"

    def write(changed: str) -> None:
        rows = (
            {
                "key": f"t-{n}",
                "name": "Tent" if n % 2 else f"Tent {n}",  # half of them share a name
                "description": changed if n == 500 else "",
                "categories": [["Outdoor", f"Tents {n % 5}"]],
                "variants": [{"sku": f"t-{n}-{v}"} for v in range(2)],
            }
            for n in range(1000)
        )
        feed.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in rows))

    write("")
    first = await carry(fresh, tmp_path / "spool", [feed], "ndjson")
    write("Lighter now")
    second = await carry(fresh, tmp_path / "spool", [feed], "ndjson")

    assert Counts(created=1000) == first.counts
    assert Counts(updated=1, unchanged=999) == second.counts
    published = [e for e in await waiting(client, fresh) if e.meta.key == "product.published.v1"]
    assert 1001 == len(published)
    assert 1000 == len({event.meta.subject for event in published})
    assert 6 == len(await fresh.categories())


async def test_a_batch_taken_twice_changes_nothing_the_second_time(
    store: CatalogStore, draft: Make
) -> None:
    rows = [row(sku) for sku in draft(skus=3).skus]

    assert [jobs.CREATED] * 3 == await take(store, rows)
    assert [jobs.UNCHANGED] * 3 == await take(store, rows)


async def test_two_workers_with_one_batch_create_each_product_once(
    fresh: CatalogStore, client: AsyncElasticsearch
) -> None:
    rows = [row(f"BOTH-{n}") for n in range(50)]
    other = CatalogStore(client, fresh.names.prefix, patience=0.3)

    outcomes = await asyncio.gather(take(fresh, rows), take(other, rows))

    kinds = [sorted((one.kind, two.kind)) for one, two in zip(*outcomes, strict=True)]
    assert [["created", "unchanged"]] * 50 == kinds
    assert 50 == len(await waiting(client, fresh))


async def test_a_row_that_meets_another_writer_is_tried_again(
    store: CatalogStore, draft: Make
) -> None:
    (key,) = draft().skus
    await take(store, [row(key)])
    product_id = str(domain.imported_id(key))

    async def rename() -> None:
        for n in range(10):
            wanted = Draft(name=f"Renamed {n}", variants=[VariantIn(sku=key)])
            await store.put(product_id, wanted, None)

    async def import_() -> list[jobs.Outcome]:
        return [
            outcome
            for n in range(10)
            for outcome in await take(store, [row(key, description=f"Words {n}")])
        ]

    outcomes, _ = await asyncio.gather(import_(), rename())

    assert {"updated"} == {outcome.kind for outcome in outcomes}
    assert 21 == (await store.get(product_id)).version


async def test_a_row_with_the_sku_of_another_product_is_refused_and_the_rest_goes_in(
    store: CatalogStore, draft: Make
) -> None:
    product = await store.add(draft())
    first, second, third = draft(skus=3).skus

    outcomes = await take(
        store,
        [
            row(first),
            row(second, variants=[Variant(sku=product.skus[0])]),
            # one key or one SKU twice in a batch: the later row sees the earlier one
            row(first, description="changed"),
            row(third, variants=[Variant(sku=first)]),
        ],
    )

    assert ["created", "failed", "updated", "failed"] == [one.kind for one in outcomes]
    assert ["duplicate-sku", "duplicate-sku"] == [one.code for one in outcomes if one.code]


async def test_a_row_that_is_no_product_or_shows_a_private_image_is_refused(
    store: CatalogStore, draft: Make
) -> None:
    first, second = draft(skus=2).skus

    outcomes = await take(
        store,
        [
            row(first, images=["http://192.168.0.1/a.png"]),
            row(second, categories=[["x"] * 11]),
        ],
    )

    assert ["url-not-allowed", "bad-product"] == [one.code for one in outcomes]


async def test_a_product_too_large_for_an_event_is_refused(
    store: CatalogStore, draft: Make
) -> None:
    (key,) = draft().skus
    variants = [
        Variant(sku=f"{key}-{n}", options={f"o{o}": "x" * 500 for o in range(20)})
        for n in range(100)
    ]

    outcomes = await take(store, [row(key, variants=variants)])

    assert ["product-too-large"] == [one.code for one in outcomes]


async def test_a_feed_brings_a_withdrawn_product_back(store: CatalogStore, draft: Make) -> None:
    (key,) = draft().skus
    product_id = str(domain.imported_id(key))
    await take(store, [row(key)])
    await store.withdraw(product_id, None)
    with pytest.raises(Gone):
        await store.get(product_id)

    assert [jobs.UPDATED] == await take(store, [row(key)])
    assert 3 == (await store.get(product_id)).version
