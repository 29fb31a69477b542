"""A publisher is held to exchange, key, properties, envelope, payload, subject and versions."""

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import msgspec
import pytest

from shop_contracts.envelope import decode, encode
from shop_contracts.events import BY_KEY
from shop_contracts.kit import goldens, variants
from shop_contracts.kit.messages import Message, compact, message
from shop_contracts.kit.producer import Stream, assert_publishes, event_problems, problems

KEY = "stock.changed.v1"
Json = dict[str, Any]


def rules(sent: Message) -> set[str]:
    return {problem.rule for problem in problems(sent)}


def edited(edit: Callable[[Json], None]) -> Message:
    event = deepcopy(goldens.golden(KEY))
    edit(event)
    return message(event)


def with_properties(**changes: Any) -> Message:
    made = message(goldens.golden(KEY))
    made.properties = msgspec.structs.replace(made.properties, **changes)
    return made


@pytest.mark.parametrize("key", BY_KEY)
def test_a_golden_message_holds_every_rule(key: str) -> None:
    for event in goldens.examples(key).values():
        assert [] == problems(message(event))


@pytest.mark.parametrize("key", BY_KEY)
def test_what_the_services_write_holds_every_rule(key: str) -> None:
    assert [] == event_problems(encode(decode(compact(goldens.golden(key)))))


@pytest.mark.parametrize("key", BY_KEY)
def test_an_invalid_example_breaks_the_payload_rule(key: str) -> None:
    for event in goldens.invalid(key).values():
        assert "payload" in rules(message(event))


@pytest.mark.parametrize(
    ("sent", "rule"),
    [
        (with_properties(content_type="application/json"), "properties"),
        (with_properties(delivery_mode=1), "properties"),
        (with_properties(message_id="another"), "properties"),
        (with_properties(type=None), "properties"),
        (with_properties(app_id="/catalog"), "properties"),
        (with_properties(correlation_id=None), "properties"),
        (with_properties(timestamp=None), "properties"),
        (with_properties(headers={}), "properties"),
        (edited(lambda event: event.update(source="/checkout")), "envelope"),
        (edited(lambda event: event.update(specversion="0.3")), "envelope"),
        (edited(lambda event: event.update(time="2026-11-02T09:30:00+02:00")), "envelope"),
        (edited(lambda event: event.update(id="1")), "envelope"),
        (edited(lambda event: event.update(traceparent="00-1-1-01")), "envelope"),
        (edited(lambda event: event.update(sequence="1")), "envelope"),
        (edited(lambda event: event.update(dataschema="urn:shop:stock.changed:2.0")), "envelope"),
        (edited(lambda event: event.update(entityversion=-1)), "entityversion"),
        (edited(lambda event: event.update(entityversion=2**31)), "entityversion"),
        (edited(lambda event: event["data"].update(sku="OTHER-1")), "subject"),
        (edited(lambda event: event["data"].update(warehouse="north")), "payload"),
        (edited(lambda event: event["data"].update(available=-1)), "payload"),
        (edited(lambda event: event["data"].update(cause="lost")), "payload"),
        (edited(lambda event: event.update(type="shop.stock.changed.v9")), "type"),
    ],
)
def test_a_broken_rule_is_named_and_no_other(sent: Message, rule: str) -> None:
    assert {rule} == rules(sent)


def test_the_wrong_exchange_and_key_are_named() -> None:
    made = message(goldens.golden(KEY))
    made.exchange, made.routing_key = "catalog.events", "stock.changed"

    assert {"exchange", "routing key"} == rules(made)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b'{"type": 3}', b"\xff"])
def test_what_is_no_event_is_told_without_a_crash(body: bytes) -> None:
    assert {"envelope"} == {problem.rule for problem in event_problems(body)}


def test_a_name_that_stands_twice_is_found_though_readers_take_the_last_one() -> None:
    body = compact(goldens.golden(KEY)).replace(b'"sku":', b'"sku":"TWICE","sku":')

    assert {"envelope"} == {problem.rule for problem in event_problems(body)}


def test_a_field_of_a_newer_minor_is_no_fault() -> None:
    event = variants.with_unknown_fields(variants.next_minor(goldens.golden(KEY)))
    del event["unknownattribute"]

    assert [] == event_problems(compact(event))


def test_versions_of_a_subject_grow() -> None:
    stream = Stream()
    first = goldens.golden(KEY)
    second = variants.later(first)
    said = [
        [problem.rule for problem in stream.problems(compact(event))]
        for event in (first, second, first, {**second, "id": first["id"]})
    ]

    assert [[], [], [], ["id"]] == said
    assert ["entityversion"] == [
        problem.rule
        for problem in stream.problems(
            compact({**second, "id": "01931a2b-7c01-7000-8000-0000000000ff"})
        )
    ]


def test_a_test_of_a_publisher_says_what_is_missing_and_what_is_too_much() -> None:
    sent = [message(goldens.golden(KEY))]
    assert_publishes(sent, KEY)

    with pytest.raises(AssertionError, match=r"price\.changed\.v1 was never published"):
        assert_publishes(sent, KEY, "price.changed.v1")
    with pytest.raises(AssertionError, match=r"stock\.changed\.v1 is not announced"):
        assert_publishes(sent, "price.changed.v1")


def test_an_event_is_the_same_message_as_the_services_send() -> None:
    event = goldens.golden(KEY)
    made = message(event)

    assert json.loads(made.body) == event
    assert event["id"] == made.message_id
    assert ("stock.events", KEY) == (made.exchange, made.routing_key)
