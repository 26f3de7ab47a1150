"""The tools of a client on one stream of a fake server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from precall.testing._script import Refuse
from precall.testing._status import status
from precall.v1 import tool_pb2


class OfferedTools:
    """Accepts, refuses and withdraws tools like a precall server."""

    def __init__(self, refused: Mapping[str, Refuse], declared: dict[str, tool_pb2.Tool]) -> None:
        """Starts without tools.

        Args:
            refused: The refusals of tools, by name.
            declared: Receives the declaration of every accepted tool, by name.
        """
        self._refused = refused
        self._declared = declared
        self._tools: dict[str, tool_pb2.Tool] = {}

    def register(self, tool: tool_pb2.Tool) -> tool_pb2.ToolRegistration:
        """Accepts or refuses a tool. It replaces the tool of the same name."""
        if (refused := self._refused.get(tool.name) or _refused(tool)) is not None:
            error = status(refused.reason, refused.message, refused.retry_after_s)
            return tool_pb2.ToolRegistration(name=tool.name, error=error)
        self._tools[tool.name] = tool
        self._declared[tool.name] = tool
        return tool_pb2.ToolRegistration(name=tool.name, version=version_of(tool))

    def withdraw(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """Withdraws tools; returns the names that were withdrawn, and the unknown ones."""
        withdrawn: list[str] = []
        unknown: list[str] = []
        for name in names:
            known = self._tools.pop(name, None) is not None
            (withdrawn if known else unknown).append(name)
        return withdrawn, unknown

    def names(self) -> tuple[str, ...]:
        """The current names, which a turn that starts now may call until its end."""
        return tuple(self._tools)

    def current(self, name: str) -> tool_pb2.Tool | None:
        """Returns the current tool of that name; None if it was withdrawn."""
        return self._tools.get(name)


def version_of(tool: tool_pb2.Tool) -> str:
    """Returns the version under which a tool is registered."""
    return tool.version or "1"


def may_run_early(tool: tool_pb2.Tool) -> bool:
    """Returns whether the declaration of a tool allows running it for a predicted call."""
    effects = tool.effects
    asks = effects.requires_approval or effects.open_world
    return effects.read_only and effects.speculation_safe and not asks


def _refused(tool: tool_pb2.Tool) -> Refuse | None:
    """Returns the refusal of a tool that no server takes; None if there is none."""
    if tool.cache.ttl.ToNanoseconds() and not tool.effects.read_only:
        text = f"cache.ttl of tool {tool.name!r}: only a tool that is read_only may be cached"
        return Refuse("FIELD_INVALID", text)
    if tool.effects.requires_approval:
        text = f"effects.requires_approval of tool {tool.name!r}: approvals are not served yet"
        return Refuse("NOT_SERVED", text)
    if tool.rate_limit:
        text = f"rate_limit of tool {tool.name!r}: rate limits are not served yet"
        return Refuse("NOT_SERVED", text)
    return None
