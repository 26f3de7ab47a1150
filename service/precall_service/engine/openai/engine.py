"""The engine protocol on a server elsewhere.

Owns: the watch over the server; the count of its own generations.
Never: tokens. The server renders, generates and parses; it alone knows its load and its cache.
Concurrency: one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any, Final, cast

import openai

from precall_service.domain.events import LoosenedKeyword
from precall_service.domain.messages import Message, Transcript
from precall_service.domain.tools import ToolDeclaration
from precall_service.engine.base import (
    Chunk,
    Draft,
    EngineDiedError,
    EngineInfo,
    EngineLoad,
    Feature,
    Prompt,
    StepEnd,
    StepSpec,
    StepStream,
)
from precall_service.engine.chat import ChatMessage, chat_messages, chat_tool, chat_tool_choice
from precall_service.engine.openai.answers import Answer, read
from precall_service.engine.openai.config import OpenAiConfig
from precall_service.engine.openai.connection import PROBE_TIMEOUT_S, ServedModel
from precall_service.engine.openai.errors import SERVER_ERRORS, cause, meaning, said
from precall_service.engine.openai.prompts import ChatPrompt, own
from precall_service.engine.openai.reading import AnswerReader

log = logging.getLogger(__name__)

PROBES_MAX: Final = 3
"""How often in a row the server may leave a probe unanswered before it counts as dead."""


class OpenAiEngine:
    """A model behind an OpenAI-compatible interface."""

    def __init__(
        self, client: openai.AsyncOpenAI, config: OpenAiConfig, model: ServedModel
    ) -> None:
        """Watches the server from now on, until `close`."""
        self._client = client
        self._config = config
        self._model = model
        self._running = 0
        self._progress = 0
        self._why_dead = ""
        self._info = EngineInfo(
            name=f"server at {config.url}",
            model=model.name,
            context_tokens_max=config.context_tokens_max or model.context_tokens_max,
            sequences_max=config.turns_max,
            kv_tokens=None,
            kv_block_tokens=None,
            features=frozenset({Feature.TOOL_CALLS, Feature.REASONING}),
        )
        self._watch = asyncio.create_task(self._until_dead())

    @property
    def info(self) -> EngineInfo:
        """As `Engine.info`."""
        return self._info

    @property
    def progress(self) -> int:
        """As `Engine.progress`: the parts of answers, and the probes that the server answered."""
        return self._progress

    async def judge(
        self, tools: Sequence[ToolDeclaration], tenant: str
    ) -> Sequence[Sequence[LoosenedKeyword]]:
        """As `Engine.judge`: nothing, since the server may hold calls to no schema at all."""
        return [()] * len(tools)

    async def render(self, transcript: Transcript) -> ChatPrompt:
        """As `Engine.render`. The server renders; if it refuses, `generate` raises that."""
        return ChatPrompt(transcript)

    async def append(
        self, prompt: Prompt, end: StepEnd, transcript: Transcript, following: Sequence[Message]
    ) -> ChatPrompt:
        """As `Engine.append`."""
        return ChatPrompt(replace(transcript, messages=(*transcript.messages, *following)))

    async def branch(
        self, prompt: Prompt, token_ids: Sequence[int], spec: StepSpec
    ) -> ChatPrompt | None:
        """As `Engine.branch`: there are none."""
        return None

    async def draft(self, spec: StepSpec, drafts: Sequence[Draft]) -> None:
        """As `Engine.draft`: none is verified."""

    async def generate(self, prompt: Prompt, spec: StepSpec) -> StepStream:
        """As `Engine.generate`.

        On cancel, or if closed early: the connection is closed, at which servers stop generating.
        """
        reader = AnswerReader(spec.max_tokens)
        asked = self._asked(own(prompt), spec)
        with self._counted():
            try:
                async with aclosing(self._answers(asked)) as answers:
                    async for answer in answers:
                        self._progress += 1
                        if pieces := tuple(reader.read(answer)):
                            yield Chunk((), pieces)
                        if reader.full:
                            break
            except SERVER_ERRORS as error:
                if self._watch.done():
                    raise EngineDiedError(self._why_dead) from error
                log.warning(
                    "step %s failed: %s: %s", spec.step_id, type(error).__name__, said(error)
                )
                raise meaning(error) from error
            if pieces := tuple(reader.ending()):
                yield Chunk((), pieces)
            yield reader.end()

    async def load(self) -> EngineLoad:
        """As `Engine.load`: of this service's own generations, since the server tells no more."""
        return EngineLoad(running=self._running, waiting=0, kv_usage=0.0)

    async def wait_dead(self) -> None:
        """As `Engine.wait_dead`: once the server has answered no probe for a while."""
        await asyncio.wait([self._watch])

    async def cause_of_death(self) -> str:
        """As `Engine.cause_of_death`."""
        return self._why_dead

    async def kill(self) -> None:
        """As `Engine.kill`: closes the connections to the server."""
        self._why_dead = self._why_dead or "it gives no sign of life"
        await self.close()

    async def close(self) -> None:
        """As `Engine.close`. What still waits for the server raises EngineDiedError."""
        self._watch.cancel()
        await asyncio.wait([self._watch])
        await self._client.close()

    async def _answers(self, asked: dict[str, Any]) -> AsyncGenerator[Answer]:
        """Yields an answer part by part, or as a whole."""
        create = cast("Any", self._client.chat.completions).create
        if not self._config.streams:
            yield read(await create(**asked))
            return
        async with await create(**asked, stream=True, stream_options={"include_usage": True}) as it:
            async for part in it:
                yield read(part)

    def _asked(self, prompt: ChatPrompt, spec: StepSpec) -> dict[str, Any]:
        """The fields of the step. Those that are not set are left to the server."""
        generation, extra = spec.generation, dict[str, Any]()
        if generation.top_k is not None:
            extra["top_k"] = generation.top_k
        if spec.template_variables:
            extra["chat_template_kwargs"] = dict(spec.template_variables)
        if self._model.on_vllm and not self._config.share_prefix_cache:
            extra["cache_salt"] = spec.tenant
        fields = {
            "temperature": generation.temperature,
            "top_p": generation.top_p,
            "seed": generation.seed,
            "presence_penalty": generation.presence_penalty,
            "frequency_penalty": generation.frequency_penalty,
            "stop": list(generation.stop) or None,
            "extra_body": extra or None,
        }
        asked: dict[str, Any] = {
            "model": self._model.name,
            "messages": _messages(prompt.transcript, self._config.reasoning_field),
            self._config.limit_field: min(spec.max_tokens, self._config.step_tokens_max),
        }
        if spec.tools:
            asked["tools"] = [
                chat_tool(tool.name, tool.description, tool.input_schema) for tool in spec.tools
            ]
            asked["tool_choice"] = chat_tool_choice(spec.tool_choice)
        return asked | {name: value for name, value in fields.items() if value is not None}

    async def _until_dead(self) -> None:
        """Asks the server for a sign of life, until it has given none for several times."""
        missed = 0
        while missed < PROBES_MAX:
            await asyncio.sleep(self._config.probe_s)
            try:
                await self._client.with_options(max_retries=0).models.list(timeout=PROBE_TIMEOUT_S)
                missed = 0
                self._progress += 1
            except openai.APIStatusError as error:
                missed = missed + 1 if error.status_code >= 500 else 0
                self._why_dead = f"it answers with status {error.status_code}"
            except SERVER_ERRORS as error:
                missed += 1
                self._why_dead = f"it does not answer: {cause(error)}"

    @contextmanager
    def _counted(self) -> Generator[None]:
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1


def _messages(transcript: Transcript, reasoning_field: str | None) -> list[ChatMessage]:
    """The messages as servers take them."""
    messages = chat_messages(transcript)
    for message in messages:
        reasoning = message.pop("reasoning", None)
        if reasoning and reasoning_field:
            message[reasoning_field] = reasoning
        if message["role"] == "tool":
            del message["name"]
        if message.get("tool_calls") and not message["content"]:
            message["content"] = None
    return messages
