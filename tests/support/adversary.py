"""A predictor that does everything that a predictor must not do."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, suppress
from typing import Final, cast

from precall_service.domain.events import Predictor
from precall_service.speculation.base import Moment, Proposal, Situation

FLOOD: Final = 5000
JUNK: Final = (
    Proposal(tool_name="", arguments_json="{}", confidence=0.9),
    Proposal(tool_name="no_such_tool", arguments_json='{"city": "Rome"}', confidence=0.9),
    Proposal(tool_name="weather", arguments_json="{", confidence=0.9),
    Proposal(tool_name="weather", arguments_json="[]", confidence=0.9),
    Proposal(tool_name="weather", arguments_json="{}", confidence=0.9),
    Proposal(tool_name="weather", arguments_json='{"city": 5}', confidence=0.9),
    Proposal(tool_name="weather", arguments_json='{"city": "\\ud800"}', confidence=0.9),
    Proposal(tool_name="weather", arguments_json='{"city": "Rome", "days": 1e999}', confidence=0.9),
    Proposal(tool_name="weather", arguments_json="[" * 5000, confidence=0.9),
    Proposal(tool_name="weather", arguments_json=f'"{"x" * 5000}"', confidence=0.9),
    Proposal(tool_name="weather", arguments_json=cast("str", None), confidence=0.9),
    Proposal(tool_name="weather", arguments_json="{}", confidence=cast("float", "sure")),
)
"""Proposals that are no calls of any tool."""
CONFIDENCES: Final = (0.9, 1.0, 7.0, float("inf"), 0.5, float("nan"), -1.0, float("-inf"), 0.0)
MOVES: Final = (
    *("calls", "calls", "all"),
    *("junk", "flood", "crash", "crash late", "hang", "slow", "deaf", "branch", "nothing"),
)
"""What it does when it is asked. "deaf" ignores that it is cancelled, and then proposes calls."""


class Adversary:
    """Makes these moves in order, over and over, with the calls of a pool.

    `gate` lets slow proposals go on.
    """

    moments = frozenset(Moment)

    def __init__(
        self,
        moves: Sequence[str],
        pool: Sequence[tuple[str, str]],
        gate: asyncio.Event,
        *,
        name: Predictor = Predictor.FORK,
    ) -> None:
        self.name = name
        self._moves = itertools.cycle(moves or ["nothing"])
        self._pool = tuple(pool)
        self._calls = itertools.cycle(pool)
        self._junk = itertools.cycle(JUNK)
        self._confidences = itertools.cycle(CONFIDENCES)
        self._gate = gate

    async def propose(self, situation: Situation) -> AsyncGenerator[Proposal, None]:
        """See `Predictor`."""
        move = next(self._moves)
        await self._wait(move)
        if move == "crash":
            raise RuntimeError("the predictor crashes")
        for each in self._proposals(move):
            yield each
        if move == "crash late":
            raise RuntimeError("the predictor crashes late")
        if move == "branch" and situation.branch is not None:
            async with aclosing(situation.branch(1.0, 4)) as candidates:
                async for candidate in candidates:
                    yield self._call(candidate.tool_name, candidate.arguments_json)

    def _proposals(self, move: str) -> Iterator[Proposal]:
        match move:
            case "calls" | "slow" | "deaf" | "crash late":
                yield from (self._call(*next(self._calls)) for _ in range(3))
            case "all":
                yield from (self._call(*call) for call in self._pool)
            case "junk":
                yield next(self._junk)
                yield self._call(*next(self._calls))
                yield next(self._junk)
            case "flood":
                for number in range(FLOOD):
                    yield self._call("weather", json.dumps({"city": f"city {number}"}))
            case _:
                pass

    async def _wait(self, move: str) -> None:
        if move == "hang":
            await asyncio.Event().wait()
        elif move == "slow":
            await self._gate.wait()
        elif move == "deaf":
            with suppress(asyncio.CancelledError):
                await self._gate.wait()

    def _call(self, tool_name: str, arguments_json: str) -> Proposal:
        return Proposal(
            tool_name=tool_name,
            arguments_json=arguments_json,
            confidence=next(self._confidences),
        )
