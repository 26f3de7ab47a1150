"""Calls in JSON are read to the end of their object, whatever their strings hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precall_service.engine.vllm.call_reader import Arguments, Begun, Refused, Text
from precall_service.engine.vllm.json_calls import JsonCallReader, JsonForm
from precall_service.engine.vllm.json_scan import ObjectEnd

BLANKS, BRACKET = re.compile(r"\s*"), re.compile(r"\s*\[?\s*")
MARKS = JsonForm(starts=("<tool_call>",), head=BLANKS, head_part=BLANKS, end="</tool_call>")
ARRAYS = JsonForm(
    starts=("<|tool_call|>", "<tool_call>"), head=BRACKET, head_part=BRACKET, several=True
)
BARE = JsonForm(starts=("<|python_tag|>",), head=BLANKS, head_part=BLANKS, several=True, bare=True)


def pieces_of(text: str, size: int) -> Iterator[str]:
    for start in range(0, len(text), size):
        yield text[start : start + size]


def read(
    text: str, size: int = 3, form: JsonForm = MARKS
) -> tuple[str, list[tuple[str, str]], JsonCallReader]:
    reader = JsonCallReader(form)
    said = ""
    calls: list[tuple[str, str]] = []
    reads = [each for piece in pieces_of(text, size) for each in reader.feed(piece)]
    for each in [*reads, *reader.end()]:
        match each:
            case Text(part):
                said += part
            case Begun(name):
                calls.append((name, ""))
            case Arguments(fragment):
                calls[-1] = (calls[-1][0], calls[-1][1] + fragment)
            case Refused():
                raise AssertionError
    return said, calls, reader


def call(arguments: str, name: str = "write") -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


HARD_TEXTS = st.text() | st.lists(
    st.sampled_from(
        [
            "<tool_call>",
            "</tool_call>",
            "</tool",
            "{",
            "}",
            "}}",
            '"',
            "\\",
            "[",
            "]",
            "\n",
            ",",
            ":",
        ]
    )
).map("".join)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | HARD_TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HARD_TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(st.dictionaries(HARD_TEXTS, VALUES, max_size=3), min_size=1, max_size=3),
    st.integers(1, 40),
    st.booleans(),
)
def test_all_arguments_arrive_equal(
    values: list[dict[str, object]], size: int, escaped: bool
) -> None:
    written = [json.dumps(value, ensure_ascii=escaped) for value in values]
    said, calls, reader = read("Hm. " + "\n".join(map(call, written)), size)
    assert said == "Hm. "
    assert calls == [("write", arguments) for arguments in written]
    assert not reader.inside
    assert not reader.lost


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize(
    ("written", "said", "calls"),
    [
        ("1 < 2 <tool_", "1 < 2 ", []),
        ("Use <tool_call> for calls.", "Use <tool_call> for calls.", []),
        ('<tool_call>{"arguments": {"a": 1}, "name": "f"}', "", [("f", '{"a": 1}')]),
        ('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}', "", [("f", '{"a": 1}')]),
        ('<tool_call>{"name": "f", "parameters": {}}</tool_call>', "", [("f", "{}")]),
        ('<tool_call>{"name": "f"}</tool_call>', "", [("f", "{}")]),
        ('<tool_call>{"name": "\\u0066", "arguments": {}}', "", [("f", "{}")]),
        ('<tool_call>{"id": [{"x": "}"}], "name": "f", "arguments": {}}', "", [("f", "{}")]),
        (call("{}") + " Done. " + call("{}"), "", [("write", "{}"), ("write", "{}")]),
        (call("{}")[:-12] + call("{}"), "", [("write", "{}"), ("write", "{}")]),
    ],
)
def test_forms_that_models_write(
    written: str, said: str, calls: list[tuple[str, str]], size: int
) -> None:
    assert read(written, size)[:2] == (said, calls)


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize(
    ("written", "inside", "lost"),
    [
        ("<tool_call>\n", True, False),
        ("<tool_call>\n{", True, False),
        ('<tool_call>{"name": "f", "arguments": {"a', True, False),
        ("<tool_call>{name: f}</tool_call>", False, True),
        ('<tool_call>{"function": "f"}</tool_call>', False, True),
        ("<tool_call>{}</tool_call>", False, True),
    ],
)
def test_markup_that_became_no_call_is_known(
    written: str, inside: bool, lost: bool, size: int
) -> None:
    _, _, reader = read(written, size)
    assert reader.inside is inside
    assert reader.lost is lost


def test_each_character_is_read_once() -> None:
    arguments = json.dumps({"code": "if x: {'a': '}</tool_call>'}\n" * 10_000})
    assert len(arguments) > 256 * 1024
    written = call(arguments)
    _, calls, reader = read(written, 4)
    assert calls == [("write", arguments)]
    assert reader.read <= len(written)


def test_an_object_is_read_once() -> None:
    written = json.dumps({"code": ["{}}" for _ in range(50_000)]})
    end = ObjectEnd()
    assert [end.feed(piece) for piece in pieces_of(written, 1)] == [
        *[None] * (len(written) - 1),
        1,
    ]
    assert end.read == len(written)


def test_a_text_that_begins_with_no_object_has_no_end() -> None:
    end = ObjectEnd()
    assert [end.feed(piece) for piece in (" ", "[", "{}", "]")] == [None] * 4


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("mark", ARRAYS.starts)
def test_calls_in_an_array(mark: str, size: int) -> None:
    hard = json.dumps({"code": "<tool_call> [{}], </tool_call>]"})
    objects = ", ".join(f'{{"name": "f", "arguments": {part}}}' for part in (hard, "{}"))
    said, calls, reader = read(f"Hm. {mark} [{objects}] Done.", size, ARRAYS)
    assert (said, calls) == ("Hm. ", [("f", hard), ("f", "{}")])
    assert not reader.inside
    assert not reader.lost


CALL, HELD = '{"name": "f", "parameters": {"a": 1}}', [("f", '{"a": 1}')]


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize(
    ("written", "said", "calls"),
    [
        (CALL, "", HELD),
        (f"{CALL}; {CALL}", "", HELD * 2),
        (f"<|python_tag|>{CALL}", "", HELD),
        (f"I look. {CALL}", "I look. ", HELD),
        ('\n{ "type": "function", "parameters": {}, "name": "f"}', "\n", [("f", "{}")]),
        ('{"name": "Bob", "age": 5} is he.', '{"name": "Bob", "age": 5} is he.', []),
        ('He is {"name": "Bob"}.', 'He is {"name": "Bob"}.', []),
        ('{"a": [1, "}"]}', '{"a": [1, "}"]}', []),
        ("{a: 1} {b}", "{a: 1} {b}", []),
        ('{"name": "Bo', '{"name": "Bo', []),
        ("{", "{", []),
    ],
)
def test_an_object_without_a_mark_is_a_call_or_text(
    written: str, said: str, calls: list[tuple[str, str]], size: int
) -> None:
    found_said, found_calls, reader = read(written, size, BARE)
    assert (found_said, found_calls) == (said, calls)
    assert not reader.inside
    assert not reader.lost
