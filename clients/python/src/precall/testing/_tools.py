"""The tools of a client on one stream of a fake server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from precall.testing._schemas import ToolSchemas
from precall.testing._script import Refuse
from precall.testing._status import RefusedError
from precall.testing._tool_refusals import check_tool
from precall.v1 import agent_pb2, tool_pb2


@dataclass(frozen=True, slots=True)
class _Offered:
    declaration: tool_pb2.Tool
    schemas: ToolSchemas


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
        self._tools: dict[str, _Offered] = {}

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
                schemas = self._admit(tool, names, f"{path}[{index}].")
            except RefusedError as error:
                registration.error.CopyFrom(error.status)
            else:
                registration.version = version_of(tool)
                self._tools[tool.name] = _Offered(tool, schemas)
                self._declared[tool.name] = tool
            names.add(tool.name)
            registrations.append(registration)
        return registrations

    def _admit(self, tool: tool_pb2.Tool, names: set[str], path: str) -> ToolSchemas:
        if (refused := self._refused.get(tool.name)) is not None:
            raise RefusedError(refused.reason, refused.message, retry_after_s=refused.retry_after_s)
        if tool.name in names:
            text = f"tool {tool.name!r} is declared twice in one frame; the first one counts"
            raise RefusedError("TOOL_DUPLICATE", text, f"{path}name")
        most = self._limits.tools_max
        if most and tool.name not in self._tools and len(self._tools) >= most:
            text = f"this stream has {len(self._tools)} tools, the limit; withdraw some first"
            raise RefusedError("LIMIT_REACHED", text, f"{path}name")
        return check_tool(tool, self._limits, path)

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
        offered = self._tools.get(name)
        return None if offered is None else offered.declaration

    def schemas(self, name: str) -> ToolSchemas | None:
        """Returns the schemas of the current tool of that name; None if it was withdrawn."""
        offered = self._tools.get(name)
        return None if offered is None else offered.schemas

    def check_arguments(self, name: str, arguments_json: str) -> None:
        """Raises RefusedError if a call of a tool with these arguments cannot run.

        If the tool was withdrawn, there is nothing to check.
        """
        if (schemas := self.schemas(name)) is not None:
            schemas.check_arguments(arguments_json, self._limits.arguments_bytes_max)


def version_of(tool: tool_pb2.Tool) -> str:
    """Returns the version under which a tool is registered."""
    return tool.version or "1"


def may_run_early(tool: tool_pb2.Tool) -> bool:
    """Returns whether the declaration of a tool allows running it for a predicted call."""
    effects = tool.effects
    asks = effects.requires_approval or effects.open_world
    return effects.read_only and effects.speculation_safe and not asks
