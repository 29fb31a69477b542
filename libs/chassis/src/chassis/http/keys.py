"""API keys: who may call a scoped route. Knows hashes only, never a key."""

import hashlib
import hmac
from pathlib import Path

import msgspec
from aiohttp import web

from chassis.problems import Forbidden, Unauthorized


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sha256: str
    scopes: frozenset[str]


class ApiKeys:
    """The keys of one file, `{"<id>": {"sha256": "<hex of the whole key>", "scopes": [..]}}`.

    Two live keys with the same scopes make a rotation. Without a file every key is unknown.
    """

    def __init__(self, path: str | None) -> None:
        self._entries = (
            msgspec.json.decode(Path(path).read_bytes(), type=dict[str, _Entry]) if path else {}
        )

    def check(self, request: web.Request, scope: str) -> str:
        """The id of the caller's key. Raises Unauthorized or Forbidden."""
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.startswith("k_"):
            raise Unauthorized("Send `Authorization: Bearer k_<id>_<secret>`.")
        key_id = key[2:].partition("_")[0]
        entry = self._entries.get(key_id)
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        # An unknown id takes the same time as a wrong secret.
        if not hmac.compare_digest(digest, entry.sha256 if entry else "0" * 64) or entry is None:
            raise Unauthorized("This API key is not known here.")
        if scope not in entry.scopes:
            raise Forbidden(f"This needs the scope {scope}.")
        return key_id
