"""Stock reads what its expectation says and nothing else; no store and no other service is here."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shop_contracts import build
from shop_contracts.envelope import Event
from shop_contracts.kit import recording
from shop_contracts.kit.expectations import Read, load, verify
from stock.worker import HANDLERS

EXPECTATION = load(build.ROOT / "consumers" / "stock.json")


class Called:
    """Stands in for the store, and keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    @property
    def holds(self) -> "Called":
        return self

    def __getattr__(self, name: str) -> Callable[..., Awaitable[None]]:
        async def call(*arguments: Any) -> None:
            self.calls.append((name, arguments))

        return call


def told(event: Event[Any]) -> object:
    store: Any = Called()
    asyncio.run(HANDLERS[type(event.data)](store, event))
    return store.calls


def test_what_stock_relies_on_is_what_the_owners_send() -> None:
    assert [] == [problem for report in verify(EXPECTATION) for problem in report.problems]


def test_stock_lists_every_event_that_it_has_a_handler_for() -> None:
    assert {fact.KEY for fact in HANDLERS} == {read.type for read in EXPECTATION.reads}


@pytest.mark.parametrize("read", EXPECTATION.reads, ids=lambda read: read.type)
def test_stock_reads_no_field_that_it_does_not_list(read: Read) -> None:
    assert set() == recording.unlisted(read, told)
