"""The events of the shop: what is sent, under which name, and where it is routed. No I/O here."""
