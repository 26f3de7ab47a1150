"""Whatever predictors do: only safe tools run early, within their budgets, and everything ends.

`agent_on` and its clients check at the end that each prediction ended once and before its turn's
end, and that no task, run, generation or timer is left.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from precall_service.cache.base import Change, ChangeKind
from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import (
    CancelInvocation,
    InvocationCommitted,
    Invoke,
    PredictionConfirmed,
    PredictionDiscarded,
    PredictionLaunched,
    PredictionProposed,
    PredictionReady,
    Predictor,
    TurnOutcome,
)
from precall_service.domain.tools import CacheScope, ToolEffects
from precall_service.domain.turn import GenerationSettings, TurnSpec
from precall_service.engine.base import (
    EngineDiedError,
    GenerationFailedError,
    Priority,
    StepSpec,
)
from precall_service.engine.vllm.token_prompt import TokenPrompt
from precall_service.speculation.limits import SpeculationLimits
from precall_service.tools.declarations import ToolProposal
from precall_service.tools.link import HandlerError, HandlerResult
from tests.support.adversary import MOVES, Adversary
from tests.support.agent import LIMITS, Agent, Client, agent_limits, agent_on
from tests.support.clock import settle
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripts import TICK, Item, Pause, calls, says, thinks
from tests.support.speculating import BOOK, SAFE, WEATHER, StoreSwitch

TENANTS: Final = ("ann", "ann", "bob")
ENGINES: Final = 40
"""More engines than the acts of one example can end."""
READ: Final = dataclasses.replace(WEATHER, name="read", effects=ToolEffects(read_only=True))
SAYS_SAFE: Final = dataclasses.replace(
    WEATHER, name="says_safe", effects=ToolEffects(speculation_safe=True)
)
OPEN_WORLD: Final = dataclasses.replace(
    WEATHER, name="web", effects=dataclasses.replace(SAFE, open_world=True)
)
ALLOWED: Final = dataclasses.replace(OPEN_WORLD, name="news")
TOOLS: Final = (WEATHER, BOOK, READ, SAYS_SAFE, OPEN_WORLD, ALLOWED)
EFFECTS: Final = (
    SAFE,
    ToolEffects(),
    ToolEffects(read_only=True),
    ToolEffects(speculation_safe=True),
    dataclasses.replace(SAFE, open_world=True),
    dataclasses.replace(SAFE, reads=("file:{city}",)),
)
CITIES: Final = ("Rome", "Oslo")
POOL: Final = (
    *((tool.name, json.dumps({"city": city})) for city in CITIES for tool in TOOLS),
    ("secret", '{"city": "Rome"}'),
)
"""Calls of all tools, of which "secret" is bob's alone."""
OSLO: Final = '{"city": "Oslo"}'
ROME, BOOKED = ("weather", '{"city": "Rome"}'), ("book", '{"city": "Rome"}')
STEPS: Final[dict[str, list[Item]]] = {
    "answer": [*thinks("hm"), TICK, *says("So.")],
    "read": calls(("read", OSLO)),
    "one call": [*thinks("hm"), TICK, *calls(ROME)],
    "calls": [*calls(ROME, BOOKED), TICK, TICK, *calls(("read", OSLO), first=2)],
    "others": [
        *thinks("hm"),
        TICK,
        *calls(("news", '{"city":"Oslo"}'), ("web", '{"city":"Rome"}')),
    ],
    "bad calls": calls(("secret", "{}"), ("weather", "[]"), ("no_tool", "{}")),
    "failure": [*thinks("hm"), TICK, GenerationFailedError("no")],
    "false death": [*says("I "), EngineDiedError("but it lives")],
}
ACTS = st.tuples(
    st.sampled_from(
        ["send"] * 8
        + ["answer"] * 8
        + ["wait"] * 3
        + ["update"] * 3
        + ["fail", "late", "hold back", "go on", "let go", "die", "cancel", "withdraw"]
        + ["invalidate", "unavailable", "hang up", "end", "vanish"]
    ),
    st.integers(0, 23),
)


LIMITED = st.tuples(
    st.sampled_from([1, 2, 4]), st.sampled_from([3, 64]), st.sampled_from([1, 1000])
)
"""Early runs and predictions of a turn, and the events that an outbox holds."""


