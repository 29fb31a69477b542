"""Deliveries on both databases, to receivers that are real servers."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import pytest
import sqlalchemy as sa
from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from notify.book import Book, Disabled, Message, NoSuchDelivery, StillWaiting
from notify.dispatch import EACH, dispatch
from notify.mail import mailer
from notify.sender import Sender

pytestmark = pytest.mark.connected


@asynccontextmanager
async def dispatching(book: Book, processes: int = 1) -> AsyncIterator[None]:
    """What a process does that sends; its receivers may be on loopback."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        sender = Sender(http, mailer("", "shop@shop.example", Path("unused")), loopback=True)
        tasks = [
            asyncio.create_task(dispatch(book, sender, poll_seconds=0.02)) for _ in range(processes)
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def hook(book: Book, receiver: Any) -> tuple[UUID, str]:
    webhook, secret = await book.register(receiver.url, [])
    assert secret is not None
    return webhook.id, secret


def told(webhook: UUID, subject: str = "chair", number: int = 1) -> Message:
    body = json.dumps({"type": "stock.back", "data": {"sku": subject, "number": number}})
    return Message(type="stock.back", subject=subject, body=body.encode(), webhook_id=webhook)


async def ended(kept: Any, webhook: UUID, state: str, count: int = 1) -> list[Any]:
    async with asyncio.timeout(30):
        while True:
            found = await kept.book.deliveries(webhook)
            if sum(delivery.state == state for delivery in found) >= count:
                return list(found)
            await asyncio.sleep(0.01)


async def tried(kept: Any, webhook: UUID, tries: int) -> Any:
    async with asyncio.timeout(30):
        while (found := (await kept.book.deliveries(webhook))[0]).tries < tries:
            await asyncio.sleep(0.01)
    return found


async def at_once(kept: Any) -> None:
    """Let the hours until the next try pass."""
    table = kept.tables.deliveries
    await kept.change(sa.update(table).values(next_at=datetime.now(UTC) - timedelta(seconds=1)))


def answering(*statuses: int, **headers: str) -> Callable[[web.Request], Any]:
    left = list(statuses)

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=left.pop(0) if len(left) > 1 else left[0], headers=headers)

    return answer


async def test_a_receiver_can_tell_that_it_was_us(kept: Any, receiver: Any) -> None:
    webhook, secret = await hook(kept.book, receiver)
    id_ = await kept.book.send(told(webhook))
    async with dispatching(kept.book):
        await receiver.count(1)
        (delivery,) = await ended(kept, webhook, "delivered")
    headers, body = receiver.got[0]

    assert str(id_) == headers["webhook-id"]
    assert "chair" == Webhook(secret).verify(body, dict(headers))["data"]["sku"]
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body.replace(b"chair", b"table"), dict(headers))
    assert ["delivered"] == [one.outcome for one in delivery.log]
    assert 200 == delivery.log[0].status


async def test_both_secrets_sign_while_one_replaces_the_other(kept: Any, receiver: Any) -> None:
    webhook, old = await hook(kept.book, receiver)
    new = await kept.book.rotate(webhook)
    await kept.book.send(told(webhook))
    async with dispatching(kept.book):
        await receiver.count(1)
        headers, body = receiver.got[0]
        Webhook(old).verify(body, dict(headers))
        Webhook(new).verify(body, dict(headers))

        await kept.change(sa.update(kept.tables.webhooks).values(old_until=datetime.now(UTC)))
        await kept.book.send(told(webhook))
        await receiver.count(2)
    headers, body = receiver.got[1]

    Webhook(new).verify(body, dict(headers))
    with pytest.raises(WebhookVerificationError):
        Webhook(old).verify(body, dict(headers))


