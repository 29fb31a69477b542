"""The gate as a developer meets it: a change of the source, `contracts diff`, an exit code.

Each planted change edits a copy of the package whose first versions are released.
"""

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

import shop_contracts
from shop_contracts import diff
from shop_contracts.history import current
from shop_contracts.history import released as released_history

pytestmark = pytest.mark.slow

SOURCE = Path(shop_contracts.__file__).parent


class Plant(Struct, frozen=True):
    """A change: edits as (file, old, new), the rule that names it, where, and in which words."""

    name: str
    edits: tuple[tuple[str, str, str], ...]
    rule: str = ""
    subject: str = ""
    pointer: str = ""
    says: str = ""


def contracts(package: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shop_contracts", *words],
        env={**os.environ, "PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package in which everything is released for the first time."""
    package = tmp_path_factory.mktemp("released") / "shop_contracts"
    ignored = shutil.ignore_patterns("__pycache__", "history", "consumers")
    shutil.copytree(SOURCE, package, ignore=ignored)
    for file in (package / "events").rglob("*_v*.py"):
        file.write_text(
            file.read_text().replace("MINOR: ClassVar[int] = ", "MINOR: ClassVar[int] = 0 and ")
        )
    contracts(package, "build")
    done = contracts(package, "release")

    assert 0 == done.returncode, done.stderr
    return package


@pytest.fixture
def package(released: Path, tmp_path: Path) -> Path:
    shutil.copytree(released, tmp_path / "shop_contracts")
    return tmp_path / "shop_contracts"


def plant(package: Path, edits: tuple[tuple[str, str, str], ...]) -> None:
    for file, old, new in edits:
        path = package / file
        text = path.read_text()
        assert 1 == text.count(old), (file, old, text.count(old))
        path.write_text(text.replace(old, new))


def stock(name: str) -> str:
    return f"events/stock/{name}_v1.py"


def catalog(name: str) -> str:
    return f"events/catalog/{name}_v1.py"


def checkout(name: str) -> str:
    return f"events/checkout/{name}_v1.py"


GONE = '    MINOR: ClassVar[int] = 1\n    RESERVED: ClassVar[tuple[str, ...]] = ("payment_ref",)\n'
SOLD_OUT = '''class StockSoldOutV1(Fact, frozen=True, kw_only=True):
    """Nothing is left."""

    KEY: ClassVar[str] = "stock.sold_out.v1"
    SUBJECT: ClassVar[str] = "sku"

    sku: Sku


class StockRanLowV1'''
SOLD_OUT_TOO = """from shop_contracts.events.stock.stock_ran_low_v1 import StockSoldOutV1

EVENTS = (
    StockSoldOutV1,"""
MINOR = '    SUBJECT: ClassVar[str] = "{}"\n'


def minor(file: str, subject: str) -> tuple[str, str, str]:
    """The edit that raises the minor, as a compatible change has to."""
    line = MINOR.format(subject)
    return file, line, f"{line}    MINOR: ClassVar[int] = 1\n"


BREAKING = [
    Plant(
        "a field is renamed",
        ((stock("reservation_held"), "expires_at: Time", "held_until: Time"),),
        "field-renamed",
        "reservation.held.v1",
        "/$defs/ReservationHeldV1/properties/held_until",
        "`expires_at` is now `held_until`",
    ),
    Plant(
        "a required field is added",
        (
            (
                checkout("order_confirmed"),
                "    confirmed_at",
                "    agreed_at: Time\n    confirmed_at",
            ),
        ),
        "required-added",
        "order.confirmed.v1",
        "/$defs/OrderConfirmedV1/properties/agreed_at",
        "`agreed_at` is new and required",
    ),
    Plant(
        "a required field is removed",
        ((checkout("order_confirmed"), "    total_minor: Minor\n", ""),),
        "required-removed",
        "order.confirmed.v1",
        "/$defs/OrderConfirmedV1/properties/total_minor",
        "`total_minor` was required and is gone",
    ),
    Plant(
        "an optional field becomes required",
        ((stock("price_changed"), "valid_until: Time | None = None", "valid_until: Time | None"),),
        "required-tightened",
        "price.changed.v1",
        "/$defs/PriceChangedV1/properties/valid_until",
        "`valid_until` is required now",
    ),
    Plant(
        "a required field becomes optional",
        ((stock("price_changed"), "prices: list[Price]", "prices: list[Price] = []"),),
        "required-loosened",
        "price.changed.v1",
        "/$defs/PriceChangedV1/properties/prices",
        "`prices` is no longer required",
    ),
    Plant(
        "a type changes",
        ((catalog("category_changed"), "position: Position", "position: Text"),),
        "type",
        "category.changed.v1",
        "/$defs/CategoryChangedV1/properties/position/type",
        "`position` was integer and is string",
    ),
    Plant(
        "the items of a list change",
        ((catalog("product_withdrawn"), "skus: list[Sku]", "skus: list[bool]"),),
        "type",
        "product.withdrawn.v1",
        "/$defs/ProductWithdrawnV1/properties/skus/items/type",
        "`skus[]` was string and is boolean",
    ),
    Plant(
        "null is allowed",
        ((checkout("payment_declined"), "reason: Text", "reason: Text | None"),),
        "null",
        "payment.declined.v1",
        "/$defs/PaymentDeclinedV1/properties/reason/anyOf/0",
        "`reason` may be null now",
    ),
    Plant(
        "an enum is widened",
        (
            (
                stock("stock_changed"),
                '    HELD = "held"\n',
                '    HELD = "held"\n    LOST = "lost"\n',
            ),
        ),
        "enum-added",
        "stock.changed.v1",
        "/$defs/Cause/enum",
        "`cause` may be 'lost' now",
    ),
    Plant(
        "an enum is narrowed",
        ((stock("stock_changed"), '    EXPIRED = "expired"\n', ""),),
        "enum-removed",
        "stock.changed.v1",
        "/$defs/Cause/enum",
        "`cause` may no longer be 'expired'",
    ),
    Plant(
        "an open enum is closed",
        (
            (checkout("order_cancelled"), "CancelReason(OpenEnum)", "CancelReason(StrEnum)"),
            (checkout("order_cancelled"), "from typing", "from enum import StrEnum\nfrom typing"),
        ),
        "enum-closed",
        "order.cancelled.v1",
        "/$defs/CancelReason",
        "`reason` was an open enum and is closed",
    ),
    Plant(
        "a bound is loosened",
        (("types.py", "le=1_000_000)]", "le=2_000_000)]"),),
        "bound",
        "category.changed.v1",
        "/$defs/CategoryChangedV1/properties/position/maximum",
        "`maximum` of `position` was 1000000 and is 2000000",
    ),
    Plant(
        "a bound is tightened",
        (("types.py", "min_length=1, max_length=2_000", "min_length=1, max_length=1_000"),),
        "bound",
        "product.published.v1",
        "/$defs/Image/properties/url/maxLength",
        "`maxLength` of `images[].url` was 2000 and is 1000",
    ),
    Plant(
        "a pattern changes",
        (("types.py", "[A-Z]{3}", "[A-Z]{3,4}"),),
        "pattern",
        "order.placed.v1",
        "/$defs/OrderPlacedV1/properties/currency/pattern",
        "the pattern of `currency` was '^[A-Z]{3}$'",
    ),
    Plant(
        "a time loses its zone",
        ((checkout("order_placed"), "placed_at: Time", "placed_at: Currency"),),
        "format",
        "order.placed.v1",
        "/$defs/OrderPlacedV1/properties/placed_at/format",
        "the format of `placed_at` was 'date-time' and is not set",
    ),
    Plant(
        "absence means something else",
        (
            (
                "events/search/search_performed_v1.py",
                "one_in: Quantity = 1",
                "one_in: Quantity = 10",
            ),
        ),
        "default",
        "search.performed.v1",
        "/$defs/SearchPerformedV1/properties/one_in/default",
        "an event without `one_in` meant 1 and now means 10",
    ),
    Plant(
        "unknown fields are refused",
        (
            (
                "types.py",
                "class Line(Struct, frozen",
                "class Line(Struct, forbid_unknown_fields=True, frozen",
            ),
        ),
        "closed",
        "reservation.held.v1",
        "/$defs/Line/additionalProperties",
        "`additionalProperties` of `lines[]",
    ),
    Plant(
        "an optional field is removed and its name is free",
        ((catalog("product_published"), "    barcode: Text | None = None\n", ""),),
        "name-not-reserved",
        "product.published.v1",
        "/$defs/Variant/properties/barcode",
        "`variants[].barcode` is gone, and its name is not in RESERVED",
    ),
    Plant(
        "a key changes",
        ((checkout("order_confirmed"), "order.confirmed.v1", "order.completed.v1"),),
        "event-renamed",
        "order.confirmed.v1",
        "",
        "order.confirmed.v1 is now order.completed.v1",
    ),
    Plant(
        "an event is removed",
        (("events/checkout/__init__.py", "    OrderConfirmedV1,\n", ""),),
        "event-removed",
        "order.confirmed.v1",
        "",
        "order.confirmed.v1 is gone, but no last day was announced",
    ),
    Plant(
        "the exchange changes",
        (("topology.py", 'return f"{owner}.events"\n', 'return f"{owner}.facts"\n'),),
        "routing",
        "topology",
        "/events/0/exchange",
        "exchange of product.published.v1 was 'catalog.events' and is 'catalog.facts'",
    ),
    Plant(
        "the subject changes",
        (
            (
                catalog("image_resized"),
                'SUBJECT: ClassVar[str] = "product_id"',
                'SUBJECT: ClassVar[str] = "image_url"',
            ),
        ),
        "routing",
        "topology",
        "",
        "subject of image.resized.v1 was 'product_id' and is 'image_url'",
    ),
    Plant(
        "a message is identified otherwise",
        (("build.py", '"once": ["source", "id"]', '"once": ["subject", "entityversion"]'),),
        "routing",
        "topology",
        "/events/0/once",
        "once of product.published.v1 was ['source', 'id']",
    ),
    Plant(
        "the arguments of a live queue change",
        (("topology.py", '"x-delivery-limit": 5', '"x-delivery-limit": 20'),),
        "queue-arguments",
        "topology",
        "",
        "x-delivery-limit of stock.checkout was 5 and is 20",
    ),
    Plant(
        "the stream keeps less",
        (("topology.py", '"x-max-age": "7D"', '"x-max-age": "3D"'),),
        "queue-arguments",
        "topology",
        "",
        "x-max-age of stock.events.log was '7D' and is '3D'",
    ),
    Plant(
        "a property of the message goes",
        (("envelope.py", '    "message_id": "{id}",\n', ""),),
        "property",
        "topology",
        "/message/properties/message_id",
        "message_id of a message was '{id}' and is None",
    ),
    Plant(
        "an attribute of the envelope becomes optional",
        (("envelope.py", "    subject: Attribute\n", "    subject: Attribute | None = None\n"),),
        "required-loosened",
        "envelope",
        "/$defs/Wire/properties/subject",
        "`subject` is no longer required",
    ),
    Plant(
        "the minor is not raised",
        (
            (
                stock("stock_ran_low"),
                "    threshold: Count\n",
                "    threshold: Count\n    since: Time | None = None\n",
            ),
            (stock("stock_ran_low"), "import Count, Sku", "import Count, Sku, Time"),
        ),
        "minor",
        "stock.ran_low.v1",
        "/$id",
        "MINOR is 0 and 1.0.0 is released",
    ),
]

COMPATIBLE = [
    Plant(
        "an optional field is added",
        (
            (
                checkout("order_confirmed"),
                "    confirmed_at",
                "    channel: Text | None = None\n    confirmed_at",
            ),
            (checkout("order_confirmed"), "PricedLine, Time", "PricedLine, Text, Time"),
            minor(checkout("order_confirmed"), "order_id"),
        ),
        "field-added",
        "order.confirmed.v1",
    ),
    Plant(
        "an optional list is added",
        (
            (
                stock("stock_ran_low"),
                "    threshold: Count\n",
                "    threshold: Count\n    warehouses: list[Sku] = []\n",
            ),
            minor(stock("stock_ran_low"), "sku"),
        ),
        "field-added",
        "stock.ran_low.v1",
    ),
    Plant(
        "an optional number is added",
        (
            (
                stock("stock_came_back"),
                "    available: Quantity\n",
                "    available: Quantity\n    waiting: Quantity = 1\n",
            ),
            minor(stock("stock_came_back"), "sku"),
        ),
        "field-added",
        "stock.came_back.v1",
    ),
    Plant(
        "an optional flag is added",
        (
            (
                stock("reservation_held"),
                "    expires_at: Time\n",
                "    expires_at: Time\n    extended: bool = False\n",
            ),
            minor(stock("reservation_held"), "order_id"),
        ),
        "field-added",
        "reservation.held.v1",
    ),
    Plant(
        "an optional map is added",
        (
            (
                catalog("category_changed"),
                "    position: Position\n",
                "    position: Position\n    names: dict[Text, Text] = {}\n",
            ),
            minor(catalog("category_changed"), "slug"),
        ),
        "field-added",
        "category.changed.v1",
    ),
    Plant(
        "an optional time is added",
        (
            (
                stock("stock_ran_low"),
                "    threshold: Count\n",
                "    threshold: Count\n    since: Time | None = None\n",
            ),
            (stock("stock_ran_low"), "import Count, Sku", "import Count, Sku, Time"),
            minor(stock("stock_ran_low"), "sku"),
        ),
        "field-added",
        "stock.ran_low.v1",
    ),
    Plant(
        "an optional closed enum is added",
        (
            (stock("price_changed"), "    valid_until", "    why: Why = Why.SET\n    valid_until"),
            (
                stock("price_changed"),
                "class PriceChangedV1",
                'class Why(StrEnum):\n    """Why."""\n\n    SET = "set"\n\n\nclass PriceChangedV1',
            ),
            (stock("price_changed"), "from typing", "from enum import StrEnum\nfrom typing"),
            minor(stock("price_changed"), "sku"),
        ),
        "field-added",
        "price.changed.v1",
    ),
    Plant(
        "an optional field is added in an inner object",
        (
            (
                catalog("product_published"),
                "    barcode: Text",
                "    height_mm: Grams | None = None\n    barcode: Text",
            ),
            (
                catalog("product_published"),
                "MINOR: ClassVar[int] = 0 and 1",
                "MINOR: ClassVar[int] = 1",
            ),
        ),
        "field-added",
        "product.published.v1",
    ),
    Plant(
        "a whole optional object is added",
        (
            (
                catalog("image_resized"),
                "    renditions:",
                "    original: Rendition | None = None\n    renditions:",
            ),
            minor(catalog("image_resized"), "product_id"),
        ),
        "field-added",
        "image.resized.v1",
    ),
    Plant(
        "a word is added to an open enum",
        (
            (
                checkout("order_cancelled"),
                '    UNKNOWN = "unknown"',
                '    FRAUD = "fraud"\n    UNKNOWN = "unknown"',
            ),
            minor(checkout("order_cancelled"), "order_id"),
        ),
        "word-added",
        "order.cancelled.v1",
    ),
    Plant(
        "an optional field is removed and its name reserved",
        (
            (checkout("payment_declined"), "    payment_ref: Text | None = None\n", ""),
            (
                checkout("payment_declined"),
                MINOR.format("order_id"),
                MINOR.format("order_id") + GONE,
            ),
        ),
        "field-removed",
        "payment.declined.v1",
    ),
    Plant(
        "a sentence is put better",
        (
            (
                "events/stock/stock_ran_low_v1.py",
                '    """The available units',
                '    """The units that are available',
            ),
        ),
        "text",
        "stock.ran_low.v1",
    ),
    Plant(
        "a field is explained better",
        (("types.py", 'description="ISO 4217"', 'description="ISO 4217, three letters"'),),
        "text",
        "order.placed.v1",
    ),
    Plant(
        "an end is announced",
        (
            (
                checkout("payment_voided"),
                MINOR.format("order_id"),
                MINOR.format("order_id") + "    SUNSET: ClassVar[date | None] = date(2099, 1, 1)\n",
            ),
            (checkout("payment_voided"), "from typing", "from datetime import date\nfrom typing"),
        ),
        "sunset",
        "payment.voided.v1",
    ),
    Plant(
        "an event is added",
        (
            (
                stock("stock_ran_low"),
                "class StockRanLowV1",
                SOLD_OUT,
            ),
            (
                "events/stock/__init__.py",
                "\nEVENTS = (",
                SOLD_OUT_TOO,
            ),
        ),
        "event-added",
        "stock.sold_out.v1",
    ),
    Plant(
        "a service reads another event",
        (
            (
                "topology.py",
                '"price.changed.v1"),\n    },\n    "checkout"',
                '"price.changed.v1", "stock.ran_low.v1"),\n    },\n    "checkout"',
            ),
        ),
        "binding-added",
        "topology",
    ),
    Plant(
        "a new service reads events",
        (
            (
                "topology.py",
                "tuple[str, ...]]] = {\n",
                'tuple[str, ...]]] = {\n    "archive": {"stock": ("#",)},\n',
            ),
        ),
        "queue-added",
        "topology",
    ),
    Plant(
        "a service stops reading an event",
        (("topology.py", '("reservation.#", "price.changed.v1")', '("reservation.#",)'),),
        "binding-removed",
        "topology",
    ),
    Plant(
        "one more waiting queue",
        (("topology.py", '"60s": 60_000}', '"60s": 60_000, "600s": 600_000}'),),
        "queue-added",
        "topology",
    ),
    Plant(
        "a header is added",
        (
            (
                "envelope.py",
                '"traceparent": "{traceparent}"}',
                '"traceparent": "{traceparent}", "lane": "{subject}"}',
            ),
        ),
        "property-added",
        "topology",
    ),
    Plant(
        "the envelope gets an optional attribute",
        (
            (
                "envelope.py",
                "\n\n\n_encode",
                "\n    tracestate: Attribute | None = None\n\n\n_encode",
            ),
        ),
        "field-added",
        "envelope",
    ),
    Plant(
        "fields change places",
        (
            (
                stock("reservation_held"),
                "    lines: list[Line]\n    expires_at: Time\n",
                "    expires_at: Time\n    lines: list[Line]\n",
            ),
        ),
    ),
    Plant(
        "an inner class gets another name",
        (
            (catalog("image_resized"), "class Rendition(", "class Picture("),
            (catalog("image_resized"), "list[Rendition]", "list[Picture]"),
        ),
    ),
]


@pytest.mark.parametrize("planted", BREAKING, ids=lambda planted: planted.name)
def test_a_breaking_change_fails_with_what_and_where(package: Path, planted: Plant) -> None:
    plant(package, planted.edits)
    done = contracts(package, "diff", "--format", "json")

    assert 1 == done.returncode, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    hits = [
        change
        for change in found
        if (change["rule"], change["subject"]) == (planted.rule, planted.subject)
        and planted.says in change["message"]
        and planted.pointer in ("", change["pointer"])
    ]
    assert hits, found
    assert "break" == hits[0]["verdict"]
    assert hits[0]["advice"]


@pytest.mark.parametrize("planted", COMPATIBLE, ids=lambda planted: planted.name)
def test_a_compatible_change_passes(package: Path, planted: Plant) -> None:
    plant(package, planted.edits)
    done = contracts(package, "diff", "--format", "json")
    found: list[dict[str, Any]] = json.loads(done.stdout or "[]")

    assert 0 == done.returncode, [
        each for each in found if each["verdict"] == "break"
    ] or done.stderr
    assert not planted.rule or (planted.rule, planted.subject) in {
        (change["rule"], change["subject"]) for change in found
    }
    assert planted.rule or [] == [each for each in found if each["verdict"] != "ok"]


def test_the_contracts_as_they_stand_break_nothing_that_was_released() -> None:
    today = datetime.now(UTC).date()

    assert [] == diff.breaking(diff.changes(released_history(), current(), today))


def test_there_are_enough_planted_changes() -> None:
    assert 20 <= len(BREAKING)
    assert 20 <= len(COMPATIBLE)


def test_an_unchanged_package_has_nothing_to_say(package: Path) -> None:
    done = contracts(package, "diff")

    assert (0, "0 changes, 0 break\n") == (done.returncode, done.stdout)


def test_a_name_that_left_cannot_come_back_in_a_later_minor(package: Path) -> None:
    """Compared with the last release alone it would pass."""
    file = package / checkout("payment_declined")
    first = file.read_text()
    left = first.replace("    payment_ref: Text | None = None\n", "").replace(
        MINOR.format("order_id"),
        MINOR.format("order_id") + GONE,
    )
    file.write_text(left)
    contracts(package, "build")
    assert 0 == contracts(package, "release").returncode
    file.write_text(
        left.replace("= 1\n", "= 2\n").replace(
            "    amount_minor", "    payment_ref: Currency | None = None\n    amount_minor"
        )
    )
    done = contracts(package, "diff")

    assert 1 == done.returncode
    assert "payment.declined.v1 since 1.0.0" in done.stdout
    assert "make payment.declined.v2" in done.stdout


def test_a_field_that_a_consumer_reads_stays(package: Path) -> None:
    planted = next(each for each in COMPATIBLE if "name reserved" in each.name)
    plant(package, planted.edits)
    write_consumer(package, "payment.declined.v1", {"payment_ref": {"type": "string"}})
    done = contracts(package, "diff")

    assert 1 == done.returncode
    assert "ext.acme reads `payment_ref`" in done.stdout


def test_a_major_goes_when_its_day_is_over_and_nobody_reads_it(package: Path) -> None:
    line = MINOR.format("order_id")
    dated = f"{line}    SUNSET: ClassVar[date | None] = date(2020, 1, 1)\n"
    plant(
        package,
        (
            (checkout("payment_voided"), line, dated),
            (checkout("payment_voided"), "from typing", "from datetime import date\nfrom typing"),
        ),
    )
    contracts(package, "build")
    contracts(package, "release")
    plant(package, (("events/checkout/__init__.py", "    PaymentVoidedV1,\n", ""),))
    ended = contracts(package, "diff")
    write_consumer(package, "payment.voided.v1", {})
    read = contracts(package, "diff")

    assert (0, True) == (ended.returncode, "payment.voided.v1 has ended" in ended.stdout)
    assert (1, True) == (read.returncode, "ext.acme reads it" in read.stdout)


def test_can_remove_says_who_stands_in_the_way(package: Path) -> None:
    write_consumer(package, "order.placed.v1", {})
    done = contracts(package, "can-remove", "order.placed.v1")

    assert 1 == done.returncode
    assert "no: ext.acme reads it" in done.stdout
    assert "no: stock reads it" in done.stdout
    assert "no: no last day was announced" in done.stdout
    assert "no: there is no newer major" in done.stdout
    assert 2 == contracts(package, "can-remove", "order.eaten.v1").returncode


def write_consumer(package: Path, key: str, fields: dict[str, Any]) -> None:
    needs = {"type": "object", "properties": fields}
    read = {"type": key, "queue": "ext.acme.x", "binding": key, "needs": needs}
    folder = package / "data" / "consumers"
    folder.mkdir(exist_ok=True)
    (folder / "ext.acme.json").write_text(json.dumps({"consumer": "ext.acme", "reads": [read]}))


def test_a_release_refuses_what_breaks_and_counts_what_does_not(package: Path) -> None:
    plant(package, BREAKING[0].edits)
    contracts(package, "build")
    refused = contracts(package, "release")
    plant(package, tuple((file, new, old) for file, old, new in BREAKING[0].edits))
    for planted in COMPATIBLE:
        if planted.name in {"an optional field is added", "a sentence is put better"}:
            plant(package, planted.edits)
    contracts(package, "build")
    done = contracts(package, "release")

    assert 1 == refused.returncode
    assert "1 breaking change" in refused.stderr
    assert [
        "history/stock/stock.ran_low/v1/1.0.1.json",
        "history/checkout/order.confirmed/v1/1.1.0.json",
        "2 frozen",
    ] == done.stdout.splitlines()


def test_a_wheel_can_be_compared_with(package: Path, tmp_path: Path) -> None:
    wheel = Path(
        shutil.make_archive(str(tmp_path / "old"), "zip", package.parent, "shop_contracts")
    )
    plant(package, BREAKING[0].edits)

    assert 1 == contracts(package, "diff", "--against", str(wheel)).returncode
    assert 2 == contracts(package, "diff", "--against", str(tmp_path / "none.whl")).returncode


def test_git_can_be_compared_with(package: Path) -> None:
    commit(package.parent)
    plant(package, BREAKING[0].edits)
    done = contracts(package, "diff", "--against", "git:HEAD", "--quiet")

    assert 1 == done.returncode
    assert "break reservation.held.v1 since git:HEAD" in done.stdout
    assert "make reservation.held.v2" in done.stdout
    assert 2 == contracts(package, "diff", "--against", "git:nowhere").returncode


def test_a_rewritten_release_is_seen_in_git(package: Path) -> None:
    commit(package.parent)
    path = "data/history/stock/price.changed/v1/1.0.0.json"
    plant(package, ((path, '"title": "PriceChangedV1"', '"title": "X"'),))
    done = contracts(package, "diff", "--against", "git:HEAD", "--quiet")

    assert 1 == done.returncode
    assert "history/stock/price.changed/v1/1.0.0.json changed" in done.stdout


def commit(folder: Path) -> None:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], cwd=folder, check=True)
