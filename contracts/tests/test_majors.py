"""One fact in two majors: what stands beside it, and how an old one reads today."""

import json
from datetime import date
from typing import Any
from uuid import UUID

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shop_contracts import build, envelope, majors, schemas
from shop_contracts.envelope import Event, decode
from shop_contracts.events import BY_KEY
from shop_contracts.events.base import Fact, major_of, name_of
from shop_contracts.events.catalog import CategoryChangedV1, CategoryChangedV2
from shop_contracts.events.catalog.category_changed_v2 import Step
from shop_contracts.kit import sampling

pytestmark = pytest.mark.slow

NEWER = [(newer.KEY, newer) for newer in majors.DOWNCAST]
OLDER = [(older.KEY, older) for older in majors.UPCAST]

TENTS = CategoryChangedV2(
    slug="outdoor--tents",
    name="Tents",
    path=[Step(slug="outdoor", name="Outdoor"), Step(slug="outdoor--tents", name="Tents")],
    position=3,
)


def event(fact: Fact) -> Event[Fact]:
    return envelope.new(
        fact,
        id=UUID(int=7),
        entityversion=4,
        correlationid="order",
        causationid="cause",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )


def valid(fact: Fact) -> None:
    """By the schema of its own type, as its writer has to keep it."""
    schema = schemas.closed(schemas.schema(type(fact)))
    jsonschema.Draft202012Validator(schema).validate(msgspec.to_builtins(fact))
    assert fact == msgspec.json.decode(msgspec.json.encode(fact), type=type(fact))


@pytest.mark.parametrize(("key", "newer"), NEWER)
def test_whatever_is_sent_is_valid_as_the_older_major_too(key: str, newer: type[Fact]) -> None:
    @settings(max_examples=500, deadline=None)
    @given(sampling.strategy(key))
    def check(sent: dict[str, Any]) -> None:
        valid(majors.DOWNCAST[newer](msgspec.convert(sent["data"], newer)))

    check()


@pytest.mark.parametrize(("key", "older"), OLDER)
def test_whatever_was_sent_is_valid_as_the_newer_major(key: str, older: type[Fact]) -> None:
    @settings(max_examples=500, deadline=None)
    @given(sampling.strategy(key))
    def check(sent: dict[str, Any]) -> None:
        fact = msgspec.convert(sent["data"], older)
        newer = majors.UPCAST[older](fact)
        valid(newer)

        assert fact == majors.DOWNCAST[type(newer)](newer)

    check()


def test_one_fact_is_two_events_that_tell_the_same() -> None:
    new, old = majors.sent_as(event(TENTS))

    assert (TENTS, event(TENTS).meta.id) == (new.data, new.meta.id)
    assert ["Outdoor", "Tents"] == getattr(old.data, "path", None)
    assert ("category.changed.v2", "category.changed.v1") == (new.meta.key, old.meta.key)
    assert new.meta.id != old.meta.id
    for name in ("subject", "source", "time", "entityversion", "correlationid", "causationid"):
        assert getattr(new.meta, name) == getattr(old.meta, name)
    assert new.meta.traceparent == old.meta.traceparent


def test_the_same_fact_always_has_the_same_ids() -> None:
    first, again = ([each.meta.id for each in majors.sent_as(event(TENTS))] for _ in range(2))

    assert first == again


def test_what_has_one_major_is_one_event() -> None:
    (full,) = (build.ROOT / "examples" / "stock.changed.v1").glob("full.json")
    one = decode(full.read_bytes())

    assert [one] == majors.sent_as(one)
    assert one == majors.newest(one)


def test_a_major_that_was_removed_is_no_longer_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    left = {key: fact for key, fact in BY_KEY.items() if fact is not CategoryChangedV1}
    monkeypatch.setattr(majors, "BY_KEY", left)

    assert ["category.changed.v2"] == [each.meta.key for each in majors.sent_as(event(TENTS))]


@pytest.mark.parametrize(
    "path",
    sorted((build.ROOT / "examples" / "category.changed.v1").glob("*.json")),
    ids=lambda path: path.stem,
)
def test_a_replayed_event_of_the_older_major_reads_as_the_newer_one(path: Any) -> None:
    old = decode(path.read_bytes())
    new = majors.newest(old)

    assert isinstance(new.data, CategoryChangedV2)
    assert json.loads(path.read_bytes())["data"]["path"] == [step.name for step in new.data.path]
    assert new.data.slug == new.data.path[-1].slug
    assert (old.meta.id, "shop.category.changed.v2") == (new.meta.id, new.meta.type)


def test_what_is_to_end_has_a_successor_and_a_way_there_and_back() -> None:
    for key, fact in BY_KEY.items():
        newer = BY_KEY.get(f"{name_of(key)}.v{major_of(key) + 1}")
        if fact.SUNSET:
            assert newer is not None, key
            assert fact.SUNSET > date(2026, 11, 1)
        if newer is not None:
            assert fact in majors.UPCAST, key
            assert newer in majors.DOWNCAST, key


def test_an_end_stands_in_the_documents() -> None:
    end = CategoryChangedV1.SUNSET
    assert end is not None
    document = json.loads((build.ROOT / "asyncapi" / "shop.json").read_bytes())
    page = (build.ROOT / "reference.html").read_text()
    schema = json.loads((build.ROOT / "schemas/catalog/category.changed.v1.json").read_bytes())

    assert end.isoformat() == schema["x-sunset"]
    assert end.isoformat() == document["components"]["messages"]["category.changed.v1"]["x-sunset"]
    assert f"Not sent after {end.isoformat()}" in page


@settings(max_examples=50, deadline=None)
@given(st.lists(sampling.strategy("category.changed.v2"), max_size=10), st.randoms())
def test_a_reader_of_both_majors_ends_where_a_reader_of_one_does(
    sent: list[dict[str, Any]], random: Any
) -> None:
    """Newest, then the version guard: in whatever order they come, and twice."""
    facts = [
        envelope.new(
            msgspec.convert({**each["data"], "slug": "one"}, CategoryChangedV2),
            id=UUID(int=version),
            entityversion=version,
        )
        for version, each in enumerate(sent, start=1)
    ]
    both = [each for fact in facts for each in majors.sent_as(fact)] * 2
    random.shuffle(both)
    kept: Event[Fact] | None = None
    for each in both:
        if kept is None or each.meta.entityversion > kept.meta.entityversion:
            kept = majors.newest(each)

    assert [names(fact) for fact in facts[-1:]] == [names(fact) for fact in [kept] if fact]


def names(told: Event[Any]) -> list[str]:
    return [step.name for step in told.data.path]
