"""A call in the form in which a prediction is compared with it."""

from __future__ import annotations

from typing import NamedTuple, Self

from precall_service.domain.json import JsonError, canonical, parse_object


class Call(NamedTuple):
    """A tool and its canonical arguments; those that are no JSON object stay as they are."""

    tool_name: str
    arguments: str

    @classmethod
    def read(cls, tool_name: str, arguments_json: str) -> Self:
        """Returns the call with these arguments."""
        try:
            return cls(tool_name, canonical(parse_object(arguments_json)).decode())
        except JsonError:
            return cls(tool_name, arguments_json)
