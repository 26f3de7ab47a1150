"""Reads the template's own rendering of a message through the parsers that were chosen.

Owns: where a message begins and ends in a rendering of a conversation of probe texts.
Never: judges what was read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Final

from precall_service.domain.json import JsonValue
from precall_service.domain.messages import (
    AssistantMessage,
    ToolMessage,
    Transcript,
)
from precall_service.domain.turn import ToolChoice
from precall_service.engine.base import (
    CallBegun,
    CallPiece,
    CallUnreadable,
    CallWritten,
    Finish,
    Piece,
    ReasoningPiece,
    TemplateRefusedError,
    TextPiece,
)
from precall_service.engine.vllm import skeletons
from precall_service.engine.vllm.parsing import StepParser
from precall_service.engine.vllm.parts import ModelParts
from precall_service.engine.vllm.probes import common_start, probe_text
from precall_service.engine.vllm.token_prompt import TokenPrompt

_OTHER: Final = "0"
"""A text that begins as no call and no other text of a probe does."""

_INCOMPLETE: Final = "\ufffd"
"""Ends the text of tokens whose last character is not complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A message, and the prompt that a model would write it after."""

    prompt: TokenPrompt
    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What a parser has read from a message. `calls` are names and arguments."""

    text: str
    reasoning: str
    calls: tuple[tuple[str, JsonValue], ...]


class NotReadError(Exception):
    """A message that cannot be cut out of a rendering, or that a parser fails on."""


