"""Tells Varnish what to forget. Knows no event."""

from collections.abc import Iterable
from http import HTTPStatus

import aiohttp

HEADER_KEYS = 100
"""Keys in one request: at most 40 bytes each, well below Varnish's 8 KiB for a header."""
SECONDS = 5


class PurgeFailed(Exception):
    """Varnish did not say that it has forgotten; the events are tried again."""


class Cache:
    """The purge listener of one Varnish."""

    def __init__(self, http: aiohttp.ClientSession, purge_url: str) -> None:
        self._http = http
        self._url = purge_url

    async def purge(self, keys: Iterable[str]) -> None:
        """Forget every object that carries one of the keys. Raises `PurgeFailed`."""
        wanted = sorted(keys)
        for start in range(0, len(wanted), HEADER_KEYS):
            part = wanted[start : start + HEADER_KEYS]
            try:
                async with self._http.request(
                    "PURGE",
                    self._url,
                    headers={"xkey-purge": " ".join(part)},
                    timeout=aiohttp.ClientTimeout(total=SECONDS),
                ) as answer:
                    status = answer.status
            except (aiohttp.ClientError, TimeoutError) as error:
                raise PurgeFailed(repr(error)) from error
            if status != HTTPStatus.OK:
                raise PurgeFailed(f"Varnish answered {status}")
