"""The books of the simulator outlive its process, and only who knows its key may move money."""

from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from chassis.settings import SettingsError, load
from payments.app import application
from payments.settings import PREFIX, Settings

FORM = {"amount": "500", "currency": "eur", "payment_method": "tok_ok", "capture_method": "manual"}


def client(tmp_path: Path) -> TestClient[Any, Any]:
    settings = Settings(
        key="sk_test_k", webhook_secret="whsec", journal=tmp_path / "j.ndjson", profile="test"
    )
    return TestClient(TestServer(application(settings)))


async def create(
    shop: TestClient[Any, Any], key: str, secret: str = "sk_test_k"
) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {secret}", "Idempotency-Key": key}
    async with shop.post("/v1/payment_intents", data=FORM, headers=headers) as answer:
        return answer.status, await answer.json()


async def test_a_new_process_knows_what_the_last_one_did(tmp_path: Path) -> None:
    async with client(tmp_path) as before:
        first = await create(before, "key-1")
    with (tmp_path / "j.ndjson").open("ab") as journal:
        journal.write(b'{"torn')

    async with client(tmp_path) as after:
        again = await create(after, "key-1")
        await create(after, "key-2")
        async with after.get("/simulator/ledger") as answer:
            ledger = await answer.json()

    assert (200, first[1]) == again
    assert [("authorised", 500)] * 2 == [(entry["op"], entry["amount"]) for entry in ledger]
    async with client(tmp_path) as last:
        assert 200 == (await create(last, "key-2"))[0]
        async with last.get("/simulator/ledger") as answer:
            assert ledger == await answer.json()


async def test_nobody_moves_money_without_the_key(tmp_path: Path) -> None:
    async with client(tmp_path) as shop:
        status, body = await create(shop, "key-1", "sk_test_other")

    assert (401, "api_key_invalid") == (status, body["error"]["code"])


async def test_a_script_that_is_none_is_refused(tmp_path: Path) -> None:
    script = {"faults": [{"does": "explode"}]}
    async with client(tmp_path) as shop, shop.put("/simulator/script", json=script) as answer:
        assert 400 == answer.status


def test_it_does_not_start_where_money_is_meant() -> None:
    with pytest.raises(SettingsError):
        load(
            Settings,
            PREFIX,
            {"PAYMENTS_KEY": "k", "PAYMENTS_WEBHOOK_SECRET": "w", "PAYMENTS_PROFILE": "prod"},
        )
