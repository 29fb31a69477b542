"""The settings of stock, read once from `STOCK_<FIELD>`. Knows no connection."""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

PREFIX = "STOCK_"


class Settings(Struct, frozen=True, kw_only=True):
    """Everything that may differ between two installations."""

    redis_url: str
    broker_url: str = ""
    api_keys_file: str | None = None
    profile: Literal["dev", "test", "prod"] = "prod"
    host: str = "127.0.0.1"
    port: int = 8102
    relay_port: int = 0
    worker_port: int = 0
    # As the broker was told at deploy time; 0 is one queue for each owner.
    queue_partitions: Annotated[int, Meta(ge=0, le=64)] = 0
    key_prefix: str = ""
    # Fixed at install: a SKU never changes its own. More than one is for a Redis Cluster.
    partitions: Annotated[int, Meta(ge=1, le=1024)] = 1
    # Longer than checkout's payment deadline (10 min) with its retries.
    hold_seconds: Annotated[int, Meta(ge=1, le=86_400)] = 900
    redis_timeout: Annotated[float, Meta(gt=0)] = 3.0
    redis_connections: Annotated[int, Meta(ge=1)] = 32
    spool_dir: Path = Path("var/spool/stock")
    # WebSocket clients of one API process, and how often in a second they hear at most.
    live_clients: Annotated[int, Meta(ge=0)] = 2_000
    live_pace_seconds: Annotated[float, Meta(gt=0)] = 0.2
    # Other sites whose pages may listen, such as "https://app.example https://m.example".
    live_origins: str = ""
    database_url: str = "sqlite+aiosqlite:///stock.sqlite3"
    notify_port: int = 0
    journal_port: int = 0
    # How much of the ledger stays in Redis once it is in the journal.
    ledger_keep_seconds: Annotated[int, Meta(ge=0)] = 7 * 86_400
    # The audit rests so long after each slice, and mends by itself so many units of a SKU at most,
    # so many times in a round.
    audit_pause_seconds: Annotated[float, Meta(gt=0)] = 0.5
    audit_units: Annotated[int, Meta(ge=0)] = 10
    audit_repairs: Annotated[int, Meta(ge=0)] = 20
    # The shop as its visitors reach it, for the links in mails.
    public_url: str = "http://127.0.0.1:8080"
    # Without a mail server, mails are files in `mail_dir`.
    smtp_url: str = ""
    mail_from: str = "Shopstream <shop@localhost>"
    mail_dir: Path = Path("var/spool/mail")
    # How long those who were told have for themselves, before the next in line are told.
    alert_patience_seconds: Annotated[int, Meta(ge=1)] = 900
    # For tests: webhooks may be on this machine, without TLS.
    webhooks_on_loopback: bool = False
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}\Z")] = "EUR"

    def __post_init__(self) -> None:
        if self.webhooks_on_loopback and self.profile == "prod":
            raise ValueError("STOCK_WEBHOOKS_ON_LOOPBACK is for tests only")
