"""Events become documents: in whatever order, however often, and all at once."""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chassis.problems import Unavailable
from search.app import opened
from search.settings import Settings

pytestmark = pytest.mark.connected


LENGTH = 15


def history(say: Any) -> list[Any]:
    """Two products, one of them withdrawn and back, SKUs that come and go, stock and prices."""
    return [
        say.published("boots", 1, skus=["A", "B"]),
        say.stock("A", 5, 1),
        say.price("A", 1000, 1),
        say.price("B", 2000, 1),
        say.published("boots", 2, skus=["A", "C"]),
        say.stock("C", 7, 1),
        say.stock("A", 0, 2),
        say.price("A", 900, 2),
        say.published("hat", 1, skus=["H"]),
        say.stock("H", 1, 1),
        say.withdrawn("hat", 2),
        say.stock("H", 4, 2),
        say.published("hat", 3, skus=["H", "B"]),
        say.stock("A", 3, 3),
        say.price("H", 500, 1, currencies=["USD"]),
    ]


# the places of a history, each one to five times, in any order
disorder = st.lists(st.integers(1, 5), min_size=LENGTH, max_size=LENGTH).flatmap(
    lambda times: st.permutations([place for place, n in enumerate(times) for _ in range(n)])
)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(order=disorder, workers=st.integers(1, 4))
async def test_disorder_repetition_and_concurrency_end_in_the_documents_of_the_calm_course(
    shop: Any, say: Any, order: list[int], workers: int
) -> None:
    events = history(say)
    await shop.forgets()
    await shop.hears(*events)
    calm = await shop.documents()
    await shop.forgets()
    async with asyncio.TaskGroup() as group:
        for worker in range(workers):
            part = [events[place] for place in order[worker::workers]]
            group.create_task(shop.store.project(part))
    await shop.hears()

    assert calm == await shop.documents()


async def test_the_calm_course_ends_as_told(shop: Any, say: Any) -> None:
    await shop.hears(*history(say))
    kept = {product["slug"]: product for product in (await shop.documents()).values()}
    boots, hat = (
        {variant["sku"]: (variant["available"], variant["price"]) for variant in one["variants"]}
        for one in (kept["boots"], kept["hat"])
    )

    assert {"A": (3, {"EUR": 900}), "C": (7, {})} == boots
    assert {"H": (4, {"USD": 500}), "B": (0, {"EUR": 2000})} == hat
    assert not kept["hat"]["withdrawn"]


async def test_stock_that_races_with_its_product_is_never_lost(shop: Any, say: Any) -> None:
    count = 60
    names = [f"p{number}" for number in range(count)]
    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(shop.store.project([say.published(name, 1, skus=[name])]))
            group.create_task(shop.store.project([say.stock(name, 2, 1)]))
            group.create_task(shop.store.project([say.price(name, 2, 1)]))
            group.create_task(shop.store.project([say.published(name, 2, skus=[name, name + "x"])]))
            group.create_task(shop.store.project([say.stock(name + "x", 3, 1)]))
    await shop.hears()
    kept = (await shop.documents()).values()

    assert [(2, {"EUR": 2}, 3)] * count == [
        (first["available"], first["price"], second["available"])
        for first, second in (product["variants"] for product in kept)
    ]


async def test_stock_of_an_unknown_product_waits_for_it(shop: Any, say: Any) -> None:
    await shop.hears(say.stock("boots", 4))

    assert 0 == (await shop.find())["total"]

    await shop.hears(say.published("boots"))

    assert 1 == (await shop.find(in_stock="true"))["total"]


async def test_a_withdrawn_product_is_not_found_and_old_news_does_not_bring_it_back(
    shop: Any, say: Any
) -> None:
    await shop.hears(say.published("boots", 1), say.withdrawn("boots", 2))
    await shop.hears(say.published("boots", 1), say.stock("boots", 4))

    assert 0 == (await shop.find())["total"]


async def test_preparing_again_changes_nothing(shop: Any, say: Any) -> None:
    await shop.hears(say.published("boots"))
    await shop.store.prepare()

    assert 1 == (await shop.find())["total"]


async def test_a_write_never_makes_an_index_by_itself(stack: Any, prefix: str, say: Any) -> None:
    lost = Settings(elasticsearch_url=stack.elasticsearch_url, index_prefix=f"{prefix}-lost-")
    async with opened(lost, 30) as store:
        with pytest.raises(Unavailable):
            await store.project([say.published("boots")])


async def test_more_currencies_than_there_are_fields_do_not_stop_the_projection(
    shop: Any, say: Any
) -> None:
    letters = "ABCDEFGHIJ"
    currencies = [f"{a}{b}{c}" for a in letters for b in letters for c in letters + "XYZ"]
    await shop.hears(say.published("boots"), say.price("boots", 5, currencies=currencies))

    assert 1 == (await shop.find())["total"]
