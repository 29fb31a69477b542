"""Finds out what a handler reads, by leaving out and changing one part of a message at a time.

A probe is a case like a check's, on a consumer with an empty store. What a handler cannot do
without is required; what changes its effects is read; the rest it does not touch.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from random import Random
from typing import Any, Literal

from msgspec import Struct

from shop_contracts.envelope import Event, decode
from shop_contracts.events import BY_KEY
from shop_contracts.events.base import dataschema
from shop_contracts.kit import goldens
from shop_contracts.kit.checks import Case, NotApplicable, Subject
from shop_contracts.kit.expectations import Expectation, Read, need_of
from shop_contracts.kit.messages import Outcome, compact, message
from shop_contracts.kit.sampling import value
from shop_contracts.kit.subschema import at
from shop_contracts.kit.subscriptions import Subscription

Json = dict[str, Any]
Kind = Literal["baseline", "without", "changed"]


class CannotRecord(Exception):
    """The consumer's answers tell nothing about what it reads."""


class Answer(Struct, frozen=True):
    """What a consumer did with one probe."""

    outcome: Outcome
    effects: Any


class Recorder:
    """Collects the answers to probes, and turns them into an expectation."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str, str], Answer] = {}
        self._subscriptions: dict[str, Subscription] = {}

    async def probe(self, case: Case, subject: Subject) -> None:
        """Deliver the probe of a case and keep the answer."""
        made = probe(case)
        if made is None:
            raise NotApplicable("there is no other value")
        outcome = await subject.deliver(message(made))
        self._subscriptions[case.key] = subject.subscription
        answer = Answer(outcome, await subject.effects())
        self._answers[case.key, case.check, case.example] = answer

    def expectation(self) -> Expectation:
        """What the consumer relies on. Raises `CannotRecord`."""
        reads = [self._read(key) for key in self._subscriptions]
        if not reads:
            raise CannotRecord("no test marked `consumes` was run")
        queue = reads[0].queue
        words = 2 if queue.startswith("ext.") else 1
        return Expectation(consumer=".".join(queue.split(".")[:words]), reads=reads)

    def _read(self, key: str) -> Read:
        baseline = self._answers[key, "baseline", ""]
        again = self._answers[key, "baseline", "again"]
        if baseline.outcome is not Outcome.ACK:
            raise CannotRecord(f"{key}: the golden message was not acked but {baseline.outcome}")
        if baseline.effects != again.effects:
            raise CannotRecord(f"{key}: the same message has other effects each time")
        read, required = [], []
        for pointer in pointers(key):
            without = self._answers.get((key, "without", pointer), baseline)
            changed = self._answers.get((key, "changed", pointer), baseline)
            if without.outcome is not Outcome.ACK:
                required.append(pointer)
            if without != baseline or changed != baseline:
                read.append(pointer)
        subscription = self._subscriptions[key]
        return Read(
            type=key,
            queue=subscription.queue,
            binding=subscription.binding or key,
            order=subscription.order,
            since=dataschema(BY_KEY[key]).rpartition(":")[2],
            needs=need_of(key, read, required),
        )


def probes(key: str) -> list[Case]:
    """The cases of a recording."""
    found = [Case(key, "baseline"), Case(key, "baseline", "again")]
    for pointer in pointers(key):
        found += [Case(key, "without", pointer), Case(key, "changed", pointer)]
    return found


def pointers(key: str) -> Sequence[str]:
    """Every part of the type's full golden data, the first item standing for all of a list."""
    return list(_pointers(goldens.golden(key)["data"], ""))


def probe(case: Case) -> Json | None:
    """The message of a case; None where no other value is possible."""
    event = deepcopy(goldens.golden(case.key))
    if case.check == "baseline":
        return event
    *path, name = case.example.split("/")[1:]
    random = Random(case.example)  # noqa: S311 - the same probe each time
    touched = False
    for holder in _holders(event["data"], path):
        if name not in holder:
            continue
        if case.check == "without":
            del holder[name]
            touched = True
        else:
            other = _other(case.key, case.example, holder[name], random)
            touched = touched or other is not None
            holder[name] = holder[name] if other is None else other
    subject = BY_KEY[case.key].SUBJECT
    if case.check == "changed" and case.example == f"/{subject}":
        event["subject"] = event["partitionkey"] = event["data"][subject]
    return event if touched else None


def _holders(value: Any, path: list[str]) -> Iterator[Json]:
    """The objects that hold the field: one, or one in each item of the lists above it."""
    if isinstance(value, list):
        for item in value:
            yield from _holders(item, path[1:])
    elif isinstance(value, dict) and not path:
        yield value
    elif isinstance(value, dict) and path[0] in value:
        yield from _holders(value[path[0]], path[1:])


def _other(key: str, pointer: str, current: Any, random: Random) -> Any:
    schema = goldens.schema(key)
    for _ in range(50):
        made = value(at(schema, pointer), schema, random)
        if made != current and made is not None:
            return made
    return None


def _pointers(data: Any, here: str) -> Iterator[str]:
    if isinstance(data, dict):
        for name, item in data.items():
            yield f"{here}/{name}"
            yield from _pointers(item, f"{here}/{name}")
    elif isinstance(data, list) and data and isinstance(data[0], dict | list):
        yield from _pointers(data[0], f"{here}/0")


def unlisted(read: Read, told: Callable[[Event[Any]], Any]) -> set[str]:
    """Parts that a function of an event reads and an expectation does not list.

    For handlers in Python that take decoded events: `told` returns, as a value to compare, what
    the handler makes of an event.
    """
    baseline = told(_decoded(goldens.golden(read.type)))
    found = set()
    for pointer in pointers(read.type):
        made = probe(Case(read.type, "changed", pointer))
        if made is None or told(_decoded(made)) == baseline:
            continue
        try:
            at(read.needs, pointer)
        except KeyError:
            found.add(pointer)
    return found


def _decoded(event: Json) -> Event[Any]:
    return decode(compact(event))
