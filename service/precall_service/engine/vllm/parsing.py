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
from dataclasses import dataclass, field

from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.parser.abstract_parser import DelegatingParser, Parser

from precall_service.domain.text import encodable
from precall_service.engine.base import (
    CallBegun,
    CallPiece,
    CallUnreadable,
    CallWritten,
    Finish,
    Piece,
    ReasoningPiece,
    StrayCall,
    TextPiece,
)
from precall_service.engine.vllm.call_parsers import THOUGHT_MARKS, CallParser
from precall_service.engine.vllm.json_scan import ObjectEnd
from precall_service.engine.vllm.pacing import Pace
from precall_service.engine.vllm.thoughts import LeadingThought
from precall_service.engine.vllm.xml_calls import XML_FORMS, XmlCalls

log = logging.getLogger(__name__)

_MARK_LENGTH_MAX = 32
"""Longer than any mark for which a parser holds text back. Longer text was dropped on purpose."""

_MARKS_LENGTH_MAX = 2 * _MARK_LENGTH_MAX
"""The marks around the reasoning and the text of a message are not longer."""


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
    fragments: list[str] = field(default_factory=list[str])
    end: ObjectEnd = field(default_factory=ObjectEnd)
    written: bool = False

    @property
    def arguments(self) -> str:
        return "".join(self.fragments)


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
        parser = make_parser()
        self._parser: Parser | None = parser
        self._request = request
        self._prompt_token_ids: list[int] | None = list(prompt_token_ids)
        self._special_tokens = special_tokens
        self._saw_special = False
        self._pace = Pace()
        self._thought = _leading_thought(parser)
        self._thought_tokens = 0
        self._end_of_thought = _end_of_thought(parser)
        form = XML_FORMS.get(type(parser.tool_parser).__name__)
        self._xml = None if form is None else XmlCalls(form)
        self._unjudged: _Call | None = None
        """The last call in an XML form, until it is certain what it says."""
        self._texts: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _Call] = {}

    @property
    def reasoning_ended(self) -> bool | None:
        """Whether the prompt leaves no reasoning open; None if the model is not known to reason."""
        if self._parser is None or self._prompt_token_ids is None:
            return None
        return self._request.resolve_reasoning_ended(self._parser, self._prompt_token_ids)

    def feed(self, text: str, token_ids: Sequence[int]) -> Iterator[Piece]:
        """The pieces that the next generated tokens complete."""
        if self._end_of_thought is not None and self._end_of_thought[1] in token_ids:
            (mark, mark_id), self._end_of_thought = self._end_of_thought, None
            before, _, after = text.partition(mark)
            if after:
                end = list(token_ids).index(mark_id) + 1
                yield from self._fed(before + mark, token_ids[:end])
                text, token_ids = after, token_ids[end:]
        yield from self._fed(text, token_ids)

    def _fed(self, text: str, token_ids: Sequence[int]) -> Iterator[Piece]:
        special = self._special_tokens.among(token_ids)
        self._saw_special = self._saw_special or special
        if not self._thought.past:
            reasoning, text = self._thought.feed(text)
            yield from self._reasoned(reasoning)
            if not self._thought.past:
                self._thought_tokens += len(token_ids)
                return
        own = self._own_parser()
        if own is not None and own.begun:
            yield from self._read(own.read(text))
        elif self._pace.take(text, token_ids, special=special):
            yield from self._told(*self._pace.taken())

    def end(self, finish: Finish, text: str, token_ids: Sequence[int]) -> Iterator[Piece]:
        """The pieces that are still held back at the end, given the whole message.

        The parser is told of the end separately from the last tokens, because vLLM then completes
        an open call with what it takes for the rest. It is not told if a limit cut an open call.
        """
        stopped = finish is Finish.STOP
        if not self._thought.past:
            reasoning, rest = self._thought.rest()
            yield from self._reasoned(reasoning)
            yield from self.feed(rest, ())
        text = text[self._thought.length :]
        if self._pace.holds:
            yield from self._told(*self._pace.taken())
        if _buffers(self._parser) and (stopped or not self._open_calls()):
            yield from self._parsed("", (), finished=True)
        if (own := self._own_parser()) is not None:
            yield from self._read(own.end())
        if stopped and self._missed(text):
            yield from self._reread(text, token_ids)
        if self._xml is not None:
            yield from self._judged(self._xml.end())
        if stopped and not self._calls and not self._reasoning and self.stray_call is None:
            yield from self._held_back(text)

    def _missed(self, text: str) -> bool:
        """Whether the parser has left a call open, or swallowed more than marks without a call."""
        told = sum(map(len, self._texts)) + sum(map(len, self._reasoning))
        swallowed = len(self._clean(text)) - told
        return bool(self._open_calls()) or (not self._calls and swallowed > _MARKS_LENGTH_MAX)

    @property
    def stray_call(self) -> StrayCall | None:
        """A call that was meant but not made; None if there are calls, or if none is known of."""
        if self._open_calls():
            return StrayCall.OPEN
        own = self._own_parser()
        if self._calls or own is None:
            return None
        if own.reader.inside:
            return StrayCall.OPEN
        if own.reader.lost:
            return StrayCall.LOST
        reasoned, said = "".join(self._reasoning), "".join(self._texts).strip()
        marked = any(mark in reasoned for mark in own.starts)
        return StrayCall.REASONING if marked and not said else None

    def _own_parser(self) -> CallParser | None:
        """The parser, if it is ours; past the reasoning it is asked directly, without vLLM's."""
        tool_parser = None if self._parser is None else self._parser.tool_parser
        return tool_parser if isinstance(tool_parser, CallParser) else None

    def _read(self, delta: DeltaMessage | None) -> Iterator[Piece]:
        if delta is not None:
            yield from self._pieces(delta)
        if (own := self._own_parser()) is not None:
            for index, problem in own.refused().items():
                self._calls[index].written = True
                yield CallUnreadable(index, problem)

    def _told(self, text: str, token_ids: Sequence[int]) -> Iterator[Piece]:
        if self._xml is not None:
            self._xml.feed(text)
        for piece in self._parsed(text, token_ids, finished=False):
            if isinstance(piece, TextPiece | ReasoningPiece):
                self._pace.told()
            yield piece

    def reasoning_tokens(self, token_ids: Sequence[int]) -> int:
        """The number of generated tokens that are reasoning."""
        if self._thought_tokens or self._parser is None:
            return self._thought_tokens
        return self._parser.count_reasoning_tokens(token_ids)

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
        yield from self._read(delta)

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
                yield from self._begun(index, found.name)
                call = self._calls[index]
            told_so_far = call.arguments
            if found.arguments.startswith(told_so_far):
                yield from self._add(call, found.arguments[len(told_so_far) :])

    def _held_back(self, text: str) -> Iterator[Piece]:
        """The end of a text that could have become a mark, such as `<tool_`, but did not."""
        told, text = "".join(self._texts), self._clean(text)
        rest = text[len(told) :]
        if text.startswith(told) and len(rest) <= _MARK_LENGTH_MAX:
            yield from self._text(rest)

    def _pieces(self, delta: DeltaMessage) -> Iterator[Piece]:
        yield from self._reasoned(delta.reasoning or "")
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
                yield from self._begun(part.index, function.name, self._written_id(part.id))
                call = self._calls[part.index]
            if function.arguments:
                yield from self._add(call, function.arguments)

    def _begun(self, index: int, name: str, written_id: str = "") -> Iterator[Piece]:
        if self._xml is not None:
            yield from self._judged(self._xml.begin(name))
        call = self._calls[index] = _Call(index=len(self._calls))
        yield CallBegun(call.index, encodable(name), written_id)

    def _add(self, call: _Call, fragment: str) -> Iterator[Piece]:
        """Adds to a call's arguments, up to the end of the first JSON object.

        Some parsers repeat text at the end; text after a complete object is no argument.
        """
        if call.written or not fragment:
            return
        end = call.end.feed(fragment)
        fragment = fragment[:end]
        call.fragments.append(fragment)
        # Parsers that read arguments and write them again leave halves of surrogate pairs bare.
        yield CallPiece(call.index, fragment.encode(errors="backslashreplace").decode())
        if end is None:
            return
        call.written = True
        problem = _problem(call.arguments)
        if problem:
            yield CallUnreadable(call.index, problem)
        elif self._xml is None:
            yield CallWritten(call.index)
        else:
            self._unjudged = call

    def _judged(self, problem: str) -> Iterator[Piece]:
        """Tells of the last call in an XML form what it has become."""
        call, self._unjudged = self._unjudged, None
        if call is not None:
            yield CallUnreadable(call.index, problem) if problem else CallWritten(call.index)

    def _written_id(self, call_id: str | None) -> str:
        """The id if the model wrote it; vLLM's parsers make ids up."""
        return "" if self._own_parser() is None else call_id or ""

    def _reasoned(self, text: str) -> Iterator[Piece]:
        if reasoning := self._clean(text):
            self._reasoning.append(reasoning)
            yield ReasoningPiece(reasoning)

    def _text(self, text: str) -> Iterator[Piece]:
        text = self._clean(text)
        if text:
            self._texts.append(text)
            yield TextPiece(text)

    def _clean(self, text: str) -> str:
        return self._special_tokens.removed_from(text) if self._saw_special else text


