"""What checkout refuses, each named for what the caller can do about it. Knows no store."""

from chassis.problems import (
    BadRequest,
    Conflict,
    Gone,
    Invalid,
    Problem,
    Unauthorized,
    Unavailable,
)


class IdempotencyKeyRequired(BadRequest):
    """Send a key of your own, so that asking twice cannot order twice."""

    slug = "idempotency-key-required"
    title = "Idempotency-Key is needed: 16 to 128 of A-Z a-z 0-9 _ -"


class IdempotencyKeyReused(Invalid):
    """Send another key with another body."""

    slug = "idempotency-key-reused"
    title = "This Idempotency-Key was used with another body"


class BadSignature(BadRequest):
    """Sign the body with the webhook secret, now."""

    slug = "bad-signature"
    title = "The provider did not send this, or not lately"


class CartFull(Invalid):
    """Order what there is first, or take something out."""

    slug = "cart-full"
    title = "A cart holds at most 100 lines of at most 999 units"


class EmptyCart(Invalid):
    """Put something into the cart first."""

    slug = "empty-cart"
    title = "The cart is empty"


class UnknownPrice(Invalid):
    """Take the lines that `errors` points at out of the cart, or ask for another currency."""

    slug = "unknown-price"
    title = "Not every line of the cart has a price in one currency"


class CodeTaken(Conflict):
    """Choose another code."""

    slug = "code-taken"
    title = "There is a coupon of this code already"


class UnknownCoupon(Invalid):
    """Check the code."""

    slug = "unknown-coupon"
    title = "There is no coupon of this code"


class CouponRefused(Conflict):
    """`reason` says why; take it out of the cart, or do what it asks for."""

    slug = "coupon-refused"
    title = "The coupon cannot be used for this"


class TooManyTries(Problem):
    """Try another code after `Retry-After` seconds."""

    status = 429
    slug = "too-many-tries"
    title = "Too many codes were tried"


class NotDelivered(Invalid):
    """Choose another country or shipping method: `methods` are those that there are."""

    slug = "not-delivered"
    title = "This cannot be delivered there in this way"


class PriceChanged(Conflict):
    """Show the customer the new total, then send it as `quoted_total_minor`."""

    slug = "price-changed"
    title = "The cart no longer costs what was quoted"


class AlreadyOrdered(Conflict):
    """The cart has an order: `order_id` names it."""

    slug = "already-ordered"
    title = "This cart is ordered already"


class QueueFull(Unavailable):
    """Too many orders wait to be worked: try again after `Retry-After` seconds."""

    slug = "queue-full"
    title = "Too many are ordering just now"


class NotCancellable(Conflict):
    """It is too late: `order_status` says how far the order is."""

    slug = "not-cancellable"
    title = "The order can no longer be cancelled"


class SignInNeeded(Unauthorized):
    """Sign in: there is no session, or it is over."""

    slug = "sign-in-needed"
    title = "Sign in first"

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail, headers={"WWW-Authenticate": 'Session realm="shop"'})


class LinkIsOver(Gone):
    """Ask for another link: this one was used, has had its 15 minutes, or never was."""

    slug = "link-is-over"
    title = "This link has been used or is too old"


class TooManySignIns(Problem):
    """Ask again after `Retry-After` seconds."""

    status = 429
    slug = "too-many-requests"
    title = "Too many requests"


class AddressBookFull(Conflict):
    """Take an address out first."""

    slug = "address-book-full"
    title = "There is room for 20 addresses"


class NotConfirmed(Conflict):
    """Only what is sold can be given back or sent: `order_status` says how far the order is."""

    slug = "not-confirmed"
    title = "The order is not confirmed"


class NotLeft(Conflict):
    """It is given back or sent already: `errors` says how much there is left."""

    slug = "not-left"
    title = "There is not so much left of the order"