async def test_what_fails_is_tried_again_under_the_same_id_until_it_arrives(
    kept: Any, receiver: Any
) -> None:
    webhook, _ = await hook(kept.book, receiver)
    receiver.answer = answering(500, 302, 200)
    id_ = await kept.book.send(told(webhook))
    async with dispatching(kept.book):
        first = await tried(kept, webhook, 1)

        assert "waiting" == first.state
        assert first.next_at - first.log[0].at <= timedelta(seconds=5)
        assert (await kept.book.webhook(webhook)).failing_since is not None

        await at_once(kept)
        await tried(kept, webhook, 2)
        await at_once(kept)
        (last,) = await ended(kept, webhook, "delivered")

    assert [500, 302, 200] == [one.status for one in last.log]
    assert {str(id_)} == {headers["webhook-id"] for headers, _ in receiver.got}
    assert (await kept.book.webhook(webhook)).failing_since is None


async def test_after_ten_tries_a_delivery_has_failed_and_can_be_sent_again_by_hand(
    kept: Any, receiver: Any
) -> None:
    webhook, _ = await hook(kept.book, receiver)
    receiver.answer = answering(500)
    id_ = await kept.book.send(told(webhook))
    async with dispatching(kept.book):
        for tries in range(1, 11):
            await tried(kept, webhook, tries)
            await at_once(kept)
        await ended(kept, webhook, "failed")
        with pytest.raises(NoSuchDelivery):
            await kept.book.redeliver(webhook, UUID(int=1))

        receiver.answer = answering(200)
        await kept.book.redeliver(webhook, id_)
        (last,) = await ended(kept, webhook, "delivered")

    assert list(range(1, 12)) == [one.number for one in last.log]
    assert 11 == len(receiver.got)


async def test_a_redirect_is_not_followed(kept: Any, receiver: Any, other: Any) -> None:
    webhook, _ = await hook(kept.book, receiver)
    receiver.answer = answering(307, Location=other.url)
    await kept.book.send(told(webhook))
    async with dispatching(kept.book):
        delivery = await tried(kept, webhook, 1)

    assert 307 == delivery.log[0].status
    assert [] == other.got


async def test_a_receiver_that_is_busy_names_the_time_to_come_back(
    kept: Any, receiver: Any
) -> None:
    webhook, _ = await hook(kept.book, receiver)
    receiver.answer = answering(503, **{"Retry-After": "600"})
    await kept.book.send(told(webhook))
    async with dispatching(kept.book):
        delivery = await tried(kept, webhook, 1)

    assert delivery.next_at - delivery.log[0].at >= timedelta(seconds=600)


async def test_a_receiver_that_is_gone_is_told_nothing_more_until_it_is_enabled(
    kept: Any, receiver: Any
) -> None:
    webhook, _ = await hook(kept.book, receiver)
    receiver.answer = answering(410)
    for number in range(3):
        await kept.book.send(told(webhook, number=number))
    async with dispatching(kept.book):
        await ended(kept, webhook, "failed")
        disabled = await kept.book.webhook(webhook)

        assert ("disabled", "gone") == (disabled.state, disabled.reason)
        with pytest.raises(Disabled):
            await kept.book.send(told(webhook))
        with pytest.raises(Disabled):
            await kept.book.redeliver(webhook, (await kept.book.deliveries(webhook))[-1].id)
        assert 1 == len(receiver.got)

        receiver.answer = answering(200)
        await kept.book.enable(webhook)
        await ended(kept, webhook, "delivered", 2)


async def test_a_receiver_that_fails_for_days_is_disabled(kept: Any, receiver: Any) -> None:
    webhook, _ = await hook(kept.book, receiver)
    receiver.answer = answering(500)
    await kept.book.send(told(webhook))
    async with dispatching(kept.book):
        await tried(kept, webhook, 1)

        assert "active" == (await kept.book.webhook(webhook)).state

        table = kept.tables.webhooks
        six_days_ago = datetime.now(UTC) - timedelta(days=6)
        await kept.change(sa.update(table).values(failing_since=six_days_ago))
        await at_once(kept)
        await tried(kept, webhook, 2)
    disabled = await kept.book.webhook(webhook)

    assert ("disabled", "failing") == (disabled.state, disabled.reason)


