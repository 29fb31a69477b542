"""Where checkout's migrations are. Knows no row."""

from pathlib import Path

from chassis.schema import History

HISTORY = History(
    service="checkout", folder=Path(__file__).parent / "migrations", known_by="orders"
)