class ReadBack:
    """Writes messages as one template does, and reads them as the steps of its model are read."""

    def __init__(self, parts: ModelParts) -> None:
        self._renderer = parts.renderer
        self._plans = parts.plans
        self._tokenizer = parts.tokenizer
        self._special_tokens = parts.special_tokens
        self._marks = parts.marks
        self._stop_texts = [self.decoded([each]) for each in parts.renderer.stop_token_ids]

    def decoded(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, with special tokens."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=False)

    async def rendered(self, transcript: Transcript, *, ready: bool) -> str:
        """The text of the template's rendering.

        Raises:
            TemplateRefusedError: the template refuses the transcript.
        """
        rendered = await self._renderer.rendered(transcript, ready=ready)
        return rendered if isinstance(rendered, str) else self.decoded(rendered)

    async def written(self, question: Transcript, said: AssistantMessage) -> Written:
        """The message as the template writes it after this conversation, without its end.

        Raises:
            TemplateRefusedError: the template refuses the message.
            NotReadError: it cannot be told where the message begins.
        """
        head = await self._renderer.rendered(question, ready=True)
        if not isinstance(head, str):
            return self._written_in_tokens(head, list(await self._with(question, said)))
        text = await self._cut(head, question, said)
        return self.as_written(await self._renderer.render(question), text)

    async def text(self, question: Transcript, said: AssistantMessage) -> str:
        """The text of the same; empty if the model's tokenizer writes messages as tokens.

        Raises:
            TemplateRefusedError: the template refuses the message.
            NotReadError: it cannot be told where the message begins.
        """
        head = await self._renderer.rendered(question, ready=True)
        return await self._cut(head, question, said) if isinstance(head, str) else ""

    async def _cut(self, head: str, question: Transcript, said: AssistantMessage) -> str:
        whole, start = str(await self._with(question, said)), len(head)
        if not whole.startswith(head):  # the head of a message begins a thought, for example
            other = replace(said, text=_OTHER, reasoning="", tool_calls=())
            try:
                start = len(common_start(whole, str(await self._with(question, other))))
            except TemplateRefusedError as error:
                raise NotReadError(
                    f"the chat template refuses a message of text ({error})"
                ) from error
        return self._up_to_stop(whole[start:])

    def _written_in_tokens(self, head: list[Any], whole: list[Any]) -> Written:
        """The same for a tokenizer that finds no special tokens in a text, so they must be kept."""
        if whole[: len(head)] != head:
            raise NotReadError("a message does not begin where the prompt for it ends")
        stops = self._renderer.stop_token_ids
        token_ids = tuple(takewhile(lambda each: each not in stops, whole[len(head) :]))
        return Written(
            prompt=TokenPrompt(tuple(head)), text=self.decoded(token_ids), token_ids=token_ids
        )

    def as_written(self, prompt: TokenPrompt, text: str) -> Written:
        """A message of this text."""
        token_ids = tuple(self._tokenizer.encode(text, add_special_tokens=False))
        return Written(prompt=prompt, text=text, token_ids=token_ids)

    async def _with(self, question: Transcript, said: AssistantMessage) -> str | list[int]:
        """A rendering that ends with the message, or with what answers its calls.

        Templates write the last message as one that is not over, if they take it at all.
        """
        transcript = skeletons.with_messages(question, [said])
        try:
            return await self._renderer.rendered(transcript, ready=False)
        except TemplateRefusedError:
            if not said.tool_calls:
                raise
        answers = [
            ToolMessage(call_id=call.call_id, tool_name=call.tool_name, text=probe_text("answer"))
            for call in said.tool_calls
        ]
        return await self._renderer.rendered(
            skeletons.with_messages(transcript, answers), ready=True
        )

    def _up_to_stop(self, text: str) -> str:
        found = [text.find(stop) for stop in self._stop_texts if stop and stop in text]
        return text[: min(found)] if found else text

    def opens_thought(self, written: Written) -> bool:
        """Whether the head of the message begins a thought."""
        return self._marks is not None and self._marks.opened_in(written.prompt.token_ids)

    def without_thought(self, text: str) -> str:
        """The text of a message after its thought, if it has one."""
        if self._marks is None or self._marks.end not in text:
            return text
        return text.partition(self._marks.end)[2].lstrip()

    def with_thought(self, written: Written) -> Written:
        """The message after a thought, as the model writes one, whatever the template does with it.

        Many templates leave out thoughts that are over. Of marks that are not known, none are put.
        """
        if self._marks is None or skeletons.THOUGHT in written.text:
            return written
        begun = "" if self.opens_thought(written) else self._marks.opening
        thought = f"{begun}{skeletons.THOUGHT}{self._marks.end}"
        return self.as_written(written.prompt, f"{thought}\n\n{self.without_thought(written.text)}")

    def read(
        self,
        written: Written,
        question: Transcript,
        choice: ToolChoice,
        *,
        thinks: bool,
        at_once: bool,
    ) -> Read:
        """What the parsers read from a message, given to them at once or token by token.

        `thinks`: if the prompt has the model think first, the message has a thought.

        Raises:
            NotReadError: a parser fails.
        """
        plan = self._plans.plan(question.tools, choice, question.template_variables)
        if plan.make_parser is None:
            return Read(text=written.text, reasoning="", calls=())
        try:
            parser = StepParser(
                plan.make_parser, plan.request, written.prompt.token_ids, self._special_tokens
            )
            if thinks and parser.reasoning_ended is False:
                written = self.with_thought(written)
            parts = [(written.text, written.token_ids)] if at_once else self._parts(written)
            pieces = [piece for text, token_ids in parts for piece in parser.feed(text, token_ids)]
            pieces += parser.end(Finish.STOP, written.text, written.token_ids)
        except Exception as error:  # vLLM's parsers raise anything
            raise NotReadError(f"{type(error).__name__}: {error}") from error
        return _read(pieces)

    def _parts(self, written: Written) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Each token with the text that it completes."""
        told = ""
        waiting: list[int] = []
        for count, token_id in enumerate(written.token_ids, start=1):
            waiting.append(token_id)
            text = self.decoded(written.token_ids[:count])
            if not text.endswith(_INCOMPLETE):
                yield text[len(told) :], tuple(waiting)
                told, waiting = text, []


def _read(pieces: Sequence[Piece]) -> Read:
    names: dict[int, str] = {}
    fragments: dict[int, list[str]] = {}
    complete: list[int] = []
    for piece in pieces:
        match piece:
            case CallBegun(index, name):
                names[index], fragments[index] = name, []
            case CallPiece(index, fragment):
                fragments[index].append(fragment)
            case CallWritten(index):
                complete.append(index)
            case TextPiece() | ReasoningPiece() | CallUnreadable():
                pass
    return Read(
        text="".join(piece.text for piece in pieces if isinstance(piece, TextPiece)),
        reasoning="".join(piece.text for piece in pieces if isinstance(piece, ReasoningPiece)),
        calls=tuple((names[index], json.loads("".join(fragments[index]))) for index in complete),
    )
