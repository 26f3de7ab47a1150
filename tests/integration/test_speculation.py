"""Speculation on the real engine: the same tokens with it and without it, and what it saves."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

import pytest

import precall
from precall_service.app import Service, serve
from precall_service.engine.base import (
    Engine,
    EngineFactory,
    Priority,
    Progress,
    Prompt,
    StepEnd,
    StepSpec,
    StepStream,
)
from precall_service.engine.supervisor import EngineState
from precall_service.engine.vllm.token_prompt import own
from precall_service.settings import load_settings
from tests.support.engine_keeper import LentEngine
from tests.support.engine_states import passed

City = Literal["Oslo", "Rome", "Lima"]
CONVERSATIONS: Final = 52
AT_ONCE: Final = 13
WAIT_S: Final = 120.0


@dataclass(slots=True)
class Recording:
    """What engines have generated: the tokens of each step, by conversation; and the branches."""

    tokens: dict[str, list[tuple[int, ...]]] = field(default_factory=lambda: defaultdict(list))
    branches: int = 0


class RecordingEngine(LentEngine):
    """The real engine, recorded."""

    def __init__(self, lent: Engine, recording: Recording) -> None:
        super().__init__(lent)
        self._recording = recording

    async def generate(self, prompt: Prompt, spec: StepSpec) -> StepStream:
        speculates = spec.priority is Priority.SPECULATES
        self._recording.branches += speculates
        async with aclosing(super().generate(prompt, spec)) as chunks:
            async for chunk in chunks:
                if isinstance(chunk, StepEnd) and not speculates:
                    conversation, _, _ = spec.step_id.rpartition("-")
                    tokens = [own(prompt).token_ids, chunk.token_ids]
                    self._recording.tokens[conversation] += tokens
                yield chunk


def silent(_stage: str, _fraction: float | None) -> None:
    pass


@asynccontextmanager
async def served(
    factory: EngineFactory, **speculation: object
) -> AsyncGenerator[tuple[Service, precall.Client, Recording]]:
    recording = Recording()

    async def record(on_progress: Progress) -> Engine:
        return RecordingEngine(await factory(on_progress), recording)

    settings = load_settings(
        None,
        {"server": {"port": 0, "drain_s": 0}, "speculation": speculation},  # pyright: ignore[reportArgumentType]
    )
    async with (
        serve(settings, record, model="embedded", on_progress=silent) as service,
        precall.Client(service.address) as client,
    ):
        yield service, client, recording


async def get_weather(city: City) -> str:
    """The weather in a city."""
    await asyncio.sleep(0.05)
    return f"It is {len(city) * 4} degrees in {city}."


async def get_time(city: City) -> str:
    """The time in a city."""
    return f"It is {len(city)} o'clock in {city}."


async def count_letters(word: str) -> str:
    """Count the letters of a word."""
    await asyncio.sleep(0.02)
    return f"The word {word} has {sum(map(str.isalpha, word))} letters."


SUBJECTS: Final = ("Oslo", "Rome", "Lima", "elephant", "tea", "a river", "the number 7")
ASKED: Final = (
    "What is the weather in {}?",
    "How many letters are in {}, and what time is it in Rome?",
    "Tell me about {} in one sentence.",
    "What time is it in {}?",
)


async def converse(client: precall.Client, number: int, mode: precall.Speculation) -> str:
    """Takes turns that differ from those of the other conversations. Returns its id."""
    subject = SUBJECTS[number % len(SUBJECTS)]
    asked = [ASKED[number % len(ASKED)].format(subject)]
    if number % 6 == 0:
        asked.append("And once more, please.")
    async with client.conversation(
        system_prompt=f"You are helper number {number}.",
        template_variables={"enable_thinking": number % 2 == 0},
        speculation=mode,
    ) as conversation:
        for text in asked:
            await conversation.send(
                text,
                tool_choice="required" if number % 3 else "auto",
                temperature=0.0,
                max_step_tokens=64,
                max_steps=2,
            ).answer()
        return conversation.id


async def all_tokens(
    client: precall.Client, recording: Recording, mode: precall.Speculation
) -> list[list[tuple[int, ...]]]:
    """Returns the tokens of every step of every conversation, a few of which run at once."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> list[tuple[int, ...]]:
        async with room:
            return recording.tokens.pop(await converse(client, number, mode))

    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(one(number)) for number in range(CONVERSATIONS)]
    return [run.result() for run in runs]


@pytest.mark.timeout(900)
async def test_the_tokens_are_those_without_speculation(vllm_factory: EngineFactory) -> None:
    async with served(vllm_factory) as (_, client, recording):
        client.add_tool(get_weather, read_only=True, speculation_safe=True)
        client.add_tool(
            get_time, read_only=True, speculation_safe=True, cache_ttl_s=60, cache_scope="tenant"
        )
        client.add_tool(
            count_letters,
            read_only=True,
            speculation_safe=True,
            cache_ttl_s=60,
            cache_scope="tenant",
        )
        without = await all_tokens(client, recording, precall.Speculation("off"))
        assert recording.branches == 0
        with_it = await all_tokens(client, recording, precall.Speculation("on"))
        stats = await client.speculation_stats()
    assert with_it == without
    assert recording.branches > 0
    used = {
        record.predictor: record.confirmed for tool in stats.tools for record in tool.predictors
    }
    assert set(used) == {
        precall.Predictor.CACHE,
        precall.Predictor.EARLY_DISPATCH,
        precall.Predictor.HISTORY,
        precall.Predictor.FORK,
    }
    assert sum(used.values()) > 0


