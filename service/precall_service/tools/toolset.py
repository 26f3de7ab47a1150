"""The tools that one stream offers.

Owns: which tools there are, in which order, and which declaration of a name is today's.
Never: runs of handlers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.tools import ToolDeclaration
from precall_service.tools.declarations import ToolLimits, ToolProposal, declare
from precall_service.tools.link import HandlerLink
from precall_service.tools.schema import Schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """The outcome for one proposed tool: a version, or why it was refused."""

    name: str
    version: str = ""
    error: ServiceError | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RegisteredTool:
    """A tool as it was when a turn took its snapshot. `arguments` and `result` check values."""

    declaration: ToolDeclaration
    arguments: Schema
    result: Schema | None
    link: HandlerLink
    toolset: Toolset

    @property
    def name(self) -> str:
        """The tool's name."""
        return self.declaration.name

    def current(self) -> RegisteredTool | None:
        """The tool under this name today: itself, its update, or None when it was withdrawn.

        A call is run against this one: an update brings its handler along, and the handler that
        the snapshot spoke of is gone.
        """
        return self.toolset.current(self.name)


class Toolset:
    """The tools of one stream. What `snapshot` gave never changes."""

    def __init__(self, link: HandlerLink, limits: ToolLimits) -> None:
        self._link = link
        self._limits = limits
        self._tools: dict[str, RegisteredTool] = {}

    def register(
        self, proposals: Sequence[ToolProposal], *, path: str = "register_tools.tools"
    ) -> list[Registration]:
        """Accepts or refuses each tool on its own, in order; `path` names them in errors.

        A known name is updated in its place. A refused update leaves the tool as it was.
        """
        names: set[str] = set()
        registrations: list[Registration] = []
        for index, proposal in enumerate(proposals):
            try:
                tool = self._admit(proposal, names, f"{path}[{index}].")
            except ServiceError as error:
                registrations.append(Registration(name=proposal.name, error=error))
            else:
                self._tools[tool.name] = tool
                registrations.append(Registration(name=tool.name, version=tool.declaration.version))
            names.add(proposal.name)
        return registrations

    def withdraw(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """The names that are no longer offered, and those that never were.

        What runs is finished; later calls from older snapshots end as unavailable.
        """
        withdrawn: list[str] = []
        unknown: list[str] = []
        for name in dict.fromkeys(names):
            known = self._tools.pop(name, None) is not None
            (withdrawn if known else unknown).append(name)
        return withdrawn, unknown

    def snapshot(self) -> tuple[RegisteredTool, ...]:
        """The tools of today, in the order of their first registration."""
        return tuple(self._tools.values())

    def current(self, name: str) -> RegisteredTool | None:
        """The tool of that name today."""
        return self._tools.get(name)

    def _admit(self, proposal: ToolProposal, names: set[str], path: str) -> RegisteredTool:
        if proposal.name in names:
            raise ServiceError(
                Reason.TOOL_DUPLICATE,
                f"tool {proposal.name!r} is declared twice in one frame; the first one counts",
                field=f"{path}name",
                metadata={"tool_name": proposal.name},
            )
        # Before the schemas are looked at: they are what costs time.
        if proposal.name not in self._tools and len(self._tools) >= self._limits.tools_max:
            raise ServiceError(
                Reason.LIMIT_REACHED,
                f"this stream has {len(self._tools)} tools, the limit; withdraw some first",
                field=f"{path}name",
                metadata={"limit": str(self._limits.tools_max)},
            )
        checked = declare(proposal, self._limits, path=path)
        return RegisteredTool(
            declaration=checked.declaration,
            arguments=checked.arguments,
            result=checked.result,
            link=self._link,
            toolset=self,
        )
