"""Where checkout keeps things: carts in Redis, everything else in SQL."""
