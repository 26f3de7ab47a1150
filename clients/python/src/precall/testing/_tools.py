"""The tools of a client on one stream of a fake server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from precall.testing._script import Refuse
from precall.testing._status import RefusedError, status
from precall.testing._tool_refusals import check_tool
from precall.v1 import agent_pb2, tool_pb2


class OfferedTools:
    """Accepts, refuses and withdraws tools like a precall server."""

    def __init__(
        self,
        refused: Mapping[str, Refuse],
        declared: dict[str, tool_pb2.Tool],
        limits: agent_pb2.ServerLimits,
    ) -> None:
        """Starts without tools.

        Args:
            refused: The refusals of tools, by name.
            declared: Receives the declaration of every accepted tool, by name.
            limits: The limits of tools; 0 is none.
        """
        self._limits = limits
        self._refused = refused
        self._declared = declared
        self._tools: dict[str, tool_pb2.Tool] = {}

    def register(
        self, tools: Sequence[tool_pb2.Tool], path: str
    ) -> list[tool_pb2.ToolRegistration]:
        """Accepts or refuses each tool. It replaces the tool of the same name.

        Args:
            tools: The tools of one frame, in which a name may stand once.
            path: The field with the tools, for errors.
        """
        names: set[str] = set()
        registrations: list[tool_pb2.ToolRegistration] = []
        for index, tool in enumerate(tools):
            registration = tool_pb2.ToolRegistration(name=tool.name)
            try:
                self._admit(tool, names, f"{path}[{index}].")
                registration.version = version_of(tool)
            except RefusedError as error:
                registration.error.CopyFrom(error.status)
            if (refused := self._refused.get(tool.name)) is not None:
                error = status(refused.reason, refused.message, refused.retry_after_s)
                registration = tool_pb2.ToolRegistration(name=tool.name, error=error)
            if not registration.HasField("error"):
                self._tools[tool.name] = self._declared[tool.name] = tool
            names.add(tool.name)
            registrations.append(registration)
        return registrations

    def _admit(self, tool: tool_pb2.Tool, names: set[str], path: str) -> None:
        if tool.name in names:
            text = f"tool {tool.name!r} is declared twice in one frame; the first one counts"
            raise RefusedError("TOOL_DUPLICATE", text, f"{path}name")
        most = self._limits.tools_max
        if most and tool.name not in self._tools and len(self._tools) >= most:
            text = f"this stream has {len(self._tools)} tools, the limit; withdraw some first"
            raise RefusedError("LIMIT_REACHED", text, f"{path}name")
        check_tool(tool, self._limits, path)

    def withdraw(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """Withdraws tools; returns the names that were withdrawn, and the unknown ones."""
        withdrawn: list[str] = []
        unknown: list[str] = []
        for name in dict.fromkeys(names):
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
