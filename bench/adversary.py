"""Predictors that only a bench has: one that is always right, and one that is always wrong.

Both take the place of the fork. The first knows the calls, because the bench has seen them before.
The second does the whole work of a fork, and then changes what it found.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast

from bench.tool_calls import Call
from precall_service.domain.events import Predictor
from precall_service.domain.json import JsonObject, JsonValue, dump, parse_object
from precall_service.speculation.base import Moment, Proposal, Situation
from precall_service.speculation.predictors.fork import Fork


class Oracle:
    """Proposes the calls that it was told to expect, at the start of each step."""

    name = Predictor.FORK
    moments = frozenset({Moment.STEP_BEGAN})

    def __init__(self) -> None:
        self.expected: dict[str, Sequence[Sequence[Call]]] = {}
        """The calls of each step, by the user's message."""

    async def propose(self, situation: Situation) -> AsyncGenerator[Proposal, None]:
        """See `Predictor`."""
        steps = self.expected.get(situation.text, ())
        for call in steps[situation.step] if situation.step < len(steps) else ():
            yield Proposal(tool_name=call.tool_name, arguments_json=call.arguments, confidence=1.0)


class WrongFork:
    """Proposes the calls of a fork with other arguments."""

    name = Predictor.FORK

    def __init__(self) -> None:
        self._fork = Fork()
        self.moments = self._fork.moments

    async def propose(self, situation: Situation) -> AsyncGenerator[Proposal, None]:
        """See `Predictor`."""
        async with aclosing(self._fork.propose(situation)) as proposals:
            async for proposal in proposals:
                tool = situation.tools.get(proposal.tool_name)
                if tool is None:
                    continue
                arguments = altered(parse_object(proposal.arguments_json), tool.input_schema)
                if arguments is not None:
                    yield Proposal(
                        tool_name=proposal.tool_name,
                        arguments_json=dump(arguments),
                        confidence=proposal.confidence,
                    )


def altered(arguments: JsonObject, schema: JsonObject) -> JsonObject | None:
    """Returns other arguments that the schema allows as well; None if none were found."""
    properties = cast("Mapping[str, Mapping[str, Any]]", schema.get("properties", {}))
    for name, value in arguments.items():
        other = _other(value, properties.get(name, {}))
        if other is not None:
            return {**arguments, name: other}
    return None


def _other(value: JsonValue, schema: Mapping[str, Any]) -> JsonValue:
    if "enum" in schema:
        return next((each for each in schema["enum"] if each != value), None)
    match value:
        case bool():
            return not value
        case str() if "pattern" not in schema and "format" not in schema:
            return f"{value} instead"
        case int() | float() if "maximum" not in schema:
            return value + 1
        case [first, *rest]:
            other = _other(first, schema.get("items", {}))
            return None if other is None else [other, *rest]
        case _:
            return None
