"""The contract of every engine. A subclass provides the engine to test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from weakref import WeakKeyDictionary

import jsonschema
import pytest

from precall_service.domain.messages import ToolMessage, UserMessage
from precall_service.domain.turn import ToolChoice
from precall_service.engine.base import (
    CallBegun,
    Chunk,
    Engine,
    EngineDiedError,
    Finish,
    GenerationRefusedError,
    Priority,
    Prompt,
    StepSpec,
    StepStream,
    TextPiece,
)
from precall_service.engine.drafts import Draft
from precall_service.engine.vllm.token_prompt import TokenPrompt, own
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripts import obedient
from tests.support.steps import (
    NONE,
    REQUIRED,
    Said,
    after,
    asked,
    declared,
    first_chunk,
    heard,
    named,
    step_spec,
    until_idle,
)

WEATHER = declared("get_weather")
TIME = declared("get_time")
QUESTION = asked("What is the weather in Paris?", WEATHER, TIME, system_prompt="Call tools.")
THOUGHTFUL = replace(QUESTION, template_variables={"enable_thinking": True})
LONG = 40
"""A number of tokens so large that a generation does not end during a test's checks."""

SHORT = 8
"""A number of tokens so small that a generation of LONG, started before, outlasts this one."""


def thinking(priority: Priority = Priority.STARTS_TURN) -> StepSpec:
    """A step of THOUGHTFUL that must make a call."""
    return step_spec(
        max_tokens=200,
        tools=THOUGHTFUL.tools,
        tool_choice=REQUIRED,
        priority=priority,
        template_variables=THOUGHTFUL.template_variables,
    )


_ANSWERS: WeakKeyDictionary[Engine, dict[tuple[Prompt, ToolChoice, int], Said]] = (
    WeakKeyDictionary()
)


async def answer(engine: Engine, prompt: Prompt, spec: StepSpec) -> Said:
    """What the engine says. It is greedy, so the same step is generated once for all tests."""
    answers = _ANSWERS.setdefault(engine, {})
    key = prompt, spec.tool_choice, spec.max_tokens
    if key not in answers:
        answers[key] = await heard(engine.generate(prompt, spec))
    return answers[key]


async def prompt_of_a_long_answer(engine: Engine) -> Prompt:
    """A prompt that this engine answers with LONG tokens."""
    prompt = await engine.render(asked("Tell me a story"))
    said = await answer(engine, prompt, step_spec(max_tokens=LONG))
    assert len(said.end.token_ids) == LONG
    return prompt


def calling(choice: ToolChoice, max_tokens: int = 128) -> StepSpec:
    """A step of QUESTION."""
    return step_spec(max_tokens=max_tokens, tools=QUESTION.tools, tool_choice=choice)


async def idle_before_it_could_end(engine: Engine) -> None:
    """Checks that a generation of LONG tokens was aborted soon after its start.

    Time is measured in the engine's own steps: the check takes SHORT of them.
    """
    prompt = await engine.render(asked("Hello"))
    await heard(engine.generate(prompt, step_spec(max_tokens=SHORT)))
    load = await engine.load()
    assert (load.running, load.waiting) == (0, 0)


async def text_of(generation: StepStream) -> str:
    """The rest of a generation's text."""
    pieces = [
        piece async for chunk in generation if isinstance(chunk, Chunk) for piece in chunk.pieces
    ]
    return "".join(piece.text for piece in pieces if isinstance(piece, TextPiece))


