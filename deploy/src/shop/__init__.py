"""The `shop` command: set-up, the native stack, tests and tools. It knows no service's insides."""
