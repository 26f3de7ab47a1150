"""Turns, tools, cancels, slow readers and dying engines in any order: everything ends once.

`agent_on` and its clients check at the end that every step and call of which the client has an
event ended once, and that the engine, the admission, the dispatcher and the clock hold nothing.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from hypothesis import example, given, settings
from hypothesis import strategies as st

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import Invoke, TurnCompleted, TurnOutcome
from precall_service.domain.turn import GenerationSettings, TurnSpec
from precall_service.engine.base import (
    CallBegun,
    EngineDiedError,
    GenerationFailedError,
    GenerationRefusedError,
    StepSpec,
    StrayCall,
)
from precall_service.engine.vllm.token_prompt import TokenPrompt
from precall_service.tools.link import HandlerError, HandlerResult
from tests.support.agent import (
    LIMITS,
    OSLO,
    ROME,
    TIME,
    WEATHER,
    Agent,
    Client,
    agent_limits,
    agent_on,
)
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripts import TICK, Ends, Item, Pause, calls, says, thinks

CLIENTS = 3
ENGINES = 64
"""More engines than the steps and acts of one example can end."""

STEPS: dict[str, list[Item]] = {
    "answer": [*says("It ", "is "), TICK, *says("so.")],
    "thought": [*thinks("Hm."), *says("So.")],
    "one call": [*says("See: "), *calls(ROME)],
    "three calls": [*calls(ROME, OSLO), TICK, *calls(("time", "{}"), first=2)],
    "bad calls": calls(("rain", "{}"), ("weather", "[]")),
    "half a call": [CallBegun(0, "weather")],
    "half a call, stopped": [*calls(ROME), CallBegun(1, "weather"), Ends("}", StrayCall.OPEN)],
    "a lost call": [*says("I "), Ends(stray_call=StrayCall.LOST)],
    "refusal": [*says("I "), GenerationRefusedError("no")],
    "failure": [*says("I "), GenerationFailedError("no")],
    "false death": [*says("I "), EngineDiedError("but it lives")],
    "nothing": [],
}
ACTS = st.tuples(
    st.sampled_from(
        ["send"] * 4
        + ["answer"] * 3
        + ["wait", "hold back", "go on", "shrink", "grow", "die", "fail", "cancel"]
        + ["stop reading", "read", "withdraw", "register", "hang up", "end", "vanish"]
    ),
    st.integers(0, 11),
)


class Play:
    """Clients of engines that generate the given steps in order."""

    def __init__(self, steps: list[str]) -> None:
        self._steps = iter(steps)
        self._gate = asyncio.Event()
        self._gate.set()
        self._gone: set[Client] = set()
        self._answered: set[str] = set()
        self._shrunk = False
        self.sent: list[tuple[Client, str]] = []
        self.engines = [ScriptedEngine(self._next_step) for _ in range(ENGINES)]

    def _next_step(self, prompt: TokenPrompt, spec: StepSpec) -> list[Item]:
        items = STEPS[next(self._steps, "answer")]
        middle = len(items) // 2
        return [*items[:middle], Pause(self._gate), *items[middle:]]

    async def act(self, there: Agent, kind: str, number: int) -> None:
        client = there.clients[number % CLIENTS]
        match kind:
            case "wait":
                there.clock.advance((0.0, 1.0, 5.0, 21.0)[number % 4])
            case "hold back":
                self._gate.clear()
            case "go on":
                self._gate.set()
            case "shrink":
                there.resize(slots=number % 2, kv_tokens=5000)
                self._shrunk = True
            case "grow":
                there.resize()
            case "die":
                if isinstance(there.supervisor.running, ScriptedEngine):
                    there.supervisor.running.die()
            case _:
                if client not in self._gone:
                    with suppress(ServiceError):  # the conversation may refuse the act
                        await self._act_as(client, kind)
        for _ in range(number):
            await asyncio.sleep(0)

    async def _act_as(self, client: Client, kind: str) -> None:
        conversation = client.conversation
        match kind:
            case "send":
                turn_id = f"turn-{len(self.sent)}"
                await conversation.start_turn(_spec(turn_id))
                self.sent.append((client, turn_id))
            case "answer" | "fail":
                await self._answer(client, failed=kind == "fail")
            case "cancel":
                conversation.cancel_turn("")
            case "stop reading":
                client.reading.clear()
            case "read":
                client.reading.set()
            case "withdraw" if client.reading.is_set():
                await conversation.withdraw_tools(0, ["time"])
            case "register" if client.reading.is_set():
                await conversation.register_tools(0, [TIME])
            case "hang up":
                conversation.hang_up()
            case "end":
                draining = ServiceError(Reason.DRAINING, "the server is shutting down")
                conversation.end(draining, TurnOutcome.FAILED)
            case "vanish":
                self._gone.add(client)
                await client.vanish()
            case _:
                pass

    async def _answer(self, client: Client, *, failed: bool) -> None:
        answer = HandlerError("ValueError", "no") if failed else HandlerResult("1")
        for invocation in client.of(Invoke):
            if invocation.invocation_id not in self._answered:
                self._answered.add(invocation.invocation_id)
                await client.conversation.deliver(invocation.invocation_id, answer)
                return

    async def finish(self, there: Agent) -> None:
        """Lets everything run and checks that every turn ends once.

        The capacity is reset only if an act changed it; otherwise the agent must restore it itself.
        """
        self._gate.set()
        if self._shrunk:
            there.resize()
        for client in there.clients:
            client.reading.set()
        for _ in range(5):
            await there.advance(60.0)
        for client, turn_id in self.sent:
            endings = [
                numbered
                for numbered in client.numbered
                if isinstance(numbered.event, TurnCompleted) and numbered.turn_id == turn_id
            ]
            assert len(endings) == 1 or client in self._gone


def _spec(turn_id: str) -> TurnSpec:
    return TurnSpec(turn_id=turn_id, text="hi", generation=GenerationSettings(), limits=LIMITS)


@settings(max_examples=100)
@given(
    st.lists(st.sampled_from(sorted(STEPS)), max_size=12),
    st.lists(ACTS, max_size=40),
    st.sampled_from([1, 2, 5, 100]),
)
@example(["false death"], [("send", 0), *[("go on", 10)] * 9, ("send", 1)], 100)
def test_everything_ends_once(steps: list[str], acts: list[tuple[str, int]], room: int) -> None:
    async def play() -> None:
        played = Play(steps)
        async with agent_on(*played.engines, limits=agent_limits(events_max=room)) as there:
            for number in range(CLIENTS):
                there.open(WEATHER, TIME, tenant=f"tenant-{number % 2}")
            for kind, number in acts:
                await played.act(there, kind, number)
            await played.finish(there)

    asyncio.run(play())