class EngineContract:
    """The contract of a living engine."""

    async def test_info_is_complete(self, engine: Engine) -> None:
        info = engine.info
        assert info.name
        assert info.model
        sizes = info.kv_tokens or 0, info.context_tokens_max or 0, info.kv_block_tokens or 0
        assert sizes == tuple(sorted(sizes, reverse=True))
        assert all(sizes)
        assert info.sequences_max > 0

    async def test_a_tool_of_an_ordinary_schema_binds_the_model_as_a_whole(
        self, engine: Engine
    ) -> None:
        assert [list(each) for each in await engine.judge([WEATHER, TIME], "tenant")] == [[], []]
        assert not await engine.judge([], "tenant")

    async def test_renders_the_same_transcript_to_the_same_prompt(self, engine: Engine) -> None:
        assert await engine.render(QUESTION) == await engine.render(QUESTION)
        assert await engine.render(asked("Hello")) != await engine.render(asked("Goodbye"))

    async def test_the_pieces_of_text_add_up_to_the_raw_text(self, engine: Engine) -> None:
        said = await heard(
            engine.generate(await engine.render(asked("Hello")), step_spec(max_tokens=24))
        )
        assert said.text
        assert said.text == said.end.raw_text
        assert not said.calls
        assert 0 < len(said.end.token_ids) <= 24

    async def test_a_limit_ends_a_step_at_its_last_token(self, engine: Engine) -> None:
        said = await heard(
            engine.generate(await engine.render(asked("Tell me a story")), step_spec(max_tokens=5))
        )
        assert said.end.finish is Finish.LENGTH
        assert len(said.end.token_ids) == 5

    async def test_drafts_change_no_token(self, engine: Engine) -> None:
        prompt = await engine.render(QUESTION)
        spec = calling(REQUIRED)
        plain = await answer(engine, prompt, spec)
        drafts = tuple(Draft(call.tool_name, call.arguments_json) for call in plain.calls)
        assert drafts
        again = replace(spec, step_id=f"{spec.step_id}-again", drafts=drafts)
        drafted = await heard(engine.generate(prompt, again))
        assert (drafted.end.token_ids, drafted.arguments) == (plain.end.token_ids, plain.arguments)
        await engine.draft(again, drafts)  # the step has ended: nothing happens

    async def test_a_required_call_is_valid_against_its_schema(self, engine: Engine) -> None:
        said = await answer(engine, await engine.render(QUESTION), calling(REQUIRED))
        assert said.calls
        assert said.end.finish is Finish.STOP
        assert {call.tool_name for call in said.calls} <= {"get_weather", "get_time"}
        for arguments in said.arguments:
            jsonschema.validate(arguments, dict(WEATHER.input_schema))

    async def test_a_named_call_calls_that_tool(self, engine: Engine) -> None:
        said = await answer(engine, await engine.render(QUESTION), calling(named("get_time")))
        assert [call.tool_name for call in said.calls] == ["get_time"]
        jsonschema.validate(said.arguments[0], dict(TIME.input_schema))

    async def test_no_call_if_calls_are_not_allowed(self, engine: Engine) -> None:
        said = await answer(engine, await engine.render(QUESTION), calling(NONE, 32))
        assert not any(isinstance(piece, CallBegun) for piece in said.pieces)

    async def test_chunks_have_the_tokens_sampled_so_far(self, engine: Engine) -> None:
        """A reader can branch off in mid-step: from the same tokens, the step continues equally."""
        prompt = await engine.render(QUESTION)
        spec = calling(named("get_weather"))
        whole = await answer(engine, prompt, spec)
        sampled: tuple[int, ...] = ()
        async with aclosing(engine.generate(prompt, spec)) as generation:
            async for chunk in generation:
                assert isinstance(chunk, Chunk), "a call must begin before the end"
                sampled += chunk.token_ids
                if any(isinstance(piece, CallBegun) for piece in chunk.pieces):
                    break
        assert sampled == whole.end.token_ids[: len(sampled)]
        assert len(sampled) < len(whole.end.token_ids)

    async def test_a_call_cut_by_a_limit_begins_but_never_completes(self, engine: Engine) -> None:
        prompt, choice = await engine.render(QUESTION), named("get_weather")
        whole = await answer(engine, prompt, calling(choice))
        limits = range(1, len(whole.end.token_ids), 3)
        steps = [heard(engine.generate(prompt, calling(choice, limit))) for limit in limits]
        for max_tokens, cut in zip(limits, await asyncio.gather(*steps), strict=True):
            assert cut.end.finish is Finish.LENGTH
            assert len(cut.end.token_ids) == max_tokens
            assert whole.end.raw_text.startswith(cut.end.raw_text)
            assert not cut.calls or cut.calls == whole.calls

    async def test_appending_keeps_the_prompt_and_the_sampled_tokens(self, engine: Engine) -> None:
        prompt = await engine.render(QUESTION)
        said = await answer(engine, prompt, calling(REQUIRED))
        answers = [
            ToolMessage(call_id=call.call_id, tool_name=call.tool_name, text='{"sky": "clear"}')
            for call in said.calls
        ]
        transcript = after(QUESTION, said.message)
        longer = await engine.append(prompt, said.end, transcript, answers)
        kept = own(prompt).token_ids + said.end.token_ids
        assert own(longer).token_ids[: len(kept)] == kept
        assert len(own(longer)) > len(kept)

    async def test_appending_after_a_limit_keeps_every_sampled_token(self, engine: Engine) -> None:
        prompt = await engine.render(asked("Tell me a story"))
        said = await heard(engine.generate(prompt, step_spec(max_tokens=7)))
        transcript = after(asked("Tell me a story"), said.message)
        longer = await engine.append(prompt, said.end, transcript, [UserMessage(text="Go on")])
        kept = own(prompt).token_ids + said.end.token_ids
        assert own(longer).token_ids[: len(kept)] == kept

    async def test_a_branch_skips_the_rest_of_a_thought(self, engine: Engine) -> None:
        prompt = await engine.render(THOUGHTFUL)
        async with aclosing(engine.generate(prompt, thinking())) as step:
            sampled = (await first_chunk(step)).token_ids
            branch = await engine.branch(prompt, sampled, thinking())
            assert branch is not None
            begun = own(prompt).token_ids + sampled
            assert own(branch).token_ids[: len(begun)] == begun
            said = await heard(engine.generate(branch, thinking(Priority.SPECULATES)))
        assert said.calls
        assert not said.reasoning
        assert said.end.usage.reasoning_tokens == 0

    async def test_a_branch_before_the_first_token_skips_the_whole_thought(
        self, engine: Engine
    ) -> None:
        prompt = await engine.render(THOUGHTFUL)
        branch = await engine.branch(prompt, (), thinking())
        assert branch is not None
        said = await heard(engine.generate(branch, thinking()))
        assert said.calls
        assert not said.reasoning

    async def test_there_is_no_branch_without_a_thought_to_skip(self, engine: Engine) -> None:
        prompt = await engine.render(THOUGHTFUL)
        said = await heard(engine.generate(prompt, thinking()))
        assert said.reasoning
        assert said.calls
        assert await engine.branch(prompt, said.end.token_ids, thinking()) is None
        unthinking = {"enable_thinking": False}
        prompt = await engine.render(replace(THOUGHTFUL, template_variables=unthinking))
        spec = step_spec(tools=THOUGHTFUL.tools, template_variables=unthinking)
        assert await engine.branch(prompt, (), spec) is None

    async def test_a_repeated_prompt_is_served_from_the_cache(self, engine: Engine) -> None:
        prompt = await engine.render(asked("Once more, and once more again. " * 12))
        await heard(engine.generate(prompt, step_spec(max_tokens=1)))
        again = await heard(engine.generate(prompt, step_spec(max_tokens=1)))
        block = engine.info.kv_block_tokens or 0
        assert again.end.usage.cached_tokens == (len(own(prompt)) - 1) // block * block > 0

    async def test_tenants_do_not_share_the_cache(self, engine: Engine) -> None:
        prompt = await engine.render(asked("What one tenant says to the model. " * 12))
        for tenant in ("one", "two"):
            said = await heard(engine.generate(prompt, step_spec(max_tokens=1, tenant=tenant)))
            assert said.end.usage.cached_tokens == 0

    async def test_closing_a_generation_early_aborts_it(self, engine: Engine) -> None:
        prompt = await prompt_of_a_long_answer(engine)
        generation = engine.generate(prompt, step_spec(max_tokens=LONG))
        await first_chunk(generation)
        assert (await engine.load()).running == 1
        await generation.aclose()
        await idle_before_it_could_end(engine)

    async def test_cancelling_the_reader_of_a_generation_aborts_it(self, engine: Engine) -> None:
        prompt = await prompt_of_a_long_answer(engine)
        begun = asyncio.Event()

        async def read() -> None:
            async for _ in engine.generate(prompt, step_spec(max_tokens=LONG)):
                begun.set()

        async with asyncio.TaskGroup() as group:
            reader = group.create_task(read())
            await begun.wait()
            reader.cancel()
        await idle_before_it_could_end(engine)

    async def test_generations_run_concurrently(self, engine: Engine) -> None:
        prompt = await prompt_of_a_long_answer(engine)
        generations = [engine.generate(prompt, step_spec(max_tokens=LONG)) for _ in range(3)]
        for generation in generations:
            await first_chunk(generation)
        assert (await engine.load()).running == 3
        texts = await asyncio.gather(*map(text_of, generations))
        assert all(texts)
        await until_idle(engine)

    async def test_a_prompt_beyond_the_context_is_refused(self, engine: Engine) -> None:
        token = own(await engine.render(asked("Hello"))).token_ids[0]
        prompt = TokenPrompt((token,) * ((engine.info.context_tokens_max or 0) + 1))
        with pytest.raises(GenerationRefusedError, match=str(len(prompt))):
            await heard(engine.generate(prompt, step_spec()))
        await until_idle(engine)

    async def test_an_idle_engine_has_no_load(self, engine: Engine) -> None:
        load = await engine.load()
        assert (load.running, load.waiting, load.kv_usage) == (0, 0, 0.0)