async def test_messages_of_one_subject_arrive_in_order_and_others_do_not_wait_for_them(
    kept: Any, receiver: Any
) -> None:
    webhook, _ = await hook(kept.book, receiver)

    async def answer(request: web.Request) -> web.Response:
        sku = json.loads(await request.read())["data"]["sku"]
        failed = sku == "chair" and not blocked.is_set()
        return web.Response(status=500 if failed else 200)

    blocked = asyncio.Event()
    receiver.answer = answer
    for number in range(5):
        await kept.book.send(told(webhook, "chair", number))
        await kept.book.send(told(webhook, "table", number))
    async with dispatching(kept.book, processes=2):
        await ended(kept, webhook, "delivered", 5)
        blocked.set()
        await at_once(kept)
        await ended(kept, webhook, "delivered", 10)
    arrived: dict[str, list[int]] = {"chair": [], "table": []}
    for _, body in receiver.got:
        data = json.loads(body)["data"]
        arrived[data["sku"]].append(data["number"])

    assert list(range(5)) == arrived["table"]
    assert [0, 0, 1, 2, 3, 4] == arrived["chair"]


async def test_a_slow_receiver_delays_no_other(kept: Any, receiver: Any, other: Any) -> None:
    slow, _ = await hook(kept.book, receiver)
    quick, _ = await hook(kept.book, other)

    async def hanging(_request: web.Request) -> web.Response:
        await enough.wait()
        return web.Response()

    enough = asyncio.Event()
    receiver.answer = hanging
    for number in range(100):
        await kept.book.send(told(slow, f"s{number}"))
    await kept.book.send(told(quick))
    async with dispatching(kept.book):
        await ended(kept, quick, "delivered")

        assert 1 <= len(receiver.got) <= EACH
        enough.set()
        await kept.book.remove(slow)


async def test_several_processes_send_each_delivery_once(kept: Any, receiver: Any) -> None:
    webhook, _ = await hook(kept.book, receiver)
    for number in range(60):
        await kept.book.send(told(webhook, f"s{number}"))
    async with dispatching(kept.book, processes=3):
        await ended(kept, webhook, "delivered", 50)
        await receiver.count(60)
    counts = Counter(headers["webhook-id"] for headers, _ in receiver.got)

    assert 60 == len(counts)
    assert {1} == set(counts.values())


async def test_what_a_killed_process_had_in_hand_is_sent_by_another(
    kept: Any, receiver: Any
) -> None:
    webhook, _ = await hook(kept.book, receiver)
    id_ = await kept.book.send(told(webhook))
    (due,) = await kept.book.claim(10, [], each=EACH)  # and then it is killed

    assert id_ == due.id
    assert [] == await kept.book.claim(10, [], each=EACH)

    past = datetime.now(UTC) - timedelta(seconds=1)
    await kept.change(sa.update(kept.tables.deliveries).values(leased_until=past))
    async with dispatching(kept.book):
        await ended(kept, webhook, "delivered")

    assert 1 == len(receiver.got)


async def test_a_delivery_that_still_waits_cannot_be_asked_for_again(
    kept: Any, receiver: Any
) -> None:
    webhook, _ = await hook(kept.book, receiver)
    id_ = await kept.book.send(told(webhook))
    with pytest.raises(StillWaiting):
        await kept.book.redeliver(webhook, id_)


async def test_a_message_goes_to_those_who_asked_for_its_type(
    kept: Any, receiver: Any, other: Any
) -> None:
    asked, _ = await kept.book.register(receiver.url, ["order.confirmed"])
    silent, _ = await kept.book.register(other.url, ["order.cancelled"])

    async def work(connection: Any) -> None:
        await kept.book.announce(connection, "order.confirmed", "o1", b"{}")

    await kept.database.write(work)

    assert 1 == len(await kept.book.deliveries(asked.id))
    assert [] == await kept.book.deliveries(silent.id)


async def test_what_ended_long_ago_is_forgotten(kept: Any, receiver: Any) -> None:
    webhook, _ = await hook(kept.book, receiver)
    await kept.book.send(told(webhook))
    async with dispatching(kept.book):
        await ended(kept, webhook, "delivered")
    assert 0 == await kept.book.sweep()

    long_ago = datetime.now(UTC) - timedelta(days=31)
    await kept.change(sa.update(kept.tables.deliveries).values(done_at=long_ago))

    assert 1 == await kept.book.sweep()
    assert [] == await kept.book.deliveries(webhook)
