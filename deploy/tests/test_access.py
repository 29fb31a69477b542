"""What a service's user may do in its store covers the keys that its code names."""

import re

from shop.profiles import ROOT
from shop.servers import CARTS_ACCESS

# the tests of a service use the store's admin, so nothing else would tell before a shop runs
KEY = re.compile(r'f"\{self\._prefix\}(\w+:)')


def test_checkouts_user_may_reach_every_key_that_checkout_names() -> None:
    sources = (ROOT / "services" / "checkout" / "src").rglob("*.py")
    named = {key for path in sources for key in KEY.findall(path.read_text())}
    allowed = {f"{name}:" for name in re.findall(r"~(\w+):\*", CARTS_ACCESS)}

    assert {"cart:", "session:"} <= named
    assert named == allowed
