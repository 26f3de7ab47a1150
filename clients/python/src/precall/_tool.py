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

from precall._signature import Signature, read_signature

Handler: TypeAlias = Callable[..., object]
"""A function that can be a tool, synchronous or not."""

F = TypeVar("F", bound=Handler)

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ToolOptions(TypedDict, total=False):
    """What can be said of a tool besides its function. What is not said takes the unsafe reading.

    A tool that says nothing is never run speculatively, never cached and never retried.
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
    """A person must approve every call."""
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
    """Runs that may start in `rate_interval`."""
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
        if not _NAME.fullmatch(name):
            raise TypeError(
                f"{label}: a tool's name is 1 to 64 of A-Z a-z 0-9 _ and -; say name=..."
            )
        _check_options(options, label)
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


def _check_options(options: ToolOptions, label: str) -> None:
    """Raises TypeError for what no server would take."""
    for key in options:
        if key not in ToolOptions.__annotations__:
            raise TypeError(f"{label}: there is no option {key!r}")
    numbers = {
        "cache_ttl": options.get("cache_ttl", 0.0),
        "max_concurrency": options.get("max_concurrency", 0),
        "rate_limit": options.get("rate_limit", 0),
    }
    for key, value in numbers.items():
        if value < 0:
            raise TypeError(f"{label}: {key} is {value}, and cannot be below 0")
    times = {
        "timeout": options.get("timeout", 1.0),
        "rate_interval": options.get("rate_interval", 1.0),
    }
    for key, value in times.items():
        if value <= 0:
            raise TypeError(f"{label}: {key} is {value} seconds, and must be above 0")
    for key, templates in {
        "reads": options.get("reads", ()),
        "writes": options.get("writes", ()),
    }.items():
        if isinstance(templates, str):
            raise TypeError(f"{label}: {key} is a list of resources, not one text")
