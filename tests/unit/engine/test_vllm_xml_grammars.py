"""Values between tags are held to their schemas, with the blanks that templates write."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest

from precall_service.engine.vllm.tool_grammars import tool_grammar
from tests.support.prompt_renderers import model_config, tokenizer
from tests.support.steps import REQUIRED, declared
from tests.support.written_calls import FAMILIES

TEXT = {"type": "string"}
NAMES = ["Qwen3-Coder", "GLM 4.7", "MiniMax M2", "MiMo V2"]
ADDRESS = {"type": "string", "pattern": "^https?://"}


def tool(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


@functools.cache
def structural_tag(family: str, schema: str) -> Any:
    model_tokenizer = tokenizer()  # first, since it imports vLLM as precall does
    from vllm.parser.parser_manager import ParserManager
    from xgrammar import Grammar

    from precall_service.engine.vllm.plans import StepPlans

    parser_class = ParserManager.get_parser(
        tool_parser_name=FAMILIES[family].parser,
        enable_auto_tools=True,
        tool_strict_level="parameter",
    )
    plans = StepPlans(parser_class, model_tokenizer, model_config(), structured_calls=True)
    outputs = plans.plan((declared("f", schema),), REQUIRED).structured_outputs
    assert outputs is not None
    assert outputs.structural_tag is not None
    return Grammar.from_structural_tag(outputs.structural_tag)


def accepts(family: str, schema: dict[str, Any], written: str) -> bool:
    from xgrammar import testing

    check: Any = testing._is_grammar_accept_string  # pyright: ignore[reportPrivateUsage]
    return check(structural_tag(family, json.dumps(schema)), written)


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize(
    ("schema", "value", "held"),
    [
        (TEXT, "a < b && c </b>\n", True),
        (TEXT, "123", True),
        (ADDRESS, 'https://x.y/"z"', True),
        (ADDRESS, "ftp://x", False),
        ({"type": "string", "minLength": 2, "maxLength": 3}, 'é"', True),
        ({"type": "string", "minLength": 2, "maxLength": 3}, "abcd", False),
        ({"enum": ["a", "Montréal", 'q"']}, "Montréal", True),
        ({"enum": ["a", "Montréal", 'q"']}, 'q"', True),
        ({"enum": ["a", "b"]}, "c", False),
        ({"enum": ["a", 1, None]}, None, True),
        ({"const": "fixed"}, "fixed", True),
        ({"type": "number"}, -0.25, True),
        ({"type": "integer", "minimum": -3}, -2, True),
        ({"type": "boolean"}, True, True),
        (tool(x=TEXT, n={"type": "number"}), {"x": 'é"<', "n": -1.5}, True),
        ({"type": "array", "items": {"enum": ["Montréal"]}}, ["Montréal"], True),
        ({"type": ["string", "null"]}, "x", True),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, None, True),
        (tool(u=ADDRESS), {"u": "https://x"}, True),
    ],
)
def test_a_value_is_held_to_its_schema(
    family: str, schema: dict[str, Any], value: Any, held: bool
) -> None:
    written = FAMILIES[family].write([("f", {"a": value})])
    assert accepts(family, tool(a=schema), written) is held


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("schema", [{"type": "object", "properties": {}}, tool()])
def test_a_call_without_arguments_is_written_as_the_template_does(
    family: str, schema: dict[str, Any]
) -> None:
    assert accepts(family, schema, FAMILIES[family].write([("f", {})]))


def test_a_call_may_leave_out_what_is_optional() -> None:
    schema = {**tool(a=TEXT), "required": list[str]()}
    for arguments in ({}, {"a": "x"}):
        assert accepts("Qwen3-Coder", schema, FAMILIES["Qwen3-Coder"].write([("f", arguments)]))


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("schema", [{"enum": ["a"]}, {"type": "string", "pattern": "^a$"}])
def test_blanks_are_no_part_of_what_a_schema_fixes(family: str, schema: dict[str, Any]) -> None:
    write = FAMILIES[family].write
    assert accepts(family, tool(a=schema), write([("f", {"a": "a"})]))
    for value in ("\na\n", " a", "a\n"):
        assert not accepts(family, tool(a=schema), write([("f", {"a": value})]))


def test_all_that_a_tool_declares_is_held() -> None:
    assert tool_grammar(tool(a=ADDRESS), ()).loosened == ()
