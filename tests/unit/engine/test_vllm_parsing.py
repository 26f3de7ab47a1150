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
    CallUnreadable,
    CallWritten,
    Finish,
    Piece,
    ReasoningPiece,
    StrayCall,
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
    unreadable: int = 0
    stray: StrayCall | None = None


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


HARD = '{"city": "</tool_call> }} <tool_call>\\n{\\"a\\": \\"</tool_call>\\"}"}'
"""An argument that holds the marks of its format, as code that an agent writes may."""


def kimi(*ids: str) -> str:
    calls = [
        f"<|tool_call_begin|>{each}<|tool_call_argument_begin|>{PARIS}<|tool_call_end|>"
        for each in ids
    ]
    return f"<|tool_calls_section_begin|>{''.join(calls)}<|tool_calls_section_end|>"


KIMI_IDS = ["functions.get_weather:0", "functions.get_time:1"]
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
        '<tool_call>\n{"name": "get_weather", "argu',
        Parsed(begun=1, stray=StrayCall.OPEN),
        finish=Finish.LENGTH,
    ),
    "a call cut in its arguments": Output(
        hermes("get_weather", PARIS)[:-16],
        Parsed(begun=1, stray=StrayCall.OPEN),
        finish=Finish.LENGTH,
    ),
    "a second call cut": Output(
        hermes("get_weather", PARIS) + hermes("get_time", ROME)[:-16],
        Parsed(calls=ONE.calls, begun=2, stray=StrayCall.OPEN),
        finish=Finish.LENGTH,
    ),
    "a call that ends in the middle": Output(
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Pa',
        Parsed(begun=1, stray=StrayCall.OPEN),
    ),
    "marks in an argument": Output(
        hermes("get_weather", HARD), Parsed(calls=(("get_weather", HARD),), begun=1)
    ),
    "marks in an argument, then another call": Output(
        hermes("get_weather", HARD) + "\n" + hermes("get_time", ROME),
        Parsed(calls=(("get_weather", HARD), ("get_time", ROME)), begun=2),
    ),
    "marks in an argument after reasoning": Output(
        "<think>\nHm.\n</think>\n\n" + hermes("get_weather", HARD),
        Parsed("\n\n", "\nHm.\n", (("get_weather", HARD),), 1),
        reasoning="qwen3",
    ),
    "marks in an argument of a required call": Output(
        hermes("get_weather", HARD),
        Parsed(calls=(("get_weather", HARD),), begun=1),
        choice=REQUIRED,
    ),
    "marks in an argument, Granite 4": Output(
        hermes("get_weather", HARD),
        Parsed(calls=(("get_weather", HARD),), begun=1),
        tool="granite4",
    ),
    "marks in an argument, Granite 3": Output(
        f'<tool_call> [{{"name": "get_weather", "arguments": {HARD}}}]',
        Parsed(calls=(("get_weather", HARD),), begun=1),
        tool="granite",
    ),
    "marks in an argument, LongCat": Output(
        hermes("get_weather", HARD.replace("tool_call", "longcat_tool_call"))
        .replace("<tool_call>", "<longcat_tool_call>")
        .replace("</tool_call>", "</longcat_tool_call>"),
        Parsed(calls=(("get_weather", HARD.replace("tool_call", "longcat_tool_call")),), begun=1),
        tool="longcat",
    ),
    "marks in an argument of an XML call": Output(
        coder("get_weather", "</tool_call>") + "\n" + coder("get_time", "Rome"),
        Parsed(calls=(("get_time", ROME),), begun=2, unreadable=1),
        tool="qwen3_coder",
    ),
    "the end of an argument in an XML call": Output(
        coder("get_weather", "a</parameter>b"),
        Parsed(begun=1, unreadable=1),
        tool="qwen3_coder",
    ),
    "an XML call that ends in the middle": Output(
        coder("get_weather", "Paris").partition("ris")[0],
        Parsed(begun=1, stray=StrayCall.OPEN),
        tool="qwen3_coder",
    ),
    "no call between the marks": Output(
        "<tool_call>\n{'name': 'get_weather'}\n</tool_call>", Parsed(stray=StrayCall.LOST)
    ),
    "a start mark alone": Output("<tool_call>\n{", Parsed(stray=StrayCall.OPEN)),
    "a start mark in a text": Output(
        "Write <tool_call> first.", Parsed("Write <tool_call> first.")
    ),
    "a call in the reasoning": Output(
        "\n" + hermes("get_weather", PARIS) + "\n</think>\n\n",
        Parsed("\n\n", "\n" + hermes("get_weather", PARIS) + "\n", stray=StrayCall.REASONING),
        reasoning="deepseek_r1",
    ),
    "arguments that are not JSON": Output(
        hermes("get_weather", "{city: Paris}"), Parsed(begun=1, unreadable=1)
    ),
    "half of a surrogate pair in Hermes form": Output(
        hermes("get_weather", '{"city": "\\ud83d"}'),
        Parsed(calls=(("get_weather", '{"city": "\\ud83d"}'),), begun=1),
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
    from vllm.parser.parser_manager import ParserManager

    from precall_service.engine.vllm.call_parsers import reading_calls
    from precall_service.engine.vllm.parsing import SpecialTokens, StepParser
    from precall_service.engine.vllm.plans import StepPlans

    parser_class: Any = ParserManager.get_parser(
        tool_parser_name=output.tool,
        reasoning_parser_name=output.reasoning,
        enable_auto_tools=True,
        tool_strict_level="parameter",
    )
    plans = StepPlans(
        reading_calls(parser_class),
        model_tokenizer,
        model_config(),
        structured_calls=True,
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
    assert output.parsed == parsed(pieces, parser.stray_call)


def parsed(pieces: Sequence[Piece], stray: StrayCall | None = None) -> Parsed:
    begun = [piece for piece in pieces if isinstance(piece, CallBegun)]
    written = [piece.index for piece in pieces if isinstance(piece, CallWritten)]
    arguments = {piece.index: "" for piece in begun}
    for piece in pieces:
        if isinstance(piece, CallPiece):
            arguments[piece.index] += piece.json_fragment
    return Parsed(
        text="".join(piece.text for piece in pieces if isinstance(piece, TextPiece)),
        reasoning="".join(piece.text for piece in pieces if isinstance(piece, ReasoningPiece)),
        calls=tuple((begun[index].tool_name, arguments[index]) for index in written),
        begun=len(begun),
        unreadable=sum(isinstance(piece, CallUnreadable) for piece in pieces),
        stray=stray,
    )


@pytest.mark.parametrize("size", CHUNKS.values(), ids=CHUNKS)
@pytest.mark.parametrize(
    ("tool", "written", "written_ids"),
    [
        ("kimi_k2", kimi(*KIMI_IDS), KIMI_IDS),
        ("kimi_k2", kimi("functions.get_time:7"), ["functions.get_time:7"]),
        ("hermes", hermes("get_weather", PARIS), [""]),
    ],
)
def test_an_id_that_the_model_wrote_is_told(
    tool: str, written: str, written_ids: list[str], size: int
) -> None:
    parser = step_parser(Output(written, ONE, tool=tool))
    pieces = [piece for text, ids in deltas(written, size) for piece in parser.feed(text, ids)]
    pieces += parser.end(Finish.STOP, written, token_ids(written))
    begun = [piece for piece in pieces if isinstance(piece, CallBegun)]
    assert [each.written_id for each in begun] == written_ids


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


@pytest.mark.parametrize(
    "output",
    [
        Output("", ONE, tool="hermes"),
        Output("", ONE, tool="hermes", reasoning="deepseek_r1"),
        Output("", ONE, tool="qwen3_coder"),
        Output("", ONE, tool="llama3_json"),
        Output("", ONE, tool="granite"),
        Output("", ONE, tool="kimi_k2"),
        Output("", ONE, tool="mistral"),
        Output("", ONE, tool="olmo3"),
        Output("", ONE, tool="gemma4"),
    ],
    ids=lambda output: f"{output.tool} {output.reasoning or ''}",
)
def test_the_work_grows_with_the_arguments(output: Output) -> None:
    """The parser is asked less often the longer a call is; our own reads each character once.

    What one of vLLM's reads at once is all that it was given so far.
    """
    parser = step_parser(output)
    vllm_parser: Any = parser._parser
    parse_delta = vllm_parser.parse_delta
    given, work = 0, 0

    def counted(text: str, *rest: Any, **more: Any) -> Any:
        nonlocal given, work
        given += len(text)
        work += given
        return parse_delta(text, *rest, **more)

    vllm_parser.parse_delta = counted
    value = "if x: y = {'a': '}'}\\n" * 12_000
    assert len(value) > 256 * 1024
    written = {
        "hermes": hermes("get_weather", f'{{"city": "{value}"}}'),
        "qwen3_coder": coder("get_weather", value),
        "llama3_json": f'{{"name": "get_weather", "parameters": {{"city": "{value}"}}}}',
        "granite": f'<tool_call>[{{"name": "get_weather", "arguments": {{"city": "{value}"}}}}]',
        "kimi_k2": "<|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
        f'{{"city": "{value}"}}',
        "mistral": f'[TOOL_CALLS]get_weather[ARGS]{{"city": "{value}"}}',
        "olmo3": f"<function_calls>get_weather(city={value!r})",
        "gemma4": f'<|tool_call>call:get_weather{{city:<|"|>{value}<|"|>}}<tool_call|>',
    }[output.tool or ""]
    written = f"</think>{written}" if output.reasoning else written
    end_of_thought = token_ids("</think>")
    pieces: list[Piece] = []
    for start in range(0, len(written), 8):
        ids = end_of_thought if start == 0 and output.reasoning else [5]
        pieces += parser.feed(written[start : start + 8], ids)
    pieces += parser.end(Finish.STOP, written, [])
    assert [name for name, _ in parsed(pieces).calls] == ["get_weather"]
    if (reader := getattr(vllm_parser.tool_parser, "reader", None)) is not None:
        work += reader.read
    assert work < 24 * len(written)
