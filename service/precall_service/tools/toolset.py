"""The tools that one stream offers.

Owns: which tools there are, their order, and the current declaration of each name.
Never: runs of handlers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import ToolRegistration
from precall_service.domain.tools import ToolDeclaration
from precall_service.tools.declarations import CheckedTool, ToolLimits, ToolProposal
from precall_service.tools.link import HandlerLink
from precall_service.tools.schema import Schema
from precall_service.tools.schema_store import SchemaStore


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RegisteredTool:
    """A tool as it was registered at one time.

    `arguments` checks the arguments of calls, and `result` the results, if the tool has an output
    schema.
    """

    declaration: ToolDeclaration
    arguments: Schema
    result: Schema | None
    link: HandlerLink
    toolset: Toolset

    @property
    def name(self) -> str:
        """The tool's name."""
        return self.declaration.name

    @property
    def held_bytes(self) -> int:
        """An upper bound of the memory of its schemas."""
        return sum(schema.held_bytes for schema in (self.arguments, self.result) if schema)

    def current(self) -> RegisteredTool | None:
        """This registration, the update that replaced it, or None if the tool was withdrawn.

        A call runs with the current registration: an update replaces the handler in its process,
        so the handler of the older registration no longer exists.
        """
        return self.toolset.current(self.name)


@dataclass(frozen=True, slots=True)
class Registration:
    """The outcome for a proposed tool, with its declaration if it was accepted."""

    outcome: ToolRegistration
    declaration: ToolDeclaration | None = None


class Toolset:
    """The tools of one stream. A snapshot does not change when the tools do.

    Attributes:
        tenant: Whose tools they are.
    """

    def __init__(
        self, link: HandlerLink, limits: ToolLimits, schemas: SchemaStore, *, tenant: str
    ) -> None:
        self.tenant = tenant
        self._link: HandlerLink | None = link
        self._limits = limits
        self._schemas = schemas
        self._tools: dict[str, RegisteredTool] = {}

    async def register(
        self, proposals: Sequence[ToolProposal], *, path: str = "register_tools.tools"
    ) -> list[Registration]:
        """Accepts or refuses each tool separately, in order.

        A tool with a known name replaces the old one and keeps its position. A refused update
        leaves the old one registered. `path` is the field of the tools, for errors.
        On cancel: the tools so far are registered.
        """
        names: set[str] = set()
        registrations: list[Registration] = []
        for index, proposal in enumerate(proposals):
            try:
                tool = await self._checked(proposal, names, f"{path}[{index}].")
            except ServiceError as error:
                error.__traceback__ = None  # it may wait for a slow client, and its frames with it
                refused = ToolRegistration(name=proposal.name, error=error)
                registrations.append(Registration(refused))
            else:
                self.add(tool)
                version = tool.declaration.version
                accepted = ToolRegistration(name=proposal.name, version=version)
                registrations.append(Registration(accepted, tool.declaration))
            names.add(proposal.name)
        return registrations

    def add(self, tool: CheckedTool) -> None:
        """Adds a tool, or replaces the one of its name. The set must not be closed."""
        assert self._link is not None
        self._tools[tool.declaration.name] = RegisteredTool(
            declaration=tool.declaration,
            arguments=tool.arguments,
            result=tool.result,
            link=self._link,
            toolset=self,
        )

    def withdraw(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """Withdraws tools. Returns the withdrawn names, and those that were not registered.

        Runs that were sent go on to their end. Calls from older snapshots end as unavailable.
        """
        withdrawn: list[str] = []
        unknown: list[str] = []
        for name in dict.fromkeys(names):
            known = self._tools.pop(name, None) is not None
            (withdrawn if known else unknown).append(name)
        return withdrawn, unknown

    def close(self) -> None:
        """Lets go of the link and all tools, which refer to this set: they are freed at once."""
        self._link = None
        self._tools.clear()

    def snapshot(self) -> tuple[RegisteredTool, ...]:
        """The current tools, in the order of their first registration."""
        return tuple(self._tools.values())

    def current(self, name: str) -> RegisteredTool | None:
        """The tool of that name, or None if none is registered."""
        return self._tools.get(name)

    async def _checked(self, proposal: ToolProposal, names: set[str], path: str) -> CheckedTool:
        if proposal.name in names:
            raise ServiceError(
                Reason.TOOL_DUPLICATE,
                f"tool {proposal.name!r} is declared twice in one frame; the first one counts",
                field=f"{path}name",
                metadata={"tool_name": proposal.name},
            )
        # Before the schemas are checked, which is what takes time.
        if proposal.name not in self._tools and len(self._tools) >= self._limits.tools_max:
            raise ServiceError(
                Reason.LIMIT_REACHED,
                f"this stream has {len(self._tools)} tools, the limit; withdraw some first",
                field=f"{path}name",
                metadata={"limit": str(self._limits.tools_max)},
            )
        others = (tool for name, tool in self._tools.items() if name != proposal.name)
        return await self._schemas.declare(
            self.tenant,
            proposal,
            path=path,
            stream_bytes=sum(tool.held_bytes for tool in others),
        )
