"""Which addresses of others may be called: public ones over https, looked up once. Sends nothing.

NotAllowed (ValueError)   the URL, or every address behind its name, is none of a public server
"""

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

MAX_URL = 2_048
HTTPS_PORT = 443
FIRST_UNPRIVILEGED_PORT = 1_024
_NAT64 = IPv6Network("64:ff9b::/96")


class NotAllowed(ValueError):
    """The address is not one of a public server; the message never repeats it."""


def allowed(text: str, *, loopback: bool = False) -> URL:
    """The URL, if it may be called at all. With `loopback` (for tests), http to oneself as well.

    A name in it is judged when it is looked up, by `PublicResolver`.
    """
    try:
        url = URL(text)
        port = url.port or 0
    except ValueError as error:
        raise NotAllowed("It is not a URL.") from error
    if len(text) > MAX_URL or not text.isascii() or not text.isprintable():
        raise NotAllowed(f"It has more than {MAX_URL} characters, or others than ASCII.")
    if url.scheme not in {"https", "http"} or not url.host:
        raise NotAllowed("It does not begin with https:// and a name.")
    if url.user is not None or url.password is not None or url.raw_fragment:
        raise NotAllowed("It carries credentials or a fragment.")
    literal = _literal(url.host)
    if loopback and literal is not None and literal.is_loopback:
        return url
    if url.scheme != "https":
        raise NotAllowed("It does not begin with https://.")
    if port != HTTPS_PORT and port < FIRST_UNPRIVILEGED_PORT:
        raise NotAllowed("Its port belongs to another service than a web server.")
    if literal is not None and not is_public(literal):
        raise NotAllowed("Its address is not public.")
    return url


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether anybody on the internet may have this address: no network of one's own, no group."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped or address.sixtofour or address.teredo:
            return False  # another way to write an address, that no server is published under
        if address in _NAT64:
            return is_public(IPv4Address(address.packed[-4:]))
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified
    )


class PublicResolver(AbstractResolver):
    """Looks a name up by `upstream` and gives its addresses only if all of them are public.

    The connector connects to what this returns, so nobody can name another address in between.
    """

    def __init__(self, upstream: AbstractResolver) -> None:
        self._upstream = upstream

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._upstream.resolve(host, port, family)
        # one private address among public ones is a trick, not a mistake
        if not all(is_public(ip_address(each["host"].partition("%")[0])) for each in found):
            raise NotAllowed("Its name leads to an address that is not public.")
        return found

    async def close(self) -> None:
        await self._upstream.close()


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        return None