class Play:
    """Clients that act, handlers that answer or not, and predictors that misbehave."""

    store: StoreSwitch

    def __init__(self, steps: Sequence[str], moves: Sequence[Sequence[str]]) -> None:
        self._steps = itertools.cycle([*steps, "one call"])
        self._gate = asyncio.Event()
        self._gate.set()
        self._slow = asyncio.Event()
        self._versions = itertools.count(2)
        self._declared: dict[tuple[Client, str, str], ToolProposal] = {}
        self._answered: set[str] = set()
        self._gone: set[Client] = set()
        self._left: set[Client] = set()
        """The clients whose stream ends, so that they get no more frames for their runs."""
        self.engines = [ScriptedEngine(self._next_step) for _ in range(ENGINES)]
        names = (Predictor.FORK, Predictor.HISTORY, Predictor.CACHE, Predictor.EARLY_DISPATCH)
        self.predictors = [
            Adversary(each, POOL, self._slow, name=name)
            for name, each in zip(names, moves, strict=False)
        ]

    def _next_step(self, _prompt: TokenPrompt, spec: StepSpec) -> list[Item]:
        if spec.priority is Priority.SPECULATES:
            return [Pause(self._gate), *calls(*POOL[:3])]
        items = STEPS[next(self._steps)]
        middle = len(items) // 2
        return [*items[:middle], TICK, Pause(self._gate), *items[middle:]]

    def open(self, there: Agent) -> None:
        self.store = StoreSwitch(there)
        self.store.waits = True
        limits = there.dispatcher.limits
        there.dispatcher.limits = dataclasses.replace(
            limits, early_open_world=frozenset({"news", "book", "read"})
        )
        for tenant in TENANTS:
            own = [dataclasses.replace(WEATHER, name="secret")] if tenant == "bob" else []
            tools = [dataclasses.replace(tool, version="1") for tool in (*TOOLS, *own)]
            client = there.open(*tools, tenant=tenant)
            for tool in tools:
                self._declared[client, tool.name, "1"] = tool

    async def act(self, there: Agent, kind: str, number: int) -> None:
        client = there.clients[number % len(TENANTS)]
        match kind:
            case "wait":
                there.clock.advance((0.0, 1.0, 5.0, 21.0)[number % 4])
            case "hold back":
                self._gate.clear()
            case "go on":
                self._gate.set()
            case "let go":
                self._slow.set()
            case "die" if isinstance(there.supervisor.running, ScriptedEngine):
                there.supervisor.running.die()
            case "unavailable":
                self.store.lost = not self.store.lost
            case "invalidate":
                await there.cache.invalidate(client_tenant(number), Change(kind=ChangeKind.ALL))
            case "answer" | "fail" | "late":
                await self._answer(client, kind)
            case _ if client not in self._gone:
                with suppress(ServiceError):  # the conversation may refuse the act
                    await self._act_as(client, kind, number)
            case _:
                pass
        for _ in range(number):
            await asyncio.sleep(0)

    async def _act_as(self, client: Client, kind: str, number: int) -> None:
        conversation = client.conversation
        match kind:
            case "send":
                spec = TurnSpec(
                    turn_id=f"turn-{next(self._versions)}",
                    text="hi",
                    generation=GenerationSettings(),
                    limits=LIMITS,
                )
                await conversation.start_turn(spec)
            case "cancel":
                conversation.cancel_turn("")
            case "update":
                old = TOOLS[number % len(TOOLS)]
                tool = dataclasses.replace(
                    old,
                    effects=EFFECTS[number % len(EFFECTS)],
                    version=str(next(self._versions)),
                    cache_ttl_s=60.0 if number % 6 == 0 else 0.0,
                    cache_scope=CacheScope.TENANT,
                )
                self._declared[client, tool.name, tool.version] = tool
                await conversation.register_tools(0, [tool])
            case "withdraw":
                await conversation.withdraw_tools(0, [TOOLS[number % len(TOOLS)].name])
            case "hang up":
                self._left.add(client)
                conversation.hang_up()
            case "end":
                self._left.add(client)
                draining = ServiceError(Reason.DRAINING, "the server is shutting down")
                conversation.end(draining, TurnOutcome.FAILED)
            case "vanish":
                self._gone.add(client)
                await client.vanish()
            case _:
                pass

    async def _answer(self, client: Client, kind: str) -> None:
        """Answers the oldest run of a client that has no answer; or, late, one that was stopped."""
        stopped = {each.invocation_id for each in client.of(CancelInvocation)}
        for invocation in client.of(Invoke):
            name = invocation.invocation_id
            if name not in self._answered and (name in stopped) == (kind == "late"):
                self._answered.add(name)
                answer = HandlerError("E", "no") if kind == "fail" else HandlerResult("1")
                with suppress(ServiceError):
                    await client.conversation.deliver(name, answer)
                return

    async def finish(self, there: Agent) -> None:
        self._gate.set()
        self._slow.set()
        self.store.lost = False
        for _ in range(5):
            await there.advance(60.0)

    # What must hold.

    def check(self, client: Client, limits: SpeculationLimits) -> None:
        for invocation in client.of(Invoke):
            if not invocation.call_id:
                self._check_safe(client, invocation)
        self._check_cancels(client)
        check_budgets(client, limits)

    def _check_safe(self, client: Client, invocation: Invoke) -> None:
        tool = self._declared[client, invocation.tool_name, invocation.tool_version]
        effects = tool.effects
        assert effects.read_only
        assert effects.speculation_safe
        assert not effects.open_world or tool.name in ("news", "book", "read")
        assert json.loads(invocation.arguments_json).keys() == {"city"}

    def _check_cancels(self, client: Client) -> None:
        """Every run is answered, or stopped once; none that a call has claimed is discarded."""
        stopped = Counter(each.invocation_id for each in client.of(CancelInvocation))
        assert all(count == 1 for count in stopped.values())
        for invocation in client.of(Invoke):
            name = invocation.invocation_id
            if name not in self._answered and client not in self._gone | self._left:
                assert stopped[name] == 1, "a run that was neither answered nor stopped"
        early = {each.invocation_id for each in client.of(Invoke) if not each.call_id}
        assert {each.invocation_id for each in client.of(InvocationCommitted)} <= early


