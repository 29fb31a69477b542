"""The adapter against the simulator over HTTP, in every way that a provider can fail, and webhooks.

The ledger is the provider's own: what it says is what was charged.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
import uuid_utils.compat as uuids
from aiohttp.test_utils import TestClient

from chassis.database import Database
from checkout import worker
from checkout.domain import Answer, Approved, Asked, Op, Refused, Status, Timers
from checkout.provider import BadWebhook, NoAnswer
from checkout.provider.stripe import FREE, Stripe, read_webhook
from checkout.settings import Settings
from checkout.store.after import After
from checkout.store.carts import Carts
from checkout.store.orders import Orders
from checkout.store.payments import Ask
from checkout.store.projections import Projections
from payments.app import Simulator, signature
from payments.domain import Deliveries, Fault, Script

pytestmark = pytest.mark.connected

Client = TestClient[Any, Any]
SECRET = "whsec_of_the_tests"
PATIENCE_S = 60


def key(op: str) -> str:
    return f"{uuids.uuid7()}:{op}"


def moves(simulator: Simulator) -> list[tuple[str, int]]:
    return [(entry.op, entry.amount) for entry in simulator.bank.ledger]


async def authorised(provider: Stripe, token: str = "tok_ok") -> str:
    answer = await provider.authorise(key("auth"), token, 2_500, "EUR")
    assert isinstance(answer, Approved)
    return answer.ref


async def test_an_amount_is_put_aside_taken_and_given_back_in_part(
    provider: Stripe, simulator: Simulator
) -> None:
    ref = await authorised(provider)

    assert Approved(ref) == await provider.capture(key("capture"), ref, 2_500)
    assert isinstance(await provider.refund(key("refund"), ref, 1_000), Approved)
    assert isinstance(await provider.refund(key("refund"), ref, 1_501), Refused)
    assert isinstance(await provider.refund(key("refund"), ref, 1_500), Approved)

    expected = [("authorised", 2_500), ("captured", 2_500), ("refunded", 1_000)]
    assert [*expected, ("refunded", 1_500)] == moves(simulator)


async def test_what_was_put_aside_is_given_free_and_cannot_be_taken_any_more(
    provider: Stripe, simulator: Simulator
) -> None:
    ref = await authorised(provider)

    assert Approved(ref) == await provider.void(key("void"), ref)
    assert Approved(ref) == await provider.void(key("void"), ref)
    assert Refused("the payment is canceled") == await provider.capture(key("c"), ref, 2_500)
    assert [("authorised", 2_500), ("canceled", 2_500)] == moves(simulator)


async def test_what_was_taken_cannot_be_voided(provider: Stripe) -> None:
    ref = await authorised(provider)
    await provider.capture(key("capture"), ref, 2_500)

    assert Refused("the payment is succeeded") == await provider.void(key("void"), ref)


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("tok_decline", "Your card was declined."),
        ("tok_no_funds", "Your card has insufficient funds."),
        ("tok_what", "The card is unknown."),
    ],
)
async def test_a_declined_card_is_told_with_its_reason(
    provider: Stripe, token: str, reason: str
) -> None:
    assert Refused(reason) == await provider.authorise(key("auth"), token, 2_500, "EUR")


async def test_a_card_that_can_no_longer_be_charged_refuses_the_capture_for_good(
    provider: Stripe,
) -> None:
    ref = await authorised(provider, "tok_capture_refused")

    answer = await provider.capture(key("capture"), ref, 2_500)

    assert Refused("The card can no longer be charged.") == answer


async def test_an_order_that_costs_nothing_asks_nobody(
    provider: Stripe, simulator: Simulator
) -> None:
    answers = [
        await provider.authorise(key("auth"), "tok_ok", 0, "EUR"),
        await provider.capture(key("capture"), FREE, 0),
        await provider.void(key("void"), FREE),
        await provider.refund(key("refund"), FREE, 0),
    ]

    assert [Approved(FREE)] * 4 == answers
    assert [] == moves(simulator)


async def test_one_key_is_one_effect_and_asks_for_one_thing(
    provider: Stripe, simulator: Simulator
) -> None:
    one = key("auth")

    first = await provider.authorise(one, "tok_ok", 2_500, "EUR")

    assert first == await provider.authorise(one, "tok_ok", 2_500, "EUR")
    assert isinstance(await provider.authorise(one, "tok_ok", 9_900, "EUR"), Refused)
    assert [("authorised", 2_500)] == moves(simulator)


async def carry_out(provider: Stripe, op: Op, one: str, ref: str) -> Answer:
    match op:
        case Op.AUTH:
            return await provider.authorise(one, "tok_ok", 2_500, "EUR")
        case Op.CAPTURE:
            return await provider.capture(one, ref, 2_500)
        case Op.VOID:
            return await provider.void(one, ref)


ON = {Op.AUTH: "create", Op.CAPTURE: "capture", Op.VOID: "cancel"}
DONE = {Op.AUTH: "authorised", Op.CAPTURE: "captured", Op.VOID: "canceled"}


@pytest.mark.parametrize("op", list(Op)[:3])
@pytest.mark.parametrize("does", ["error", "error_after", "lose_request", "lose_answer", "in_use"])
async def test_no_answer_is_asked_for_again_and_is_done_once(
    provider: Stripe, simulator: Simulator, op: Op, does: Any
) -> None:
    ref = "" if op is Op.AUTH else await authorised(provider)
    before, one = moves(simulator), key(op)
    on: Any = ON[op]
    simulator.follow(Script(faults=[Fault(on=on, does=does)]))

    with pytest.raises(NoAnswer):
        await carry_out(provider, op, one, ref)
    known = await provider.known(op, one, ref)
    was_done = len(moves(simulator)) > len(before)
    answer = known or await carry_out(provider, op, one, ref)

    assert was_done == (known is not None) == (does in {"error_after", "lose_answer"})
    assert isinstance(answer, Approved)
    assert [*before, (DONE[op], 2_500)] == moves(simulator)


async def test_a_failure_that_is_kept_under_the_key_does_not_hold_the_order_up_for_ever(
    provider: Stripe, simulator: Simulator
) -> None:
    ref, one = await authorised(provider, "tok_capture_refused"), key("capture")
    simulator.follow(Script(faults=[Fault(on="capture", does="error_after", times=3)]))

    for _ in range(2):  # refused, and then a 500 that the key replays; so does its next variant
        with pytest.raises(NoAnswer):
            await provider.capture(one, ref, 2_500)
        assert await provider.known(Op.CAPTURE, one, ref) is None

    assert Refused("The card can no longer be charged.") == await provider.capture(one, ref, 2_500)


async def test_a_refund_whose_answer_was_lost_is_found_again(
    provider: Stripe, simulator: Simulator
) -> None:
    ref, one = await authorised(provider), key("refund")
    await provider.capture(key("capture"), ref, 2_500)
    assert await provider.refunded(one, ref) is None
    simulator.follow(Script(faults=[Fault(on="refund", does="error_after")]))

    with pytest.raises(NoAnswer):
        await provider.refund(one, ref, 700)

    assert isinstance(await provider.refunded(one, ref), Approved)
    assert ("refunded", 700) == moves(simulator)[-1]


async def test_a_wrong_key_of_ours_declines_nothing(provider: Stripe) -> None:
    provider._headers = {"Authorization": "Bearer sk_test_another"}

    with pytest.raises(NoAnswer):
        await provider.authorise(key("auth"), "tok_ok", 2_500, "EUR")


# ---- the worker asks: query before retry ----


@pytest.fixture
def work(own: Database, carts: Carts, provider: Stripe) -> worker.Work:
    return worker.Work(
        orders=Orders(own, Timers()),
        after=After(own),
        projections=Projections(own),
        carts=carts,
        provider=provider,
    )


async def reserved(orders: Orders, make: Any) -> UUID:
    accepted = await orders.place("c1", "k" * 16, b"x" * 32, make.a_purchase(), make.a_quote())
    await orders.apply(accepted.order_id, make.held(accepted.order_id))
    return accepted.order_id


async def claimed(orders: Orders, lease: timedelta = timedelta(0)) -> Ask:
    asks = await orders.claim_payments(1, lease)
    assert 1 == len(asks)
    return asks[0]


async def status(orders: Orders, order_id: UUID) -> Status:
    order = await orders.order(order_id)
    assert order is not None
    return order.status


async def test_a_worker_that_dies_after_charging_leaves_one_charge_to_the_next(
    work: worker.Work, simulator: Simulator, make: Any
) -> None:
    order_id = await reserved(work.orders, make)
    ask = await claimed(work.orders)
    simulator.follow(Script(faults=[Fault(on="create", does="error_after")]))
    with pytest.raises(NoAnswer):
        await worker._answer(work.provider, ask)

    await worker._ask(work, await claimed(work.orders, timedelta(seconds=30)))

    assert Status.AUTHORISED is await status(work.orders, order_id)
    assert [("authorised", 2_500)] == moves(simulator)


# ---- webhooks ----


def webhook(one: str, event_id: str = "evt_1") -> bytes:
    data = {"object": {"id": "pi_1", "metadata": {"reference": one}}}
    return msgspec.json.encode({"id": event_id, "type": "payment_intent.succeeded", "data": data})


async def post(client: Client, body: bytes, header: str) -> tuple[int, Any]:
    async with client.post(
        "/payments/webhook", data=body, headers={"Stripe-Signature": header}
    ) as answer:
        return answer.status, await answer.json(content_type=None)


def forged(body: bytes) -> str:
    return signature("whsec_of_somebody_else", body)


def stale(body: bytes) -> str:
    return signature(SECRET, body, int(time.time()) - 301)


def early(body: bytes) -> str:
    return signature(SECRET, body, int(time.time()) + 301)


def of_another_body(body: bytes) -> str:
    return signature(SECRET, body + b" ")


def with_a_new_time(body: bytes) -> str:
    _, _, signed = signature(SECRET, body, int(time.time()) - 400).partition(",")
    return f"t={int(time.time())},{signed}"


def nothing(_: bytes) -> str:
    return ""


@pytest.mark.parametrize(
    "header", [forged, stale, early, of_another_body, with_a_new_time, nothing]
)
async def test_a_webhook_that_the_provider_did_not_send_now_is_refused_and_changes_nothing(
    client: Client, own: Database, make: Any, header: Callable[[bytes], str]
) -> None:
    orders = Orders(own, Timers())
    order_id = await reserved(orders, make)
    ask = await claimed(orders, timedelta(minutes=5))
    body = webhook(ask.key)

    code, problem = await post(client, body, header(body))

    assert (400, "urn:shop:problem:bad-signature") == (code, problem["type"])
    assert [] == await orders.claim_payments(1, timedelta(0))
    assert Status.RESERVED is await status(orders, order_id)


async def test_a_webhook_makes_the_worker_look_and_its_replay_does_nothing(
    client: Client, own: Database, make: Any
) -> None:
    orders = Orders(own, Timers())
    await reserved(orders, make)
    ask = await claimed(orders, timedelta(minutes=5))
    body = webhook(ask.key)
    header = signature(SECRET, body)

    assert (200, {"received": True}) == await post(client, body, header)

    async def due() -> bool:
        return bool(await orders.claim_payments(1, timedelta(minutes=5)))

    assert await until(due)
    assert (200, {"received": True}) == await post(client, body, header)
    assert not await orders.hurry("evt_1", ask.key)
    assert await orders.hurry("evt_2", ask.key)


async def test_a_webhook_cannot_say_that_an_order_is_paid(
    client: Client, own: Database, simulator: Simulator, work: worker.Work, make: Any
) -> None:
    order_id = await reserved(work.orders, make)
    ask = await claimed(work.orders, timedelta(minutes=5))
    body = webhook(ask.key)

    await post(client, body, signature(SECRET, body))

    assert Status.RESERVED is await status(work.orders, order_id)
    assert [] == moves(simulator)


async def test_without_a_secret_there_is_no_webhook(client: Client, settings: Settings) -> None:
    app: Any = client.app
    app._state[next(name for name in app if "webhook" in str(name))] = ""
    body = webhook("k")

    code, _ = await post(client, body, signature("", body))

    assert 404 == code


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"id":1}', b"\xff"])
def test_a_signed_body_that_is_no_event_is_refused(body: bytes) -> None:
    with pytest.raises(BadWebhook):
        read_webhook(body, signature(SECRET, body), SECRET, time.time())


def test_of_several_signatures_one_is_enough_for_secrets_are_rotated() -> None:
    body = webhook("k")
    moment, _, signed = signature(SECRET, body).partition(",")

    notice = read_webhook(body, f"{moment},v1=00,v0=ff,{signed}", SECRET, time.time())

    assert ("evt_1", "k") == (notice.id, notice.key)


async def test_a_payment_is_asked_for_when_its_order_wants_it_not_when_somebody_looks(
    work: worker.Work, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "PAYMENT_POLL_SECONDS", 10 * PATIENCE_S)
    orders = work.orders
    asking = asyncio.create_task(worker.payments(work))
    accepted = await orders.place("c1", "k" * 16, b"x" * 32, make.a_purchase(), make.a_quote())

    for cause, reached in ((make.held, Status.AUTHORISED), (make.committed, Status.CONFIRMED)):
        await orders.apply(accepted.order_id, cause(accepted.order_id))
        assert await until(lambda reached=reached: is_now(orders, accepted.order_id, reached))

    asking.cancel()
    await asyncio.wait([asking])


async def is_now(orders: Orders, order_id: UUID, wanted: Status) -> bool:
    return await status(orders, order_id) is wanted


async def test_payments_survive_every_fault_with_doubled_late_and_reordered_webhooks(
    client: Client, work: worker.Work, simulator: Simulator, make: Any
) -> None:
    simulator._settings = msgspec.structs.replace(
        simulator._settings, webhook_url=str(client.make_url("/payments/webhook"))
    )
    faults: list[Any] = ["error", "error_after", "lose_request", "lose_answer", "in_use"]
    simulator.follow(
        Script(
            faults=[Fault(does=does, times=1_000, chance=0.05) for does in faults],
            webhooks=Deliveries(copies=3, jitter_s=0.3, lost=0.2),
        )
    )
    orders = work.orders
    ids = []
    for number in range(12):
        accepted = await orders.place(
            f"c{number}", "k" * 16, b"x" * 32, make.a_purchase(), make.a_quote()
        )
        await orders.apply(accepted.order_id, make.held(accepted.order_id))
        ids.append(accepted.order_id)
    asking = asyncio.create_task(worker.payments(work))

    async def asked(op: Op) -> bool:
        known = [await orders.order(order_id) for order_id in ids]
        return all(order is not None and Asked.DONE is order.payments.get(op) for order in known)

    await until(lambda: asked(Op.AUTH))
    for order_id in ids:
        await orders.apply(order_id, make.committed(order_id))
    await until(lambda: asked(Op.CAPTURE))
    asking.cancel()
    await asyncio.wait([asking])

    assert [Status.CONFIRMED] * 12 == [await status(orders, order_id) for order_id in ids]
    assert {"authorised": 12, "captured": 12} == {
        op: sum(entry.op == op for entry in simulator.bank.ledger)
        for op in {entry.op for entry in simulator.bank.ledger}
    }
    references = [entry.reference for entry in simulator.bank.ledger if entry.op == "captured"]
    assert 12 == len(set(references))


async def until(look: Callable[[], Awaitable[bool]]) -> bool:
    async with asyncio.timeout(PATIENCE_S):
        while not await look():
            await asyncio.sleep(0.05)
    return True
