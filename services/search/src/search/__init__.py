"""Search: the read model of what shoppers can find. It owns nothing that it cannot rebuild."""
