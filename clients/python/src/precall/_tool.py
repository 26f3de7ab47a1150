"""A tool: a declaration for the server, and the function behind it.

Owns: what the keyword arguments of `@client.tool` mean.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypedDict, TypeVar, Unpack

import pydantic

from precall._rules import (
    COUNT_OR_ZERO,
    FLAG,
    TEXT,
    TEXTS,
    TIME,
    TIME_OR_ZERO,
    Rule,
    check,
    one_of,
)
from precall._signature import Signature, read_signature

Handler: TypeAlias = Callable[..., object]
"""A function that can be a tool, synchronous or not."""

F = TypeVar("F", bound=Handler)

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


TOOL_RULES: Mapping[str, Rule] = {
    "name": TEXT,
    "description": TEXT,
    "version": TEXT,
    "read_only": FLAG,
    "speculation_safe": FLAG,
    "idempotent": FLAG,
    "open_world": FLAG,
    "requires_approval": FLAG,
    "approval_may_edit": FLAG,
    "reads": TEXTS,
    "writes": TEXTS,
    "cache_ttl": TIME_OR_ZERO,
    "cache_scope": one_of("conversation", "tenant"),
    "timeout": TIME,
    "max_concurrency": COUNT_OR_ZERO,
    "rate_limit": COUNT_OR_ZERO,
    "rate_interval": TIME,
}


class ToolOptions(TypedDict, total=False):
    """What can be said of a tool besides its function. What is not said takes the unsafe reading.

    A tool that says nothing is never run speculatively, never cached and never retried. Servers do
    not act yet on speculation_safe, idempotent, open_world, approval_may_edit, reads, writes, the
    cache and rate_interval.
    """

    name: str
    """Instead of the function's name; 1 to 64 of A-Z a-z 0-9 _ and -."""
    description: str
    """Instead of the docstring: what the tool does and when to use it, for the model."""
    version: str
    """Your version. Without one the server takes a digest of name, description and schema."""
    read_only: bool
    """The handler changes nothing that anyone could notice."""
    speculation_safe: bool
    """Running it for a call that the model never makes harms nobody."""
    idempotent: bool
    """Running it twice with the same arguments is the same as running it once."""
    open_world: bool
    """It reaches things that nobody here controls: the open web, other people."""
    requires_approval: bool
    """A person must approve every call. A server without `Capability.APPROVALS` refuses the tool;
    none has it yet."""
    approval_may_edit: bool
    """The person who approves may change the arguments."""
    reads: Sequence[str]
    """Resources that it reads: templates over the arguments, such as "file:{path}"."""
    writes: Sequence[str]
    """Resources that it writes, likewise."""
    cache_ttl: float
    """Seconds for which a result may be served again. 0: never."""
    cache_scope: Literal["conversation", "tenant"]
    """For whom."""
    timeout: float
    """Seconds that one run may take."""
    max_concurrency: int
    """Runs that may be in flight at once."""
    rate_limit: int
    """Runs that may start in `rate_interval`. No server limits rates yet: all refuse the tool."""
    rate_interval: float
    """Seconds; one without it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class Tool:
    """A function that the model can call, and what is declared of it."""

    name: str
    """What the model calls it."""
    description: str
    """What it does and when to use it."""
    input_schema: Mapping[str, pydantic.JsonValue]
    """JSON Schema of its arguments."""
    options: ToolOptions
    """What was said of it besides its function."""
    function: Handler
    """What runs."""
    signature: Signature
    """How arguments become a call of the function."""

    @property
    def is_async(self) -> bool:
        """Whether the function is a coroutine function; others run in a thread."""
        call = getattr(self.function, "__call__", None)  # noqa: B004  an object's own __call__
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(call)

    @classmethod
    def from_function(cls, function: Handler, **options: Unpack[ToolOptions]) -> Tool:
        """Returns the tool that a typed function describes.

        Name and description come from the function and its docstring, the schema from its
        annotations; a docstring's parameter descriptions and `Annotated[..., Field(...)]` are
        part of it.

        Raises:
            TypeError: The function cannot be a tool, or a value is not allowed; the message says
                which parameter and what to do.
        """
        if not callable(function):
            raise TypeError(f"a tool is a function, not {type(function).__name__}")
        name = options.get("name") or getattr(function, "__name__", "")
        label = f"tool {name or function!r}"
        check(options, TOOL_RULES, label, bad_value=TypeError)
        if not _NAME.fullmatch(name):
            raise TypeError(
                f"{label}: a tool's name is 1 to 64 of A-Z a-z 0-9 _ and -; say name=..."
            )
        signature = read_signature(function, label)
        return cls(
            name=name,
            description=options.get("description") or signature.description,
            input_schema=signature.input_schema,
            options=options,
            function=function,
            signature=signature,
        )


ToolLike: TypeAlias = Tool | Handler
"""A tool, or a function that becomes one."""


def as_tool(function: ToolLike, **options: Unpack[ToolOptions]) -> Tool:
    """Returns a tool for a function, or the tool itself.

    Raises:
        TypeError: Not a function that can be a tool, or options for a tool that has its own.
    """
    if isinstance(function, Tool):
        if options:
            raise TypeError(f"tool {function.name!r} has its options: {', '.join(options)}?")
        return function
    return Tool.from_function(function, **options)
