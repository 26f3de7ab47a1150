"""Compares the prompts that a real engine appends to with its own renderings of the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from precall_service.domain.messages import Message, ToolMessage, Transcript
from precall_service.engine.base import Engine, Prompt
from precall_service.engine.vllm.token_prompt import own
from tests.support.steps import Said, after

if TYPE_CHECKING:  # importing vLLM is slow, and it reads environment variables that are set later
    from precall_service.engine.vllm.engine import VllmEngine


def tokenizer(engine: Engine) -> Any:
    llm = cast("VllmEngine", engine)._llm  # pyright: ignore[reportPrivateUsage]
    return llm.renderer.get_tokenizer()


async def appended(
    engine: Engine, prompt: Prompt, said: Said, transcript: Transcript, *following: Message
) -> Prompt:
    """Appends to the prompt and compares the result with a rendering of the whole transcript."""
    longer = await engine.append(prompt, said.end, transcript, following)
    whole = await engine.render(after(transcript, *following))
    decode, encode = tokenizer(engine).decode, tokenizer(engine).encode
    assert decode(own(longer).token_ids) == decode(own(whole).token_ids)
    tokens = said.end.token_ids
    if tuple(encode(decode(tokens), add_special_tokens=False)) == tokens:  # as the template would
        assert longer == whole
    return longer


def rendered_afresh(engine: Engine) -> int:
    """How often the engine could not append."""
    renderer = cast("VllmEngine", engine)._renderer  # pyright: ignore[reportPrivateUsage]
    return renderer.rendered_afresh


def answers(said: Said) -> list[ToolMessage]:
    """Results of the calls of a step."""
    texts = ("It is sunny in Paris.", "It is 9:15 in Rome.")
    return [
        ToolMessage(call_id=call.call_id, tool_name=call.tool_name, text=texts[number % 2])
        for number, call in enumerate(said.calls)
    ]
