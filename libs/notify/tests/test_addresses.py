"""Which addresses may be called, by every trick that is known to us."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from notify.addresses import NotAllowed, PublicResolver, allowed, is_public
from notify.sender import public_session


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("64:ff9b::5db8:d822", True),  # the first of these, through NAT64
        ("127.0.0.1", False),
        ("127.255.255.254", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),  # where clouds keep their machines' credentials
        ("100.64.0.1", False),
        ("192.0.2.1", False),
        ("198.18.0.1", False),
        ("224.0.0.1", False),
        ("239.255.255.250", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.216.34", False),
        ("::127.0.0.1", False),
        ("fe80::1", False),
        ("fc00::1", False),
        ("fd00:ec2::254", False),
        ("ff02::1", False),
        ("2001:db8::1", False),
        ("2002:7f00:1::", False),
        ("2002:5db8:d822::", False),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b:1::7f00:1", False),
    ],
)
def test_only_addresses_that_anybody_may_have_are_public(address: str, public: bool) -> None:
    assert public is is_public(ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example/shop?of=1",
        "https://hooks.example:8443/",
        "https://93.184.216.34/",
        "https://[2606:2800:220:1:248:1893:25c8:1946]/",
    ],
)
def test_a_public_https_address_may_be_called(url: str) -> None:
    assert url == str(allowed(url))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example",
        "//hooks.example/",
        "http://hooks.example/",
        "ftp://hooks.example/",
        "file:///etc/passwd",
        "gopher://hooks.example/",
        "https:///path",
        "https://user:pw@hooks.example/",
        "https://user@hooks.example/",
        "https://hooks.example/#part",
        "https://hooks.example:25/",
        "https://hooks.example:22/",
        "https://hooks.example:99999/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://10.0.0.1:8443/",
        "https://hööks.example/",
        "https://hooks.example/\r\nX-Evil: 1",
        "https://hooks.example/" + "x" * 2_048,
        "http://127.0.0.1/",
    ],
)
def test_every_other_address_may_not(url: str) -> None:
    with pytest.raises(NotAllowed) as caught:
        allowed(url)
    assert not url or url not in str(caught.value)


def test_tests_may_call_themselves_and_nothing_else() -> None:
    assert "http://127.0.0.1:9/hook" == str(allowed("http://127.0.0.1:9/hook", loopback=True))
    for url in ("http://10.0.0.1/", "http://hooks.example/", "https://10.0.0.1/"):
        with pytest.raises(NotAllowed):
            allowed(url, loopback=True)


class Names(AbstractResolver):
    """What a name server of somebody else may answer, one answer for each question."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked += 1
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self.answers.pop(0)
        ]

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "answer", [["127.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["::1"], ["fe80::1%2"]]
)
async def test_a_name_that_leads_inside_is_not_called(answer: list[str]) -> None:
    with pytest.raises(NotAllowed):
        await PublicResolver(Names(answer)).resolve("rebind.example", 443)


async def test_a_name_is_looked_up_once_for_a_call() -> None:
    names = Names(["10.0.0.1"], ["127.0.0.1"])
    async with inside() as (port, reached), public_session(names) as session:
        with pytest.raises(NotAllowed):
            await session.post(f"https://rebind.example:{port}/")

    assert 1 == names.asked
    assert [] == reached


@pytest.mark.parametrize("name", ["localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1"])
async def test_no_way_of_writing_loopback_reaches_it(name: str) -> None:
    async with inside() as (port, reached), public_session() as session:
        with pytest.raises((NotAllowed, aiohttp.ClientError)):
            await session.post(allowed(f"https://{name}:{port}/"))

    assert [] == reached


@asynccontextmanager
async def inside() -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that nobody outside may reach: its port, and what reached it."""
    reached: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.append(await reader.read(1))
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], reached
