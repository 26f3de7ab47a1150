"""The versions with which a server has registered the tools of a conversation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from precall import _errors
from precall._errors import PrecallError, ToolRejectedError
from precall.v1 import tool_pb2


class ToolVersions:
    """The version of each registered tool, by its name."""

    def __init__(self) -> None:
        self._versions: dict[str, str] = {}

    def register(self, registrations: Iterable[tool_pb2.ToolRegistration]) -> None:
        """Takes the server's answer for declared tools.

        Raises:
            ToolRejectedError: The server refused a tool. Notes name the others that it refused.
        """
        answered = list(registrations)
        if rejected := _rejections(answered):
            raise rejected
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
