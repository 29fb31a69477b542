"""What a shopper does: look at a cart with its prices, and order it. Knows no HTTP and no SQL."""

import hashlib
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import Literal
from uuid import UUID

import msgspec
from msgspec import Struct, structs

from chassis.problems import Fault, NotFound, Problem
from checkout import quotes
from checkout.coupons import CartCoupon, Why, spelled
from checkout.domain import CancelRequested, Stay
from checkout.purchase import Purchase
from checkout.quotes import ANYWHERE, Cart, CartLine, Delivery, Offer, Quote
from checkout.rules import Rules
from checkout.store import destinations
from checkout.store.carts import Carts, is_a_customers
from checkout.store.coupons import Coupons
from checkout.store.customers import Customers
from checkout.store.invoices import Drawn
from checkout.store.merging import Merge
from checkout.store.orders import Orders
from checkout.store.placing import Accepted
from checkout.store.problems import (
    CouponRefused,
    EmptyCart,
    IdempotencyKeyRequired,
    NotCancellable,
    NotDelivered,
    PriceChanged,
    QueueFull,
    TooManyTries,
    UnknownCoupon,
    UnknownPrice,
)
from checkout.store.projections import Projections
from checkout.store.rows import OrderView
from checkout.store.sessions import Limits
from checkout.store.sheet import UnknownOrder
from checkout.store.watch import Place, Standing, Watch
from checkout.totals import Breakdown, ShippingOffer

CART_TRIES, ADDRESS_TRIES = 20, 100
"""How many codes may be tried for one cart, and from one address, in an hour."""
NOTHING: Mapping[str, Offer] = {}
_KEY = re.compile(r'"?([A-Za-z0-9_-]{16,128})"?')


class CartView(Struct, frozen=True, kw_only=True):
    """A cart at the prices in force, with how its total comes about.

    `breakdown` is null while a line has no price; `total_minor` is null then too, and where nobody
    delivers it.
    """

    cart_id: str
    version: int
    currency: str
    lines: list[CartLine]
    coupon: CartCoupon | None
    breakdown: Breakdown | None
    total_minor: int | None


class ShippingView(Struct, frozen=True, kw_only=True):
    """The ways to send a cart to `country`, the cheapest first; none where nobody goes.

    `countries` are those that can be chosen from; none where any will do. Prices contain their tax,
    or do not, as `prices` says.
    """

    country: str | None
    currency: str
    prices: Literal["gross", "net"]
    methods: list[ShippingOffer]
    countries: list[str]


