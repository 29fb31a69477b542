"""Where stock's migrations are. Knows no row."""

from pathlib import Path

from chassis.schema import History

HISTORY = History(service="stock", folder=Path(__file__).parent / "migrations", known_by="alerts")
