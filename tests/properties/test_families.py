"""Whatever a model writes as its family's template does arrives equal, or is refused in words.

This holds for every family of docs/models.md whose calls are read. The values hold what agents
write: code, accents, quotes, and the marks of all families. A call never runs with other arguments
than were written, and is never lost without a word.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from precall_service.domain.json import JsonObject, dump, parse_object
from precall_service.domain.messages import AssistantMessage, ToolCall
from precall_service.domain.turn import ToolChoice
from precall_service.engine.base import (
    CallUnreadable,
    Finish,
    Piece,
    StrayCall,
)
from tests.support.authored import TEXT
from tests.support.grammars import allowed
from tests.support.model_families import Family, family
from tests.support.model_table import read_families
from tests.support.steps import asked, calls_of, declared

if TYPE_CHECKING:  # importing vLLM is slow, and it reads environment variables that are set later
    from precall_service.engine.vllm.readback import Written

MARKS = (
    *(
        "<tool_call>",
        "</tool_call>",
        "</function>",
        "</parameter>",
        "<parameter=a>",
        "</arg_value>",
    ),
    *("<arg_key>", "</invoke>", "</seed:tool_call>", "<|tool_call_end|>", "<|tool_calls|>", "</s>"),
    *("[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", '<|"|>', "<tool_call|>", "<|im_end|>", "}}"),
    *("</think>", "<think>", "```", "]<]minimax[>[", "<|tools_suffix|>", ")]", "<|eot_id|>"),
    *("<｜tool▁call▁end｜>", "</｜DSML｜parameter>"),  # noqa: RUF001 the bars are part of tokens
)
_UNWRITABLE = frozenset("\x04\x06\x13\x14\x16\x1d")
"""Characters that the shared tokenizer lacks, as it lacks those from U+40000 on."""
HARD = (TEXT | st.lists(st.sampled_from(MARKS) | TEXT, max_size=3).map("".join)).filter(
    lambda text: _UNWRITABLE.isdisjoint(text) and max(text, default="") < "\U00040000"
)
SCHEMA = """{
  "type": "object",
  "properties": {
    "text": {"type": "string"},
    "code": {"type": "string", "maxLength": 90},
    "count": {"type": "integer"},
    "share": {"type": "number"},
    "exact": {"type": "boolean"},
    "kind": {"enum": ["Montréal", "a \\"b\\"", "x\\\\y"]}
  },
  "required": ["text"],
  "additionalProperties": false
}"""
FLAT: dict[str, st.SearchStrategy[Any]] = {
    "code": HARD,
    "count": st.integers(-(2**40), 2**40),
    "share": st.sampled_from([0.5, -0.25, 3, 1e20, -1.5e-7]),
    "exact": st.booleans(),
    "kind": st.sampled_from(["Montréal", 'a "b"', "x\\y"]),
}


def ordered(
    required: dict[str, st.SearchStrategy[Any]], optional: dict[str, st.SearchStrategy[Any]]
) -> st.SearchStrategy[JsonObject]:
    """Objects in the order of their schema, which grammars hold models to."""
    names = (*required, *optional)
    return st.fixed_dictionaries(required, optional=optional).map(
        lambda drawn: {name: drawn[name] for name in names if name in drawn}
    )


ARGUMENTS = ordered({"text": HARD}, FLAT)
NESTED_SCHEMA = """{
  "type": "object",
  "properties": {
    "place": {
      "type": "object",
      "properties": {"name": {"type": "string"}, "at": {"type": "number"}},
      "required": ["name"]
    },
    "tags": {"type": "array", "items": {"type": "string"}},
    "rest": {"type": "object", "additionalProperties": {"type": "string"}}
  },
  "additionalProperties": false
}"""
PLACES = ordered({"name": HARD}, {"at": st.sampled_from([0, -0.5, 45.25])})
NESTED = ordered(
    {},
    {
        "place": PLACES,
        "tags": st.lists(HARD, max_size=3),
        "rest": st.dictionaries(st.sampled_from(["a", "é b"]), HARD, max_size=2),
    },
)
TOOLS = (declared("plain", SCHEMA), declared("deep", NESTED_SCHEMA))
QUESTION = asked("Go on.", *TOOLS)
CALLS = st.tuples(st.just("plain"), ARGUMENTS) | st.tuples(st.just("deep"), NESTED)
SIZES = st.sampled_from([1, 2, 3, 7, 10_000])
"""Tokens that come at once."""


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", read_families())
def test_a_call_arrives_equal_or_is_refused(name: str, runner: asyncio.Runner) -> None:
    found = family(name)

    # The same calls each time, so that a run tells of a change here, and not of its luck.
    @settings(max_examples=25, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(CALLS, SIZES)
    def check(called: tuple[str, JsonObject], size: int) -> None:
        message = runner.run(written(found, *called))
        assume(not any(stop in dump(called[1]) for stop in found.stop_texts))
        pieces, stray = read(found, message, size)
        calls = complete(pieces)
        refused = any(isinstance(piece, CallUnreadable) for piece in pieces)
        assert calls == [called] or (not calls and (refused or stray)) or not valid(calls), (
            message.text,
            calls,
        )
        # Some templates spell booleans and accents otherwise than grammars do: as Python, escaped.
        # A call that is refused because it holds its own mark is not one that a grammar allows.
        if calls and called[0] == "plain" and not {"exact", "kind"} & called[1].keys():
            # Grammars hold from the end of the thought on, which some templates write though empty.
            said = without_thought(found, message)
            # Texts with a bound are held to letters as they are; a few templates escape them.
            escaped = "code" in called[1] and "\\u" in said
            assert escaped or allowed_by_grammar(found, said), said

    check()


async def written(found: Family, tool: str, arguments: JsonObject) -> Written:
    """The message with this call, as a model of the family writes it."""
    from precall_service.engine.vllm.readback import ReadBack

    ordered = json.dumps(arguments, ensure_ascii=False)
    call = ToolCall(call_id="abcdefgh1", tool_name=tool, arguments_json=ordered)
    message = AssistantMessage(text="", tool_calls=(call,))
    return await ReadBack(found.unbroken).written(QUESTION, message)


def without_thought(found: Family, message: Written) -> str:
    """The text of the message from the end of its thought on."""
    plan = found.parts.plans.plan(TOOLS, ToolChoice())
    parser = plan.make_parser().reasoning_parser if plan.make_parser else None
    if parser is None or not parser.reasoning_end_str:
        return message.text
    thought, _, said = message.text.partition(parser.reasoning_end_str)
    # Later marks stand in the arguments.
    opened = thought.strip() in {"", parser.reasoning_start_str}
    return said.lstrip() if opened else message.text


def read(found: Family, message: Written, size: int) -> tuple[list[Piece], StrayCall | None]:
    """What is read from a message that comes in parts of so many tokens."""
    from precall_service.engine.vllm.parsing import StepParser

    parts = found.unbroken
    plan = parts.plans.plan(TOOLS, ToolChoice())
    assert plan.make_parser is not None, "the document says that calls are read"
    parser = StepParser(
        plan.make_parser, plan.request, message.prompt.token_ids, parts.special_tokens
    )
    pieces: list[Piece] = []
    told, given_ids = "", 0
    for end in range(size, len(message.token_ids) + size, size):
        token_ids = list(message.token_ids[:end])
        text = parts.tokenizer.decode(token_ids, skip_special_tokens=False)
        if not text.endswith("\ufffd"):  # the last character is not complete
            pieces += parser.feed(text[len(told) :], token_ids[given_ids:])
            told, given_ids = text, len(token_ids)
    pieces += parser.end(Finish.STOP, message.text, message.token_ids)
    return pieces, parser.stray_call


def complete(pieces: Sequence[Piece]) -> list[tuple[str, JsonObject]]:
    """The names and arguments of the calls that were read."""
    return [(call.tool_name, parse_object(call.arguments_json)) for call in calls_of(pieces)]


def valid(calls: list[tuple[str, JsonObject]]) -> bool:
    """Whether calls would run. No other tool does, and no arguments that do not fit."""
    schemas = {tool.name: dict(tool.input_schema) for tool in TOOLS}
    return all(
        name in schemas and jsonschema_rs.is_valid(schemas[name], arguments)
        for name, arguments in calls
    )


def allowed_by_grammar(found: Family, text: str) -> bool:
    """Whether a model could write this under the grammar that it is held to, if there is one."""
    outputs = found.parts.plans.plan(TOOLS, ToolChoice()).structured_outputs
    if outputs is None or outputs.structural_tag is None:
        return True
    return allowed(outputs.structural_tag, text)
