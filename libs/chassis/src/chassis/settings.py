"""Settings from the environment, all wrong ones named at once. Knows no service's fields."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)


class SettingsError(Exception):
    """The environment does not make a valid Struct; `problems` holds one line per variable."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(cls: type[T], prefix: str, env: Mapping[str, str] = os.environ) -> T:
    """The settings in `<PREFIX><FIELD>`, or in the file that `<PREFIX><FIELD>_FILE` names.

    Values are converted from text by the Struct's own types. Raises SettingsError with every
    missing, malformed and doubly given variable; a secret's value is never part of a message.
    """
    values: dict[str, object] = {}
    wrong: list[str] = []
    for field in msgspec.structs.fields(cls):
        name = prefix + field.name.upper()
        try:
            text = _text(name, env)
            if text is None:
                if field.required:
                    wrong.append(f"{name} is missing")
                continue
            values[field.name] = msgspec.convert(text, field.type, strict=False, dec_hook=_made)
        except msgspec.ValidationError as error:
            wrong.append(f"{name}: {_without_input(str(error))}")
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise SettingsError(wrong)
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:  # a __post_init__ that relates two fields
        raise SettingsError([str(error)]) from error


def _made(type_: type, text: str) -> object:
    if type_ is Path:
        return Path(text)
    raise NotImplementedError


def _text(name: str, env: Mapping[str, str]) -> str | None:
    text, path = env.get(name), env.get(f"{name}_FILE")
    # An empty variable is one that compose or a shell left unset.
    if text and path:
        raise ValueError(f"{name} and {name}_FILE are both set")
    if path:
        try:
            return Path(path).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{name}_FILE cannot be read: {type(error).__name__}") from error
    return text or None


def _without_input(message: str) -> str:
    return "not one of the allowed values" if "Invalid enum value" in message else message
