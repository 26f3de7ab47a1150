"""The whole service on the real engine, through the public client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import precall
from precall_service.app import Service, serve
from precall_service.domain.turn import ToolChoice, ToolChoiceMode
from precall_service.engine.base import (
    Engine,
    EngineFactory,
    Progress,
    Prompt,
    StepSpec,
    StepStream,
)
from precall_service.engine.vllm.token_prompt import own
from precall_service.settings import load_settings
from tests.support.engine_keeper import LentEngine
from tests.support.steps import until_idle

WAIT_S = 120


class ForcedCallsEngine(LentEngine):
    """The real engine, with a given tool choice for each step. It records the prompts.

    The embedded model is too small to make a second call by itself, and these tests need the loop.
    """

    def __init__(self, lent: Engine, choices: Sequence[str]) -> None:
        super().__init__(lent)
        self._choices = list(choices)
        self.prompts: list[Prompt] = []

    def generate(self, prompt: Prompt, spec: StepSpec) -> StepStream:
        self.prompts.append(prompt)
        if self._choices and (name := self._choices.pop(0)):
            choice = ToolChoice(mode=ToolChoiceMode.NAMED, tool_name=name)
            spec = replace(spec, tool_choice=choice)
        return super().generate(prompt, spec)


@asynccontextmanager
async def served(factory: EngineFactory) -> AsyncGenerator[tuple[Service, precall.Client]]:
    settings = load_settings(None, {"server": {"port": 0, "drain_s": 0}})
    async with (
        serve(settings, factory, model="embedded", on_progress=_ignore) as service,
        precall.Client(service.address) as client,
    ):
        yield service, client


def _ignore(_stage: str, _fraction: float | None) -> None:
    pass


class Functions:
    """Two real functions, and the arguments of their calls."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.cities: list[str] = []

    def count_letters(self, word: str) -> str:
        """Count the letters of a word."""
        self.words.append(word)
        return f"The word {word} has {len(word)} letters."

    def get_capital(self, country: str) -> str:
        """Get the capital of a country."""
        self.cities.append(country)
        return f"The capital of {country} is Paris."

    def register(self, client: precall.Client) -> None:
        client.add_tool(self.count_letters, read_only=True)
        client.add_tool(self.get_capital, read_only=True)


QUESTION = "How many letters are in elephant, and what is the capital of France?"


async def test_parallel_calls_of_one_step(vllm_factory: EngineFactory) -> None:
    functions = Functions()
    async with served(vllm_factory) as (_, client):
        functions.register(client)
        async with client.conversation() as conversation:
            answer = await conversation.ask(
                QUESTION, tool_choice="required", temperature=0.0, max_step_tokens=160
            )
    assert functions.words == ["elephant"]
    assert functions.cities == ["France"]
    assert answer.outcome is precall.TurnOutcome.ANSWERED
    assert "8 letters" in answer.text
    assert "Paris" in answer.text
    assert answer.report.steps == 2
    assert answer.report.usage.cached_tokens > 0


async def test_sequential_calls_grow_one_prompt(vllm_factory: EngineFactory) -> None:
    functions = Functions()
    engines: list[ForcedCallsEngine] = []

    async def factory(on_progress: Progress) -> ForcedCallsEngine:
        lent = await vllm_factory(on_progress)
        engines.append(ForcedCallsEngine(lent, ["count_letters", "get_capital"]))
        return engines[-1]

    async with served(factory) as (_, client):
        functions.register(client)
        async with client.conversation() as conversation:
            answer = await conversation.ask(QUESTION, temperature=0.0, max_step_tokens=160)
            again = await conversation.ask("Thank you.", temperature=0.0, max_step_tokens=8)
    assert functions.words
    assert functions.cities
    assert answer.report.steps == 3
    first, second, third, fourth = (own(prompt).token_ids for prompt in engines[0].prompts)
    assert second[: len(first)] == first
    assert third[: len(second)] == second
    assert fourth[: len(third)] == third
    # All whole blocks of the earlier tokens come from the cache.
    assert answer.report.usage.cached_tokens >= (len(first) // 32 + len(second) // 32 - 2) * 32
    assert again.report.usage.cached_tokens >= (len(third) // 32 - 1) * 32


async def test_the_first_turns_of_a_fresh_server_start_at_once(vllm_factory: EngineFactory) -> None:
    """Each was expected to fill its context, so 16 slots let in five and queued the others."""
    functions = Functions()
    async with served(vllm_factory) as (service, client):
        functions.register(client)
        assert service.engine.sequences_max == 16

        async def ask(number: int) -> list[precall.Event]:
            async with client.conversation() as conversation:
                turn = conversation.send(
                    f"Say {number}.", temperature=0.0, tool_choice="none", max_step_tokens=24
                )
                return [event async for event in turn]

        heard = await asyncio.gather(*(ask(number) for number in range(12)))
    for events in heard:
        assert not [event for event in events if isinstance(event, precall.TurnQueued)]
        assert [event for event in events if isinstance(event, precall.TurnCompleted)]


async def test_a_client_that_leaves_stops_its_generation(
    vllm_engine: Engine, vllm_factory: EngineFactory
) -> None:
    async with served(vllm_factory) as (_, client):
        async with client.conversation() as conversation:
            turn = conversation.send("Tell me a long story.", temperature=0.0, max_step_tokens=2000)
            async for event in turn:
                if isinstance(event, precall.TextDelta):
                    assert (await vllm_engine.load()).running == 1
                    break
        async with asyncio.timeout(WAIT_S):
            await until_idle(vllm_engine)
