"""The events that checkout owns."""

from shop_contracts.events.checkout.order_authorised_v1 import (
    OrderAuthorisedV1 as OrderAuthorisedV1,
)
from shop_contracts.events.checkout.order_cancelled_v1 import OrderCancelledV1 as OrderCancelledV1
from shop_contracts.events.checkout.order_confirmed_v1 import OrderConfirmedV1 as OrderConfirmedV1
from shop_contracts.events.checkout.order_delivered_v1 import OrderDeliveredV1 as OrderDeliveredV1
from shop_contracts.events.checkout.order_placed_v1 import OrderPlacedV1 as OrderPlacedV1
from shop_contracts.events.checkout.order_refunded_v1 import OrderRefundedV1 as OrderRefundedV1
from shop_contracts.events.checkout.order_shipped_v1 import OrderShippedV1 as OrderShippedV1
from shop_contracts.events.checkout.payment_authorised_v1 import (
    PaymentAuthorisedV1 as PaymentAuthorisedV1,
)
from shop_contracts.events.checkout.payment_captured_v1 import (
    PaymentCapturedV1 as PaymentCapturedV1,
)
from shop_contracts.events.checkout.payment_declined_v1 import (
    PaymentDeclinedV1 as PaymentDeclinedV1,
)
from shop_contracts.events.checkout.payment_voided_v1 import PaymentVoidedV1 as PaymentVoidedV1

EVENTS = (
    OrderPlacedV1,
    OrderAuthorisedV1,
    OrderConfirmedV1,
    OrderCancelledV1,
    OrderRefundedV1,
    OrderShippedV1,
    OrderDeliveredV1,
    PaymentAuthorisedV1,
    PaymentDeclinedV1,
    PaymentCapturedV1,
    PaymentVoidedV1,
)
