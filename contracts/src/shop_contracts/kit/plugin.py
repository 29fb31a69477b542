"""The pytest plugin: makes one test per contract check of each test marked `consumes`."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "consumes(type, subscription): run this handler against the contract of an event type",
    )
