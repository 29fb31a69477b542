"""Merchants' feeds as typed rows, and the jobs that carry them. Knows no service, no web."""
