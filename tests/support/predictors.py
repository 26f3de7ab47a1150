"""Situations of turns, and the predictors that the contract suite runs on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace

from precall_service.domain.json import JsonObject, dump, parse_object
from precall_service.domain.tools import ToolDeclaration, ToolEffects
from precall_service.speculation.base import (
    Candidate,
    Lesson,
    Moment,
    PastCall,
    Predictor,
    SampledCall,
    Situation,
)
from precall_service.speculation.predictors.cached import CachedCall, CachePredictor
from precall_service.speculation.predictors.draft_model import DraftModelPredictor
from precall_service.speculation.predictors.early_dispatch import EarlyDispatch
from precall_service.speculation.predictors.fork import Fork
from precall_service.speculation.predictors.history.predictor import HistoryPredictor

TENANT = "ann"


def tool(name: str, description: str = "", **properties: str) -> ToolDeclaration:
    """A tool with properties of these types."""
    schema = {"type": "object", "properties": {k: {"type": v} for k, v in properties.items()}}
    return ToolDeclaration(
        name=name,
        version="1",
        digest=f"{name} {description} {sorted(properties.items())}",
        description=description,
        input_schema=schema,
        output_schema=None,
        effects=ToolEffects(read_only=True, speculation_safe=True),
        timeout_s=10.0,
        max_concurrency=1,
    )


def named(*tools: ToolDeclaration) -> dict[str, ToolDeclaration]:
    return {each.name: each for each in tools}


SEARCH = tool("search", "Finds documents.", query="string")
OPEN = tool("open", "Shows a document.", id="string")
TOOLS = named(SEARCH, OPEN)


def call(name: str, result: object = None, /, **arguments: object) -> PastCall:
    """A call with its result."""
    text = None if result is None else dump(result)  # pyright: ignore[reportArgumentType]
    return PastCall(
        tool_name=name,
        arguments=parse_object(dump(arguments)),  # pyright: ignore[reportArgumentType]
        result_json=text,
    )


def situation(
    text: str = "",
    *calls: PastCall,
    tenant: str = TENANT,
    tools: Mapping[str, ToolDeclaration] = TOOLS,
    moment: Moment = Moment.STEP_BEGAN,
    earlier: tuple[PastCall, ...] = (),
) -> Situation:
    return Situation(
        tenant=tenant,
        conversation_id="c",
        turn_id="t",
        moment=moment,
        step=len(calls),
        text=text,
        tools=tools,
        calls=calls,
        earlier=earlier,
    )


def lesson(before: Situation, *calls: PastCall) -> Lesson:
    return Lesson(before=before, calls=calls)


async def proposed(predictor: Predictor, where: Situation) -> list[tuple[str, JsonObject, float]]:
    """What a predictor proposes: names, arguments, confidences."""
    return [
        (each.tool_name, parse_object(each.arguments_json), each.confidence)
        async for each in predictor.propose(where)
    ]


async def best(predictor: Predictor, where: Situation) -> tuple[str, JsonObject] | None:
    """The call that a predictor proposes first."""
    found = await proposed(predictor, where)
    return found[0][:2] if found else None


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A predictor, and situations in which it proposes something: one for each of its moments.

    `remembers` says whether its proposals come from what the tenant has done before.
    """

    predictor: Predictor
    situations: Mapping[Moment, Situation]
    remembers: bool


@asynccontextmanager
async def history() -> AsyncGenerator[Subject]:
    """A history predictor that has seen searches, and the opening of what they found."""
    async with HistoryPredictor() as predictor:
        for number in range(8):
            begin = situation(f"Please find '{number} report'.")
            search = call("search", {"id": f"d{number}"}, query=f"{number} report")
            predictor.learn(lesson(begin, search))
            predictor.learn(lesson(replace(begin, calls=(search,)), call("open", id=f"d{number}")))
        begin = situation("Please find 'last report'.")
        search = call("search", {"id": "d9"}, query="last report")
        ahead = replace(begin, calls=(search,), moment=Moment.RESULT_READY, depth=2)
        yield Subject(
            predictor=predictor,
            situations={Moment.STEP_BEGAN: begin, Moment.RESULT_READY: ahead},
            remembers=True,
        )


@asynccontextmanager
async def cached() -> AsyncGenerator[Subject]:
    """A predictor of cached calls; the cache holds three of one tenant."""

    async def of(where: Situation) -> Sequence[CachedCall]:
        found = [CachedCall(tool_name="open", arguments_json='{"id":"7"}', uses=2)] + [
            CachedCall(tool_name="search", arguments_json=dump({"query": word}), uses=uses)
            for uses, word in enumerate(("rain", "snow"), start=3)
        ]
        return found if where.tenant == TENANT else ()

    yield Subject(
        predictor=CachePredictor(of),
        situations={Moment.STEP_BEGAN: situation("Find it.")},
        remembers=True,
    )


@asynccontextmanager
async def early_dispatch() -> AsyncGenerator[Subject]:
    """Early dispatch, and a step that has written two calls."""
    written = (call("search", query="rain"), call("open", id="7"))
    where = replace(situation("Find it.", moment=Moment.CALL_WRITTEN), written=written)
    yield Subject(
        predictor=EarlyDispatch(), situations={Moment.CALL_WRITTEN: where}, remembers=False
    )


async def _branch(temperature: float, _calls_max: int) -> AsyncGenerator[Candidate, None]:
    """A branch of a model that is not sure."""
    await asyncio.sleep(0)
    for word in ("rain", "snow") if temperature == 0.0 else ("hail",):
        yield Candidate(
            tool_name="search",
            arguments_json=dump({"query": word}),
            probability=0.4 if word == "rain" else 0.3,
        )


@asynccontextmanager
async def fork() -> AsyncGenerator[Subject]:
    """A fork, whose first branch is not sure of its call."""
    begin = replace(situation("Find it."), branch=_branch)
    reasoned = replace(begin, moment=Moment.REASONED, reasoning_tokens=30, confidence=0.4)
    yield Subject(
        predictor=Fork(),
        situations={Moment.STEP_BEGAN: begin, Moment.REASONED: reasoned},
        remembers=False,
    )


async def _samples(count: int) -> AsyncGenerator[SampledCall, None]:
    """Messages of a draft model that agrees with itself on one of two calls."""
    for number in range(count):
        await asyncio.sleep(0)
        yield SampledCall(number, ("search", dump({"query": "rain"})))
        yield SampledCall(number, ("open", dump({"id": str(number)})))
        yield SampledCall(number, None)


@asynccontextmanager
async def draft_model() -> AsyncGenerator[Subject]:
    """The predictor of a draft model that writes five messages."""
    yield Subject(
        predictor=DraftModelPredictor(5),
        situations={Moment.STEP_BEGAN: replace(situation("Find it."), samples=_samples)},
        remembers=False,
    )


SUBJECTS: Mapping[str, Callable[[], AbstractAsyncContextManager[Subject]]] = {
    "cached": cached,
    "draft_model": draft_model,
    "early_dispatch": early_dispatch,
    "fork": fork,
    "history": history,
}
