"""The real engine runs each main family's path: its template, its grammar, its parser, its steps.

The models are tiny and of random weights. They write calls because their grammars leave nothing
else, and each call must be read; what is appended must be what the template writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest
import pytest_asyncio

from precall_service.domain.messages import Message, Transcript, UserMessage
from precall_service.engine.base import Engine, Feature, Prompt
from precall_service.engine.findings import Subject
from precall_service.engine.vllm.token_prompt import own
from tests.support.engine_keeper import all_cores, started
from tests.support.engine_prompts import answers, rendered_afresh
from tests.support.steps import NONE, REQUIRED, Said, after, declared, heard, named, step_spec
from tests.support.tiny_models import GEMMA4, GPT_OSS, LLAMA, MISTRAL, QWEN3, TinyModel, write_model

SCHEMA = """{
  "type": "object",
  "properties": {
    "city": {"enum": ["Paris", "Montréal"]},
    "days": {"type": "integer", "minimum": 1, "maximum": 9}
  },
  "required": ["city", "days"],
  "additionalProperties": false
}"""
"""A model of random weights ends no free text, so there is none."""
TOOLS = (declared("get_weather", SCHEMA), declared("get_time", SCHEMA))


AT_ONCE = 2
"""How many engines. Most of a start is computed on one core."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def turns(
    no_shared_engine: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[dict[str, asyncio.Task[None]]]:
    """The turn of each family by its template, on an engine of its own."""
    room = asyncio.Semaphore(AT_ONCE)

    async def taken(tiny: TinyModel, takes: Callable[[TinyModel, Engine], Awaitable[None]]) -> None:
        async with room:
            engine = await started(write_model(tiny, tmp_path_factory.mktemp("tiny")))
            try:
                await takes(tiny, engine)
            finally:
                await engine.close()

    with all_cores():
        tasks = {tiny.template: asyncio.create_task(taken(tiny, takes)) for tiny, takes in FAMILIES}
        yield tasks
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


def question(model: TinyModel) -> Transcript:
    return Transcript(
        messages=(UserMessage(text="How is Paris, and what time is it?"),),
        system_prompt="Be brief.",
        tools=TOOLS,
        template_variables=model.variables,
    )


async def takes_a_turn_of_required_calls(tiny: TinyModel, engine: Engine) -> None:
    assert engine.info.findings.hold(Subject.REQUIRED_CALLS)
    transcript = question(tiny)
    prompt = await engine.render(transcript)
    for choice in (REQUIRED, named("get_time")):
        spec = step_spec(
            max_tokens=100, tools=TOOLS, tool_choice=choice, template_variables=tiny.variables
        )
        said = await heard(engine.generate(prompt, spec))
        (arguments,) = said.arguments
        assert arguments["city"] in {"Paris", "Montréal"}
        assert arguments["days"] in range(1, 10)
        assert said.calls[0].tool_name == choice.tool_name or choice is REQUIRED
        called = after(transcript, said.message)
        prompt = await continued(engine, prompt, said, called, *answers(said))
        transcript = after(called, *answers(said))
    assert rendered_afresh(engine) == 0
    await answered(tiny, engine, transcript)


async def takes_a_turn_without_a_grammar(tiny: TinyModel, engine: Engine) -> None:
    """Nothing holds these models to calls, so a model of random weights makes none."""
    assert Feature.TOOL_CALLS in engine.info.features
    assert not engine.info.findings.hold(Subject.REQUIRED_CALLS)
    await answered(tiny, engine, question(tiny))


async def answered(model: TinyModel, engine: Engine, transcript: Transcript) -> None:
    """An answer, and the user's next message."""
    prompt = await engine.render(transcript)
    spec = step_spec(
        max_tokens=8, tools=TOOLS, tool_choice=NONE, template_variables=model.variables
    )
    said = await heard(engine.generate(prompt, spec))
    assert not said.calls
    transcript = after(transcript, said.message)
    following = UserMessage(text="Thank you")
    longer = await engine.append(prompt, said.end, transcript, [following])
    assert longer == await engine.render(after(transcript, following)) or not rewritten(engine)


def rewritten(engine: Engine) -> bool:
    """Whether each new turn is a rendering of the whole."""
    return not engine.info.findings.hold(Subject.HISTORY)


async def continued(
    engine: Engine, prompt: Prompt, said: Said, transcript: Transcript, *following: Message
) -> Prompt:
    """Appends, and compares what is added to the model's tokens with the template's rendering.

    The head of a message may be written otherwise in a history: without the empty thought of
    Qwen3, for example.
    """
    longer = await engine.append(prompt, said.end, transcript, following)
    whole = await engine.render(after(transcript, *following))
    kept = own(prompt).token_ids + said.end.token_ids[:-1]
    grown = own(longer).token_ids
    added = grown[len(kept) :]
    assert grown[: len(kept)] == kept
    assert added
    assert own(whole).token_ids[-len(added) :] == added
    return longer


FAMILIES = (
    (QWEN3, takes_a_turn_of_required_calls),
    (LLAMA, takes_a_turn_of_required_calls),
    (MISTRAL, takes_a_turn_of_required_calls),
    (GPT_OSS, takes_a_turn_of_required_calls),
    (GEMMA4, takes_a_turn_without_a_grammar),
)


@pytest.mark.parametrize("template", [tiny.template for tiny, _ in FAMILIES])
async def test_a_family_takes_its_turn(template: str, turns: dict[str, asyncio.Task[None]]) -> None:
    await turns[template]
