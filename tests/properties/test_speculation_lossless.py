"""A turn with misbehaving predictors is the same turn: same prompts, texts, calls and results.

The handlers are deterministic: they read and write files that the test keeps. A read sees a file as
it is when the invocation comes. A write changes it then, or only when it is answered.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from precall_service.domain.events import (
    CancelInvocation,
    ConversationEvent,
    InvocationCommitted,
    Invoke,
    Predictor,
    StepCompleted,
    TokenUsage,
    ToolCallArgumentsDelta,
    ToolCallCompleted,
    ToolCallReady,
    ToolCallStarted,
    TurnCompleted,
    TurnEvent,
)
from precall_service.domain.tools import CacheScope, ToolEffects
from precall_service.engine.base import Priority
from precall_service.speculation.limits import SpeculationLimits
from precall_service.tools.link import HandlerAnswer, HandlerError, HandlerResult
from tests.support.adversary import MOVES, Adversary
from tests.support.agent import Client, agent_on, scripted
from tests.support.cached import FILE_SCHEMA, SHELL, WRITE
from tests.support.clock import settle
from tests.support.scripts import TICK, Item, calls, in_turn, says, thinks
from tests.support.speculating import EVENTS, WEATHER, StoreSwitch

MOMENTS_MAX: Final = 40
"""How often handlers answer and everything runs as far as it can: more than any turn needs."""
FILES: Final = ("/a", "/b", "/bad")
READ: Final = dataclasses.replace(
    WEATHER,
    name="read",
    input_schema_json=FILE_SCHEMA,
    effects=ToolEffects(read_only=True, speculation_safe=True, reads=("file:{path}",)),
)
CACHED: Final = dataclasses.replace(
    READ, name="look", cache_ttl_s=60.0, cache_scope=CacheScope.TENANT
)
TOOLS: Final = (READ, CACHED, WRITE, SHELL)
SILENT: Final = (*EVENTS, Invoke, InvocationCommitted, CancelInvocation)
"""The events that predictions may add, or that are compared apart."""
Called = tuple[str, str]
"""A tool and a path."""
READS: Final = [(tool, path) for path in FILES for tool in ("read", "look")]
WRITES: Final = [("write", "/a"), ("write", "/b"), ("shell", "/")]
BESIDE: Final = [
    [("read", "/a"), ("write", "/b")],
    [("look", "/b"), ("write", "/a")],
    [("write", "/b"), ("read", "/a"), ("look", "/a")],
]
"""Calls of one step of which none reads what another writes."""
STEPS = st.lists(
    st.one_of(
        st.lists(st.sampled_from(READS), min_size=1, max_size=3),
        st.sampled_from(WRITES).map(lambda write: [write]),
        st.sampled_from(BESIDE),
    ),
    max_size=6,
)


def item(called: Called) -> tuple[str, str]:
    """A call as the model writes it."""
    return called[0], json.dumps({"path": called[1]})


POOL: Final = [item(called) for called in (*READS[:4], *READS, *WRITES)]


def step(called: Sequence[Called]) -> list[Item]:
    """A step with these calls, in which other tasks run before, between and after them."""
    written = [
        each
        for index, one in enumerate(called)
        for each in (*calls(item(one), first=index), TICK, TICK, TICK)
    ]
    return [*thinks("x" * 30), TICK, TICK, TICK, TICK, *written]


@dataclass
class Handlers:
    """The files, and the handlers that read and write them.

    `held` says, for one early run after the other, whether it answers only once it is committed.
    `late` says whether writes change a file when they are answered.
    """

    held: Sequence[bool]
    late: bool
    files: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FILES, 0))
    open: dict[str, HandlerAnswer] = field(default_factory=dict[str, HandlerAnswer])
    writes: dict[str, str] = field(default_factory=dict[str, str])
    _early: int = 0

    def __call__(self, invocation: Invoke) -> HandlerAnswer | None:
        path = json.loads(invocation.arguments_json)["path"]
        if invocation.tool_name in ("write", "shell"):
            if not self.late:
                self._write(path)
            self.writes[invocation.invocation_id] = path
            return None
        failed = path == "/bad"
        answer = HandlerError("E", "no") if failed else HandlerResult(str(self.files[path]))
        if invocation.call_id:
            return answer
        self._early += 1
        if self.held and self.held[self._early % len(self.held)]:
            self.open[invocation.invocation_id] = answer
            return None
        return answer

    def _write(self, path: str) -> None:
        for each in FILES if path == "/" else [path]:
            self.files[each] += 1

    async def answer(self, client: Client) -> None:
        """Answers the writes, and the held runs that were committed."""
        committed = {each.invocation_id for each in client.of(InvocationCommitted)}
        ready = [name for name in self.open if name in committed]
        for name in ready:
            await client.conversation.deliver(name, self.open.pop(name))
        for name, path in self.writes.items():
            if self.late:
                self._write(path)
            await client.conversation.deliver(name, HandlerResult("1"))
        self.writes.clear()


@dataclass
class Seen:
    """What a client and an engine see of a turn, apart from predictions and random ids."""

    prompts: list[tuple[int, ...]]
    events: list[TurnEvent | ConversationEvent]
    results: list[list[tuple[int, object, str]]]
    """The calls of each step with their endings."""
    committed: list[int]
    """The calls for which handlers were started, in their order."""


async def seen(
    turns: Sequence[Sequence[Sequence[Called]]],
    moves: Sequence[Sequence[str]],
    handlers: Handlers,
    *,
    store: str = "there",
) -> Seen:
    """Plays these turns of one conversation."""
    steps: list[list[Item]] = []
    for turn in turns:
        steps += [*map(step, turn), [*thinks("hm"), TICK, TICK, *says("done")]]
    branches = itertools.cycle([calls(*POOL[:2]), says("no call"), calls(*POOL[2:4])])
    engine = scripted(script=in_turn(*steps, branches=lambda _prompt, _spec: next(branches)))
    slow = asyncio.Event()
    names = (Predictor.FORK, Predictor.HISTORY)
    predictors = [
        Adversary(each, POOL, slow, name=name) for each, name in zip(moves, names, strict=False)
    ]
    limits = SpeculationLimits(
        margin_s=-1000.0, most=dataclasses.replace(SpeculationLimits().most, max_depth=3)
    )
    async with agent_on(engine, predictors=predictors, speculation=limits) as there:
        switch = StoreSwitch(there)
        switch.lost, switch.waits = store == "lost", store == "waits"
        client = there.open(*TOOLS, handler=handlers)
        for number, _ in enumerate(turns):
            await client.send()
            for moment in range(MOMENTS_MAX):
                if len(client.of(TurnCompleted)) > number:
                    break
                await handlers.answer(client)
                await settle()
                slow.set() if moment % 2 else slow.clear()
        assert len(client.of(TurnCompleted)) == len(turns)
        events = client.events
    prompts = zip(engine.prompts, engine.specs, strict=True)
    steps_only = [p.token_ids for p, spec in prompts if spec.priority is not Priority.SPECULATES]
    return Seen(steps_only, *_apart(events))


def _apart(
    events: Sequence[ConversationEvent],
) -> tuple[list[TurnEvent | ConversationEvent], list[list[tuple[int, object, str]]], list[int]]:
    numbers: dict[str, int] = {}
    told: list[TurnEvent | ConversationEvent] = []
    results: list[list[tuple[int, object, str]]] = [[]]
    committed: list[int] = []
    for event in events:
        match event:
            case ToolCallStarted(call_id):
                numbers[call_id] = len(numbers)
                told.append(dataclasses.replace(event, call_id=str(numbers[call_id])))
            case ToolCallArgumentsDelta(call_id) | ToolCallReady(call_id):
                told.append(dataclasses.replace(event, call_id=str(numbers[call_id])))
            case ToolCallCompleted(call_id, outcome, result_json):
                results[-1].append((numbers[call_id], outcome, result_json))
            case Invoke(call_id=call_id) if call_id:
                committed.append(numbers[call_id])
            case TurnCompleted(error=error, report=report):
                assert error is None
                report = dataclasses.replace(
                    report,
                    predictions=0,
                    predictions_confirmed=0,
                    cache_hits=0,
                    usage=_uncached(report.usage),
                )
                told.append(dataclasses.replace(event, report=report))
            case StepCompleted():
                told.append(dataclasses.replace(event, usage=_uncached(event.usage)))
                results.append([])
            case _ if isinstance(event, SILENT):
                pass
            case _:
                told.append(event)
    return told, [sorted(each, key=lambda one: one[0]) for each in results], committed


def _uncached(usage: TokenUsage) -> TokenUsage:
    """The usage without the number of cached tokens, which branches may change."""
    return dataclasses.replace(usage, cached_tokens=0)


def is_part(some: Sequence[int], of: Sequence[int]) -> bool:
    """Whether these are some of the others, in the same order."""
    rest = iter(of)
    return all(each in rest for each in some)


@settings(max_examples=120)
@given(
    st.lists(STEPS, min_size=1, max_size=2),
    st.lists(st.lists(st.sampled_from(MOVES), min_size=1, max_size=6), min_size=1, max_size=2),
    st.lists(st.booleans(), max_size=4),
    st.booleans(),
    st.sampled_from(["there", "waits", "lost"]),
)
def test_predictions_change_nothing_but_time(
    turns: list[list[list[Called]]],
    moves: list[list[str]],
    held: list[bool],
    late: bool,
    store: str,
) -> None:
    async def play() -> None:
        without = await seen(turns, [], Handlers([], late), store=store)
        with_them = await seen(turns, moves, Handlers(held, late), store=store)
        assert with_them.prompts == without.prompts
        assert with_them.events == without.events
        assert with_them.results == without.results
        # If the store waits, calls of one step overtake those that ask whether a result is stale.
        assert store == "waits" or is_part(with_them.committed, without.committed)

    asyncio.run(play())
