"""Signs webhooks as standardwebhooks.com says. Knows no receiver."""

import base64
import secrets
from collections.abc import Iterable
from datetime import datetime

from standardwebhooks import Webhook

PREFIX = "whsec_"
BYTES = 32


def new_secret() -> str:
    """A secret for one receiver, to be shown once."""
    return PREFIX + base64.b64encode(secrets.token_bytes(BYTES)).decode()


def headers(id_: str, now: datetime, body: bytes, keys: Iterable[str]) -> dict[str, str]:
    """The headers of one try; one signature by each secret, while one replaces the other."""
    signed = [Webhook(key).sign(id_, now, body.decode()) for key in keys]
    return {
        "webhook-id": id_,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signed),
    }
