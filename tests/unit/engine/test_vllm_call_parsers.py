"""In every family, calls arrive as they were written, however they are split, or are refused."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import functools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytest

from precall_service.domain.turn import ToolChoice
from precall_service.engine import families
from precall_service.engine.base import (
    CallBegun,
    CallUnreadable,
    Finish,
    Piece,
    ReasoningPiece,
    TextPiece,
)
from tests.support import prompt_renderers
from tests.support.prompt_renderers import model_config
from tests.support.steps import calls_of, declared
from tests.support.written_calls import FAMILIES, Call, Family

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "number"},
            "at": {"type": "object", "properties": {"x": {"type": "array"}}},
        },
    }
)
TOOLS = (declared("get_weather", SCHEMA), declared("get_time", SCHEMA))
ROME: Call = ("get_time", {"city": "Rome"})
CALLS: dict[str, dict[str, Any]] = {
    "plain": {"city": "Paris"},
    "unicode": {"city": "Zürich \u2028 中 😀"},
    "negative": {"city": "a", "days": -0.25},
    "empty": {},
    "braces, quotes and lines": {"city": 'it\'s "so": \\n {x} [y], }}\n(end'},
    "digits in a text": {"city": "123"},
    "objects": {"city": "a", "at": {"x": [1, {"y": "}", "z": None}, True]}},
}
SIZES = {"token by token": 1, "in random pieces": 0, "whole": 1 << 20}
ELSEWHERE = {
    "openai": "read by token ids alone, in the tests of generation",
    "xlam": "calls without marks, in tests of their own (test_vllm_xlam.py)",
    "cohere_command3": "read by a package that is not installed",
    "cohere_command4": "read by a package that is not installed",
}


@dataclass(frozen=True, slots=True)
class Heard:
    text: str
    reasoning: str
    begun: int
    written: list[tuple[str, Any]]
    refused: list[str]


@functools.cache
def tokenizer(tokens: tuple[str, ...]) -> Any:
    shared = prompt_renderers.tokenizer()  # first, since it imports vLLM as precall does
    import transformers

    own: Any = cast("Any", transformers).AutoTokenizer.from_pretrained(shared.name_or_path)
    own.add_special_tokens({"additional_special_tokens": list(tokens)})
    return own


@functools.cache
def plan(parser: str, tokens: tuple[str, ...]) -> Any:
    own = tokenizer(tokens)
    from vllm.parser.parser_manager import ParserManager

    from precall_service.engine.vllm.call_parsers import reading_calls
    from precall_service.engine.vllm.plans import StepPlans

    parser_class: Any = ParserManager.get_parser(
        tool_parser_name=parser, enable_auto_tools=True, tool_strict_level="parameter"
    )
    plans: Any = StepPlans(reading_calls(parser_class), own, model_config(), structured_calls=True)
    return plans.plan(TOOLS, ToolChoice())


def step_parser(family: Family) -> Any:
    made, own = plan(family.parser, family.tokens), tokenizer(family.tokens)
    from precall_service.engine.vllm.parsing import SpecialTokens, StepParser

    special = {number: own.decode([number]) for number in own.all_special_ids}
    assert made.make_parser is not None
    return StepParser(made.make_parser, made.request, [5], SpecialTokens(special))


def deltas(family: Family, written: str, size: int) -> Iterator[tuple[str, Sequence[int]]]:
    own, chance, held = tokenizer(family.tokens), random.Random(3), list[int]()
    ids = own.encode(written, add_special_tokens=False)
    while ids:
        taken = size or chance.randint(1, 9)
        held, ids = held + ids[:taken], ids[taken:]
        text = own.decode(held, skip_special_tokens=False)
        if text.endswith("\ufffd") and ids:
            continue
        yield text, held
        held = []


def heard(family: Family, written: str, size: int) -> Heard:
    parser = step_parser(family)
    pieces: list[Piece] = []
    for text, ids in deltas(family, written, size):
        pieces += parser.feed(text, ids)
    ids = tokenizer(family.tokens).encode(written, add_special_tokens=False)
    pieces += parser.end(Finish.STOP, written, ids)
    return Heard(
        text="".join(each.text for each in pieces if isinstance(each, TextPiece)).strip(),
        reasoning="".join(each.text for each in pieces if isinstance(each, ReasoningPiece)),
        begun=sum(isinstance(each, CallBegun) for each in pieces),
        written=[(call.tool_name, json.loads(call.arguments_json)) for call in calls_of(pieces)],
        refused=[each.problem for each in pieces if isinstance(each, CallUnreadable)],
    )


WRITTEN = {
    f"{name}-{which}": (family, arguments)
    for name, family in FAMILIES.items()
    for which, arguments in CALLS.items()
    if family.objects or "at" not in arguments  # some forms have another way to write objects
}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(("family", "arguments"), WRITTEN.values(), ids=WRITTEN)
def test_arguments_arrive_equal(family: Family, arguments: dict[str, Any], size: int) -> None:
    calls = [("get_weather", arguments)]
    assert heard(family, family.write(calls), size) == Heard("", "", 1, calls, [])


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_two_calls_after_a_text(family: Family, size: int) -> None:
    calls = [("get_weather", {"city": "Paris"}), ROME]
    found = heard(family, "I look. " + family.write(calls), size)
    if size > 1 and family.parser in {"step3", "kimi_k3"}:  # vLLM's parsers stream token by token
        assert all(call in calls for call in found.written)
        assert found.begun == len(found.written) + len(found.refused) == len(calls)
    else:
        assert found == Heard("I look.", "", 2, calls, [])


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_mark_in_a_text_is_part_of_it_or_refused(family: Family, size: int) -> None:
    calls = [("get_weather", {"city": f"a {family.end_of_text()} b"}), ROME]
    found = heard(family, family.write(calls), size)
    if family.exact:
        assert found == Heard("", "", 2, calls, [])
    else:
        assert found.refused[0].startswith("it is not certain where the arguments end")
        assert found.written in ([ROME], [])


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_an_escaped_half_of_a_surrogate_pair_stays_one(family: Family) -> None:
    written = family.write([("get_weather", {"city": "XYZ"})]).replace("XYZ", r"\ud83d")
    found = heard(family, written, 1)
    assert found.written in (
        [("get_weather", {"city": "\ud83d"})],
        [("get_weather", {"city": r"\ud83d"})],
    )


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_text_is_no_call(family: Family) -> None:
    text = "It is 1 < 2, [see] {not} a call (I think)."
    assert heard(family, text, 1) == Heard(text, "", 0, [], [])


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", ["Granite 3", "LFM2", "Hermes", "Qwen3-Coder"])
def test_a_thought_that_the_model_opens_is_told_from_the_rest(name: str, size: int) -> None:
    family = FAMILIES[name]
    call = family.write([ROME])
    found = heard(family, f"<think>Hm. {call}</think>I look. {call}", size)
    assert (found.text, found.written) == ("I look.", [ROME])
    assert found.reasoning.startswith("Hm. ")
    assert heard(family, "<think", size).text == "<think"
    assert heard(family, "It is <think>", size).text == "It is <think>"


def test_every_parser_that_may_be_chosen_is_tried() -> None:
    chosen = {tool for tool, _ in families._BY_MODEL_TYPE.values()}
    chosen |= {parser for _, parser in families._TOOL_MARKS} | {"deepseek_v3"}
    assert chosen - {family.parser for family in FAMILIES.values()} == set(ELSEWHERE)
