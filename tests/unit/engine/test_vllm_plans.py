"""Plans of steps: the choice of a call, and grammars that write JSON as templates do."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from precall_service.domain.tools import ToolDeclaration
from precall_service.domain.turn import ToolChoice
from tests.support.prompt_renderers import model_config, tokenizer
from tests.support.steps import NONE, REQUIRED, declared, named

TOOLS = (declared("get_weather"), declared("get_time"))


def plans(*, parser: str = "hermes", structured_calls: bool = True) -> Any:
    model_tokenizer = tokenizer()  # first, since it imports vLLM as precall does
    from vllm.parser.parser_manager import ParserManager

    from precall_service.engine.vllm.plans import StepPlans

    parser_class = ParserManager.get_parser(
        tool_parser_name=parser,
        enable_auto_tools=True,
        tool_strict_level="parameter" if structured_calls else "auto",
    )
    return StepPlans(
        parser_class,
        model_tokenizer,
        model_config(),
        structured_calls=structured_calls,
    )


def accepts(
    choice: ToolChoice,
    text: str,
    *,
    tools: tuple[ToolDeclaration, ...] = TOOLS,
    structured_calls: bool = True,
) -> bool:
    made = plans(structured_calls=structured_calls)
    return grammar_accepts(made.plan(tools, choice).structured_outputs.structural_tag, text)


def grammar_accepts(structural_tag: str, text: str) -> bool:
    from xgrammar import Grammar, StructuralTag, testing

    tag = StructuralTag.model_validate(json.loads(structural_tag))
    check: Any = testing._is_grammar_accept_string  # pyright: ignore[reportPrivateUsage]
    return check(Grammar.from_structural_tag(tag), text)


def written(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


PARIS = '{"city": "Paris"}'


@pytest.mark.parametrize(
    ("choice", "text", "accepted"),
    [
        (ToolChoice(), "Just text.", True),
        (ToolChoice(), written("get_weather", PARIS), True),
        (ToolChoice(), "Let me see. " + written("get_weather", PARIS), True),
        (ToolChoice(), written("get_weather", '{"city": 5}'), False),
        (ToolChoice(), written("get_weather", "{}"), False),
        (ToolChoice(), written("get_weather", '{"city": "Paris", "x": 1}'), False),
        (ToolChoice(), written("get_moon", PARIS), False),
        (REQUIRED, written("get_weather", PARIS), True),
        (REQUIRED, written("get_weather", PARIS) + written("get_time", PARIS), True),
        (REQUIRED, "Just text.", False),
        (REQUIRED, "", False),
        (named("get_time"), written("get_time", PARIS), True),
        (named("get_time"), written("get_weather", PARIS), False),
        (named("get_time"), written("get_time", PARIS) * 2, False),
    ],
)
def test_calls_are_held_to_the_choice_and_the_schema(
    choice: ToolChoice, text: str, accepted: bool
) -> None:
    assert accepts(choice, text) == accepted


@pytest.mark.parametrize("arguments", ['{"city":"Paris"}', '{ "city": "Paris" }', '{"city":\n"P"}'])
def test_json_is_spaced_as_templates_space_it(arguments: str) -> None:
    assert not accepts(REQUIRED, written("get_weather", arguments))


def test_what_a_grammar_cannot_hold_is_left_out_alone() -> None:
    pattern = '{"type": "object", "properties": {"a": {"type": "string", "pattern": "(?<=x)y"}}}'
    odd = (declared("odd", schema=pattern), TOOLS[0])
    assert accepts(REQUIRED, written("odd", '{"a": "z"}'), tools=odd)
    assert not accepts(REQUIRED, written("odd", '{"b": [1, null]}'), tools=odd), "an invented name"
    assert accepts(REQUIRED, written("get_weather", PARIS), tools=odd)
    assert not accepts(REQUIRED, written("get_weather", "{}"), tools=odd)


@pytest.mark.parametrize("parser", ["hermes", "granite", "qwen3_xml", "glm47", "deepseek_v32"])
def test_grammars_that_have_been_made_are_not_made_again(
    monkeypatch: pytest.MonkeyPatch, parser: str
) -> None:
    made = plans(parser=parser)
    from precall_service.engine.vllm import plans as made_of
    from precall_service.engine.vllm.tool_grammars import tool_grammar

    forms = made.forms_of_arguments(TOOLS[0])
    known = [tool_grammar(tool.input_schema, list(forms)) for tool in TOOLS]
    whole = made.plan(TOOLS, REQUIRED).structured_outputs
    monkeypatch.setattr(made_of, "arguments_grammar", None)
    assert made.plan(TOOLS, REQUIRED, {}, known).structured_outputs == whole


def test_a_tool_that_does_not_fit_beside_the_others_is_logged_and_held_to_any_object(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = plans()
    from precall_service.engine.vllm.tool_grammars import tool_grammar

    known = [replace(tool_grammar(tool.input_schema, ()), compile_s=3.0) for tool in TOOLS]
    tag = made.plan(TOOLS, REQUIRED, {}, known).structured_outputs.structural_tag
    assert grammar_accepts(tag, written("get_time", '{"x": 1}'))
    assert not grammar_accepts(tag, written("get_weather", '{"x": 1}'))
    assert "calls of tool 'get_time', one of 2, are held to no schema" in caplog.text


@pytest.mark.parametrize(
    ("parser", "style", "lines"),
    [
        ("hermes", "json", False),
        ("granite", "json", False),
        ("qwen3_xml", "qwen_xml", True),
        ("glm47", "glm_xml", False),
    ],
)
def test_the_form_of_arguments_is_known(parser: str, style: str, lines: bool) -> None:
    [form] = plans(parser=parser).forms_of_arguments(TOOLS[0])
    assert (form.style, form.lines) == (style, lines)


def recursive(name: str, value: str, levels: int = 0) -> ToolDeclaration:
    node: dict[str, Any] = {"value": {"type": value}, "next": {"$ref": "#"}}
    for _ in range(levels):
        node = {"inner": {"type": "object", "properties": node}}
    return declared(name, schema=json.dumps({"type": "object", "properties": node}))


def test_a_list_of_required_calls_holds_tools_of_any_schemas() -> None:
    """VLLM refuses two tools that define a name in two ways, and one that is nested deeply."""
    made = plans(parser="granite")
    tools = recursive("a", "integer"), recursive("b", "string"), recursive("deep", "string", 40)
    tag = made.plan(tools, REQUIRED).structured_outputs.structural_tag
    call = '{{"name": "{}", "parameters": {}}}'.format
    two, wrong = '{"value": 1, "next": {"value": 2}}', '{"value": 1, "next": {"value": "2"}}'
    text = call("b", '{"value": "1", "next": {"value": "2"}}')
    assert grammar_accepts(tag, f"[{call('a', two)}, {text}]")
    assert not grammar_accepts(tag, f"[{call('a', wrong)}]")
    assert not grammar_accepts(tag, "[]")
    tag = made.plan(tools, named("a")).structured_outputs.structural_tag
    assert grammar_accepts(tag, two)
    assert not grammar_accepts(tag, wrong)
    made.limit_calls()
    tag = made.plan(tools, REQUIRED).structured_outputs.structural_tag
    assert grammar_accepts(tag, f"[{text}]")
    assert not grammar_accepts(tag, f"[{text}, {text}]")


def test_without_structured_calls_a_required_call_is_still_a_call() -> None:
    anything = written("get_weather", '{"x": [1]}')
    assert accepts(REQUIRED, anything, structured_calls=False)
    assert not accepts(REQUIRED, "Just text.", structured_calls=False)
    loose = plans(structured_calls=False)
    assert loose.plan(TOOLS, ToolChoice()).structured_outputs is None


def test_no_grammar_without_tools_or_without_calls() -> None:
    assert plans().plan((), ToolChoice()).structured_outputs is None
    assert plans().plan(TOOLS, NONE).structured_outputs is None


def test_calls_take_the_form_that_the_template_writes() -> None:
    made = plans()
    call = f'<tool_call>{{"name": "get_time", "arguments": {PARIS}}}</tool_call>'
    tight = '<tool_call>{"name": "get_weather", "arguments": {}}</tool_call>'
    for rendered, accepted in ((written("get_weather", "{}"), False), (tight, True)):
        made.write_calls_as(f"before {rendered} after", TOOLS[0])
        tag = made.plan(TOOLS, REQUIRED).structured_outputs.structural_tag
        assert grammar_accepts(tag, call) == accepted
        assert grammar_accepts(tag, written("get_time", PARIS)) != accepted
    made.write_calls_as("no call in it", TOOLS[0])
    tag = made.plan(TOOLS, REQUIRED).structured_outputs.structural_tag
    assert grammar_accepts(tag, call)
    assert grammar_accepts(tag, written("get_time", PARIS))
