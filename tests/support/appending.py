"""Compares appended prompts with the template's own rendering of the whole transcript."""

from __future__ import annotations

from collections.abc import Sequence

from precall_service.domain.events import TokenUsage
from precall_service.domain.json import dump
from precall_service.domain.messages import (
    AssistantMessage,
    Message,
    ToolCall,
    ToolMessage,
    Transcript,
    UserMessage,
)
from precall_service.engine.base import Finish, StepEnd
from precall_service.engine.vllm.token_prompt import TokenPrompt
from tests.support.prompt_renderers import STOP_TOKENS, prompt_renderer, token_ids
from tests.support.steps import after

DEPENDS_ON_HISTORY = ("plain", "numbered", "late_text")
"""Templates that write after a message what depends on others, or end it without a token."""


def call(name: str, number: int, city: str = "Paris") -> ToolCall:
    """A call with an id that every template accepts."""
    return ToolCall(
        call_id=f"abcdefgh{number}", tool_name=name, arguments_json=dump({"city": city})
    )


def answer(made: ToolCall, text: str = '{"sky": "clear", "note": "15 °C"}') -> ToolMessage:
    return ToolMessage(call_id=made.call_id, tool_name=made.tool_name, text=text)


def calling(*calls: ToolCall, text: str = "", reasoning: str = "") -> AssistantMessage:
    return AssistantMessage(text=text, reasoning=reasoning, tool_calls=calls)


async def sampled(name: str, transcript: Transcript, message: AssistantMessage) -> StepEnd:
    """The tokens of a model that writes the message as its template does, and then stops."""
    renderer = prompt_renderer(name)
    prompt = await renderer.render(transcript)
    answers = [answer(made) for made in message.tool_calls] or [UserMessage(text="x")]
    whole = await renderer.render(after(transcript, message, *answers))
    assert whole.token_ids[: len(prompt)] == prompt.token_ids, "not a continuation"
    written = whole.token_ids[len(prompt) :]
    stops = {token_ids(text)[0] for text in STOP_TOKENS[name]}
    length = next(index for index, token in enumerate(written) if token in stops) + 1
    return ended(Finish.STOP, written[:length])


def ended(finish: Finish, sampled_ids: Sequence[int], raw_text: str = "") -> StepEnd:
    return StepEnd(
        finish=finish, token_ids=tuple(sampled_ids), raw_text=raw_text, usage=TokenUsage()
    )


async def check(
    name: str,
    transcript: Transcript,
    message: AssistantMessage,
    following: Sequence[Message],
    end: StepEnd | None = None,
) -> tuple[TokenPrompt, TokenPrompt]:
    """Appends, and compares with a rendering of the whole transcript. Returns both prompts."""
    renderer = prompt_renderer(name)
    prompt = await renderer.render(transcript)
    end = end or await sampled(name, transcript, message)
    longer = await renderer.append(prompt, end, after(transcript, message), following)
    assert longer == await renderer.render(after(transcript, message, *following))
    assert name in DEPENDS_ON_HISTORY or renderer.rendered_afresh == 0
    return prompt, longer
