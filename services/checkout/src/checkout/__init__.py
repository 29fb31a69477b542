"""checkout owns carts, orders and payments, and runs the order saga by events alone."""