def client_tenant(number: int) -> str:
    return TENANTS[number % len(TENANTS)]


def check_budgets(client: Client, limits: SpeculationLimits) -> None:
    """Checks the number of predictions of each turn, and how many of their handlers ran at once."""
    proposed: Counter[str] = Counter()
    running: defaultdict[str, set[str]] = defaultdict(set)
    ends = (PredictionReady, PredictionConfirmed, PredictionDiscarded)
    for numbered in client.numbered:
        event, turn_id = numbered.event, numbered.turn_id
        if isinstance(event, PredictionProposed):
            proposed[turn_id] += 1
            assert proposed[turn_id] <= limits.predictions_per_turn_max
            assert 0.0 <= event.confidence <= 1.0
            assert event.tool_name != "secret" or "secret" in tools_of(client)
        elif isinstance(event, PredictionLaunched):
            running[turn_id].add(event.prediction_id)
            assert len(running[turn_id]) <= limits.running_per_turn_max
            assert len(running[turn_id]) <= limits.running_per_tenant_max
        elif isinstance(event, ends):
            running[turn_id].discard(event.prediction_id)


def tools_of(client: Client) -> set[str]:
    return {tool.name for tool in client.conversation._toolset.snapshot()}  # pyright: ignore[reportPrivateUsage]


@settings(max_examples=150)
@given(
    st.lists(st.sampled_from([*["one call", "calls", "others"] * 3, *STEPS]), max_size=8),
    st.lists(st.lists(st.sampled_from(MOVES), min_size=1, max_size=6), min_size=1, max_size=4),
    st.lists(ACTS, min_size=5, max_size=40),
    LIMITED,
)
def test_only_safe_tools_run_early_and_everything_ends_once(
    steps: list[str],
    moves: list[list[str]],
    acts: list[tuple[str, int]],
    limited: tuple[int, int, int],
) -> None:
    running, predictions, room = limited
    limits = SpeculationLimits(
        predictions_per_turn_max=predictions,
        running_per_turn_max=running,
        running_per_tenant_max=3,
        most=dataclasses.replace(SpeculationLimits().most, max_depth=3),
        margin_s=-1000.0,
    )

    async def play() -> None:
        played = Play(steps, moves)
        async with agent_on(
            *played.engines,
            limits=agent_limits(events_max=room),
            predictors=played.predictors,
            speculation=limits,
        ) as there:
            played.open(there)
            for number in range(len(TENANTS)):
                await played.act(there, "send", number)
            for kind, number in acts:
                await played.act(there, kind, number)
            await played.finish(there)
            await settle()
            for client in there.clients:
                played.check(client, limits)
            for tenant in TENANTS:
                assert there.speculation.records.of(tenant).running == 0

    asyncio.run(play())
