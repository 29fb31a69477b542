"""The worker keeps the contract of `stock.changed.v1`: no broker, no shop, only the wheel."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from stock_worker import StockWorker

from shop_contracts.kit.contract import Contract


@pytest.mark.consumes("stock.changed.v1", subscription="acme.stock")
def test_the_stock_worker_keeps_the_contract(contract: Contract, tmp_path: Path) -> None:
    path = tmp_path / "levels.db"
    worker = StockWorker(path, retry_pause=0)

    @contextmanager
    def outage() -> Iterator[None]:
        shutil.move(path, tmp_path / "away.db")
        path.mkdir()  # a database that cannot be opened
        yield
        path.rmdir()
        shutil.move(tmp_path / "away.db", path)

    contract.check(deliver=worker.on_message, effects=worker.levels, outage=outage)
