"""What customers do with their accounts: come in, leave, take all, be forgotten. No HTTP here."""

from uuid import UUID

from msgspec import Struct

from checkout.store.carts import Carts
from checkout.store.checkout import CartView, Checkout
from checkout.store.customers import Customers, Profile, Records
from checkout.store.problems import SignInNeeded
from checkout.store.sessions import Limits, Sessions


class Export(Struct, frozen=True, kw_only=True):
    """Everything that is known of a customer; `sessions` says how many are open."""

    records: Records
    cart: CartView
    sessions: int


class Account:
    """Customers and their sessions together."""

    def __init__(
        self,
        customers: Customers,
        sessions: Sessions,
        limits: Limits,
        carts: Carts,
        checkout: Checkout,
        *,
        per_email: int,
        per_address: int,
    ) -> None:
        self.customers = customers
        self.sessions = sessions
        self._limits = limits
        self._carts = carts
        self._checkout = checkout
        self._per_email = per_email
        self._per_address = per_address

    async def ask(self, email: str, address: str) -> None:
        """Mail a link to whoever asks, known or not. Raises TooManySignIns for an address.

        A mailbox that has had its share gets no more for a while, and nobody is told so: it would
        tell a stranger that somebody signs in there.
        """
        await self._limits.refuse_more_than(self._per_address, "address", address)
        times, _ = await self._limits.count("email", email.lower())
        if times <= self._per_email:
            await self.customers.send_link(email)

    async def enter(self, link: str, instead_of: str | None) -> tuple[UUID, str]:
        """The customer whose link it is, and a new session's token. Raises LinkIsOver."""
        id_ = await self.customers.enter(link)
        return id_, await self.sessions.begin(id_, instead_of)

    async def leave(self, token: str | None) -> None:
        """Sign out."""
        if token is not None:
            await self.sessions.end(token)

    async def profile(self, id_: UUID) -> Profile:
        """The customer. Raises SignInNeeded where there is none any more."""
        found = await self.customers.profile(id_)
        if found is None:
            raise SignInNeeded
        return found

    async def export(self, id_: UUID) -> Export:
        """Everything that is known of the customer. Raises SignInNeeded."""
        records = await self.customers.records(id_)
        if records is None:
            raise SignInNeeded
        return Export(
            records=records,
            cart=await self._checkout.own_cart(id_),
            sessions=await self.sessions.count(id_),
        )

    async def erase(self, id_: UUID) -> None:
        """Forget the customer; asked again after it failed half-way, it goes on."""
        await self.customers.erase(id_)
        await self._carts.forget(id_)
        # last, for without a session nobody could ask again
        await self.sessions.end_all(id_)
