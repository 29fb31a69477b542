"""What stock's outbox entries become is what its contracts say. No store and no broker is here."""

import pytest

from shop_contracts.envelope import encode
from shop_contracts.events import EVENTS
from shop_contracts.kit.producer import event_problems
from stock.domain import build

ORDER = "0197a000-0000-7000-8000-000000000001"
EVENT = "0197a000-0000-7000-8000-000000000002"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
MOST = "9007199254740991"

HOLD = {"order": ORDER, "cause": EVENT, "lines": f"chair:1;A.b_c-9:{MOST}"}
LEVEL = {"sku": "chair", "on_hand": MOST, "reserved": "0", "available": MOST}
ENTRIES: dict[str, list[dict[str, str]]] = {
    "stock.changed.v1": [
        {**LEVEL, "why": "adjusted"},
        {"sku": "0", "on_hand": "0", "reserved": "0", "available": "0", "why": "committed"}
        | {"order": ORDER, "cause": EVENT, "traceparent": TRACE},
    ],
    "stock.ran_low.v1": [{"sku": "chair", "available": "0", "threshold": MOST}],
    "stock.came_back.v1": [{"sku": "chair", "available": "1"}],
    "price.changed.v1": [
        {"sku": "chair", "prices": ""},
        {"sku": "chair", "prices": f"EUR::1:0:;EUR:vip:2147483648:{MOST}:{MOST}"},
    ],
    "reservation.held.v1": [{**HOLD, "expires": "1700000000000"}],
    "reservation.rejected.v1": [{"order": ORDER, "shortages": f"chair:{MOST}:0;table:2:1"}],
    "reservation.committed.v1": [HOLD],
    "reservation.commit_failed.v1": [
        {"order": ORDER, "shortages": ""},
        {"order": ORDER, "shortages": "chair:2:1"},
    ],
    "reservation.released.v1": [HOLD],
    "reservation.expired.v1": [{**HOLD, "cause": ""}],
}


def test_every_event_that_stock_owns_has_its_entry() -> None:
    assert {fact.KEY for fact in EVENTS["stock"]} == set(ENTRIES)


@pytest.mark.parametrize("key", ENTRIES)
def test_an_entry_becomes_a_valid_event(key: str) -> None:
    blank = {"order": "", "cause": "", "traceparent": ""}
    for fields in ENTRIES[key]:
        head = {"type": key, "id": EVENT, "version": "1", "time": "1700000000123"}
        event = build({**head, **blank, **fields})

        assert key == event.meta.key
        assert [] == event_problems(encode(event))
