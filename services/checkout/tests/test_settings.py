"""What an operator cannot set: times under which holds expire on paid orders, and play money."""

import pytest

from chassis.settings import SettingsError, load
from checkout.settings import PREFIX, Settings

NEEDED = {"CHECKOUT_REDIS_URL": "redis://127.0.0.1", "CHECKOUT_PROFILE": "dev"}


def test_the_defaults_are_in_order() -> None:
    settings = load(Settings, PREFIX, NEEDED)

    assert (900, 1_200) == (settings.hold_ttl_s, settings.order_timeout_s)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HOLD_TTL_S", "600"),
        ("PAYMENT_TIMEOUT_S", "900"),
        ("COMMIT_TIMEOUT_S", "300"),
        ("ORDER_TIMEOUT_S", "700"),
        ("STOCK_TIMEOUT_S", "0"),
        ("PROFILE", "prod"),
        ("CURRENCY", "euro"),
    ],
)
def test_settings_that_break_the_saga_are_refused_at_start(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(Settings, PREFIX, NEEDED | {f"CHECKOUT_{name}": value})

    assert "CHECKOUT_" in str(refused.value)