async def test_an_engine_dies_in_a_turn_and_the_conversation_goes_on_with_the_same_tokens(
    vllm_factory: EngineFactory,
    kill_engine: Callable[[], Awaitable[None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It dies in the second turn, which is then sent again."""
    turns = ("What is the weather in Rome?", "And in Oslo?")
    async with served(vllm_factory) as (service, client, recording):
        client.add_tool(get_weather, read_only=True, speculation_safe=True)

        def sent(conversation: precall.Conversation, text: str) -> precall.Turn:
            return conversation.send(
                text, tool_choice="required", temperature=0.0, max_step_tokens=100, max_steps=2
            )

        async def killed_within(turn: precall.Turn) -> None:
            killed = False
            async for event in turn:
                if isinstance(event, precall.ReasoningDelta) and not killed:
                    killed = True
                    await kill_engine()

        async def conversed(mode: precall.Speculation, *, dies: bool) -> list[tuple[int, ...]]:
            answers: list[precall.Answer] = []
            async with client.conversation(
                template_variables={"enable_thinking": True}, speculation=mode
            ) as conversation:
                for number, text in enumerate(turns):
                    if dies and number == 1:
                        with pytest.raises(precall.EngineUnavailableError) as failure:
                            await killed_within(sent(conversation, text))
                        assert failure.value.retry_after_s
                        async with asyncio.timeout(WAIT_S):
                            await passed(service.engines, EngineState.RESTARTING, EngineState.READY)
                    answers.append(await sent(conversation, text).answer())
                before, after = answers
                assert before.text
                assert after.text
                assert after.report.usage.input_tokens > before.report.usage.input_tokens
                return recording.tokens.pop(conversation.id)

        without = await conversed(precall.Speculation("off"), dies=False)
        assert await conversed(precall.Speculation("on"), dies=True) == without
    assert "the engine died (killed by signal 9 (SIGKILL), often by the kernel's" in caplog.text


async def test_a_branch_of_the_model_predicts_its_call(vllm_factory: EngineFactory) -> None:
    """The handler runs while the model still thinks, and its result is used."""
    ran: list[bool] = []

    async def get_weather(city: City, context: precall.ToolContext) -> str:
        """The weather in a city."""
        ran.append(context.speculative)
        return f"It is sunny in {city}, 21 degrees."

    async with served(vllm_factory) as (_, client, _):
        client.add_tool(get_weather, read_only=True, speculation_safe=True)
        mode = precall.Speculation("on", predictors=["fork"], events=True)
        async with client.conversation(
            template_variables={"enable_thinking": True}, speculation=mode
        ) as conversation:
            turn = conversation.send(
                "What is the weather in Rome?",
                tool_choice="required",
                temperature=0.0,
                max_steps=2,
            )
            events = [event async for event in turn]
        [confirmed] = [each for each in events if isinstance(each, precall.PredictionConfirmed)]
        [first, *_] = [each for each in events if isinstance(each, precall.ToolCallReady)]
        assert ran[0]
        assert confirmed.call_id == first.call_id
        [completed] = [each for each in events if isinstance(each, precall.TurnCompleted)]
        assert completed.report.predictions_confirmed == 1
        assert completed.report.tool_time_hidden_s > 0


async def test_calls_of_a_tool_that_may_not_run_early_are_verified(
    vllm_factory: EngineFactory,
) -> None:
    """Learned history predicts them, and the engine verifies what nothing may run early for."""
    ran: list[bool] = []

    async def book_table(city: City, context: precall.ToolContext) -> str:
        """Book a table in a city."""
        ran.append(context.speculative)
        return f"A table in {city} is booked."

    mode = precall.Speculation("on", predictors=["history"], events=True)
    events: list[precall.Event] = []
    calls = 0
    async with served(vllm_factory) as (_, client, _):
        client.add_tool(book_table)
        for _ in range(4):
            async with client.conversation(speculation=mode) as conversation:
                turn = conversation.send(
                    "Book a table in Rome.",
                    tool_choice="required",
                    temperature=0.0,
                    max_steps=2,
                    stop=["a text that does not occur"],
                )
                events = [event async for event in turn]
            calls += sum(isinstance(each, precall.ToolCallCompleted) for each in events)
        stats = await client.speculation_stats()
    assert ran == [False] * calls
    [completed] = [each for each in events if isinstance(each, precall.TurnCompleted)]
    drafts = {(each.predictor, each.tool_name): each for each in completed.report.drafts}
    history = drafts[precall.Predictor.HISTORY, "book_table"]
    assert history.tokens_accepted > 0
    assert history.tokens_proposed == history.tokens_accepted + history.tokens_wasted
    assert drafts.keys() <= {(precall.Predictor.HISTORY, "book_table"), (None, "")}
    ended = [each for each in events if isinstance(each, precall.PredictionDiscarded)]
    assert {each.reason for each in ended if each.call_id} == {precall.DiscardReason.NOT_ELIGIBLE}
    assert sum(each.draft_tokens_accepted for each in ended) == history.tokens_accepted
    [record] = stats.tools[0].predictors
    assert record.draft_tokens_accepted >= history.tokens_accepted