def _end_of_thought(parser: Parser) -> tuple[str, int] | None:
    """The mark that ends reasoning, and its token. What follows it is given to parsers apart.

    Given both at once, vLLM's parsers also drop the mark where it stands in a call that follows.
    """
    reasoning = parser.reasoning_parser
    mark = None if reasoning is None else reasoning.reasoning_end_str
    mark_id = reasoning.vocab.get(mark) if reasoning is not None and mark else None
    return None if mark is None or mark_id is None else (mark, mark_id)


def _leading_thought(parser: Parser) -> LeadingThought:
    """What reads a thought that vLLM's parsers would not tell from text."""
    own = parser.tool_parser if isinstance(parser.tool_parser, CallParser) else None
    thought = LeadingThought(*(THOUGHT_MARKS if own is None else own.thought))
    if parser.reasoning_parser is not None and (own is None or own.thought is THOUGHT_MARKS):
        thought.past = True
    return thought


def _buffers(parser: Parser | None) -> bool:
    """Whether the parser may hold back text until it is told of the end."""
    if parser is None:
        return False
    parts = (parser.reasoning_parser, parser.tool_parser)
    return not isinstance(parser, DelegatingParser) or any(
        part is not None and part.engine_based_streaming for part in parts
    )


def _problem(arguments: str) -> str:
    """Why a text of balanced braces is no JSON object; empty if it is one."""
    try:
        json.loads(arguments)
    except RecursionError:
        return "the arguments are nested too deeply: write them with less nesting"
    except ValueError as error:
        return f"the arguments are not JSON ({error}): write the call again with valid JSON"
    return ""
