"""An engine that says what a script tells it to: deterministic, and as fast as Python can yield.

Its tokens are characters, so that a prompt can be read (`prompt_text`), and appending to a prompt
gives exactly what rendering the whole transcript would. Nothing in it waits by the clock: a script
holds a generation up with `Pause`, and lets others run with `TICK`.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from precall_service.domain.messages import (
    AssistantMessage,
    Message,
    ToolMessage,
    Transcript,
    UserMessage,
)
from precall_service.engine.base import (
    CallBegun,
    CallPiece,
    CallWritten,
    Delta,
    EngineDiedError,
    EngineInfo,
    EngineLoad,
    Feature,
    Finish,
    GenerationRefusedError,
    Progress,
    Prompt,
    ReasoningPiece,
    StepEnd,
    StepSpec,
    TextPiece,
)

END_TOKEN = 0x110000
"""Ends a message; the first number that is no character."""
_HEAD = {"system": END_TOKEN + 1, "user": END_TOKEN + 2, "model": END_TOKEN + 3, "tool": END_TOKEN + 4}
_CALL, _CALL_ARGUMENTS, _CALL_END = END_TOKEN + 5, END_TOKEN + 6, END_TOKEN + 7
_REASONING, _REASONING_END = END_TOKEN + 8, END_TOKEN + 9

Piece = TextPiece | ReasoningPiece | CallBegun | CallPiece | CallWritten


@dataclass(frozen=True, slots=True)
class Pause:
    """The generation waits here until the event is set, or its engine dies."""

    event: asyncio.Event


@dataclass(frozen=True, slots=True)
class Tick:
    """The generation lets the event loop run once."""


TICK = Tick()

Item = Piece | Pause | Tick | GenerationRefusedError
"""What a step consists of; an error is raised where it stands."""

Step = Sequence[Item]
Script = Callable[[Prompt, StepSpec], Step]

INFO = EngineInfo(
    name="scripted",
    model="script",
    context_tokens_max=8192,
    sequences_max=64,
    kv_tokens=1 << 20,
    kv_block_tokens=16,
    features=frozenset(Feature),
)


def says(*texts: str) -> list[Item]:
    """A step, or a part of one, that is text."""
    return [TextPiece(text) for text in texts]


def thinks(*texts: str) -> list[Item]:
    """A part of a step that is reasoning."""
    return [ReasoningPiece(text) for text in texts]


def calls(*named_arguments: tuple[str, str], first: int = 0) -> list[Item]:
    """The part of a step that makes these calls: tool names with JSON arguments."""
    items: list[Item] = []
    for index, (name, arguments) in enumerate(named_arguments, start=first):
        half = len(arguments) // 2
        items += [CallBegun(index, name), CallPiece(index, arguments[:half])]
        items += [CallPiece(index, arguments[half:]), CallWritten(index)]
    return items


def in_turn(*steps: Step) -> Script:
    """The steps one after the other, whichever prompt asks for them."""
    rest = iter(steps)

    def script(prompt: Prompt, spec: StepSpec) -> Step:
        try:
            return next(rest)
        except StopIteration:
            raise AssertionError(f"no step is left in the script for {spec.step_id}") from None

    return script


def always(step: Step) -> Script:
    """The same step for every prompt."""
    return lambda _prompt, _spec: step


def prompt_text(prompt: Prompt) -> str:
    """A prompt as text, with a line for each message."""
    heads = {token: f"<{name}>" for name, token in _HEAD.items()} | {END_TOKEN: "\n"}
    marks = {_CALL: "[", _CALL_ARGUMENTS: "(", _CALL_END: ")]", _REASONING: "{", _REASONING_END: "}"}
    return "".join(
        chr(token) if token < END_TOKEN else heads.get(token) or marks[token]
        for token in prompt.token_ids
    )


class ScriptedEngine:
    """An `Engine`. `specs` and `prompts` are what it was asked for, in order."""

    def __init__(self, script: Script | Sequence[Step], info: EngineInfo = INFO) -> None:
        self._script = script if callable(script) else in_turn(*script)
        self._info = info
        self._death: asyncio.Future[None] | None = None
        self._dead = False
        self._slots = _Slots(info.sequences_max)
        self._held_tokens: dict[str, int] = {}
        self._cached_blocks: set[int] = set()
        self.specs: list[StepSpec] = []
        self.prompts: list[Prompt] = []
        self.closed = False
        self.template_refusal: str | None = None
        """When set, `render` and `append` are refused with it."""

    @property
    def info(self) -> EngineInfo:
        return self._info

    def die(self) -> None:
        """The engine's process is gone, as after a SIGKILL."""
        self._dead = True
        self._deadline().set_result(None)

    async def render(self, transcript: Transcript) -> Prompt:
        self._check_template()
        tokens: list[int] = []
        if transcript.system_prompt or transcript.tools:
            names = " ".join(tool.name for tool in transcript.tools)
            tokens += _message("system", _characters(f"{transcript.system_prompt} {names}"))
        for message in transcript.messages:
            tokens += _message_tokens(message)
        return Prompt((*tokens, _HEAD["model"]))

    async def append(
        self,
        prompt: Prompt,
        end: StepEnd,
        transcript: Transcript,
        following: Sequence[Message],
    ) -> Prompt:
        self._check_template()
        tokens = [*prompt.token_ids, *end.token_ids]
        if end.finish is Finish.LENGTH:
            tokens.append(END_TOKEN)
        for message in following:
            tokens += _message_tokens(message)
        return Prompt((*tokens, _HEAD["model"]))

    async def generate(self, prompt: Prompt, spec: StepSpec) -> AsyncGenerator[Delta, None]:
        self._check_alive()
        if not 0 < len(prompt) < self._info.context_tokens_max:
            raise GenerationRefusedError(f"a prompt of {len(prompt)} tokens does not fit")
        self.specs.append(spec)
        self.prompts.append(prompt)
        step = self._script(prompt, spec)
        with self._slots.entry(spec) as entry, self._holding(prompt, spec):
            await entry.place()
            cached_tokens = self._cached_tokens(prompt)
            tokens: list[int] = []
            text: list[str] = []
            limit = spec.max_tokens
            for item in step:
                if self._dead:
                    raise EngineDiedError("the scripted engine died")
                kind = type(item)
                if kind is TextPiece:  # first and inline: a benchmark counts these
                    added = item.text
                    if len(tokens) + len(added) > limit:
                        break
                    tokens += map(ord, added)
                    text.append(added)
                    yield item
