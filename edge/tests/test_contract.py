"""The purger reads what its expectation says and nothing else."""

import pytest

from purger.domain import KEYS, Shown, keys
from shop_contracts import build
from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact
from shop_contracts.kit import recording
from shop_contracts.kit.expectations import Read, load, verify

EXPECTATION = load(build.ROOT / "consumers" / "purger.json")


def told(event: Event[Fact]) -> object:
    shown = Shown()
    return keys(shown, [event]), vars(shown)


def test_what_the_purger_relies_on_is_what_the_owners_send() -> None:
    assert [] == [problem for report in verify(EXPECTATION) for problem in report.problems]


def test_the_purger_lists_every_event_that_it_has_a_rule_for() -> None:
    assert {fact.KEY for fact in KEYS} == {read.type for read in EXPECTATION.reads}


@pytest.mark.parametrize("read", EXPECTATION.reads, ids=lambda read: read.type)
def test_the_purger_reads_no_field_that_it_does_not_list(read: Read) -> None:
    assert set() == recording.unlisted(read, told)
