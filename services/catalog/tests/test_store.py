"""The store on a real Elasticsearch: conditions, claims, and events that go with their write."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import uuid4

import pytest
from elasticsearch import AsyncElasticsearch
from msgspec.structs import replace

from catalog import domain
from catalog.domain import Draft, Product, VariantIn
from catalog.store import CatalogStore, DuplicateSku, SlugTaken, UrlNotAllowed
from catalog.store.claims import Claim
from catalog.store.products import Plan, Stored
from chassis.problems import Gone, NotFound, PreconditionFailed, Unavailable
from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact
from shop_contracts.events.catalog import ProductPublishedV1, ProductWithdrawnV1

pytestmark = pytest.mark.connected

Make = Callable[..., Draft]
Pending = Callable[[CatalogStore, object], Awaitable[Sequence[Event[Fact]]]]


def at(version: int) -> frozenset[int]:
    return frozenset({version})


@pytest.fixture
def impatient(client: AsyncElasticsearch, store: CatalogStore) -> CatalogStore:
    """Another process on the same catalogue, which takes any unused claim over at once."""
    return CatalogStore(client, store.names.prefix, patience=0)


async def test_a_product_is_read_by_id_and_by_slug_as_soon_as_it_is_written(
    store: CatalogStore, draft: Make
) -> None:
    product = await store.add(draft(skus=2))

    assert product == await store.get(str(product.id))
    assert product == await store.get(product.slug)


async def test_what_never_was_is_not_found(store: CatalogStore) -> None:
    for ref in (str(uuid4()), "no-such-slug", "~", "é" * 300):
        with pytest.raises(NotFound):
            await store.get(ref)


async def test_a_write_carries_its_event(
    store: CatalogStore, draft: Make, pending: Pending
) -> None:
    product = await store.add(draft())

    (event,) = await pending(store, product.id)

    assert domain.published(product) == event.data
    assert 1 == event.meta.entityversion
    assert str(product.id) == event.meta.subject


async def test_events_wait_in_the_order_of_the_versions(
    store: CatalogStore, draft: Make, pending: Pending
) -> None:
    product = await store.add(draft(name="Before"))
    wanted = Draft(name="After", variants=[VariantIn(sku=product.skus[0])])
    changed = await store.put(str(product.id), wanted, at(1))
    await store.withdraw(str(product.id), at(2))

    events = await pending(store, product.id)

    assert "After" == changed.name
    assert product.slug == changed.slug
    assert [1, 2, 3] == [event.meta.entityversion for event in events]
    assert [ProductPublishedV1, ProductPublishedV1, ProductWithdrawnV1] == [
        type(event.data) for event in events
    ]


async def test_saying_the_same_again_changes_nothing(
    store: CatalogStore, draft: Make, pending: Pending
) -> None:
    wanted = draft(categories=[["Tents"]])
    product = await store.add(wanted)

    again = await store.put(str(product.id), wanted, at(1))

    assert product == again
    assert 1 == len(await pending(store, product.id))


async def test_of_many_changes_of_one_version_one_wins(
    store: CatalogStore, draft: Make, pending: Pending
) -> None:
    product = await store.add(draft())

    results = await asyncio.gather(
        *(store.put(str(product.id), replace(draft(), name=f"Tent {n}"), at(1)) for n in range(10)),
        return_exceptions=True,
    )

    assert 1 == sum(isinstance(result, Product) for result in results)
    assert 9 == sum(isinstance(result, PreconditionFailed) for result in results)
    assert 2 == (await store.get(str(product.id))).version
    assert 2 == len(await pending(store, product.id))


async def test_no_change_is_lost_where_any_version_will_do(
    store: CatalogStore, draft: Make, pending: Pending
) -> None:
    product = await store.add(draft())

    await asyncio.gather(
        *(store.put(str(product.id), replace(draft(), name=f"Tent {n}"), None) for n in range(8))
    )

    events = await pending(store, product.id)
    assert list(range(1, 10)) == [event.meta.entityversion for event in events]


async def test_a_withdrawn_product_is_gone_and_its_sku_free(
    store: CatalogStore, draft: Make
) -> None:
    wanted = draft()
    product = await store.add(wanted)
    await store.withdraw(str(product.id), at(1))

    with pytest.raises(Gone):
        await store.get(str(product.id))
    with pytest.raises(Gone):
        await store.put(product.slug, wanted, None)
    heir = await store.add(wanted)
    assert product.skus == heir.skus
    # the old address goes on saying that its product is gone
    assert product.slug != heir.slug


async def test_a_sku_belongs_to_one_product(store: CatalogStore, draft: Make) -> None:
    first = await store.add(draft(skus=2))
    taken = VariantIn(sku=first.skus[1])

    with pytest.raises(DuplicateSku) as refusal:
        await store.add(draft(variants=[VariantIn(sku=f"FREE-{first.skus[0]}"), taken]))

    assert ["/variants/1/sku"] == [fault["pointer"] for fault in refusal.value.errors]


async def test_a_change_cannot_take_the_sku_of_another(store: CatalogStore, draft: Make) -> None:
    first, second = await store.add(draft()), await store.add(draft())

    with pytest.raises(DuplicateSku):
        await store.put(
            str(second.id), draft(variants=[VariantIn(sku=first.skus[0])]), at(second.version)
        )

    assert second == await store.get(str(second.id))


async def test_of_many_products_with_one_new_sku_one_wins(store: CatalogStore, draft: Make) -> None:
    wanted = draft()

    results = await asyncio.gather(
        *(store.add(replace(draft(), variants=wanted.variants)) for _ in range(10)),
        return_exceptions=True,
    )

    assert 1 == sum(isinstance(result, Product) for result in results)
    assert 9 == sum(isinstance(result, DuplicateSku) for result in results)


async def test_a_sku_whose_claimant_died_may_be_taken_over(
    store: CatalogStore, draft: Make
) -> None:
    wanted = draft()
    assert set() == await store._claims.take([Claim("sku", wanted.skus[0], uuid4())])

    product = await store.add(wanted)

    assert wanted.skus == product.skus


async def test_a_claimant_that_was_only_slow_to_create_starts_again_and_is_refused(
    store: CatalogStore, impatient: CatalogStore, draft: Make
) -> None:
    wanted = draft()
    slow = await store._claimed(Plan(uuid4(), wanted))
    quick = await impatient.add(replace(draft(), variants=wanted.variants))

    assert not await store._write(slow, domain.published(slow), None)
    assert wanted.skus == quick.skus
    with pytest.raises(NotFound):
        await store.get(str(slow.id))


async def test_a_claimant_that_was_only_slow_to_change_starts_again_and_is_refused(
    store: CatalogStore, impatient: CatalogStore, draft: Make
) -> None:
    product, wanted = await store.add(draft()), draft()
    old, found = await store._find(str(product.id))
    slow = await store._claimed(Plan(old.id, wanted, Stored(old, found)))
    await impatient.add(replace(draft(), variants=wanted.variants))

    assert not await store._write(slow, domain.published(slow), found)
    with pytest.raises(DuplicateSku):
        await store.put(str(product.id), wanted, at(1))
    # whoever takes over writes the product, but changes nothing that anybody can see
    assert product == await store.get(str(product.id))


async def test_a_claim_of_ones_own_holds_off_one_who_is_about_to_take_it_over(
    store: CatalogStore, impatient: CatalogStore, draft: Make, client: AsyncElasticsearch
) -> None:
    wanted, mine = draft(), uuid4()
    claim = Claim("sku", wanted.skus[0], mine)
    await store._claims.take([claim])
    read_by_other = await client.get(index=store.names.skus, id=claim.name)

    assert set() == await store._claims.take([claim])
    stale = dict(read_by_other)
    assert not await impatient._claims._write(store.names.skus, claim.name, {}, stale)


async def test_no_two_products_ever_hold_one_sku_however_eager_the_writers(
    client: AsyncElasticsearch, fresh: CatalogStore
) -> None:
    """Writers that take over whatever is not in use just now, on three SKUs for all."""
    chance = random.Random(7)
    writers = [CatalogStore(client, fresh.names.prefix, patience=0) for _ in range(6)]

    async def write(writer: CatalogStore) -> None:
        mine: Product | None = None
        for _ in range(12):
            skus = chance.sample(["RED", "GREEN", "BLUE"], chance.randint(1, 2))
            wanted = Draft(name="Tent", variants=[VariantIn(sku=sku) for sku in skus])
            try:
                if mine is None:
                    mine = await writer.add(wanted)
                elif chance.random() < 0.3:
                    await writer.withdraw(str(mine.id), None)
                    mine = None
                else:
                    mine = await writer.put(str(mine.id), wanted, None)
            except (DuplicateSku, Unavailable):
                continue

    await asyncio.gather(*(write(writer) for writer in writers))
    await client.indices.refresh(index=fresh.names.products)
    products, _ = await fresh.page(1, 100)
    held = [sku for product in products for sku in product.skus]

    assert held
    assert sorted(held) == sorted(set(held))


async def test_a_second_product_of_one_name_gets_a_slug_of_its_own(
    store: CatalogStore, draft: Make
) -> None:
    name = draft().name
    first, second = await store.add(draft(name=name)), await store.add(draft(name=name))

    assert first.slug != second.slug
    assert second.slug.startswith(first.slug)
    assert second == await store.get(second.slug)


async def test_a_slug_that_was_asked_for_is_given_or_refused(
    store: CatalogStore, draft: Make
) -> None:
    slug = domain.slugify(draft().name) + "-asked"
    first = await store.add(draft(slug=slug))

    with pytest.raises(SlugTaken):
        await store.add(draft(slug=slug))
    assert slug == first.slug


async def test_a_new_slug_makes_the_old_one_free(store: CatalogStore, draft: Make) -> None:
    wanted = draft()
    product = await store.add(wanted)
    await store.put(str(product.id), replace(wanted, slug=product.slug + "-new"), at(1))

    with pytest.raises(NotFound):
        await store.get(product.slug)
    heir = await store.add(draft(slug=product.slug))
    assert heir == await store.get(product.slug)


async def test_an_image_on_a_private_host_is_refused(store: CatalogStore, draft: Make) -> None:
    hidden: Any = [domain.ImageIn(url="/a.svg"), domain.ImageIn(url="http://127.0.0.1/b.png")]

    with pytest.raises(UrlNotAllowed) as refusal:
        await store.add(draft(images=hidden))

    assert ["/images/1/url"] == [fault["pointer"] for fault in refusal.value.errors]


async def test_categories_are_created_once_with_their_events(
    fresh: CatalogStore, client: AsyncElasticsearch, draft: Make
) -> None:
    for _ in range(2):
        await CatalogStore(client, fresh.names.prefix).add(
            draft(categories=[["Outdoor", "Tents"], ["Outdoor", "Stoves"]])
        )
    await client.indices.refresh(index=fresh.names.categories)

    found = await client.search(index=fresh.names.categories, size=10)

    sources = {hit["_id"]: hit["_source"] for hit in found["hits"]["hits"]}
    assert {"outdoor", "outdoor--tents", "outdoor--stoves"} == sources.keys()
    # one fact each, told in two majors
    assert [2, 2, 2] == [len(source["pending_events"]) for source in sources.values()]


async def test_the_indices_may_be_prepared_again(store: CatalogStore) -> None:
    await store.prepare()
    await store.check()


async def test_a_field_that_the_mapping_does_not_know_is_refused(
    store: CatalogStore, client: AsyncElasticsearch
) -> None:
    answer = await client.options(ignore_status=400).index(
        index=store.names.products, document={"colour": "red"}
    )

    assert "strict_dynamic_mapping_exception" == answer["error"]["type"]


async def test_a_name_is_found_by_its_words(
    fresh: CatalogStore, client: AsyncElasticsearch, draft: Make
) -> None:
    await fresh.add(draft(name="Hiking boots"))
    await client.indices.refresh(index=fresh.names.products)

    answer = await client.search(
        index=fresh.names.products, query={"match": {"name.text": "the boot for hikes"}}
    )

    assert ["Hiking boots"] == [hit["_source"]["name"] for hit in answer["hits"]["hits"]]
