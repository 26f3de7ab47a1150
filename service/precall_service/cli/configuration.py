"""Turns flags, variables and a settings file into settings, or into a message about a bad setting.

Owns: which flag sets which setting, and how an invalid setting is described.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeAlias, cast

from pydantic import BaseModel, JsonValue, ValidationError
from pydantic_core import ErrorDetails

from precall_service.cli.errors import CommandError
from precall_service.settings import (
    OTHER_VARIABLES,
    VARIABLE_PREFIX,
    Settings,
    load_settings,
)

Given: TypeAlias = Mapping[str, JsonValue | Path]
"""The value of each flag, by the name of its parameter; None if it was not given."""

FLAGS: Final[Mapping[str, tuple[str, str]]] = {
    "host": ("server", "host"),
    "port": ("server", "port"),
    "drain": ("server", "drain_s"),
    "backend": ("engine", "backend"),
    "url": ("openai", "url"),
    "model": ("engine", "model"),
    "device": ("engine", "device"),
    "tool_call_parser": ("engine", "tool_call_parser"),
    "reasoning_parser": ("engine", "reasoning_parser"),
    "chat_template": ("engine", "chat_template"),
    "structured_calls": ("engine", "structured_calls"),
    "kv_cache_bytes": ("engine", "kv_cache_bytes"),
    "offline": ("engine", "offline"),
    "log_level": ("engine", "log_level"),
}
"""Section and name of the setting that each flag sets."""


def load(file: Path | None, **given: JsonValue | Path) -> Settings:
    """Returns settings: flags win over variables, variables over the file, the file over defaults.

    Raises:
        CommandError: a name is unknown, a value is invalid, or the file cannot be read.
    """
    flags: dict[str, dict[str, JsonValue]] = {}
    for flag, value in given.items():
        if value is not None:
            section, name = FLAGS[flag]
            known = str(value) if isinstance(value, Path) else value
            flags.setdefault(section, {})[name] = known
    try:
        return load_settings(file, cast("dict[str, JsonValue]", flags))
    except FileNotFoundError as error:
        raise CommandError(f"{error}. Check the path after --config") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CommandError(f"the settings file {file} cannot be read: {error}") from None
    except ValidationError as error:
        faults = [_fault(detail, file, given) for detail in error.errors(include_url=False)]
        if len(faults) == 1:
            raise CommandError(f"the settings are invalid: {faults[0]}") from None
        lines = "".join(f"\n  - {fault}" for fault in faults)
        raise CommandError(f"the settings are invalid:{lines}") from None


def _fault(detail: ErrorDetails, file: Path | None, given: Given) -> str:
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, tomllib.TOMLDecodeError | UnicodeDecodeError):
        return f"{file} is not TOML: {cause}"
    path = [str(part) for part in detail["loc"]]
    if not path:
        return f"{cause or detail['msg']} (does a variable PRECALL_... hold text that is not JSON?)"
    if path[0].upper().startswith(VARIABLE_PREFIX):
        return f"the variable {path[0]} sets nothing{_nearest_variable(path[0])}"
    source = _source(path, file, given)
    if detail["type"] == "extra_forbidden":
        return f"there is no setting {'.'.join(path)} ({source}){_nearest(path)}"
    if path[-1] == "[key]":  # as pydantic names the key of a mapping
        return f"there is nothing of the name {'.'.join(path[:-1])} ({source}): {cause}"
    allowed = detail["msg"].replace("Input should be", "must be")
    return f"{'.'.join(path)} is {detail['input']!r} ({source}), and {allowed}"


def _source(path: list[str], file: Path | None, given: Given) -> str:
    """Returns where a value came from: the flag, else the variable, else the file."""
    for flag, setting in FLAGS.items():
        if list(setting) == path[:2] and given.get(flag) is not None:
            return f"from --{flag.replace('_', '-')}"
    wanted = {
        VARIABLE_PREFIX + "__".join(path[:depth]).upper() for depth in range(1, len(path) + 1)
    }
    for name in sorted(os.environ, key=len, reverse=True):
        if name.upper() in wanted:
            return f"from the variable {name}"
    return f"from {file}" if file is not None else "from the settings"


def _nearest_variable(name: str) -> str:
    known = {
        VARIABLE_PREFIX + "__".join((section, knob)).upper()
        for section, field in Settings.model_fields.items()
        for knob in cast("type[BaseModel]", field.annotation).model_fields
    }
    # A missing section is a more likely mistake than a misspelling of another variable.
    *_, last = name.upper().removeprefix(VARIABLE_PREFIX).split("__")
    same_knob = sorted(each for each in known if each.endswith(f"__{last}"))
    near = same_knob or difflib.get_close_matches(name.upper(), known | OTHER_VARIABLES, n=1)
    return f": did you mean {near[0]}?" if near else ""


def _nearest(path: list[str]) -> str:
    """Returns the name that was probably meant, or every name of the section."""
    section: type[BaseModel] = Settings
    for part in path[:-1]:
        field = section.model_fields.get(part)
        if field is None or not isinstance(field.annotation, type):
            return ""
        section = field.annotation
    *parents, name = path
    if near := difflib.get_close_matches(name, section.model_fields, n=1):
        return f": did you mean {'.'.join([*parents, near[0]])}?"
    return f": there are {', '.join(sorted(section.model_fields))}"
