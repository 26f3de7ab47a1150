"""Prompts are made by turns of the tenants, and one that is far too long is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from precall_service.domain.errors import Reason
from precall_service.domain.events import StepStarted, TurnCompleted, TurnOutcome
from precall_service.domain.messages import Message, ToolMessage, Transcript, UserMessage
from precall_service.engine.base import Prompt, StepEnd
from precall_service.engine.prompt_length import PromptTooLongError
from precall_service.engine.vllm.token_prompt import TokenPrompt
from precall_service.tools.link import HandlerResult
from tests.support.agent import ROME, WEATHER, agent_on
from tests.support.clock import settle
from tests.support.scripted_engine import INFO, ScriptedEngine
from tests.support.scripted_template import prompt_text
from tests.support.scripts import calls, says

LONG = "x" * 100_000


class SlowPrompts(ScriptedEngine):
    """Makes prompts one by one, when the test says so. `making` has the last words of each."""

    def __init__(self, *, steps: int) -> None:
        super().__init__([says("Yes.")] * steps, INFO)
        self.making: list[str] = []
        self.more = asyncio.Semaphore(0)

    async def render(self, transcript: Transcript) -> TokenPrompt:
        last = transcript.messages[-1]
        assert isinstance(last, UserMessage)
        self.making.append(last.text[-10:])
        await self.more.acquire()
        return TokenPrompt(tuple(range(10)))


async def test_long_messages_of_one_tenant_do_not_delay_the_turn_of_another() -> None:
    """Messages of a megabyte that could never fit made a victim wait for 15.8 s instead of 0.55."""
    engine = SlowPrompts(steps=9)
    async with agent_on(engine) as there:
        hostile = [there.open(tenant="hostile") for _ in range(7)]
        for number, client in enumerate(hostile):
            await client.send(f"{LONG} long {number}")
        victim = there.open(tenant="victim")
        await victim.send("short")
        assert engine.making == ["xxx long 0"]
        engine.more.release()
        await settle()
        assert engine.making[1:] == ["short"]
        engine.more.release()
        await settle()
        assert victim.ending().text == "Yes."
        assert engine.making[2:] == ["xxx long 1"]
        for _ in hostile:
            engine.more.release()
        await settle()
        assert all(client.ending().text == "Yes." for client in hostile)


async def test_a_turn_that_is_cancelled_before_it_has_its_prompt_leaves_its_place() -> None:
    engine = SlowPrompts(steps=1)
    async with agent_on(engine) as there:
        clients = [there.open() for _ in range(3)]
        for number, client in enumerate(clients):
            await client.send(str(number))
        for client in clients[:2]:
            client.conversation.cancel_turn("")
        await settle()
        engine.more.release()
        await settle()
        assert engine.making == ["0", "2"]
        assert clients[1].ending().outcome is TurnOutcome.CANCELLED
        assert clients[2].ending().text == "Yes."


async def test_a_turn_waits_for_its_prompt_and_its_share_no_longer_than_allowed() -> None:
    engine = SlowPrompts(steps=0)
    async with agent_on(engine) as there:
        wait_max_s = there.admission.limits.wait_max_s
        there.resize(slots=0)
        clients = [there.open(), there.open()]
        for client in clients:
            await client.send()
        await there.advance(wait_max_s / 2)
        engine.more.release()
        await there.advance(wait_max_s / 2 - 1)
        assert not any(client.of(TurnCompleted) for client in clients)
        await there.advance(1)
        for client in clients:
            error = client.ending().error
            assert error is not None
            assert error.reason is Reason.OVERLOADED


class Refuses(ScriptedEngine):
    """Refuses prompts that are far too long, before it has made them."""

    async def render(self, transcript: Transcript) -> TokenPrompt:
        last = transcript.messages[-1]
        assert isinstance(last, UserMessage)
        self._check(last.text)
        return await super().render(transcript)

    async def append(
        self, prompt: Prompt, end: StepEnd, transcript: Transcript, following: Sequence[Message]
    ) -> TokenPrompt:
        for message in following:
            assert isinstance(message, ToolMessage | UserMessage)
            self._check(message.text)
        return await super().append(prompt, end, transcript, following)

    def _check(self, text: str) -> None:
        if len(text) > 300:
            raise PromptTooLongError(500, limit=100, at_least=True)


async def test_a_prompt_that_the_engine_refuses_fails_the_turn() -> None:
    async with agent_on(Refuses([says("Yes.")], INFO)) as there:
        client = there.open()
        ending = await client.ask(LONG)
        assert ending.outcome is TurnOutcome.FAILED
        assert ending.error is not None
        assert ending.error.reason is Reason.CONTEXT_WINDOW_EXCEEDED
        assert "at least 500 tokens" in ending.error.message
        assert (await client.ask("short")).text == "Yes."


async def test_results_that_the_engine_refuses_are_dropped() -> None:
    steps = [calls(ROME), says("Next.")]
    async with agent_on(Refuses(steps, INFO)) as there:
        client = there.open(WEATHER, handler=lambda _: HandlerResult("1" * 500))
        ending = await client.ask()
        assert ending.outcome is TurnOutcome.LIMIT
        assert ending.error is not None
        assert ending.error.reason is Reason.CONTEXT_WINDOW_EXCEEDED
        assert len(client.of(StepStarted)) == 1
        assert (await client.ask("And now?")).text == "Next."
        assert '"too_large"' in prompt_text(there.engine.prompts[-1])
