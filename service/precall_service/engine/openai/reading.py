"""Reads one answer of a server into pieces, as they come.

Servers differ in how they stream calls. Some give the index of a call, some repeat the index and
change the id, and some send whole calls at once. A call is over when the next one begins or the
message ends. What is not a JSON object by then is a call that cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from precall_service.domain.events import TokenUsage
from precall_service.domain.json import JsonError, dump, parse_object
from precall_service.engine.base import (
    CallBegun,
    CallPiece,
    CallUnreadable,
    CallWritten,
    Finish,
    GenerationFailedError,
    Piece,
    ReasoningPiece,
    StepEnd,
    TextPiece,
)
from precall_service.engine.openai.answers import Answer, CallPart, MessagePart, Usage

_NO_OBJECT: Final = "its arguments are not a JSON object: write the whole call again"


class AnswerReader:
    """Reads one answer."""

    def __init__(self, tokens_max: int) -> None:
        """`tokens_max` bounds an answer of a server that does not keep to it."""
        self._tokens_max = tokens_max
        self._text: list[str] = []
        self._parts = 0
        """The parts that had something of the message: at least one token each."""
        self._call: tuple[int, str] | None = None
        """The index and id of the call that is being written, as the server has them."""
        self._begun = -1
        """The index of that call in the step."""
        self._arguments: list[str] = []
        self._finish: str | None = None
        self._stop_text = ""
        self._usage: Usage | None = None

    @property
    def full(self) -> bool:
        """Whether the answer is longer than was asked for."""
        return self._parts > self._tokens_max

    def read(self, answer: Answer) -> Iterator[Piece]:
        """Yields the pieces of an answer, or of the next part of it.

        Raises:
            GenerationFailedError: a call has no name.
        """
        self._usage = answer.usage or self._usage
        for choice in (answer.choices or ())[:1]:
            part = choice.delta or choice.message
            if part is not None:
                yield from self._message_part(part)
            if choice.finish_reason is not None:
                self._finish = choice.finish_reason
                self._stop_text = choice.stop_reason if isinstance(choice.stop_reason, str) else ""

    def ending(self) -> Iterator[Piece]:
        """Yields what is complete at the end of the message.

        Raises:
            GenerationFailedError: the answer has no end, or a filter of the server's has cut it.
        """
        if self.full:
            self._finish = "length"
        if self._finish is None:
            raise GenerationFailedError(
                "the model's server broke its answer off: send the turn again, with a new turn id"
            )
        if self._finish == "content_filter":
            raise GenerationFailedError("the content filter of the model's server cut the answer")
        if self._finish != "length":
            yield from self._end_call()

    def end(self) -> StepEnd:
        """Returns the end of the step."""
        return StepEnd(
            finish=Finish.LENGTH if self._finish == "length" else Finish.STOP,
            token_ids=(),
            raw_text="".join(self._text),
            usage=self._counted(),
            stop_text=self._stop_text,
        )

    def _message_part(self, part: MessagePart) -> Iterator[Piece]:
        reasoning = part.reasoning or part.reasoning_content
        text = part.content or part.refusal
        self._parts += bool(reasoning or text or part.tool_calls)
        if reasoning:
            yield ReasoningPiece(reasoning)
        if text:
            self._text.append(text)
            yield TextPiece(text)
        for index, call in enumerate(part.tool_calls or ()):
            yield from self._call_part(call, index if call.index is None else call.index)

    def _call_part(self, part: CallPart, index: int) -> Iterator[Piece]:
        name = part.function.name if part.function else None
        written = part.function.arguments if part.function else None
        if self._call is None or self._call[0] != index or self._is_another(part.id or ""):
            if not name:
                raise GenerationFailedError(
                    "the model's server sent a call without the name of its tool"
                )
            yield from self._end_call()
            self._call = index, part.id or ""
            self._begun += 1
            yield CallBegun(self._begun, name, part.id or "")
        if written:
            fragment = written if isinstance(written, str) else dump(written)
            self._arguments.append(fragment)
            yield CallPiece(self._begun, fragment)

    def _is_another(self, call_id: str) -> bool:
        return bool(call_id) and self._call is not None and call_id != self._call[1]

    def _end_call(self) -> Iterator[Piece]:
        if self._call is None:
            return
        arguments = "".join(self._arguments)
        self._call, self._arguments = None, []
        if not arguments.strip():  # as some servers write a call without arguments
            yield CallPiece(self._begun, "{}")
            yield CallWritten(self._begun)
            return
        try:
            parse_object(arguments)
        except JsonError:
            yield CallUnreadable(self._begun, _NO_OBJECT)
        else:
            yield CallWritten(self._begun)

    def _counted(self) -> TokenUsage:
        """The tokens as the server counts them; the parts of the answer, if it counts none."""
        usage = self._usage
        if usage is None:
            return TokenUsage(output_tokens=self._parts)
        prompt, output = usage.prompt_tokens_details, usage.completion_tokens_details
        return TokenUsage(
            input_tokens=usage.prompt_tokens,
            cached_tokens=(prompt and prompt.cached_tokens) or 0,
            output_tokens=usage.completion_tokens,
            reasoning_tokens=(output and output.reasoning_tokens) or 0,
        )
