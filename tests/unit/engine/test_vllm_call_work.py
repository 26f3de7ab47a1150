"""The work of reading calls grows with the message, whatever it is made of: counted, not timed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import pytest

from precall_service.engine.vllm import call_forms
from precall_service.engine.vllm.call_reader import Arguments, Read, Text, any_of, first_of
from precall_service.engine.vllm.json_calls import JsonCallReader
from precall_service.engine.vllm.literal_calls import LiteralCallReader

LENGTH = 64 << 10


class Counted:
    """A pattern that counts the characters that it may have looked at."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern
        self.read = 0

    def fullmatch(self, text: str, start: int = 0, end: int | None = None) -> re.Match[str] | None:
        end = len(text) if end is None else end
        self.read += end - start
        return self._pattern.fullmatch(text, start, end)

    def match(self, text: str, start: int = 0) -> re.Match[str] | None:
        self.read += len(text) - start
        return self._pattern.match(text, start)

    def search(self, text: str, start: int = 0) -> re.Match[str] | None:
        found = self._pattern.search(text, start)
        self.read += (len(text) if found is None else found.end()) - start
        return found

    @property
    def as_pattern(self) -> re.Pattern[str]:
        return cast("re.Pattern[str]", self)


def fed(reader: JsonCallReader | LiteralCallReader, text: str, size: int) -> Iterator[Read]:
    for start in range(0, len(text), size):
        yield from reader.feed(text[start : start + size])
    yield from reader.end()


def test_a_word_that_might_become_a_call_is_read_a_bounded_number_of_times() -> None:
    bare, first_part = call_forms.LLAMA4.bare, Counted(call_forms.LLAMA4.first_part)
    assert bare is not None
    counted_bare = Counted(bare)
    form = replace(
        call_forms.LLAMA4, first_part=first_part.as_pattern, bare=counted_bare.as_pattern
    )
    text = "[" + "a" * LENGTH
    said = list(fed(LiteralCallReader(form), text, 4))
    assert "".join(each.text for each in said if isinstance(each, Text)) == text
    assert first_part.read + counted_bare.read < 8 * LENGTH


def test_blanks_after_a_call_are_read_once() -> None:
    reader = LiteralCallReader(call_forms.GEMMA)
    call = '<|tool_call>call:f{a:<|"|>b<|"|>}'
    reads = [*fed(reader, call + " " * LENGTH + "<tool_call|>", 1)]
    assert Arguments('{"a": "b"}') in reads
    assert reader.read <= len(call) + LENGTH + 64
    assert reader._held == ""  # pyright: ignore[reportPrivateUsage]


def test_blanks_after_a_call_are_not_held() -> None:
    reader = LiteralCallReader(call_forms.GEMMA)
    for piece in ('<|tool_call>call:f{a:<|"|>b<|"|>}', *" " * 1000):
        list(reader.feed(piece))
        assert len(reader._held) < 8  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(
    ("reader", "mark"),
    [
        (LiteralCallReader(call_forms.GEMMA), "<tool_call|>"),
        (LiteralCallReader(call_forms.LFM), "<|tool_call_end|>"),
        (JsonCallReader(call_forms.ERNIE), "</response>"),
        (JsonCallReader(call_forms.TOOL_CALLS), "</tool_calls>"),
    ],
)
def test_a_message_full_of_marks_is_read_once(
    reader: JsonCallReader | LiteralCallReader, mark: str
) -> None:
    counted = Counted(reader._any_mark)  # pyright: ignore[reportPrivateUsage]
    reader._any_mark = counted.as_pattern  # pyright: ignore[reportPrivateUsage]
    text = f"a {mark}" * (LENGTH // len(mark))
    list(fed(reader, text, len(text)))
    assert reader.read <= len(text)
    assert counted.read <= 4 * len(text)


def test_braces_in_arguments_are_read_once() -> None:
    """Objects in objects and in texts: nothing is parsed again at each `}`."""
    arguments = json.dumps({"a": [{"b": {}}] * 9000, "c": "}" * LENGTH})
    reader = JsonCallReader(call_forms.HERMES)
    written = f'<tool_call>{{"name": "f", "arguments": {arguments}}}</tool_call>'
    reads = list(fed(reader, written, 3))
    assert "".join(each.fragment for each in reads if isinstance(each, Arguments)) == arguments
    assert reader.read <= len(written)


def test_of_two_marks_in_one_place_the_lesser_is_found() -> None:
    marks = any_of(("<tool_call>", "<tool", "</tool>"))
    assert first_of(marks, "a</tool><tool_call>", 0) == (1, "</tool>")
    assert first_of(marks, "a</tool><tool_call>", 2) == (8, "<tool")
    assert first_of(marks, "a", 0) == (-1, "")
    assert first_of(any_of(()), "a", 0) == (-1, "")