class Checkout:
    """Carts, prices and orders together."""

    def __init__(
        self,
        carts: Carts,
        projections: Projections,
        coupons: Coupons,
        limits: Limits,
        orders: Orders,
        watch: Watch,
        customers: Customers,
        *,
        currency: str,
        rules: Rules,
        queue_limit: int,
    ) -> None:
        self._carts = carts
        self._coupons = coupons
        self._limits = limits
        self._orders = orders
        self._projections = projections
        self._currency = currency
        self._rules = rules
        self._queue_limit = queue_limit
        self._watch = watch
        self._customers = customers

    async def create_cart(self) -> CartView:
        """A new, empty cart."""
        return await self.priced(await self._carts.create())

    async def cart(self, cart_id: str, delivery: Delivery = ANYWHERE) -> CartView:
        """The cart as it stands, when it is sent so. Raises NotFound."""
        return await self.priced(await self._carts.get(cart_id), delivery)

    async def units(self, cart_id: str) -> int:
        """How many units are in the cart; none where there is no such cart."""
        with suppress(NotFound):
            return sum((await self._carts.get(cart_id)).lines.values())
        return 0

    async def shipping(self, cart_id: str, delivery: Delivery) -> ShippingView:
        """The ways to send the cart. Raises NotFound."""
        quote = await self._quote(await self._carts.get(cart_id), None, delivery)
        return ShippingView(
            country=delivery.country or self._rules.country,
            currency=quote.currency,
            prices=self._rules.prices,
            methods=quote.methods,
            countries=self._rules.countries(),
        )

    async def priced(
        self, cart: Cart, delivery: Delivery = ANYWHERE, known: Mapping[str, Offer] = NOTHING
    ) -> CartView:
        """The cart with names and prices; what is `known` of its lines is not asked for again."""
        quote = await self._quote(cart, None, delivery, known)
        return CartView(
            cart_id=cart.id,
            version=cart.version,
            currency=quote.currency,
            lines=quote.lines,
            coupon=quote.coupon,
            breakdown=quote.breakdown,
            total_minor=quote.total_minor,
        )

    async def put_line(self, cart_id: str, sku: str, qty: int, version: int | None) -> CartView:
        """Set a line's units. Raises NotFound, PreconditionFailed, CartFull, UnknownPrice."""
        # one question for this line and the others; those that come meanwhile are asked for below
        known = await self._projections.offers({sku, *await self._lines(cart_id)})
        cart = await self._carts.put(cart_id, sku, qty, version, seen=_prices(known, sku))
        return await self.priced(cart, known=known)

    async def add_line(self, cart_id: str | None, sku: str, qty: int) -> Cart:
        """Add units to a line, of a new cart if that one is gone. Raises CartFull, UnknownPrice."""
        seen = _prices(await self._projections.offers({sku}), sku)
        if cart_id is not None and is_a_customers(cart_id):
            await self._carts.ensure(UUID(cart_id))
        if cart_id is not None:
            with suppress(NotFound):
                return await self._carts.add(cart_id, sku, qty, seen=seen)
        return await self._carts.add((await self._carts.create()).id, sku, qty, seen=seen)

    async def remove_line(self, cart_id: str, sku: str, version: int | None) -> CartView:
        """Take a line out. Raises NotFound, PreconditionFailed."""
        return await self.priced(await self._carts.remove(cart_id, sku, version))

    async def use_coupon(
        self, cart_id: str, code: str, version: int | None, address: str
    ) -> CartView:
        """Let the cart have the coupon; it is tried from that address, and tries are counted.

        Raises NotFound, PreconditionFailed, UnknownCoupon, CouponRefused, TooManyTries.
        """
        cart = await self._carts.get(cart_id)
        for kind, who, most in (
            ("coupon-cart", cart_id, CART_TRIES),
            ("coupon-address", address, ADDRESS_TRIES),
        ):
            tries, left = await self._limits.count(kind, who)
            if tries > most:
                raise TooManyTries(headers={"Retry-After": str(left)})
        code = spelled(code)
        quote = await self._quote(structs.replace(cart, coupon=code), None, ANYWHERE)
        refused = quote.coupon.refused if quote.coupon else None
        if refused is Why.UNKNOWN:
            raise UnknownCoupon
        if refused is not None:
            raise CouponRefused(reason=refused)
        await self._carts.use_coupon(cart_id, code, version)
        return await self.cart(cart_id)

    async def drop_coupon(self, cart_id: str, version: int | None) -> CartView:
        """Let the cart have no coupon. Raises NotFound, PreconditionFailed."""
        await self._carts.use_coupon(cart_id, "", version)
        return await self.cart(cart_id)

    async def drop_cart(self, cart_id: str, version: int | None) -> None:
        """Forget the cart. Raises NotFound, PreconditionFailed."""
        await self._carts.drop(cart_id, version)

    async def own_cart(self, customer: UUID) -> CartView:
        """The customer's cart, which begins to exist when it has to."""
        return await self.priced(await self._carts.ensure(customer))

    async def merge_cart(self, guest: str, customer: UUID) -> Merge:
        """Put what a guest chose into the customer's cart; not while an order still sells it."""
        if is_a_customers(guest):
            return Merge()
        if await self._orders.claimant(guest) is not None:
            with suppress(NotFound):
                return Merge(left=len((await self._carts.get(guest)).lines))
        return await self._carts.merge(guest, customer)

    async def order_cart(
        self, cart_id: str, key: str | None, purchase: Purchase, customer: UUID | None = None
    ) -> Accepted:
        """Order the cart, for a customer or a guest; the same key again gets the same answer.

        Raises NotFound, IdempotencyKeyRequired, IdempotencyKeyReused, AlreadyOrdered, EmptyCart,
        UnknownPrice, NotDelivered, CouponRefused, PriceChanged, Invalid, QueueFull; none is
        remembered under the key.
        """
        known = _KEY.fullmatch(key or "")
        if known is None:
            raise IdempotencyKeyRequired
        fingerprint = hashlib.sha256(msgspec.json.encode(purchase)).digest()
        try:
            if await self._watch.backlog() >= self._queue_limit:
                raise QueueFull(headers={"Retry-After": str(await self._watch.relief())})
            quote, purchase = await self._ordered(cart_id, purchase, customer)
        except Problem:
            # nearly every key is new: whether it was answered before is asked when it matters
            answered = await self._orders.replay(cart_id, known[1], fingerprint)
            if answered is None:
                raise
            return answered
        accepted = await self._orders.place(
            cart_id, known[1], fingerprint, purchase, quote, customer
        )
        # given again as well: whoever asks again may have died here
        if customer and (address := destinations.to_keep(purchase)):
            await self._customers.keep_address(customer, address)
        return accepted

    async def living_order(self, cart_id: str) -> UUID | None:
        """The order that sells this cart at the moment."""
        return await self._orders.claimant(cart_id)

    async def order(self, order_id: UUID) -> OrderView:
        """The order. Raises NotFound."""
        view = await self._orders.view(order_id)
        if view is None:
            raise NotFound("There is no such order.")
        return view

    async def invoice(self, order_id: UUID) -> Drawn:
        """The order's invoice. Raises NotFound."""
        drawn = await self._orders.invoice(order_id)
        if drawn is None:
            raise NotFound("There is no invoice of this order yet.")
        return drawn

    async def outcome(self, order_id: UUID, seconds: float) -> OrderView | None:
        """The order once it has come to its end, or None when that takes longer."""
        end = monotonic() + seconds
        version = 0
        while (left := end - monotonic()) > 0:
            standing = await self._watch.newer(order_id, version, left)
            if standing is None:
                return None
            if standing.status.terminal:
                return await self.order(order_id)
            version = standing.version
        return None

    async def progress(
        self, order_id: UUID, version: int, seconds: float
    ) -> tuple[Standing | None, Place | None]:
        """How the order stands once it is newer than `version`, or else its place in the queue."""
        standing = await self._watch.newer(order_id, version, seconds)
        if standing is not None and standing.status.terminal:
            return standing, None
        return standing, await self._watch.place(order_id)

    async def cancel(self, order_id: UUID) -> OrderView:
        """Take the order back. Raises NotFound, NotCancellable."""
        try:
            decision = await self._orders.apply(order_id, CancelRequested())
        except UnknownOrder as error:
            raise NotFound("There is no such order.") from error
        view = await self.order(order_id)
        if decision.stay is Stay.REFUSED:
            raise NotCancellable(order_status=view.status.value)
        return view

    async def notice(self, notice_id: str, key: str) -> None:
        """The provider says that the operation of that key has moved; told once, heard once."""
        await self._orders.hurry(notice_id, key)

    async def _lines(self, cart_id: str) -> Collection[str]:
        with suppress(NotFound):
            return (await self._carts.get(cart_id)).lines
        return ()

    async def _ordered(
        self, cart_id: str, purchase: Purchase, customer: UUID | None
    ) -> tuple[Quote, Purchase]:
        """What the cart costs whoever orders it so, and where it goes; or why it cannot."""
        cart = await self._carts.get(cart_id)
        purchase = await destinations.settled(purchase, customer, self._customers)
        quote = await self._quote(cart, purchase.currency, purchase.delivery)
        _refuse(quote, purchase)
        return quote, purchase

    async def _quote(
        self,
        cart: Cart,
        currency: str | None,
        delivery: Delivery,
        known: Mapping[str, Offer] = NOTHING,
    ) -> Quote:
        offers = {**known, **await self._projections.offers(cart.lines.keys() - known.keys())}
        quoted = partial(
            quotes.quote,
            cart.lines,
            offers,
            seen=cart.seen,
            currency=currency,
            preferred=self._currency,
            rules=self._rules,
            delivery=delivery,
        )
        quote = quoted()
        if cart.coupon is None:
            return quote
        coupon = await self._coupons.find(cart.coupon)
        goods = quote.breakdown.subtotal_minor if quote.breakdown else 0
        why = (
            Why.UNKNOWN
            if coupon is None
            else coupon.refusal(datetime.now(UTC), currency=quote.currency, goods_minor=goods)
        )
        shown = CartCoupon(code=cart.coupon, refused=why)
        return quoted(coupon=shown, discount=coupon.discount if coupon and not why else None)


