"""vLLM's parsers read the same from a step however it is split, and never invent a call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from precall_service.domain.json import JsonObject, JsonValue
from precall_service.domain.turn import ToolChoice
from precall_service.engine.base import (
    CallBegun,
    CallPiece,
    CallWritten,
    Finish,
    ReasoningPiece,
    TextPiece,
)
from tests.support.prompt_renderers import model_config, token_ids, tokenizer
from tests.support.steps import NONE, REQUIRED, declared

TOOLS = (declared("get_weather"), declared("get_time"))
PARIS, ROME = '{"city": "Paris"}', '{"city": "Rome"}'


AUTO = ToolChoice()


@dataclass(frozen=True, slots=True)
class Parsed:
    text: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    begun: int = 0


@dataclass(frozen=True, slots=True)
class Output:
    """A model's output, and what must be read from it."""

    written: str
    parsed: Parsed
    tool: str | None = "hermes"
    reasoning: str | None = None
    finish: Finish = Finish.STOP
    choice: ToolChoice = AUTO
    variables: JsonObject = field(default_factory=dict[str, JsonValue])


def hermes(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def coder(name: str, city: str) -> str:
    return (
        f"<tool_call>\n<function={name}>\n<parameter=city>\n{city}\n</parameter>\n"
        "</function>\n</tool_call>"
    )


ONE = Parsed(calls=(("get_weather", PARIS),), begun=1)
TWO = Parsed(calls=(("get_weather", PARIS), ("get_time", ROME)), begun=2)
OUTPUTS = {
    "text": Output("It is 1 < 2, and {not} a call.", Parsed("It is 1 < 2, and {not} a call.")),
    "text that ends like a mark": Output("I write <tool_", Parsed("I write <tool_")),
    "one call": Output(hermes("get_weather", PARIS), ONE),
    "two calls": Output(hermes("get_weather", PARIS) + hermes("get_time", ROME), TWO),
    "text, then a call": Output(
        "I look. " + hermes("get_weather", PARIS), Parsed("I look. ", "", ONE.calls, 1)
    ),
    "a nested argument": Output(
        hermes("get_weather", '{"at": {"x": [1, {"y": "}"}]}}'),
        Parsed(calls=(("get_weather", '{"at": {"x": [1, {"y": "}"}]}}'),), begun=1),
    ),
    "no arguments": Output(
        hermes("get_weather", "{}"), Parsed(calls=(("get_weather", "{}"),), begun=1)
    ),
    "a required call": Output(hermes("get_weather", PARIS), ONE, choice=REQUIRED),
    "no calls allowed": Output(
        hermes("get_weather", PARIS), Parsed(hermes("get_weather", PARIS)), choice=NONE
    ),
    "a special token in the text": Output("A <|im_start|>B.", Parsed("A B.")),
    "a call cut before its arguments": Output(
        '<tool_call>\n{"name": "get_weather", "argu', Parsed(begun=1), finish=Finish.LENGTH
    ),
    "a call cut in its arguments": Output(
        hermes("get_weather", PARIS)[:-16], Parsed(begun=1), finish=Finish.LENGTH
    ),
    "a second call cut": Output(
        hermes("get_weather", PARIS) + hermes("get_time", ROME)[:-16],
        Parsed(calls=ONE.calls, begun=2),
        finish=Finish.LENGTH,
    ),
    "a call that ends in the middle": Output(
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Pa', Parsed(begun=1)
    ),
    "reasoning": Output(
        "<think>\nHm.\n</think>\n\nParis.",
        Parsed("\n\nParis.", "\nHm.\n"),
        reasoning="qwen3",
    ),
    "reasoning, then a call": Output(
        "<think>\nHm.\n</think>\n\n" + hermes("get_weather", PARIS),
        Parsed("\n\n", "\nHm.\n", ONE.calls, 1),
        reasoning="qwen3",
    ),
    "reasoning cut": Output(
        "<think>\nHm, wh",
        Parsed("", "\nHm, wh"),
        reasoning="qwen3",
        finish=Finish.LENGTH,
    ),
    "reasoning that a variable turns on": Output(
        "Hm.</think>Paris.",
        Parsed("Paris.", "Hm."),
        reasoning="deepseek_v3",
        variables={"thinking": True},
    ),
    "reasoning that no variable turns on": Output(
        "Paris.", Parsed("Paris."), reasoning="deepseek_v3"
    ),
    "reasoning that a variable turns off": Output(
        "Paris.", Parsed("Paris."), reasoning="qwen3", variables={"enable_thinking": False}
    ),
    "XML calls": Output(
        coder("get_weather", "Paris") + "\n" + coder("get_time", "Rome"), TWO, tool="qwen3_coder"
    ),
    "a call that its parser repeats": Output(
        f'[{{"name": "get_weather", "arguments": {PARIS}}}]', ONE, tool="xlam"
    ),
    "bare JSON": Output(
        f'{{"name": "get_weather", "parameters": {PARIS}}}', ONE, tool="llama3_json"
    ),
    "half of a surrogate pair": Output(
        '{"name": "get_\\ud800", "parameters": {"city": "\\udfff"}}',
        Parsed(calls=(("get_?", '{"city": "\\udfff"}'),), begun=1),
        tool="llama3_json",
    ),
}
CHUNKS = {"token by token": 1, "three tokens": 3, "seven tokens": 7, "all at once": 10_000}


def step_parser(output: Output) -> Any:
    model_tokenizer = tokenizer()  # first, since it imports vLLM as precall does
    from vllm.parser.parser_manager import ParserManager  # noqa: PLC0415

    from precall_service.engine.vllm.parsing import SpecialTokens, StepParser  # noqa: PLC0415
    from precall_service.engine.vllm.sampling import StepPlans  # noqa: PLC0415

    parser_class: Any = ParserManager.get_parser(
        tool_parser_name=output.tool,
        reasoning_parser_name=output.reasoning,
        enable_auto_tools=True,
        tool_strict_level="parameter",
    )
    plans = StepPlans(
        parser_class, model_tokenizer, model_config(), structured_calls=True, defaults={}
    )
    plan = plans.plan(TOOLS, output.choice, output.variables)
    special = {
        number: model_tokenizer.decode([number]) for number in model_tokenizer.all_special_ids
    }
    assert plan.make_parser is not None
    prompt = token_ids("<|im_start|>assistant\n")
    return StepParser(plan.make_parser, plan.request, prompt, SpecialTokens(special))


def deltas(written: str, size: int) -> Iterator[tuple[str, Sequence[int]]]:
    ids = token_ids(written)
    for start in range(0, len(ids), size):
        chunk = ids[start : start + size]
        yield tokenizer().decode(chunk, skip_special_tokens=False), chunk


@pytest.mark.parametrize("size", CHUNKS.values(), ids=CHUNKS)
@pytest.mark.parametrize("output", OUTPUTS.values(), ids=OUTPUTS)
def test_a_step_reads_the_same_however_it_is_split(output: Output, size: int) -> None:
    parser = step_parser(output)
    pieces = [
        piece for text, ids in deltas(output.written, size) for piece in parser.feed(text, ids)
    ]
    pieces += parser.end(output.finish, output.written, token_ids(output.written))
    begun = [piece for piece in pieces if isinstance(piece, CallBegun)]
    written = [piece.index for piece in pieces if isinstance(piece, CallWritten)]
    arguments = {piece.index: "" for piece in begun}
    for piece in pieces:
        if isinstance(piece, CallPiece):
            arguments[piece.index] += piece.json_fragment
    assert output.parsed == Parsed(
        text="".join(piece.text for piece in pieces if isinstance(piece, TextPiece)),
        reasoning="".join(piece.text for piece in pieces if isinstance(piece, ReasoningPiece)),
        calls=tuple((begun[index].tool_name, arguments[index]) for index in written),
        begun=len(begun),
    )


def test_a_call_is_complete_before_its_closing_mark() -> None:
    parser = step_parser(OUTPUTS["one call"])
    heard = ""
    for text, ids in deltas(hermes("get_weather", PARIS), 1):
        heard += text
        if any(isinstance(piece, CallWritten) for piece in parser.feed(text, ids)):
            break
    assert heard.endswith("}}")


def test_a_failed_parser_passes_text_on() -> None:
    parser = step_parser(OUTPUTS["one call"])
    parser._parser.parse_delta = None
    assert list(parser.feed("Some text", token_ids("Some text"))) == [TextPiece("Some text")]
    assert list(parser.end(Finish.STOP, "Some text", token_ids("Some text"))) == []
    assert parser.reasoning_tokens(token_ids("Some text")) == 0
