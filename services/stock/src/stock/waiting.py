"""Who waits for which SKU, in SQL: alerts, waves and the deliveries they become. Sends nothing.

An alert and the delivery that ends it change in one transaction, so each is told once. An address
stands in its alert while it waits and in its delivery until that has ended, and nowhere else.

Problem (chassis)
+-- TooManyAlerts 409   this address waits for as many things as one may
+-- NoSuchAlert 404     there is no such alert
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol
from uuid import UUID, uuid4

import msgspec
import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

import notify.tables
from chassis.database import BIG, Database, LostRace, UtcTime, exact
from chassis.pages import money
from chassis.problems import Conflict, NotFound
from notify.book import Book, Message
from notify.mail import Mail, encode
from stock import waves
from stock.tables import METADATA

When = Literal["back_in_stock", "price_below"]

MOST = 20
"""Alerts that one address may wait for at once: nobody's mailbox is filled through us."""

BACK = "alert.back_in_stock"
BELOW = "alert.price_below"
WELCOME = "alert.accepted"


class TooManyAlerts(Conflict):
    """The address waits for as many things as one may."""

    slug = "too-many-alerts"
    title = "This address waits for too many things"


class NoSuchAlert(NotFound):
    """There is no such alert, or it has ended."""


class Alert(Struct, frozen=True, kw_only=True):
    """What somebody waits for: units of a SKU, or its price below `below_minor`."""

    sku: str
    when: When
    currency: str | None = None
    below_minor: int | None = None
    email: str | None = None
    webhook: UUID | None = None


class Priced(Struct, frozen=True, kw_only=True):
    """What one unit of a SKU costs everybody, by currency."""

    sku: str
    version: int
    amounts: Mapping[str, int]


class Price(Protocol):
    """A price as events carry it and the store gives it."""

    @property
    def currency(self) -> str: ...
    @property
    def amount_minor(self) -> int: ...
    @property
    def group(self) -> str | None: ...
    @property
    def min_qty(self) -> int: ...


def amounts(prices: Iterable[Price]) -> dict[str, int]:
    """What one unit costs everybody, by currency."""
    return {
        price.currency: price.amount_minor
        for price in prices
        if price.group is None and price.min_qty == 1
    }


TABLES = notify.tables.tables(METADATA)

