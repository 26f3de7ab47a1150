"""A tool: a declaration for the server, and the function that runs.

Owns: the meaning of the keyword arguments of `@client.tool`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias, TypeVar, Unpack

import pydantic
from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from precall._layers import name_of
from precall._signature import Signature, read_signature
from precall._validate import (
    CountOrZero,
    Flag,
    Seconds,
    SecondsOrZero,
    Text,
    Texts,
    Validator,
)

Handler: TypeAlias = Callable[..., object]
"""A function that can be a tool, synchronous or not."""

F = TypeVar("F", bound=Handler)

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ToolOptions(TypedDict, total=False):
    """Options of a tool. Each defaults to its unsafe value.

    A tool without options is never run speculatively, never cached and never retried. Some options
    need a capability that a server may lack: opening a conversation or adding a tool then warns
    with `NotServedWarning`, or raises ToolRejectedError where ignoring the option would be unsafe.
    """

    name: Text
    """Replaces the function's name; 1 to 64 characters of A-Z a-z 0-9 _ and -."""
    description: Text
    """Replaces the docstring: what the tool does and when to use it, for the model."""
    version: Text
    """Your version. By default the server takes a digest of name, description and schema."""
    read_only: Flag
    """The handler changes nothing that anyone could notice."""
    speculation_safe: Flag
    """Running it for a call that the model never makes does no harm: it costs, discloses and
    triggers nothing. If the tool is also `read_only`, the server may run it before the model makes
    the call. Needs SPECULATION."""
    idempotent: Flag
    """Running it twice with the same arguments has the same effect as running it once. No server
    uses this yet."""
    open_world: Flag
    """It reaches things outside your control: the open web, other people. It is then never run
    early, unless the operator of the server allows it. Needs SPECULATION."""
    requires_approval: Flag
    """A person must approve every call. A server without APPROVALS refuses the tool."""
    approval_may_edit: Flag
    """The person who approves may change the arguments. Needs APPROVALS."""
    reads: Texts
    """Resources that it reads: templates over the arguments, such as "file:{path}" or
    "order:{order.id}". If an argument is absent or does not make a plain path, a template stands
    for everything that it could mean. After a write to one of these resources, cached results are
    not reused. Needs TOOL_CACHE."""
    writes: Texts
    """Resources that it writes, also as templates: cached results that have read one of them are
    not reused. A tool that is not `read_only` and has no `writes` makes every older result stale
    for its conversation. Needs TOOL_CACHE."""
    cache_ttl_s: SecondsOrZero
    """How long a result may be reused. During this time, calls with equal arguments do not run the
    function. 0: never. The tool must be `read_only`, or servers refuse it. Needs TOOL_CACHE."""
    cache_scope: Annotated[
        Literal["conversation", "tenant"], Field(description='"conversation" or "tenant"')
    ]
    """Where a result may be reused: in its "conversation" (the default), or in all conversations of
    the "tenant". With "tenant", the result must not depend on the conversation, and `reads` must
    name every resource that can change it before it expires. Needs TOOL_CACHE."""
    timeout_s: Seconds
    """How long one run may take."""
    max_concurrency: CountOrZero
    """Runs that may be in flight at once. 0: the default of the client and of the server."""
    rate_limit: CountOrZero
    """Runs that may start in `rate_interval_s`. 0: no limit. No server limits rates yet: servers
    refuse the tool."""
    rate_interval_s: Seconds
    """The interval of `rate_limit`; 1 by default."""


TOOL_OPTIONS: Final = Validator(ToolOptions)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class Tool:
    """A function that the model can call, and its declaration."""

    name: str
    """The name that the model calls."""
    description: str
    """What it does and when to use it."""
    input_schema: Mapping[str, pydantic.JsonValue]
    """JSON Schema of its arguments."""
    options: ToolOptions
    """The options that were given for it."""
    function: Handler
    """The function that runs."""
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
        annotations. The schema includes the docstring's parameter descriptions and
        `Annotated[..., Field(...)]`. Parameters that a `functools.partial` has bound are left out
        of it: the model neither sees nor sets them.

        Raises:
            TypeError: The function cannot be a tool, or an option is not allowed; the message
                names the parameter or option and says what to do.
        """
        if not callable(function):
            raise TypeError(f"a tool is a function, not {type(function).__name__}")
        name = options.get("name") or name_of(function)
        # Not the printed form of the function: that of a partial shows the values that it binds.
        label = f"tool {name!r}" if name else f"a tool of the type {type(function).__name__!r}"
        options = TOOL_OPTIONS.validate(options, label, bad_value=TypeError)
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


@dataclass(frozen=True, slots=True)
class ToolNamed:
    """A tool by its name, for `tool_choice`: `tool_choice=precall.ToolNamed("search")`."""

    name: str
    """The tool's name."""


ToolLike: TypeAlias = Tool | Handler
"""A tool, or a function that becomes one."""


def as_tool(function: ToolLike, **options: Unpack[ToolOptions]) -> Tool:
    """Returns a tool for a function, or the tool itself.

    Raises:
        TypeError: The function cannot be a tool, or options were given for a finished Tool.
    """
    if isinstance(function, Tool):
        if options:
            raise TypeError(f"tool {function.name!r} has its options: {', '.join(options)}?")
        return function
    return Tool.from_function(function, **options)
