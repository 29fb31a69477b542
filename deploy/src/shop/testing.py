"""The `test` verb: a private stack, every check, then pytest. Knows no test."""

import msgspec

from shop.profiles import Profile
from shop.secrets import write_private
from shop.servers import admin_redis, amqp, management, mariadb_url


def write_stack_file(profile: Profile, *, mariadb: bool) -> None:
    """Write `stack.json`: where the tests find the servers, with the administrators' logins."""
    addresses = {
        "redis_stock_url": admin_redis(profile, "redis-stock"),
        "redis_carts_url": admin_redis(profile, "redis-carts"),
        "amqp_url": amqp(profile, "admin", "%2F"),
        "management_url": management(profile),
        "elasticsearch_url": profile.url("elasticsearch"),
        "mariadb_url": mariadb_url(profile, "admin", "checkout") if mariadb else None,
    }
    write_private(profile.var / "stack.json", msgspec.json.encode(addresses).decode())
