"""Turns with calls whose results are not cached, on a scripted engine and without a server.

The `turn` bench also runs this file in a copy of an older commit. So it uses only what both have.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from dataclasses import replace
from typing import Any

from bench.process import Link, run_child
from precall_service.agent.conversation import Conversation
from precall_service.domain.events import Invoke, TurnCompleted
from precall_service.domain.json import JsonObject
from precall_service.domain.messages import Transcript
from precall_service.domain.tools import ToolEffects
from precall_service.domain.turn import GenerationSettings, TurnLimits, TurnSpec
from precall_service.engine.base import Prompt, StepSpec
from precall_service.tools.declarations import ToolProposal
from precall_service.tools.link import HandlerResult
from tests.support import agent
from tests.support.agent import Agent, agent_on
from tests.support.scripted_engine import INFO, ScriptedEngine
from tests.support.scripts import Step, calls, says
from tests.support.tools import CITY_SCHEMA

STEPS, CALLS = 4, 4
LIMITS = TurnLimits(max_steps=8, max_turn_tokens=4000, max_duration_s=60.0)
KINDS = {
    "read-only": ToolEffects(read_only=True),
    "any effect": ToolEffects(),
}
# What a conversation asks of speculation. The commit before there was any takes no such thing.
SPECULATION: list[Any] = [agent.WITH_EVENTS] if hasattr(agent, "WITH_EVENTS") else []
CALL = ("weather", '{"city":"Rome","days":3}')


async def main(_config: JsonObject, link: Link) -> None:
    """Runs turns when the bench asks for them."""
    written = 0

    def script(_prompt: Prompt, _spec: StepSpec) -> Step:
        nonlocal written
        written += 1
        return calls(*[CALL] * CALLS) if written % (STEPS + 1) else says("It is sunny.")

    info = replace(INFO, context_tokens_max=1 << 16, kv_tokens=1 << 24)
    async with agent_on(ScriptedEngine(script, info)) as there:

        async def turns(fields: JsonObject) -> JsonObject:
            """Returns the median of the processor time of a turn, in microseconds."""
            tool = ToolProposal(
                name="weather",
                input_schema_json=CITY_SCHEMA,
                effects=KINDS[str(fields["kind"])],
                timeout_s=20.0,
            )
            gc.collect()
            times = [await _turn(there, tool) for _ in range(int(str(fields["turns"])))]
            return {"us": 1e6 * statistics.median(times)}

        await link.answer({}, {"turns": turns})


async def _turn(there: Agent, tool: ToolProposal) -> float:
    """Runs the one turn of a new conversation, and returns its seconds of processor time."""
    transcript = Transcript(messages=(), system_prompt="", template_variables={})
    with there.conversations.opened("ann", "helper", transcript, *SPECULATION) as conversation:
        await conversation.register_tools(1, [tool])
        running = asyncio.create_task(conversation.run())
        await conversation.outbox.take()  # the answer
        began = time.process_time()
        await conversation.start_turn(
            TurnSpec(turn_id="turn-1", text="hi", generation=GenerationSettings(), limits=LIMITS)
        )
        ran = await _answer(conversation)
        took = time.process_time() - began
        assert ran == STEPS * CALLS, f"{ran} handlers ran"
        conversation.drain()
        while await conversation.outbox.take():
            pass
        await running
    return took


async def _answer(conversation: Conversation) -> int:
    """Answers every invocation at once, until the turn ends. Returns their number."""
    answered = 0
    while True:
        for taken in await conversation.outbox.take():
            match taken.event:
                case Invoke(invocation_id=invocation_id):
                    answered += 1
                    await conversation.deliver(invocation_id, HandlerResult("1"))
                case TurnCompleted():
                    return answered
                case _:
                    pass


if __name__ == "__main__":
    run_child(main)