class EngineDeathContract:
    """The contract of an engine that dies. The fixture `kill` kills the `doomed_engine`."""

    async def test_death_ends_everything(
        self, doomed_engine: Engine, kill: Callable[[], Awaitable[None]]
    ) -> None:
        engine = doomed_engine
        prompt = await engine.render(asked("Tell me a story"))
        generation = engine.generate(prompt, step_spec(max_tokens=10 * LONG))
        await first_chunk(generation)
        await kill()
        with pytest.raises(EngineDiedError):
            await text_of(generation)
        async with asyncio.timeout(30):
            await engine.wait_dead()
            assert await engine.cause_of_death()
        with pytest.raises(EngineDiedError):
            await engine.load()
        with pytest.raises(EngineDiedError):
            await heard(engine.generate(prompt, step_spec()))
        await engine.close()
        await engine.close()


class TestScriptedEngine(EngineContract):
    @pytest.fixture
    def engine(self) -> Engine:
        return ScriptedEngine(obedient)


class TestScriptedEngineDeath(EngineDeathContract):
    @pytest.fixture
    def doomed_engine(self) -> ScriptedEngine:
        return ScriptedEngine(obedient)

    @pytest.fixture
    def kill(self, doomed_engine: ScriptedEngine) -> Callable[[], Awaitable[None]]:
        async def kill() -> None:
            doomed_engine.die()

        return kill
