"""Parts of models with a template each, on the tokenizer that the tests' renderers share."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from precall_service.engine.findings import Findings, Subject
from precall_service.engine.models import resolve_model
from precall_service.engine.vllm.config import VllmConfig
from tests.support.prompt_renderers import (
    STOP_TOKENS,
    mistral_renderer,
    model_config,
    prompt_renderer,
    tokenizer,
)

if TYPE_CHECKING:  # importing vLLM is slow, and it reads environment variables that are set later
    from precall_service.engine.vllm.parts import ModelParts


def template(name: str) -> str:
    """The text of a template of `STOP_TOKENS`."""
    if name == "embedded":
        return resolve_model(None).chat_template or ""
    return (Path(__file__).parent / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


def parts_of(
    chat_template: str,
    *,
    stop: Collection[str] = STOP_TOKENS["embedded"],
    tool_parser: str | None = None,
    reasoning_parser: str | None = None,
    structured_calls: bool = True,
) -> ModelParts:
    """The parts of a model with this template, whose messages end with one of these tokens.

    Parsers that are None are chosen from the template.
    """
    ids = tokenizer().get_added_vocab()  # first, since it imports vLLM as precall does
    from precall_service.engine.vllm.parts import model_parts
    from precall_service.engine.vllm.plain_text import plain_texts
    from precall_service.engine.vllm.rendering import PromptRenderer

    renderer = prompt_renderer("embedded")._renderer  # pyright: ignore[reportPrivateUsage]
    config = VllmConfig(
        model="probe",
        model_name="probe",
        chat_template=chat_template,
        tool_call_parser=tool_parser,
        reasoning_parser=reasoning_parser,
        structured_calls=structured_calls,
    )
    return replace(
        model_parts(renderer, model_config(), config),
        renderer=PromptRenderer(
            renderer,
            chat_template=chat_template,
            stop_token_ids=[ids[token] for token in stop],
            texts=plain_texts(tokenizer(), chat_template),
        ),
    )


def mistral_parts() -> ModelParts:
    """The parts of a model with a mistral-common tokenizer, which writes messages as tokens."""
    own = mistral_renderer()  # first, since it imports vLLM as precall does
    from precall_service.engine.vllm.parts import model_parts

    config = VllmConfig(model="probe", model_name="probe", tool_call_parser="mistral")
    renderer = own._renderer  # pyright: ignore[reportPrivateUsage]
    return replace(model_parts(renderer, model_config(), config), renderer=own)


async def proved(parts: ModelParts) -> Findings:
    """What is found of a model with these parts."""
    from precall_service.engine.vllm.proof import prove

    return await prove(parts)


def limits(findings: Findings) -> dict[Subject, str]:
    """The sentences of the findings that limit."""
    return {each.subject: each.sentence for each in findings.each if each.limits}
