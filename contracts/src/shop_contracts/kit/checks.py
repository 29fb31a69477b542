"""What a consumer must do with each message: one check for one cause. Knows no test runner.

A check is an async function of a `Subject`: it delivers messages to the consumer under test and
raises `Broken` where the law of the check does not hold. CHECKS, at the end, names them all. Two
checks never fail for one cause, so the name of what fails is the name of the bug.
"""

import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from copy import deepcopy
from typing import Any

from msgspec import Struct

from shop_contracts.kit import goldens, variants
from shop_contracts.kit.messages import Message, Outcome, message
from shop_contracts.kit.subscriptions import BadSubscription, Subscription

Deliver = Callable[[Message], Any]
Effects = Callable[[], Any]
Outage = Callable[[], AbstractContextManager[Any] | AbstractAsyncContextManager[Any]]


class Broken(AssertionError):
    """The consumer does not keep a law of the contract."""


class NotApplicable(Exception):
    """The check says nothing about this consumer; the message tells why."""


class Case(Struct, frozen=True):
    """One check of one event type; `example` where it is made once for each golden."""

    key: str
    check: str
    example: str = ""

    @property
    def id(self) -> str:
        return f"{self.key}-{self.check}" + (f"[{self.example}]" if self.example else "")


class Subject:
    """The consumer under test, as the check sees it: deliver a message, look at the effects."""

    def __init__(
        self,
        case: Case,
        subscription: Subscription,
        deliver: Deliver,
        effects: Effects,
        outage: Outage | None,
    ) -> None:
        self.key = case.key
        self.example = case.example
        self.subscription = subscription
        self.outage = outage
        self.last_error: BaseException | None = None
        self.seen_at_ack: Any = None
        self._deliver = deliver
        self._effects = effects

    async def effects(self) -> Any:
        """What the consumer has done so far, copied: it may go on to change it."""
        return deepcopy(await _value(self._effects()))

    async def deliver(self, sent: Message) -> Outcome:
        """Hand over a message and say what became of it."""
        self.last_error = None
        self.seen_at_ack = None

        def look() -> Awaitable[None] | None:
            seen = self._effects()
            if not inspect.isawaitable(seen):
                self.seen_at_ack = (deepcopy(seen),)
                return None

            async def wait() -> None:
                self.seen_at_ack = (deepcopy(await seen),)

            return wait()

        sent.at_ack = look
        try:
            said = await _value(self._deliver(sent))
        except Exception as error:  # noqa: BLE001 - a crash is an answer too
            self.last_error = error
            return sent.settled or Outcome.CRASHED
        if said is None:
            return sent.settled or Outcome.UNSETTLED
        return Outcome(said)

    async def must(self, sent: Message, what: str, *allowed: Outcome) -> Outcome:
        """Deliver, and break unless the outcome is one of those allowed (ack, when none is)."""
        outcome = await self.deliver(sent)
        if outcome not in (allowed or (Outcome.ACK,)):
            wanted = " or ".join(allowed or (Outcome.ACK,))
            error = f", raising {self.last_error!r}" if self.last_error else ""
            raise Broken(f"{what}: expected {wanted}, got {outcome}{error}\n{_shown(sent)}")
        return outcome


async def check_golden(subject: Subject) -> None:
    """Every golden message is handled and acked."""
    event = goldens.golden(subject.key, subject.example)
    await subject.must(message(event), f"the golden message `{subject.example}`")


async def check_effect(subject: Subject) -> None:
    """The full message has an effect that can be seen; else nothing here proves anything."""
    before = await subject.effects()
    await subject.deliver(message(goldens.golden(subject.key)))
    if before == await subject.effects():
        raise Broken(
            f"the golden message `full` changed nothing: effects() stayed {before!r}.\n"
            "Does `deliver` reach the handler, and does each test start from an empty store?"
        )


async def check_unknown_field(subject: Subject) -> None:
    """A field that this consumer has never heard of is ignored."""
    event = variants.with_unknown_fields(goldens.golden(subject.key))
    await subject.must(message(event), "a message with unknown fields")


async def check_next_minor(subject: Subject) -> None:
    """The next minor of the same major is read: other `dataschema`, absent for null, charset."""
    event = variants.next_minor(goldens.golden(subject.key))
    await subject.must(message(event), "a message of the next minor")
    again = variants.next_minor(variants.later(goldens.golden(subject.key)))
    await subject.must(variants.with_charset(again), "a content type with a charset")


async def check_open_enum(subject: Subject) -> None:
    """A word that a later minor adds to an open enum is no error."""
    event = goldens.golden(subject.key)
    newer = variants.with_new_word(event, goldens.schema(subject.key))
    if newer is None:
        raise NotApplicable(f"{subject.key} has no open enum")
    await subject.must(message(newer), "a message with a new word in an open enum")


async def check_duplicate(subject: Subject) -> None:
    """A message that comes twice has its effects once, and is acked twice."""
    event = goldens.golden(subject.key)
    await subject.must(message(event), "the message")
    once = await subject.effects()
    await subject.must(message(event, redelivered=True), "the same message again")
    twice = await subject.effects()
    if once != twice:
        raise Broken(f"a duplicate changed the effects\nafter one: {once!r}\nafter two: {twice!r}")


