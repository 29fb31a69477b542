"""The events that stock owns."""

from shop_contracts.events.stock.price_changed_v1 import PriceChangedV1 as PriceChangedV1
from shop_contracts.events.stock.reservation_commit_failed_v1 import (
    ReservationCommitFailedV1 as ReservationCommitFailedV1,
)
from shop_contracts.events.stock.reservation_committed_v1 import (
    ReservationCommittedV1 as ReservationCommittedV1,
)
from shop_contracts.events.stock.reservation_expired_v1 import (
    ReservationExpiredV1 as ReservationExpiredV1,
)
from shop_contracts.events.stock.reservation_held_v1 import ReservationHeldV1 as ReservationHeldV1
from shop_contracts.events.stock.reservation_rejected_v1 import (
    ReservationRejectedV1 as ReservationRejectedV1,
)
from shop_contracts.events.stock.reservation_released_v1 import (
    ReservationReleasedV1 as ReservationReleasedV1,
)
from shop_contracts.events.stock.stock_came_back_v1 import StockCameBackV1 as StockCameBackV1
from shop_contracts.events.stock.stock_changed_v1 import StockChangedV1 as StockChangedV1
from shop_contracts.events.stock.stock_ran_low_v1 import StockRanLowV1 as StockRanLowV1

EVENTS = (
    StockChangedV1,
    StockRanLowV1,
    StockCameBackV1,
    PriceChangedV1,
    ReservationHeldV1,
    ReservationRejectedV1,
    ReservationCommittedV1,
    ReservationCommitFailedV1,
    ReservationReleasedV1,
    ReservationExpiredV1,
)
