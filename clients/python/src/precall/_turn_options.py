"""How one turn is generated and what it may use: the keyword arguments of `send` and `ask`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from precall._rules import COUNT, INT32, INT64, NUMBER, TEXT, TEXTS, TIME, Rule, check


class TurnOptions(TypedDict, total=False):
    """How one turn is generated and what it may use. What is not said takes the defaults."""

    turn_id: str
    """Yours, to make a retry idempotent; without one the client makes one."""
    temperature: float
    """0 is greedy; at most 2."""
    top_p: float
    """Above 0, at most 1."""
    top_k: int
    """At least 1; -1 takes all tokens."""
    seed: int
    """Makes sampling repeatable on the same server."""
    max_tokens: int
    """Tokens that one step may generate."""
    stop: Sequence[str]
    """Texts that end a step when they are generated; not part of the answer."""
    tool_choice: str
    """"auto", "none", "required", or the name of the tool to call first."""
    max_steps: int
    """Steps, that is assistant messages."""
    max_turn_tokens: int
    """Tokens that all steps together may generate."""
    timeout: float
    """Seconds from admission to the end; then the turn ends with LIMIT and what is written by then.
    To bound the waiting for admission too, use `asyncio.timeout` around the turn: it is cancelled
    on the server."""


TURN_RULES: Mapping[str, Rule] = {
    "turn_id": TEXT,
    "temperature": NUMBER,
    "top_p": NUMBER,
    "top_k": INT32,
    "seed": INT64,
    "max_tokens": COUNT,
    "stop": TEXTS,
    "tool_choice": Rule('"auto", "none", "required" or the name of a tool', TEXT.fits),
    "max_steps": COUNT,
    "max_turn_tokens": COUNT,
    "timeout": TIME,
}


def check_turn(text: str, options: TurnOptions) -> None:
    """Returns when a turn can be asked for in this way.

    Raises:
        TypeError: There is no such option, or the text or an option is of another type.
        ValueError: An option is outside of what its field can hold.
    """
    check({"text": text}, {"text": TEXT}, "turn")
    check(options, TURN_RULES, "turn")
