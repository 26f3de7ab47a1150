"""The versions with which a server has registered the tools of a conversation."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from precall import _errors
from precall._errors import PrecallError, ToolRejectedError
from precall.v1 import tool_pb2

logger = logging.getLogger("precall")


class LoosenedKeywords:
    """Logs what servers do not hold a model to while it writes calls, once for each client."""

    def __init__(self) -> None:
        self._told: set[tuple[str, str]] = set()

    def log(self, registrations: Iterable[tool_pb2.ToolRegistration]) -> None:
        """Logs a warning for each keyword of a tool's schema that is not held."""
        for registration in registrations:
            for keyword in registration.loosened:
                if (registration.name, keyword.path) in self._told:
                    continue
                self._told.add((registration.name, keyword.path))
                logger.warning(
                    "the model is not held to %s of tool %r while it writes a call: %s. Arguments"
                    " that do not fit it do not reach the handler",
                    *(keyword.path, registration.name, keyword.reason),
                )


class ToolVersions:
    """The version of each registered tool, by its name."""

    def __init__(self, loosened: LoosenedKeywords) -> None:
        self._loosened = loosened
        self._versions: dict[str, str] = {}

    def register(self, registrations: Iterable[tool_pb2.ToolRegistration]) -> None:
        """Takes the server's answer for declared tools.

        Raises:
            ToolRejectedError: The server refused a tool. Notes name the others that it refused.
        """
        answered = list(registrations)
        if rejected := _rejections(answered):
            raise rejected
        self._loosened.log(answered)
        self._versions.update((accepted.name, accepted.version) for accepted in answered)

    def forget(self, name: str) -> None:
        """Notes that a tool was withdrawn, or that its version is unknown."""
        self._versions.pop(name, None)

    def of(self, name: str) -> str:
        """Returns the version of a tool.

        Raises:
            ToolRejectedError: The server has not registered a tool of that name.
        """
        if (version := self._versions.get(name)) is None:
            raise _errors.no_tool("conversation", name)
        return version


def _rejections(registrations: Iterable[tool_pb2.ToolRegistration]) -> ToolRejectedError | None:
    """Returns the error of the first tool that was refused, with the others as notes."""
    errors: Sequence[PrecallError] = [
        _errors.from_status(registration.error, family=ToolRejectedError)
        for registration in registrations
        if registration.HasField("error")
    ]
    if not errors:
        return None
    first, *others = errors
    assert isinstance(first, ToolRejectedError)
    for other in others:
        first.add_note(f"also refused: {other.message}")
    return first
