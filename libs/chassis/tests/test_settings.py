"""Settings come from the environment, and all that is wrong with it is said at once."""

from pathlib import Path
from typing import Literal

import msgspec
import pytest

from chassis import settings


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    port: int
    store_url: str
    profile: Literal["dev", "prod"] = "prod"
    ratio: float = 1.0
    debug: bool = False
    api_keys_file: str | None = None
    spool_dir: Path = Path("spool")


GOOD = {"SHOP_PORT": "8101", "SHOP_STORE_URL": "redis://127.0.0.1/0"}


def test_texts_become_the_types_of_the_fields() -> None:
    loaded = settings.load(Settings, "SHOP_", {**GOOD, "SHOP_DEBUG": "true", "SHOP_RATIO": "0.5"})

    assert Settings(port=8101, store_url="redis://127.0.0.1/0", debug=True, ratio=0.5) == loaded


def test_a_directory_becomes_a_path() -> None:
    loaded = settings.load(Settings, "SHOP_", {**GOOD, "SHOP_SPOOL_DIR": "var/spool"})

    assert Path("var/spool") == loaded.spool_dir


def test_a_value_may_stand_in_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("redis://:secret@127.0.0.1/0\n")
    env = {"SHOP_PORT": "1", "SHOP_STORE_URL_FILE": str(secret)}

    assert "redis://:secret@127.0.0.1/0" == settings.load(Settings, "SHOP_", env).store_url


def test_a_field_whose_name_ends_in_file_is_a_field() -> None:
    loaded = settings.load(Settings, "SHOP_", {**GOOD, "SHOP_API_KEYS_FILE": "keys.json"})

    assert "keys.json" == loaded.api_keys_file


def test_every_missing_and_malformed_variable_is_named() -> None:
    env = {"SHOP_PORT": "many", "SHOP_PROFILE": "hunter2", "SHOP_RATIO_FILE": "not-there"}
    with pytest.raises(settings.SettingsError) as caught:
        settings.load(Settings, "SHOP_", env)

    assert [
        "SHOP_PORT",
        "SHOP_STORE_URL is missing",
        "SHOP_PROFILE",
        "SHOP_RATIO_FILE cannot be read",
    ] == [
        line if line.endswith("missing") else line.split(":")[0] for line in caught.value.problems
    ]
    assert "hunter2" not in str(caught.value)


def test_a_variable_and_its_file_together_are_ambiguous(tmp_path: Path) -> None:
    file = tmp_path / "port"
    file.write_text("2")
    with pytest.raises(settings.SettingsError, match="both set"):
        settings.load(Settings, "SHOP_", {**GOOD, "SHOP_PORT_FILE": str(file)})


def test_a_rule_between_two_fields_is_a_settings_error() -> None:
    class Related(msgspec.Struct):
        hold: int = 1
        deadline: int = 2

        def __post_init__(self) -> None:
            if self.hold <= self.deadline:
                raise ValueError("hold must be longer than deadline")

    with pytest.raises(settings.SettingsError, match="hold must be longer"):
        settings.load(Related, "X_", {})