async def check_redelivered(subject: Subject) -> None:
    """The flag `redelivered` alone says nothing: a first attempt may have died before its work."""
    before = await subject.effects()
    sent = message(goldens.golden(subject.key), redelivered=True)
    await subject.must(sent, "a first message flagged as redelivered")
    if before == await subject.effects():
        raise Broken("a first message flagged as redelivered was acked without its effect")


async def check_reordered(subject: Subject) -> None:
    """Of two versions of a subject the newer one stays, whichever comes first."""
    if variants.happens_once(subject.key):
        raise NotApplicable(f"{subject.key} happens once for a subject")
    if subject.subscription.order == "any":
        raise NotApplicable("the subscription keeps every event and says order='any'")
    older = goldens.golden(subject.key)
    await subject.deliver(message(variants.later(older)))
    newest = await subject.effects()
    await subject.deliver(message(older))
    now = await subject.effects()
    if now != newest:
        raise Broken(
            "an older version overwrote a newer one: compare `entityversion`, not arrival\n"
            f"after version {older['entityversion'] + 1}: {newest!r}\n"
            f"after version {older['entityversion']} too: {now!r}"
        )


async def check_stale(subject: Subject) -> None:
    """A stale version is no error: it is acked, never retried or parked."""
    if variants.happens_once(subject.key):
        raise NotApplicable(f"{subject.key} happens once for a subject")
    oldest = goldens.golden(subject.key)
    newer = variants.later(oldest)
    await subject.deliver(message(newer))
    await subject.deliver(message(variants.later(newer)))
    await subject.must(message(oldest), "a version older than the one known")


async def check_malformed(subject: Subject) -> None:
    """What is no event is parked at once: trying again cannot help, and acking would lose it."""
    event = goldens.golden(subject.key)
    for name, sent in variants.unreadable(event).items():
        await subject.must(sent, name, Outcome.PARK)
    for name, broken in goldens.invalid(subject.key).items():
        # a consumer need not judge a field it does not read
        sent = message(broken)
        await subject.must(sent, f"invalid/{name}", Outcome.PARK, Outcome.ACK)


async def check_ack_after_commit(subject: Subject) -> None:
    """The ack comes last: whoever acks before the commit loses the event in a crash."""
    outcome = await subject.deliver(message(goldens.golden(subject.key)))
    at_ack, at_end = subject.seen_at_ack, await subject.effects()
    if outcome is Outcome.ACK and at_ack is not None and at_ack[0] != at_end:
        raise Broken(
            "the message was acked before its effect could be seen\n"
            f"at the ack: {at_ack[0]!r}\nat the end: {at_end!r}"
        )


async def check_outage(subject: Subject) -> None:
    """While the consumer's store is away the message is retried, and later has its effect."""
    if subject.outage is None:
        raise NotApplicable("no `outage` is given: pass a context manager that breaks the store")
    event = goldens.golden(subject.key)
    before = await subject.effects()
    broken = subject.outage()
    if isinstance(broken, AbstractAsyncContextManager):
        async with broken:
            outcome = await subject.deliver(message(event))
    else:
        with broken:
            outcome = await subject.deliver(message(event))
    if subject.last_error is not None and outcome is Outcome.ACK:
        raise NotApplicable("it acked before its work: that is what ack-after-commit is about")
    if outcome is not Outcome.RETRY:
        raise Broken(f"a message during an outage: expected retry, got {outcome}")
    await subject.must(message(event, redelivered=True), "the message after the outage")
    if before == await subject.effects():
        raise Broken("after the outage the message was acked without its effect")


async def check_subscription(subject: Subject) -> None:
    """The queue has a name that may be declared, and its binding brings this type."""
    try:
        subject.subscription.check(subject.key)
    except BadSubscription as error:
        raise Broken(str(error)) from error


def cases(key: str) -> list[Case]:
    """Every case of one event type. Raises `goldens.NoSuchType`."""
    names = goldens.examples(key)
    found: list[Case] = []
    for check in CHECKS:
        if check == "golden":
            found.extend(Case(key, check, name) for name in names)
        else:
            found.append(Case(key, check))
    return found


async def _value(given: Any) -> Any:
    return await given if inspect.isawaitable(given) else given


def _shown(sent: Message) -> str:
    return f"body: {sent.body[:600]!r}"


CHECKS: dict[str, Callable[[Subject], Awaitable[None]]] = {
    "golden": check_golden,
    "effect": check_effect,
    "unknown-field": check_unknown_field,
    "next-minor": check_next_minor,
    "open-enum": check_open_enum,
    "duplicate": check_duplicate,
    "redelivered": check_redelivered,
    "reordered": check_reordered,
    "stale": check_stale,
    "malformed": check_malformed,
    "ack-after-commit": check_ack_after_commit,
    "outage": check_outage,
    "subscription": check_subscription,
}
