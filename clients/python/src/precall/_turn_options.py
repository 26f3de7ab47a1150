"""The keyword arguments of `send` and `ask`: how one turn is generated and what it may use."""

from __future__ import annotations

import reprlib
from collections.abc import Collection
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field, InstanceOf
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from precall._tool import Handler, Tool, ToolNamed
from precall._validate import Count, Int32, Int64, Number, Seconds, Text, Texts, Validator

ToolChoice: TypeAlias = (
    Literal["auto", "none", "required"] | InstanceOf[ToolNamed] | InstanceOf[Tool] | Handler
)
"""A mode, or the tool to call first."""


class TurnOptions(TypedDict, total=False):
    """How one turn is generated and what it may use. Missing options take the server's defaults."""

    turn_id: Text
    """Your id of the turn, which makes a retry idempotent. By default the client makes one."""
    temperature: Number
    """0 is greedy; at most 2."""
    top_p: Number
    """Above 0, at most 1."""
    top_k: Int32
    """At least 1; -1 takes all tokens."""
    seed: Int64
    """Makes sampling repeatable on the same server."""
    presence_penalty: Number
    """Makes tokens that have occurred less likely: -2 to 2; 0 changes nothing."""
    frequency_penalty: Number
    """Makes tokens less likely the more often they have occurred: -2 to 2; 0 changes nothing."""
    max_step_tokens: Count
    """Tokens that each step may generate."""
    stop: Texts
    """Strings that end a step when they are generated; they are not part of the answer."""
    tool_choice: Annotated[
        ToolChoice,
        Field(
            description='"auto", "none", "required", or a tool: its function, its Tool, or '
            'ToolNamed("its name")'
        ),
    ]
    """"auto", "none" or "required"; or the tool to call first: its function, its Tool, or
    `ToolNamed("its name")`. A string is always a mode, never a tool's name."""
    max_steps: Count
    """Steps, that is assistant messages."""
    max_turn_tokens: Count
    """Tokens that all steps together may generate."""
    timeout_s: Seconds
    """Time from admission to the end; the turn then ends with LIMIT and the text so far. To limit
    the wait for admission too, use `asyncio.timeout` around the turn: leaving it cancels the turn
    on the server."""


class TurnArguments(TurnOptions, total=True):
    """The arguments of `send`."""

    text: Text
    """The user's message."""


TURN_ARGUMENTS: Final = Validator(TurnArguments)


def tool_name(choice: ToolNamed | Tool | Handler, offered: Collection[Tool]) -> str:
    """Returns the name of the tool that a turn has to call first.

    Raises:
        ValueError: The choice is a function that is not exactly one of the offered tools.
    """
    if isinstance(choice, ToolNamed | Tool):
        return choice.name
    # Equality, not identity: each access to a bound method makes a new object.
    names = [tool.name for tool in offered if tool.function == choice]
    if len(names) == 1:
        return names[0]
    if names:
        problem = f"which is several tools: {', '.join(names)}; name one with ToolNamed(...)"
    else:
        there = ", ".join(tool.name for tool in offered) or "none"
        problem = f"which is not a tool of this conversation; its tools are: {there}"
    raise ValueError(f"turn: tool_choice is {reprlib.repr(choice)}, {problem}")
