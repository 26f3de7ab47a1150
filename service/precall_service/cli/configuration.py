"""Flags, variables and a settings file in, settings out; or the fault, and where it stands.

Owns: which flag sets which knob, and the sentence about a knob that does not hold.
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

Knob: TypeAlias = tuple[str, str]
"""Section and name."""

Given: TypeAlias = Mapping[Knob, JsonValue]
"""What flags said; None: the flag was not there."""

FLAGS: Final[Mapping[Knob, str]] = {
    ("server", "host"): "--host",
    ("server", "port"): "--port",
    ("server", "drain_s"): "--drain",
    ("engine", "model"): "--model",
    ("engine", "device"): "--device",
    ("engine", "tool_call_parser"): "--tool-call-parser",
    ("engine", "reasoning_parser"): "--reasoning-parser",
    ("engine", "chat_template"): "--chat-template",
    ("engine", "structured_calls"): "--no-structured-calls",
    ("engine", "kv_cache_bytes"): "--kv-cache-bytes",
    ("engine", "offline"): "--offline",
}
_ALLOWED: Final[Mapping[str, str]] = {
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "path_type": "must be a path",
    "dict_type": "must be a table of names and values",
}


def load(file: Path | None, given: Given) -> Settings:
    """Settings from flags over variables over the file over defaults.

    Raises:
        CommandError: a name is unknown, a value is out of range, or the file cannot be read.
    """
    flags: dict[str, JsonValue] = {}
    for (section, name), value in given.items():
        if value is not None:
            cast("dict[str, JsonValue]", flags.setdefault(section, {}))[name] = value
    try:
        return load_settings(file, flags)
    except FileNotFoundError as error:
        raise CommandError(f"{error}. Check the path that --config names") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CommandError(f"the settings file {file} cannot be read: {error}") from None
    except ValidationError as error:
        faults = [_fault(detail, file, given) for detail in error.errors(include_url=False)]
        if len(faults) == 1:
            raise CommandError(f"the settings do not hold: {faults[0]}") from None
        lines = "".join(f"\n  - {fault}" for fault in faults)
        raise CommandError(f"the settings do not hold:{lines}") from None


def _fault(detail: ErrorDetails, file: Path | None, given: Given) -> str:
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, tomllib.TOMLDecodeError | UnicodeDecodeError):
        return f"{file} is not TOML: {cause}"
    path = [str(part) for part in detail["loc"]]
    if not path:
        return f"{cause or detail['msg']} (a variable PRECALL_... holds text that is not JSON?)"
    if path[0].upper().startswith(VARIABLE_PREFIX):
        return f"the variable {path[0]} sets nothing{_nearest_variable(path[0])}"
    place = _place(path, file, given)
    if detail["type"] == "extra_forbidden":
        return f"there is no setting {'.'.join(path)} ({place}){_nearest(path)}"
    template = _ALLOWED.get(detail["type"])
    limits = {
        name: f"{limit:g}" if isinstance(limit, float) else limit
        for name, limit in detail.get("ctx", {}).items()
    }
    allowed = template.format(**limits) if template else detail["msg"]
    return f"{'.'.join(path)} is {detail['input']!r} ({place}), and {allowed}"


def _place(path: list[str], file: Path | None, given: Given) -> str:
    """Where the value came from, by the weight of the sources."""
    knob = (path[0], path[1]) if len(path) > 1 else None
    if knob in FLAGS and given.get(knob) is not None:
        return f"from {FLAGS[knob]}"
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
    # A knob without its section is meant more often than the word that is spelled most like it.
    *_, last = name.upper().removeprefix(VARIABLE_PREFIX).split("__")
    of_that_knob = sorted(each for each in known if each.endswith(f"__{last}"))
    near = of_that_knob or difflib.get_close_matches(name.upper(), known | OTHER_VARIABLES, n=1)
    return f": did you mean {near[0]}?" if near else ""


def _nearest(path: list[str]) -> str:
    """The names that may have been meant."""
    section: type[BaseModel] = Settings
    for part in path[:-1]:
        field = section.model_fields.get(part)
        if field is None or not isinstance(field.annotation, type):
            return ""
        section = field.annotation
    *parents, name = path
    near = difflib.get_close_matches(name, section.model_fields, n=1)
    known = ".".join([*parents, near[0]]) if near else ", ".join(sorted(section.model_fields))
    return f": did you mean {known}?" if near else f": there are {known}"
