"""Turns the text and tokens of one step into pieces, with vLLM's own parsers.

Owns: the decision when a call is complete, so that its pieces concatenate to one JSON object.
Never: the engine; transcripts.
Concurrency: one parser belongs to one step.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.parser.abstract_parser import DelegatingParser, Parser

from precall_service.domain.text import encodable
from precall_service.engine.base import (
    CallBegun,
    CallPiece,
    CallWritten,
    Finish,
    Piece,
    ReasoningPiece,
    TextPiece,
)

log = logging.getLogger(__name__)

_MARK_LENGTH_MAX = 32
"""Longer than any mark for which a parser holds text back. Longer text was dropped on purpose."""


class SpecialTokens:
    """Finds a tokenizer's special tokens and removes their text."""

    def __init__(self, texts_by_id: Mapping[int, str]) -> None:
        self._ids = frozenset(texts_by_id)
        texts = sorted(filter(None, texts_by_id.values()), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, texts)) or r"(?!)")

    def among(self, token_ids: Sequence[int]) -> bool:
        """Whether any of the tokens is special."""
        return not self._ids.isdisjoint(token_ids)

    def removed_from(self, text: str) -> str:
        """The text without special tokens."""
        return self._pattern.sub("", text)


@dataclass(slots=True)
class _Call:
    """A call as far as it is written; `index` counts the calls of the step."""

    index: int
    arguments: str = ""
    written: bool = False


class StepParser:
    """Parses one step while it is generated. vLLM's parsers take `request` as an argument."""

    def __init__(
        self,
        make_parser: Callable[[], Parser],
        request: ChatCompletionRequest,
        prompt_token_ids: Sequence[int],
        special_tokens: SpecialTokens,
    ) -> None:
        self._make_parser = make_parser
        self._parser: Parser | None = make_parser()
        self._request = request
        self._prompt_token_ids: list[int] | None = list(prompt_token_ids)
        self._special_tokens = special_tokens
        self._saw_special = False
        self._texts: list[str] = []
        self._reasoned = False
        self._calls: dict[int, _Call] = {}

    @property
    def reasoning_ended(self) -> bool | None:
        """Whether the prompt leaves no reasoning open; None if the model is not known to reason."""
        if self._parser is None or self._prompt_token_ids is None:
            return None
        return self._request.resolve_reasoning_ended(self._parser, self._prompt_token_ids)

    def feed(self, text: str, token_ids: Sequence[int]) -> Iterator[Piece]:
        """The pieces that the next generated tokens complete."""
        self._saw_special = self._saw_special or self._special_tokens.among(token_ids)
        yield from self._parsed(text, token_ids, finished=False)

    def end(self, finish: Finish, text: str, token_ids: Sequence[int]) -> Iterator[Piece]:
        """The pieces that are still held back at the end, given the whole message.

        The parser is told of the end separately from the last tokens, because vLLM then completes
        an open call with what it takes for the rest. It is not told if a limit cut an open call.
        """
        stopped = finish is Finish.STOP
        if _buffers(self._parser) and (stopped or not self._open_calls()):
            yield from self._parsed("", (), finished=True)
        if stopped and (self._open_calls() or not (self._texts or self._calls)):
            yield from self._reread(text, token_ids)
        if stopped and not self._calls and not self._reasoned:
            yield from self._held_back(text)

    def reasoning_tokens(self, token_ids: Sequence[int]) -> int:
        """The number of generated tokens that are reasoning."""
        return 0 if self._parser is None else self._parser.count_reasoning_tokens(token_ids)

    def _open_calls(self) -> list[_Call]:
        return [call for call in self._calls.values() if not call.written]

    def _parsed(self, text: str, token_ids: Sequence[int], *, finished: bool) -> Iterator[Piece]:
        if self._parser is None:
            yield from self._text(text)
            return
        try:
            delta = self._parser.parse_delta(
                text, list(token_ids), self._request, self._prompt_token_ids, finished=finished
            )
        except Exception:
            log.exception("vLLM's parser failed; the rest of this step is passed on as text")
            self._parser = None
            yield from self._text(text)
            return
        self._prompt_token_ids = None
        if delta is not None:
            yield from self._pieces(delta)

    def _reread(self, text: str, token_ids: Sequence[int]) -> Iterator[Piece]:
        """Finds the rest of open calls by parsing the whole message again; also missed calls.

        Most parsers that stream badly read a whole message well.
        """
        if self._parser is None or not self._request.tools:
            return
        try:
            _, _, parsed = self._make_parser().parse(
                text, self._request, enable_auto_tools=True, model_output_token_ids=token_ids
            )
        except Exception:
            log.exception("vLLM's parser failed on a whole message")
            return
        told = list(self._calls.values())
        for index, found in enumerate(parsed or []):
            if index < len(told):
                call = told[index]
            else:
                call = self._calls[index] = _Call(index)
                yield CallBegun(index, encodable(found.name))
            if found.arguments.startswith(call.arguments):
                yield from self._add(call, found.arguments[len(call.arguments) :])

    def _held_back(self, text: str) -> Iterator[Piece]:
        """The end of a text that could have become a mark, such as `<tool_`, but did not."""
        told, text = "".join(self._texts), self._clean(text)
        rest = text[len(told) :]
        if text.startswith(told) and len(rest) <= _MARK_LENGTH_MAX:
            yield from self._text(rest)

    def _pieces(self, delta: DeltaMessage) -> Iterator[Piece]:
        if delta.reasoning and (reasoning := self._clean(delta.reasoning)):
            self._reasoned = True
            yield ReasoningPiece(reasoning)
        if delta.content:
            yield from self._text(delta.content)
        for part in delta.tool_calls:
            function = part.function
            if function is None:
                continue
            call = self._calls.get(part.index)
            if call is None:
                if not function.name:
                    continue
                call = self._calls[part.index] = _Call(index=len(self._calls))
                yield CallBegun(call.index, encodable(function.name))
            if function.arguments:
                yield from self._add(call, function.arguments)

    def _add(self, call: _Call, fragment: str) -> Iterator[Piece]:
        """Adds to a call's arguments, up to the end of the first JSON object.

        Some parsers repeat text at the end; text after a complete object is no argument.
        """
        if call.written:
            return
        before = len(call.arguments)
        call.arguments += fragment
        if "}" in fragment:
            end = _object_end(call.arguments)
            if end is not None:
                call.written = True
                fragment = call.arguments[before:end]
                call.arguments = call.arguments[:end]
        if fragment:
            # Parsers that read arguments and write them again leave halves of surrogate pairs bare.
            fragment = fragment.encode(errors="backslashreplace").decode()
            yield CallPiece(call.index, fragment)
        if call.written:
            yield CallWritten(call.index)

    def _text(self, text: str) -> Iterator[Piece]:
        text = self._clean(text)
        if text:
            self._texts.append(text)
            yield TextPiece(text)

    def _clean(self, text: str) -> str:
        return self._special_tokens.removed_from(text) if self._saw_special else text


def _buffers(parser: Parser | None) -> bool:
    """Whether the parser may hold back text until it is told of the end."""
    if parser is None:
        return False
    parts = (parser.reasoning_parser, parser.tool_parser)
    return not isinstance(parser, DelegatingParser) or any(
        part is not None and part.engine_based_streaming for part in parts
    )


_decoder = json.JSONDecoder()


def _object_end(text: str) -> int | None:
    """The end of the JSON object at the beginning of `text`; None if it is incomplete."""
    start = len(text) - len(text.lstrip())
    try:
        value, end = _decoder.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return end if isinstance(value, dict) else None