def _prices(offers: Mapping[str, Offer], sku: str) -> dict[str, int]:
    """What the SKU costs, by currency. Raises UnknownPrice."""
    offer = offers.get(sku)
    if offer is None or offer.withdrawn or not offer.prices:
        raise UnknownPrice(errors=[_not_for_sale(sku)])
    return offer.prices


def _refuse(quote: Quote, purchase: Purchase) -> None:
    if not quote.lines:
        raise EmptyCart
    if quote.breakdown is None:
        raise UnknownPrice(errors=[_not_for_sale(sku) for sku in quote.unavailable])
    if not quote.deliverable:
        raise NotDelivered(methods=quote.methods)
    if quote.coupon and quote.coupon.refused and purchase.quoted_total_minor is None:
        # who names a total has seen that nothing is taken off
        raise CouponRefused(reason=quote.coupon.refused)
    if purchase.quoted_total_minor not in {None, quote.total_minor}:
        raise PriceChanged(
            total_minor=quote.total_minor,
            currency=quote.currency,
            lines=quote.lines,
            coupon=quote.coupon,
            breakdown=quote.breakdown,
        )


def _not_for_sale(sku: str) -> Fault:
    return {
        "pointer": f"/lines/{sku}",
        "code": "unknown-price",
        "detail": "It is not for sale just now.",
    }
