"""What a tool is: its declaration and its effects. A tool that declares no effects is unsafe."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from precall_service.domain import resources
from precall_service.domain.json import JsonObject
from precall_service.domain.resources import ResourceTemplate

TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class CacheScope(enum.Enum):
    """Where a cached result may be used again."""

    CONVERSATION = "conversation"
    TENANT = "tenant"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolEffects:
    """The effects of a handler on the world, as its owner declares them."""

    read_only: bool = False
    speculation_safe: bool = False
    idempotent: bool = False
    open_world: bool = False
    requires_approval: bool = False
    approval_may_edit: bool = False
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()

    def may_run_early(self, *, open_world_allowed: bool) -> bool:
        """Returns whether a handler may run for a call that the model may never make.

        The operator may allow this for a tool that is declared as open-world.
        """
        return (
            self.read_only
            and self.speculation_safe
            and not self.requires_approval
            and (open_world_allowed or not self.open_world)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDeclaration:
    """A tool that has passed the checks of registration.

    `digest` identifies what the model is shown: tools with equal digests have equal prompts and
    grammars. `timeout_s` bounds one run, `max_concurrency` the number of runs at the same time.
    `reads` and `writes` are the templates of its effects.
    """

    name: str
    version: str
    digest: str
    description: str
    input_schema: JsonObject
    output_schema: JsonObject | None
    effects: ToolEffects
    timeout_s: float
    max_concurrency: int
    cache_ttl_s: float = 0.0
    cache_scope: CacheScope = CacheScope.CONVERSATION
    reads: tuple[ResourceTemplate, ...] = ()
    writes: tuple[ResourceTemplate, ...] = ()

    @property
    def cacheable(self) -> bool:
        """Whether results may be used again."""
        return self.cache_ttl_s > 0

    def read(self, arguments: JsonObject) -> tuple[str, ...]:
        """Returns the resources that a run with these arguments reads, as the tool declares."""
        return _names(self.reads, arguments)

    def written(self, arguments: JsonObject, conversation_id: str) -> tuple[str, ...]:
        """Returns the resources that a run with these arguments writes.

        A tool that is not read-only and declares no writes writes everything of its conversation.
        """
        if self.effects.read_only:
            return ()
        if not self.writes:
            return (resources.conversation(conversation_id),)
        return _names(self.writes, arguments)


def _names(templates: tuple[ResourceTemplate, ...], arguments: JsonObject) -> tuple[str, ...]:
    names = (name for template in templates for name in template.names(arguments))
    return tuple(dict.fromkeys(names))
