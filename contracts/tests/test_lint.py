"""Each rule of the lint refuses what it is for, and nothing else."""

import enum
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar

import msgspec
import pytest
from msgspec import Meta, Struct

from shop_contracts import lint
from shop_contracts.events import BY_KEY
from shop_contracts.events.base import Fact
from shop_contracts.types import Count, Currency, Minor, OpenEnum, Sku, Text, Time

SAID = "A thing happened."


def fact(**fields: Any) -> type[Fact]:
    """An event `thing.happened.v1` with a subject and these fields."""
    made = msgspec.defstruct(
        "ThingHappenedV1",
        [("sku", Sku), *fields.items()],
        bases=(Fact,),
        namespace={"KEY": "thing.happened.v1", "SUBJECT": "sku", "__doc__": SAID},
        frozen=True,
        kw_only=True,
    )
    assert issubclass(made, Fact)
    return made


def rules(event: type[Fact]) -> list[tuple[str, str]]:
    return [
        (found.where.removeprefix(event.KEY).strip(), found.rule) for found in lint.findings(event)
    ]


class Word(enum.StrEnum):
    A = "a"


class Number(enum.IntEnum):
    ONE = 1


class Open(OpenEnum):
    A = "a"
    UNKNOWN = "unknown"


class Endless(OpenEnum):
    A = "a"


class SelfMade(enum.StrEnum):
    A = "a"

    @classmethod
    def _missing_(cls, _: object) -> "SelfMade":
        return cls.A


class Cash(Struct, frozen=True, kw_only=True):
    """An amount of money."""

    amount_minor: Minor


class Loose(Struct, kw_only=True):
    """A part that changes."""

    sku: Sku


class Placed(Struct, frozen=True):
    """A part whose fields have places."""

    sku: Sku


class Silent(Struct, frozen=True, kw_only=True):
    sku: Sku


class Picky(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part that refuses later minors."""

    sku: Sku


class Renamed(Struct, frozen=True, kw_only=True, rename="camel"):
    """A part with other names on the wire."""

    some_sku: Sku


class Tree(Struct, frozen=True, kw_only=True):
    """A part that holds its like."""

    children: list["Tree"]


def test_the_events_of_the_shop_keep_all_rules() -> None:
    assert [] == [found for event in BY_KEY.values() for found in lint.findings(event)]


@pytest.mark.parametrize(
    "kind",
    [Count, Text, Time, bool, Word, Open, Open | None, list[Sku], dict[Text, Text], Sku | None],
)
def test_what_the_rules_allow_passes(kind: Any) -> None:
    assert [] == rules(fact(field=kind))


REFUSED: list[tuple[Any, str, str]] = [
    (float, "field", "float"),
    (Decimal, "field", "float"),
    (list[float], "field[]", "float"),
    (tuple[Sku, Sku], "field", "tuple"),
    (tuple[Sku, ...], "field", "tuple"),
    (Count | Sku, "field", "union"),
    (datetime, "field", "time"),
    (Annotated[datetime, Meta(tz=False)], "field", "time"),
    (int, "field", "integer"),
    (Annotated[int, Meta(ge=0)], "field", "integer"),
    (Annotated[int, Meta(ge=0, le=2**53)], "field", "integer"),
    (dict[Text, int], "field{}", "integer"),
    (str, "field", "text"),
    (list[str], "field[]", "text"),
    (Annotated[str, Meta(pattern="^a$")], "field", "pattern"),
    (Annotated[str, Meta(pattern="a")], "field", "pattern"),
    (Annotated[str, Meta(pattern=r"^(a$|b)\Z")], "field", "pattern"),
    (Number, "field", "enum"),
    (Endless, "field", "enum"),
    (SelfMade, "field", "enum"),
    (Cash, "field.amount_minor", "money"),
    (Loose, "field", "frozen"),
    (Placed, "field", "frozen"),
    (Silent, "field", "sentence"),
    (Picky, "field", "reader"),
    (Renamed, "field.some_sku", "reader"),
    (list[Tree], "field[].children[]", "recursive"),
    (Any, "field", "type"),
    (bytes, "field", "type"),
    (date, "field", "type"),
    (set[Sku], "field", "type"),
]


@pytest.mark.parametrize(("kind", "place", "rule"), REFUSED)
def test_what_a_reader_elsewhere_cannot_keep_is_refused(kind: Any, place: str, rule: str) -> None:
    assert [(place, rule)] == rules(fact(field=kind))


def test_money_is_named_after_its_unit_and_has_its_currency() -> None:
    assert [("total", "money")] == rules(fact(total=Count, currency=Currency))
    assert [("total_minor", "money")] == rules(fact(total_minor=Text, currency=Currency))
    assert [] == rules(fact(total_minor=Minor, currency=Currency))
    assert [] == rules(fact(cash=Cash, currency=Currency))


def test_a_removed_name_stays_reserved() -> None:
    class ThingHappenedV1(Fact, frozen=True, kw_only=True):
        """A thing happened."""

        KEY: ClassVar[str] = "thing.happened.v1"
        SUBJECT: ClassVar[str] = "sku"
        RESERVED: ClassVar[tuple[str, ...]] = ("colour",)

        sku: Sku
        colour: Text | None = None

    assert [("colour", "reserved")] == rules(ThingHappenedV1)


def test_key_class_and_subject_belong_together() -> None:
    class Happened(Fact, frozen=True, kw_only=True):
        """A thing happened."""

        KEY: ClassVar[str] = "thing.happened.v1"
        SUBJECT: ClassVar[str] = "who"

        sku: Sku

    class Odd(Happened, frozen=True, kw_only=True):
        """A thing happened."""

        KEY: ClassVar[str] = "ThingHappened"
        SUBJECT: ClassVar[str] = "count"

        count: Count

    assert [("", "key"), ("", "subject")] == rules(Happened)
    assert [("", "key"), ("count", "subject")] == rules(Odd)


def test_an_open_word_of_a_later_minor_is_read_as_unknown() -> None:
    assert Open.UNKNOWN is msgspec.json.decode(b'"brand_new"', type=Open)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'"No Word"', type=Open)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b"7", type=Open)


def test_every_rule_is_tested_and_explained() -> None:
    assert set(lint.RULES) == {rule for *_, rule in REFUSED} | {"key", "subject", "reserved"}
    assert all(lint.RULES.values())
