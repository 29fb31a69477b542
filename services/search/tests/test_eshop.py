"""Products that others wrote, and what their README says must be found."""

import json
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parents[4] / "shared" / "data" / "eshop" / "catalog.json"

pytestmark = [
    pytest.mark.connected,
    pytest.mark.skipif(not DATA.is_file(), reason="real product data is not beside the checkout"),
]


async def test_the_facts_of_eshop_hold(shop: Any, say: Any) -> None:
    rows = json.loads(DATA.read_text())
    for row in rows:
        sku = f"eshop-{row['Id']}"
        await shop.store.project(
            [
                say.published(
                    sku,
                    name=row["Name"],
                    brand=row["Brand"],
                    description=row["Description"],
                    categories=[row["Type"].replace("/", "-")],
                ),
                say.price(sku, round(row["Price"] * 100), currencies=["USD"]),
            ]
        )
    await shop.hears()

    everything = await shop.find(currency="USD")
    helmets = await shop.find(q="helmet", in_="name", currency="USD")
    backpacks = await shop.find(q="backpack", in_="name", currency="USD")

    assert (101, 2199, 69900) == (
        everything["total"],
        everything["price"]["min"],
        everything["price"]["max"],
    )
    assert 16727.93 == round(everything["price"]["avg"], 2)
    assert (8, 10424.12) == (helmets["total"], round(helmets["price"]["avg"], 2))
    assert {"cycling"} == {
        value["value"] for value in helmets["facets"]["categories"] if value["count"]
    }
    assert (10, 11029.2) == (backpacks["total"], round(backpacks["price"]["avg"], 2))
