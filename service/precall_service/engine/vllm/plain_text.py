"""Keeps the texts of a conversation from acting as the model's control tokens.

Tokenizers find their special and added tokens anywhere in a prompt, whoever wrote the text, and
templates look for the marks of reasoning in it. A spelling of one is therefore broken by a blank
after its first character, before the template renders: `<|im_end|>` becomes `< |im_end|>`, which
the model can read and no tokenizer takes for the token. A blank also survives what templates do to
texts: encoding them as JSON, trimming them, or splitting them at marks.

Owns: which spellings are broken. Those of ordinary text stay: blanks, words, and the tags of web
pages, which some tokenizers keep whole.
Never: what the template writes, or what the model has sampled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Final, cast

from precall_service.domain.messages import (
    AssistantMessage,
    Message,
    ToolCall,
    ToolMessage,
    Transcript,
    UserMessage,
)
from precall_service.domain.text import encodable
from precall_service.domain.tools import ToolDeclaration
from precall_service.engine.families import REASONING_TEXTS

_WORD: Final = re.compile(r"[\w\s\u2581]*")
_TAG_OF_WEB_PAGES: Final = re.compile(
    r"</?(?:a|b|blockquote|body|br|caption|code|div|em|h[1-6]|head|hr|html|i|img|li|ol|p|pre|s|"
    r"span|strong|sub|sup|table|tbody|td|tfoot|th|thead|tr|u|ul)/?>"
)
_REMOVED: Final = re.compile(r"""replace\(\s*(['"])(.+?)\1\s*,\s*(['"])\3\s*\)""")
"""What a template removes from texts: the parts of a spelling could meet where it stood."""


class PlainTexts:
    """Breaks the spellings of one tokenizer's control tokens and of its template's marks."""

    def __init__(
        self, control_texts: Collection[str], *, template: str, normalize: Callable[[str], str]
    ) -> None:
        self._spelling = _spelling({*control_texts, *REASONING_TEXTS})
        self._removed = tuple({found[2] for found in _REMOVED.finditer(template)})
        self._normalize = normalize

    def of(self, text: str) -> str:
        """The text with each spelling broken."""
        if self._removed and self._spelling.search(self._without_removed(text)):
            for removed in self._removed:
                text = text.replace(removed, _broken(removed))
        if not text.isascii():
            text = self._normalized_if_spelled(encodable(text))
        while self._spelling.search(text):  # more than once only for spellings with a blank
            text = self._with_broken(text)
        return text

    def _with_broken(self, text: str) -> str:
        """The text with a blank in each spelling. `re.sub` would keep the GIL until its end."""
        parts: list[str] = []
        end = 0
        for found in self._spelling.finditer(text):
            parts += (text[end : found.end()], " ")
            end = found.end()
        return "".join((*parts, text[end:]))

    def of_value(self, value: Any) -> Any:
        """A JSON value with each spelling broken in its texts and names."""
        match value:
            case str():
                return self.of(value)
            case Mapping():
                items = cast("Mapping[str, Any]", value).items()
                return {self.of(name): self.of_value(item) for name, item in items}
            case list() | tuple():
                return [self.of_value(item) for item in cast("list[Any]", value)]
            case _:
                return value

    def transcript(self, transcript: Transcript) -> Transcript:
        """The transcript with each spelling broken, whoever wrote it."""
        return replace(
            transcript,
            messages=tuple(map(self._message, transcript.messages)),
            system_prompt=self.of(transcript.system_prompt),
            tools=tuple(map(self._tool, transcript.tools)),
            template_variables=self.of_value(transcript.template_variables),
        )

    def _message(self, message: Message) -> Message:
        match message:
            case UserMessage():
                return replace(message, text=self.of(message.text))
            case ToolMessage():
                return replace(
                    message, call_id=self.of(message.call_id), text=self.of(message.text)
                )
            case AssistantMessage():
                return replace(
                    message,
                    text=self.of(message.text),
                    reasoning=self.of(message.reasoning),
                    tool_calls=tuple(map(self._call, message.tool_calls)),
                )

    def _call(self, call: ToolCall) -> ToolCall:
        return replace(
            call,
            call_id=self.of(call.call_id),
            written_id=self.of(call.written_id),
            arguments_json=self._json(call.arguments_json),
        )

    def _tool(self, tool: ToolDeclaration) -> ToolDeclaration:
        return replace(
            tool,
            description=self.of(tool.description),
            input_schema=self.of_value(tool.input_schema),
        )

    def _json(self, written: str) -> str:
        """JSON text with each spelling broken, also those that are written with escapes."""
        if "\\" not in written and self.of(written) == written:
            return written
        try:
            return json.dumps(self.of_value(json.loads(written)), ensure_ascii=False)
        except (ValueError, RecursionError):  # it is no JSON, so the template gets no value
            return self.of(written)

    def _normalized_if_spelled(self, text: str) -> str:
        """Some tokenizers look for their tokens only after they have normalised a text."""
        if self._spelling.search(text):
            return text
        normalized = self._normalize(text)
        return normalized if self._spelling.search(normalized) else text

    def _without_removed(self, text: str) -> str:
        for removed in self._removed:
            text = text.replace(removed, "")
        return text


def plain_texts(tokenizer: Any, template: str | None) -> PlainTexts:
    """For the control tokens of a tokenizer, and the marks of a template if there is one."""
    template = template or ""
    special = set(cast("list[str]", tokenizer.all_special_tokens))
    special |= {
        token.content
        for token in getattr(tokenizer, "added_tokens_decoder", {}).values()
        if token.special
    }
    added = set(cast("dict[str, int]", tokenizer.get_added_vocab()))
    return PlainTexts(
        {text for text in special if _controls(text)}
        | {text for text in added if _bracketed(text, template) and _controls(text)},
        template=template,
        normalize=_normalizer(tokenizer),
    )


def _controls(text: str) -> bool:
    return len(text) > 1 and not _WORD.fullmatch(text)


def _bracketed(text: str, template: str) -> bool:
    """Whether a token that is not marked as special looks like one, such as `<tool_call>`."""
    if not (text.startswith(("<", "[")) and text.endswith((">", "]"))):
        return False
    return text in template or not _TAG_OF_WEB_PAGES.fullmatch(text)


def _normalizer(tokenizer: Any) -> Callable[[str], str]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.normalizer is None:
        return lambda text: text
    return cast("Callable[[str], str]", backend.normalizer.normalize_str)


def _spelling(texts: Collection[str]) -> re.Pattern[str]:
    """Matches the first character of each spelling, so that also overlapping ones are found."""
    heads: dict[str, list[str]] = {}
    for text in texts:
        heads.setdefault(text[0], []).append(text[1:])
    alternatives = [
        f"{re.escape(head)}(?={_any_of(rests)})" for head, rests in sorted(heads.items())
    ]
    return re.compile("|".join(alternatives) or r"(?!)")


def _any_of(texts: Collection[str]) -> str:
    """A pattern that branches letter by letter: thousands of tokens cost no more than a few."""
    if "" in texts:
        return ""
    branches: dict[str, list[str]] = {}
    for text in texts:
        branches.setdefault(text[0], []).append(text[1:])
    alternatives = [
        re.escape(letter) + _any_of(rests) for letter, rests in sorted(branches.items())
    ]
    return alternatives[0] if len(alternatives) == 1 else f"(?:{'|'.join(alternatives)})"


def _broken(text: str) -> str:
    return f"{text[0]} {text[1:]}"
