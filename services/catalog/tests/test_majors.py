"""A category is told in both majors, from one write."""

import json
from collections.abc import Callable
from uuid import uuid4

import pytest
from elasticsearch import AsyncElasticsearch

from catalog import domain
from catalog.domain import Draft
from catalog.store import CatalogStore
from shop_contracts.envelope import decode
from shop_contracts.events.catalog import CategoryChangedV1, CategoryChangedV2
from shop_contracts.events.catalog.category_changed_v2 import Step

pytestmark = pytest.mark.connected

Make = Callable[..., Draft]


async def test_a_new_category_and_both_its_events_are_one_write(
    client: AsyncElasticsearch, store: CatalogStore, draft: Make
) -> None:
    path = [f"Outdoor {uuid4().hex[:8]}", "Tents"]
    await store.add(draft(categories=[path]))
    slug = domain.category_slug(path)
    found = await client.get(index=store.names.categories, id=slug)
    new, old = (decode(body.encode()) for body in found["_source"]["pending_events"])

    assert 1 == found["_version"]
    assert isinstance(new.data, CategoryChangedV2)
    assert isinstance(old.data, CategoryChangedV1)
    assert [
        Step(slug=domain.category_slug(path[:1]), name=path[0]),
        Step(slug=slug, name="Tents"),
    ] == new.data.path
    assert path == old.data.path
    assert new.meta.id != old.meta.id
    assert (slug, 1) == (old.meta.subject, old.meta.entityversion)
    assert json.loads(found["_source"]["pending_events"][0])["data"]["slug"] == old.data.slug
