"""Product data that others made goes in through the mappings that ship with the project."""

import asyncio
import csv
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from shop.client import ShopClient, until
from shop.profiles import ROOT

pytestmark = pytest.mark.connected

DATA = ROOT.parent / "shared" / "data"


def data(name: str) -> list[str]:
    """The files of one data set, as arguments."""
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"the {name} product data is not beside the checkout")
    suffix = {"oscar-books": "*.csv", "dummyjson": "products.json"}.get(name, "*.json")
    return [str(path) for path in sorted(folder.glob(suffix))]


async def run_import(*arguments: str, code: int = 0) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shop", "import", "--profile", "test"),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", "TERM": "dumb"},
    )
    output = (await process.communicate())[0].decode()
    assert code == process.returncode, output
    return output


async def searched(shop: ShopClient, total: int, **query: str) -> dict[str, Any]:
    """What the search answers, asked in a currency that only these products have prices in."""
    query.setdefault("price_min", "0")
    return await until(
        lambda: shop.get("/api/search", **query),
        lambda answer: answer["total"] == total and answer["price"]["count"] == total,
        within=60,
    )


async def test_eshops_catalogue_is_found_with_its_prices(shop: ShopClient) -> None:
    await run_import(*data("eshop"), "--mapping", "eshop")

    # the data sets share one shop, so each is asked for by what only it has
    helmets = await searched(shop, 8, q="helmet", currency="USD", **{"in": "name"})
    assert 104.2412 == pytest.approx(helmets["price"]["avg"] / 100, abs=1e-4)
    backpacks = await searched(shop, 10, q="backpack", currency="USD", **{"in": "name"})
    assert 110.292 == pytest.approx(backpacks["price"]["avg"] / 100, abs=1e-4)
    assert ["Cycling"] == [facet["name"] for facet in helmets["facets"]["categories"]]


async def test_a_second_import_emits_no_event(shop: ShopClient) -> None:
    files = data("eshop")
    await run_import(*files, "--mapping", "eshop")
    await searched(shop, 8, q="helmet", currency="USD", **{"in": "name"})
    before = {owner: await shop.end_of(owner) for owner in ("catalog", "stock")}

    summary = await run_import(*files, "--mapping", "eshop")

    assert "101" in summary
    assert "unchanged" in summary
    assert before == {owner: await shop.end_of(owner) for owner in ("catalog", "stock")}


async def test_oscars_dirty_rows_are_named_and_the_rest_goes_in(shop: ShopClient) -> None:
    files = data("oscar-books")

    summary = await run_import(*files, "--mapping", "oscar-books")

    for line, reason in (
        ("books.essential.csv:2", "contains markup"),
        ("books.hacking.csv:1", "was first seen in"),
        ("books.hacking.csv:13", "was first seen in"),
        ("books.hacking.csv:22", "was first seen in"),
    ):
        assert any(line + " " in row and reason in row for row in summary.splitlines()), line
    rows: dict[str, list[str]] = {}
    for file in files:
        with Path(file).open(encoding="utf-8") as lines:
            for row in csv.reader(lines):
                rows.setdefault(row[6], row)
    del rows["9780201616224"]
    cents = [round(float(row[7]) * 100) for row in rows.values()]
    books = await searched(shop, 197, currency="GBP", price_min="1")
    assert min(cents) == books["price"]["min"]
    assert max(cents) == books["price"]["max"]
    assert sum(cents) / 197 == pytest.approx(books["price"]["avg"])
    levels = [await shop.get(f"/api/products/{sku}/stock") for sku in rows]
    assert sum(int(row[8]) for row in rows.values()) == sum(level["stock"] for level in levels)


async def test_dummyjsons_products_come_with_stock_and_optional_brand(shop: ShopClient) -> None:
    files = data("dummyjson")
    products = json.loads(Path(files[0]).read_bytes())

    await run_import(*files, "--mapping", "dummyjson")

    levels = {
        product["sku"]: (await shop.get(f"/api/products/{product['sku']}/stock"))["stock"]
        for product in products
    }
    assert {product["sku"]: product["stock"] for product in products} == levels
    assert 4 == list(levels.values()).count(0)
    beauty = [product for product in products if product["category"] == "beauty"]
    found = await searched(shop, len(beauty), category="beauty", currency="USD")
    assert Counter(p["brand"] for p in beauty if p.get("brand")) == Counter(
        {facet["value"]: facet["count"] for facet in found["facets"]["brands"] if facet["count"]}
    )
    in_stock = await shop.get("/api/search", category="beauty", in_stock="true")
    assert sum(product["stock"] > 0 for product in beauty) == in_stock["total"]
