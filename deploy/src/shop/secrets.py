"""Secrets of a profile: made once, kept in files only their owner reads. Knows no server."""

import hashlib
import os
import secrets
from base64 import b64encode
from pathlib import Path

import msgspec

from shop.account import give
from shop.profiles import Profile

SCOPES = [
    *("catalog:write", "stock:write", "reservations:write"),
    *("orders:read", "orders:write", "coupons:write"),
]
API_KEY_ID = "admin"


def secret(profile: Profile, name: str) -> str:
    """The secret of that name, made on the first call."""
    path = profile.folder("secrets") / name
    if not path.exists():
        write_private(path, secrets.token_urlsafe(24))
    return path.read_text()


def api_key(profile: Profile) -> str:
    """The administrator's API key, `k_<id>_<random>`; services see only its hash."""
    return f"k_{API_KEY_ID}_{secret(profile, 'api_key')}"


def api_keys_file(profile: Profile) -> Path:
    """The file of hashed keys and their scopes that every service reads."""
    digest = hashlib.sha256(api_key(profile).encode()).hexdigest()
    path = profile.folder("secrets") / "api-keys.json"
    keys = {API_KEY_ID: {"sha256": digest, "scopes": SCOPES}}
    write_private(path, msgspec.json.encode(keys).decode())
    give(path.parent)
    return path


def rabbit_hash(password: str, salt: bytes) -> str:
    """The password as RabbitMQ's definitions hold it: base64 of a 4-byte salt and SHA-256."""
    return b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def write_private(path: Path, text: str) -> None:
    """Write a file that is never, not even for a moment, readable by others."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    fresh.replace(path)
