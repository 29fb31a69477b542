"""Search reads what its expectation says and nothing else; no other service is here."""

import pytest

from search.domain import offers_in, product_in
from shop_contracts import build
from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact
from shop_contracts.kit import recording
from shop_contracts.kit.expectations import Read, load, verify

EXPECTATION = load(build.ROOT / "consumers" / "search.json")


def told(event: Event[Fact]) -> object:
    return product_in(event), offers_in(event)


def test_what_search_relies_on_is_what_the_owners_send() -> None:
    assert [] == [problem for report in verify(EXPECTATION) for problem in report.problems]


@pytest.mark.parametrize("read", EXPECTATION.reads, ids=lambda read: read.type)
def test_search_reads_no_field_that_it_does_not_list(read: Read) -> None:
    assert set() == recording.unlisted(read, told)
