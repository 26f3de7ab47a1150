"""Predictors and tools for tests of speculation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import replace

import pytest

from precall_service.cache.base import CacheKey, Lookup, StoreUnavailableError
from precall_service.domain.events import (
    DiscardReason,
    Invoke,
    PredictionConfirmed,
    PredictionDiscarded,
    PredictionLaunched,
    PredictionProposed,
    PredictionReady,
    Predictor,
    ResultSource,
    ToolCallCompleted,
)
from precall_service.domain.tools import CacheScope, ToolEffects
from precall_service.speculation.base import Moment, Proposal, Situation
from precall_service.speculation.ledger import CallKey, Prediction
from precall_service.tools.declarations import ToolProposal, declare
from tests.support.agent import Agent, Client
from tests.support.cached import FILE_SCHEMA
from tests.support.clock import settle
from tests.support.scripts import Item, Pause, calls, says, thinks
from tests.support.tools import CITY_SCHEMA, tool_limits

SAFE = ToolEffects(read_only=True, speculation_safe=True)
WEATHER = ToolProposal(
    name="weather", input_schema_json=CITY_SCHEMA, effects=SAFE, timeout_s=20.0, version="1"
)
TIME = replace(WEATHER, name="time")
BOOK = ToolProposal(name="book", input_schema_json=CITY_SCHEMA, timeout_s=20.0)

ALWAYS = tuple(Moment)
EVENTS = (
    PredictionProposed,
    PredictionLaunched,
    PredictionReady,
    PredictionConfirmed,
    PredictionDiscarded,
)


def weather(city: str = "Rome", confidence: float = 0.9) -> Proposal:
    return proposal("weather", city, confidence)


def proposal(tool: str, city: str = "Rome", confidence: float = 0.9) -> Proposal:
    return Proposal(
        tool_name=tool, arguments_json=json.dumps({"city": city}), confidence=confidence
    )


class Told:
    """A predictor that proposes what the test says, at the moments that the test says."""

    def __init__(
        self,
        propose: Callable[[Situation], Iterable[Proposal]] | Sequence[Proposal],
        *,
        name: Predictor = Predictor.FORK,
        moments: Sequence[Moment] = (Moment.STEP_BEGAN,),
    ) -> None:
        self.name = name
        self.moments = frozenset(moments)
        self.asked: list[Situation] = []
        self._propose = propose

    async def propose(self, situation: Situation) -> AsyncGenerator[Proposal, None]:
        self.asked.append(situation)
        propose = self._propose
        for each in propose(situation) if callable(propose) else propose:
            yield each


class Slow:
    """A predictor that proposes once the test says so."""

    name = Predictor.FORK
    moments = frozenset(ALWAYS)

    def __init__(self, proposal: Proposal) -> None:
        self._proposal = proposal
        self.asked: list[Moment] = []
        self.gate = asyncio.Event()
        self.ended = 0

    async def propose(self, situation: Situation) -> AsyncGenerator[Proposal, None]:
        self.asked.append(situation.moment)
        try:
            await self.gate.wait()
            yield self._proposal
        finally:
            self.ended += 1


def first_step(*proposals: Proposal) -> Callable[[Situation], Sequence[Proposal]]:
    """Proposes these in the first step only."""
    return lambda situation: proposals if situation.step == 0 else ()


def story(client: Client) -> list[str]:
    """What the client was told of predictions, in short."""
    names: dict[str, str] = {}
    told: list[str] = []
    for event in client.events:
        match event:
            case PredictionProposed():
                [argument] = json.loads(event.arguments_json).values()
                names[event.prediction_id] = f"{event.tool_name} {argument}"
                told.append(f"proposed {names[event.prediction_id]}")
            case PredictionLaunched(prediction_id):
                told.append(f"launched {names[prediction_id]}")
            case PredictionReady(prediction_id):
                told.append(f"ready {names[prediction_id]}")
            case PredictionConfirmed(prediction_id):
                told.append(f"confirmed {names[prediction_id]}")
            case PredictionDiscarded(prediction_id, reason):
                told.append(f"discarded {names[prediction_id]}: {reason.name}")
            case _:
                pass
    return told


def reasons(client: Client) -> list[DiscardReason]:
    return [event.reason for event in client.of(PredictionDiscarded)]


def launched(client: Client) -> list[str]:
    """The predictions whose handlers were started."""
    return [line.removeprefix("launched ") for line in story(client) if line.startswith("launched")]


def predicted(
    *,
    tool: ToolProposal = WEATHER,
    city: str = "Rome",
    predictor: Predictor = Predictor.FORK,
    confidence: float = 0.9,
    step: int = 0,
    parent: Prediction | None = None,
    at: float = 1000.0,
) -> Prediction:
    """A prediction that no turn has made."""
    declaration = declare(tool, tool_limits()).declaration
    return Prediction(
        key=CallKey(
            declaration.name, declaration.version, json.dumps({"city": city}).replace(" ", "")
        ),
        declaration=declaration,
        arguments={"city": city},
        predictor=predictor,
        confidence=confidence,
        depth=1 if parent is None else parent.depth + 1,
        step=step,
        parent=parent,
        proposed_at=at,
    )


class StoreSwitch:
    """Takes the store of the cache away, or holds its look-ups up, as remote stores do.

    Attributes:
        lost: Every look-up fails.
        waits: Other tasks run during each look-up.
        held: If there is one, look-ups wait until it is set.
    """

    def __init__(self, there: Agent) -> None:
        self.lost = False
        self.waits = False
        self.held: asyncio.Event | None = None
        self._look_up = there.store.look_up
        there.store.look_up = self._looked_up

    async def _looked_up(self, key: CacheKey, nodes: Sequence[str]) -> Lookup:
        if self.waits:
            await asyncio.sleep(0)
        if self.held is not None:
            await self.held.wait()
        if self.lost:
            raise StoreUnavailableError("the store is lost")
        return await self._look_up(key, nodes)


READ = replace(
    WEATHER,
    name="read",
    input_schema_json=FILE_SCHEMA,
    effects=ToolEffects(read_only=True, speculation_safe=True, reads=("file:{path}",)),
)
CACHED_READ = replace(READ, cache_ttl_s=60.0, cache_scope=CacheScope.TENANT)


def reading(path: str = "/a", confidence: float = 0.9) -> Proposal:
    """The prediction that a file is read."""
    return Proposal(
        tool_name="read", arguments_json=json.dumps({"path": path}), confidence=confidence
    )


def following(after: Proposal, *then: Proposal) -> Callable[[Situation], Sequence[Proposal]]:
    """Proposes a call in the first step, and what follows once its result is ready."""
    return lambda situation: (
        then
        if situation.moment is Moment.RESULT_READY and situation.depth == 2
        else (after,)
        if situation.moment is Moment.STEP_BEGAN and situation.step == 0
        else ()
    )


class Thinking:
    """Steps in which the model thinks until the test says `on`, and then makes calls."""

    def __init__(self) -> None:
        self._gates: list[asyncio.Event] = []

    def then(self, *called: tuple[str, str]) -> list[Item]:
        """Such a step; without calls, it answers."""
        self._gates.append(asyncio.Event())
        return [
            *thinks("hm"),
            Pause(self._gates[-1]),
            *(calls(*called) if called else says("done")),
        ]

    async def on(self, step: int = 0) -> None:
        """Lets this step go on, and everything run as far as it can."""
        self._gates[step].set()
        await settle()


both_ways = pytest.mark.parametrize("tool", [READ, CACHED_READ], ids=["uncached", "cached"])
"""With a tool whose results are cached, calls claim early runs in another place."""


def answers(client: Client) -> list[tuple[ResultSource, str]]:
    """The sources and results of the calls that were answered."""
    return [(each.source, each.result_json) for each in client.of(ToolCallCompleted)]


async def answer_again(client: Client, result_json: str = '"new"') -> None:
    """Checks that the call runs its handler, and answers that."""
    invoke = client.of(Invoke)[-1]
    assert invoke.call_id
    assert not invoke.prediction_id
    await client.answer(-1, result_json)
