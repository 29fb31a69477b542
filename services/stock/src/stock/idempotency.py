"""The Idempotency-Key of a request. Knows no command and no store."""

import re

from aiohttp import web

from chassis.problems import BadRequest

_KEY = re.compile(r'("?)([A-Za-z0-9_-]{16,128})\1')


class BadKey(BadRequest):
    """The Idempotency-Key is not 16 to 128 letters, digits, `_` or `-`."""

    slug = "bad-idempotency-key"
    title = "The Idempotency-Key is malformed"


def idempotency_key(request: web.Request) -> str | None:
    """The key that the caller sent, if one; raises `BadKey`."""
    given = request.headers.get("Idempotency-Key")
    if given is None:
        return None
    if (found := _KEY.fullmatch(given)) is None:
        raise BadKey
    return found[2]
