"""Checkout reads what its expectation says; no other service is here."""

from checkout.worker import CATALOG_HANDLERS, STOCK_HANDLERS
from shop_contracts import build
from shop_contracts.kit.expectations import load, verify

EXPECTATION = load(build.ROOT / "consumers" / "checkout.json")


def test_what_checkout_relies_on_is_what_the_owners_send() -> None:
    assert [] == [problem for report in verify(EXPECTATION) for problem in report.problems]


def test_checkout_lists_every_event_that_it_has_a_handler_for() -> None:
    handled = {fact.KEY for fact in (*CATALOG_HANDLERS, *STOCK_HANDLERS)}

    assert handled == {read.type for read in EXPECTATION.reads}
