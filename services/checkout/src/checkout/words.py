"""What a shopper is told of a refusal. Knows no page."""

from chassis.problems import Problem
from checkout.coupons import Why

BECAUSE = {
    Why.UNKNOWN: "There is no such coupon any more.",
    Why.DISABLED: "The coupon is no longer valid.",
    Why.NOT_YET: "The coupon is not valid yet.",
    Why.EXPIRED: "The coupon has expired.",
    Why.USED_UP: "The coupon has been used up.",
    Why.USED_BY_CUSTOMER: "You have used this coupon already. Take it out of the cart to go on.",
    Why.BELOW_MINIMUM: "The coupon is for a larger purchase.",
    Why.OTHER_CURRENCY: "The coupon is for another currency.",
}


def sentence(refused: Problem) -> str:
    """The reason in words, where there is one."""
    why = refused.extensions.get("reason")
    return BECAUSE[why] if isinstance(why, Why) else refused.title