alerts = sa.Table(
    "alerts",
    METADATA,
    # oldest first, and for whoever may end one: its id cannot be guessed
    sa.Column("seq", BIG, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Uuid, nullable=False, unique=True),
    sa.Column("sku", exact(64), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("currency", sa.String(3)),
    sa.Column("below_minor", sa.BigInteger),
    sa.Column("email", sa.String(254)),
    sa.Column("webhook_id", sa.Uuid, sa.ForeignKey("webhooks.id", ondelete="CASCADE")),
    sa.Column("state", sa.String(16), nullable=False),
    # what makes it the same as another one, while it waits
    sa.Column("claim", sa.String(64), unique=True),
    # finds the alerts of one person, without telling who it is
    sa.Column("person", sa.String(64), nullable=False, index=True),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("ended_at", UtcTime),
    sa.Index("ix_alerts_line", "sku", "state", "kind", "seq"),
    sa.CheckConstraint("kind IN ('back_in_stock', 'price_below')", name="kind"),
    sa.CheckConstraint("state IN ('waiting', 'told', 'cancelled')", name="state"),
    sqlite_autoincrement=True,
)

alert_skus = sa.Table(
    "alert_skus",
    METADATA,
    sa.Column("sku", exact(64), primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("available", sa.BigInteger, nullable=False),
    sa.Column("untold", sa.BigInteger, nullable=False),
    sa.Column("price_version", sa.BigInteger, nullable=False),
    # when those who were told have had their time
    sa.Column("again_at", UtcTime, index=True),
)

alert_progress = sa.Table(
    "alert_progress",
    METADATA,
    sa.Column("owner", sa.String(32), primary_key=True),
    sa.Column("at", UtcTime, nullable=False),
)


class Waiting:
    """The alerts of one database; `link` is the shop's address in mails."""

    def __init__(self, database: Database, book: Book, *, link: str, patience: timedelta) -> None:
        self._database = database
        self._book = book
        self._link = link.rstrip("/")
        self._patience = patience

    async def add(self, alert: Alert, *, version: int, price_version: int) -> UUID:
        """Let somebody wait; asking twice is asking once. Raises TooManyAlerts.

        The versions say when the SKU was seen not to fulfil the wish; 0 for what it is not about.
        """
        id_ = uuid4()
        claim = _digest(alert.sku, alert.when, alert.currency, alert.below_minor, _who(alert))

        async def work(connection: AsyncConnection) -> UUID:
            await self._refuse_more(connection, alert)
            await _catch_up(connection, alert.sku, version, price_version)
            await connection.execute(
                sa.insert(alerts).values(
                    id=id_,
                    sku=alert.sku,
                    kind=alert.when,
                    currency=alert.currency,
                    below_minor=alert.below_minor,
                    email=alert.email,
                    webhook_id=alert.webhook,
                    state="waiting",
                    claim=claim,
                    person=_digest(_who(alert)),
                    created_at=_now(),
                )
            )
            if alert.email is not None:
                await self._book.add(connection, [self._welcome(id_, alert)])
            return id_

        try:
            return await self._database.write(work)
        except IntegrityError:
            query = sa.select(alerts.c.id).where(alerts.c.claim == claim)
            async with self._database.read() as connection:
                found: UUID | None = await connection.scalar(query)
            if found is None:
                raise
            return found

    async def known(self, id_: UUID) -> None:
        """Raise NoSuchAlert if there never was one of this id."""
        async with self._database.read() as connection:
            query = sa.select(alerts.c.seq).where(alerts.c.id == id_)
            if await connection.scalar(query) is None:
                raise NoSuchAlert

    async def cancel(self, id_: UUID) -> int:
        """End the alert, and all that its mail address waits for; says how many.

        The id stays good after the alert has ended: who was told may end the others by it.
        """

        async def work(connection: AsyncConnection) -> int:
            found = (
                await connection.execute(
                    sa.select(alerts.c.person, alerts.c.webhook_id).where(alerts.c.id == id_)
                )
            ).first()
            if found is None:
                raise NoSuchAlert
            whose = alerts.c.id == id_ if found.webhook_id else alerts.c.person == found.person
            changed = await connection.execute(
                sa.update(alerts)
                .where(whose, alerts.c.state == "waiting")
                .values(state="cancelled", claim=None, email=None, ended_at=_now())
            )
            return changed.rowcount

        return await self._database.write(work)

    async def moved(self, levels: Sequence[tuple[str, int, int]]) -> int:
        """Tell those whose turn it is after `(sku, version, available)`, in order; how many."""
        by_sku: dict[str, list[tuple[int, int]]] = {}
        for sku, version, available in levels:
            by_sku.setdefault(sku, []).append((version, available))

        async def work(connection: AsyncConnection) -> int:
            people = 0
            for sku, row in (await _locked(connection, by_sku)).items():
                seen = _seen(row)
                for version, available in sorted(by_sku[sku]):
                    seen = waves.after(seen, version, available)
                people += await self._wave(connection, sku, seen)
            return people

        return await self._database.write(work) if await self._any(by_sku) else 0

    async def offer_again(self) -> int:
        """Tell the next in line of what those who were told did not take; how many."""

        async def work(connection: AsyncConnection) -> int:
            people = 0
            for sku, row in (await _locked(connection, due)).items():
                if row.again_at is not None and row.again_at <= _now():
                    people += await self._wave(connection, sku, waves.again(_seen(row)))
            return people

        query = sa.select(alert_skus.c.sku).where(alert_skus.c.again_at <= _now()).limit(100)
        async with self._database.read() as connection:
            due = list(await connection.scalars(query))
        return await self._database.write(work) if due else 0

    async def priced(self, prices: Sequence[Priced]) -> int:
        """Tell those who wait for a price that is reached now; how many."""
        newest = {each.sku: each for each in sorted(prices, key=lambda each: each.version)}

        async def work(connection: AsyncConnection) -> int:
            people = 0
            for sku, row in (await _locked(connection, newest)).items():
                price = newest[sku]
                if price.version <= row.price_version:
                    continue
                await connection.execute(
                    sa.update(alert_skus)
                    .where(alert_skus.c.sku == sku)
                    .values(price_version=price.version)
                )
                for currency, amount in price.amounts.items():
                    line = _line(sku, "price_below").where(
                        alerts.c.currency == currency, alerts.c.below_minor > amount
                    )
                    people += await self._tell(connection, line, amount)
            return people

        return await self._database.write(work) if await self._any(newest) else 0

    async def progress(self, owner: str) -> datetime | None:
        """The time of the last event whose effect stands."""
        query = sa.select(alert_progress.c.at).where(alert_progress.c.owner == owner)
        async with self._database.read() as connection:
            at: datetime | None = await connection.scalar(query)
            return at

    async def come_to(self, owner: str, at: datetime) -> None:
        """Remember that events up to this time have their effect."""

        async def work(connection: AsyncConnection) -> None:
            here = alert_progress.c.owner == owner
            changed = await connection.execute(sa.update(alert_progress).where(here).values(at=at))
            if changed.rowcount == 0 and await self._is_new(connection, owner):
                await connection.execute(sa.insert(alert_progress).values(owner=owner, at=at))

        await self._database.write(work)

    async def _is_new(self, connection: AsyncConnection, owner: str) -> bool:
        query = sa.select(alert_progress.c.owner).where(alert_progress.c.owner == owner)
        return await connection.scalar(query) is None

    async def _any(self, skus: Collection[str]) -> bool:
        """Whether anybody waits for one of these: nearly always nobody does."""
        if not skus:
            return False
        async with self._database.read() as connection:
            query = sa.select(alert_skus.c.sku).where(alert_skus.c.sku.in_(list(skus))).limit(1)
            return await connection.scalar(query) is not None

    async def _wave(self, connection: AsyncConnection, sku: str, seen: waves.Seen) -> int:
        line = _line(sku, "back_in_stock").limit(seen.untold)
        people = await self._tell(connection, line, seen.available) if seen.untold else 0
        seen = waves.told(seen, people)
        left = await connection.scalar(_line(sku, "back_in_stock").limit(1))
        again = _now() + self._patience if left is not None and seen.available else None
        await connection.execute(
            sa.update(alert_skus)
            .where(alert_skus.c.sku == sku)
            .values(
                version=seen.version,
                available=seen.available,
                untold=seen.untold if left is not None else 0,
                # the time of those told before runs on while single units come and go
                again_at=sa.func.coalesce(alert_skus.c.again_at, again)
                if not people and again is not None
                else again,
            )
        )
        return people

    async def _tell(self, connection: AsyncConnection, line: sa.Select[Any], figure: int) -> int:
        """Turn the alerts in line into deliveries."""
        seqs = list(await connection.scalars(line.with_for_update()))
        rows = (
            await connection.execute(
                sa.select(alerts).where(alerts.c.seq.in_(seqs)).order_by(alerts.c.seq)
            )
        ).all()
        await self._book.add(
            connection, [self._message(row.id, _alert(row), figure) for row in rows]
        )
        await connection.execute(
            sa.update(alerts)
            .where(alerts.c.seq.in_(seqs))
            .values(state="told", claim=None, email=None, ended_at=_now())
        )
        return len(rows)

    async def _refuse_more(self, connection: AsyncConnection, alert: Alert) -> None:
        if alert.email is None:
            return
        query = (
            sa.select(sa.func.count())
            .select_from(alerts)
            .where(alerts.c.person == _digest(_who(alert)), alerts.c.state == "waiting")
        )
        if int(await connection.scalar(query) or 0) >= MOST:
            raise TooManyAlerts

    def _message(self, id_: UUID, alert: Alert, figure: int) -> Message:
        back = alert.when == "back_in_stock"
        kind = BACK if back else BELOW
        if alert.email is not None:
            price = "" if back else money(figure, alert.currency or "")
            mail = Mail(
                title=f"{alert.sku} is back" if back else f"{alert.sku} costs {price} now",
                text=_text(
                    f"{alert.sku} can be had again."
                    if back
                    else f"{alert.sku} costs {price} now, which is less than you named.",
                    f"{self._link}/s?q={alert.sku}",
                    "This was what you asked us to tell you, once. You wait for other things too? "
                    f"Stop all of it: {self._link}/alerts/{id_}",
                ),
                unsubscribe=f"{self._link}/alerts/{id_}",
            )
            return Message(type=kind, subject=alert.sku, body=encode(mail), address=alert.email)
        data: dict[str, object] = {"alert_id": id_, "sku": alert.sku}
        if back:
            data["available"] = figure
        else:
            data |= {"currency": alert.currency, "amount_minor": figure}
            data["below_minor"] = alert.below_minor
        body = msgspec.json.encode({"type": kind, "timestamp": _now(), "data": data})
        return Message(type=kind, subject=alert.sku, body=body, webhook_id=alert.webhook)

    def _welcome(self, id_: UUID, alert: Alert) -> Message:
        """Says that somebody asked for it, so that who did not can stop it."""
        wish = (
            "is in stock again"
            if alert.when == "back_in_stock"
            else f"costs less than {money(alert.below_minor or 0, alert.currency or '')}"
        )
        mail = Mail(
            title=f"We will tell you when {alert.sku} {wish}",
            text=_text(
                f"You will hear from us once, when {alert.sku} {wish}.",
                f"It was not you, or you do not want it any more? {self._link}/alerts/{id_}",
            ),
            unsubscribe=f"{self._link}/alerts/{id_}",
        )
        return Message(type=WELCOME, subject=alert.sku, body=encode(mail), address=alert.email)


async def _catch_up(
    connection: AsyncConnection, sku: str, version: int, price_version: int
) -> None:
    """Know of the SKU what its next alert knows: at this version there was nothing to tell.

    What is still on its way from before then is no news to whoever waits from now on.
    """
    here = alert_skus.c.sku == sku
    row = (await _locked(connection, [sku])).get(sku)
    if row is None:
        new = {"sku": sku, "version": version, "available": 0, "untold": 0}
        try:
            await connection.execute(
                sa.insert(alert_skus).values(**new, price_version=price_version)
            )
        except IntegrityError as error:
            raise LostRace from error  # somebody else was first: read what he wrote
        return
    if row.version < version:
        await connection.execute(
            sa.update(alert_skus)
            .where(here)
            .values(version=version, available=0, untold=0, again_at=None)
        )
    if row.price_version < price_version:
        await connection.execute(
            sa.update(alert_skus).where(here).values(price_version=price_version)
        )


async def _locked(connection: AsyncConnection, skus: Iterable[str]) -> dict[str, Any]:
    """The rows of those SKUs that have one, for this transaction only, in one order for all."""
    query = (
        sa.select(alert_skus)
        .where(alert_skus.c.sku.in_(list(skus)))
        .order_by(alert_skus.c.sku)
        .with_for_update()
    )
    return {row.sku: row for row in await connection.execute(query)}


def _line(sku: str, when: When) -> sa.Select[Any]:
    """Those who wait, who came first first."""
    return (
        sa.select(alerts.c.seq)
        .where(alerts.c.sku == sku, alerts.c.state == "waiting", alerts.c.kind == when)
        .order_by(alerts.c.seq)
    )


def _seen(row: Any) -> waves.Seen:
    return waves.Seen(version=row.version, available=row.available, untold=row.untold)


def _alert(row: Any) -> Alert:
    return Alert(
        sku=row.sku,
        when=row.kind,
        currency=row.currency,
        below_minor=row.below_minor,
        email=row.email,
        webhook=row.webhook_id,
    )


def _who(alert: Alert) -> str:
    # one mailbox, however its owner writes it today
    return (alert.email or "").lower() or str(alert.webhook)


def _digest(*parts: object) -> str:
    return hashlib.sha256("\n".join(str(part) for part in parts).encode()).hexdigest()


def _text(*paragraphs: str) -> str:
    return "\n\n".join(paragraphs) + "\n"


def _now() -> datetime:
    return datetime.now(UTC)
