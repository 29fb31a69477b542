"""The images and compose.yaml, built and run by a container engine, with stand-ins for images."""

import asyncio
import subprocess
from collections.abc import Iterator

import aiohttp
import pytest

from shop import containers, elastic, standins
from shop.client import ShopClient, until
from shop.containers import Engine
from shop.profiles import Profile, profile
from shop.secrets import api_key

pytestmark = pytest.mark.containers

REACH = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"


@pytest.fixture(scope="module")
def boxed() -> Profile:
    return profile("containers")


@pytest.fixture(scope="module")
def engine(boxed: Profile) -> Iterator[Engine]:
    """An engine with every image but ours; nothing of an earlier run is left in it."""
    elastic.distribution()
    with standins.engine() as env:
        images = standins.images(env)
        found = containers.engine({**env, **images}, compose=standins.compose())
        containers.down(boxed, found, data=True)
        yield found
        containers.down(boxed, found, data=True)


@pytest.fixture(scope="module")
def shop(boxed: Profile, engine: Engine) -> Profile:
    containers.up(boxed, engine)
    return boxed


def docker(engine: Engine, *command: str) -> str:
    done = subprocess.run(
        ["docker", *command], env=engine.env, capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout.strip()


def running(engine: Engine) -> list[str]:
    return docker(engine, "ps", "--format", "{{.Names}}").splitlines()


async def buy(shop: Profile) -> None:
    async with aiohttp.ClientSession() as http:
        client = ShopClient(http, shop.url("edge"), api_key(shop), broker_url="")
        sku = await client.put_product(stock=3)

        order = await client.ended(await client.order((sku, 2)))

        assert "confirmed" == order["status"]
        await until(
            lambda: client.get(f"/api/products/{sku}/stock"), lambda answer: answer["stock"] == 1
        )

        order = await client.ended(await client.order((sku, 2)))

        assert "cancelled" == order["status"]
        assert "out_of_stock" == order["reason"]
        assert 1 == (await client.get(f"/api/products/{sku}/stock"))["stock"]


async def test_an_order_goes_through_the_edge_and_all_containers(shop: Profile) -> None:
    await buy(shop)


async def test_the_edge_serves_pages_and_static_files(shop: Profile) -> None:
    async with aiohttp.ClientSession() as http:
        for path, kind in (("/", "text/html"), ("/static/shop.css", "text/css")):
            async with http.get(shop.url("edge", path=path)) as answer:
                assert 200 == answer.status
                assert kind == answer.content_type


def test_no_process_is_root_and_no_port_is_open_beyond_loopback(
    shop: Profile, engine: Engine
) -> None:
    for name in running(engine):
        assert "0" != docker(engine, "exec", name, "id", "-u")

    published = docker(engine, "ps", "--format", "{{.Ports}}").replace(",", "\n").split("\n")
    bound = {port.strip() for port in published if "->" in port}

    assert {f"127.0.0.1:{shop.ports['edge']}->8080/tcp"} == bound


@pytest.mark.parametrize(
    ("process", "host", "port", "reached"),
    [
        ("stock-api", "redis-stock", "6379", True),
        ("stock-api", "redis-carts", "6379", False),
        ("stock-api", "elasticsearch", "9200", False),
        ("catalog-api", "elasticsearch", "9200", True),
        ("catalog-api", "redis-stock", "6379", False),
        ("checkout-worker", "redis-carts", "6379", True),
        ("checkout-worker", "elasticsearch", "9200", False),
        ("search-worker", "redis-stock", "6379", False),
        ("search-worker", "varnish", "8081", False),
        ("search-worker", "192.0.2.1", "443", False),
    ],
)
def test_a_service_reaches_its_own_store_and_no_other(
    shop: Profile, engine: Engine, process: str, host: str, port: str, *, reached: bool
) -> None:
    inside = ["docker", "exec", f"shopstream-{shop.name}-{process}-1", "python", "-c", REACH]
    done = subprocess.run([*inside, host, port], env=engine.env, capture_output=True, check=False)

    assert reached is (done.returncode == 0), done.stderr


async def test_another_start_moves_orders_to_mariadb_and_the_shop_still_sells(
    shop: Profile, engine: Engine
) -> None:
    containers.up(shop, engine, mariadb=True)
    await buy(shop)

    assert f"shopstream-{shop.name}-mariadb-1" in running(engine)


async def test_a_second_start_changes_nothing(shop: Profile, engine: Engine) -> None:
    before = docker(engine, "ps", "--no-trunc", "--quiet")
    await asyncio.to_thread(containers.up, shop, engine, mariadb=True)

    assert before == docker(engine, "ps", "--no-trunc", "--quiet")


async def test_down_leaves_no_container_and_no_network(shop: Profile, engine: Engine) -> None:
    containers.down(shop, engine)

    assert [] == [name for name in running(engine) if shop.name in name]
    assert shop.name not in docker(engine, "network", "ls", "--format", "{{.Name}}")
