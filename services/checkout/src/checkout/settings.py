"""What an operator can set for checkout. Knows no default secret.

The times of the saga hang together; settings that break their order are refused at start.
"""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from checkout import rules, seller
from shop_contracts.types import Currency

Seconds = Annotated[int, Meta(ge=1, le=31_536_000)]
PREFIX = "CHECKOUT_"
MIN_SECRET = 16
EVENT_LAG_S = 30
"""How late an event may be before the order of the times below would break."""


class Settings(Struct, frozen=True, kw_only=True):
    """Read from `CHECKOUT_<FIELD>`."""

    redis_url: str
    broker_url: str = ""
    database_url: str = "sqlite+aiosqlite:///checkout.sqlite3"
    host: str = "127.0.0.1"
    port: int = 8104
    relay_port: int = 0
    worker_port: int = 0
    notify_port: int = 0
    # As the broker was told at deploy time; 0 is one queue for each owner.
    queue_partitions: Annotated[int, Meta(ge=0, le=64)] = 0
    api_keys_file: str | None = None
    profile: Literal["dev", "test", "prod"] = "prod"
    key_prefix: str = ""
    currency: Currency = "EUR"
    rules: str = ""
    seller: str = ""
    payment_url: str = "https://api.stripe.com"
    payment_key: str = ""
    payment_webhook_secret: str = ""
    cart_ttl_s: Seconds = 30 * 86_400
    session_idle_s: Seconds = 14 * 86_400
    session_max_s: Seconds = 90 * 86_400
    # The shop as its visitors reach it, for the links in mails.
    public_url: str = "http://127.0.0.1:8080"
    sign_ins_per_email: Annotated[int, Meta(ge=1)] = 5
    sign_ins_per_address: Annotated[int, Meta(ge=1)] = 60
    queue_limit: Annotated[int, Meta(ge=1)] = 20_000
    hold_ttl_s: Seconds = 900
    stock_timeout_s: Seconds = 60
    payment_timeout_s: Seconds = 600
    commit_timeout_s: Seconds = 60
    order_timeout_s: Seconds = 1_200
    # Without a mail server, mails are files in `mail_dir`.
    smtp_url: str = ""
    mail_from: str = "Shopstream <shop@localhost>"
    mail_dir: Path = Path("mails")
    # For tests: webhooks may be on this machine, without TLS.
    webhooks_on_loopback: bool = False

    def __post_init__(self) -> None:
        if self.webhooks_on_loopback and self.profile == "prod":
            raise ValueError("CHECKOUT_WEBHOOKS_ON_LOOPBACK is for tests only")
        if self.hold_ttl_s <= self.payment_timeout_s + self.commit_timeout_s + EVENT_LAG_S:
            raise ValueError(
                "CHECKOUT_HOLD_TTL_S must exceed CHECKOUT_PAYMENT_TIMEOUT_S + "
                f"CHECKOUT_COMMIT_TIMEOUT_S + {EVENT_LAG_S}, or holds expire under paid orders"
            )
        steps = self.stock_timeout_s + self.payment_timeout_s + self.commit_timeout_s
        if self.order_timeout_s < max(steps, self.hold_ttl_s):
            raise ValueError(
                "CHECKOUT_ORDER_TIMEOUT_S must cover the hold and the three steps' time-outs"
            )
        try:
            rules.parse(self.rules)
        except rules.RulesError as error:
            raise ValueError(f"CHECKOUT_RULES: {error}") from error
        try:
            seller.parse(self.seller)
        except seller.SellerError as error:
            raise ValueError(f"CHECKOUT_SELLER: {error}") from error
        if self.profile == "prod":
            _refuse_play_money(self.payment_url, self.payment_key, self.payment_webhook_secret)


def _refuse_play_money(url: str, key: str, webhook_secret: str) -> None:
    if not url.startswith("https://"):
        raise ValueError("CHECKOUT_PAYMENT_URL: a provider that moves money speaks https")
    if not key or key.startswith(("sk_test_", "rk_test_")):
        raise ValueError("CHECKOUT_PAYMENT_KEY: a key of the provider's that moves money is needed")
    if len(webhook_secret) < MIN_SECRET:
        raise ValueError("CHECKOUT_PAYMENT_WEBHOOK_SECRET: the provider's secret is needed")
