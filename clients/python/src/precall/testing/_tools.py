"""The tools that a client offers on one stream of a fake server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from precall.testing._script import Refuse
from precall.testing._status import status
from precall.v1 import tool_pb2


class OfferedTools:
    """Takes, refuses and withdraws tools as a precall server does."""

    def __init__(self, refused: Mapping[str, Refuse], declared: dict[str, tool_pb2.Tool]) -> None:
        """Offers none yet.

        Args:
            refused: Why tools are refused, by name.
            declared: Where every tool that is taken is noted, by name.
        """
        self._refused = refused
        self._declared = declared
        self._tools: dict[str, tool_pb2.Tool] = {}

    def register(self, tool: tool_pb2.Tool) -> tool_pb2.ToolRegistration:
        """Takes or refuses a tool. One of a name that is there is updated."""
        if (refused := self._refused.get(tool.name) or _not_served(tool)) is not None:
            error = status(refused.reason, refused.message, refused.retry_after_s)
            return tool_pb2.ToolRegistration(name=tool.name, error=error)
        self._tools[tool.name] = tool
        self._declared[tool.name] = tool
        return tool_pb2.ToolRegistration(name=tool.name, version=tool.version or "1")

    def withdraw(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """Returns the names that are no longer offered, and those that never were."""
        withdrawn: list[str] = []
        unknown: list[str] = []
        for name in names:
            known = self._tools.pop(name, None) is not None
            (withdrawn if known else unknown).append(name)
        return withdrawn, unknown

    def names(self) -> tuple[str, ...]:
        """The names of today: what a turn that starts now may call until its end."""
        return tuple(self._tools)

    def current(self, name: str) -> tool_pb2.Tool | None:
        """Returns the tool of that name as it is today; None when it was withdrawn."""
        return self._tools.get(name)


def _not_served(tool: tool_pb2.Tool) -> Refuse | None:
    """Returns why no server takes such a tool yet, if none does."""
    if tool.effects.requires_approval:
        text = f"effects.requires_approval of tool {tool.name!r}: no approvals are served yet"
        return Refuse("NOT_SERVED", text)
    if tool.rate_limit:
        text = f"rate_limit of tool {tool.name!r}: no limits of rates are served yet"
        return Refuse("NOT_SERVED", text)
    return None
