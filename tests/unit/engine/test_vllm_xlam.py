"""Models that write calls as a bare JSON array, such as xLAM-2, are read to the end.

vLLM's parser for them writes the arguments of the last call twice when it streams. Nothing that a
step tells relies on that: a call ends with its JSON object, and the whole message is read again
when it has ended with a call still open.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from precall_service.domain.json import JsonValue
from precall_service.domain.turn import ToolChoice, ToolChoiceMode
from precall_service.engine.base import Finish
from precall_service.engine.families import choose_parsers
from precall_service.engine.findings import Subject
from tests.support.prompt_renderers import tokenizer
from tests.support.proving import limits, parts_of, proved
from tests.support.steps import calls_of, declared

TEMPLATE = """\
{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}
{{- messages[0].content + '\\n' }}{% set messages = messages[1:] %}
{%- endif %}
{%- if tools %}
{{- 'When using tools, make calls in a single JSON array:' }}
{{- '[{"name": "tool_call_name", "arguments": {"arg1": "value1"}}, ...]\\n' }}
{%- for tool in tools %}{{ tool | tojson(indent=4) }}{% endfor %}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>tool\\n' + message.content + '<|im_end|>\\n' }}
{%- elif message.tool_calls %}
{{- '<|im_start|>assistant\\n[' }}
{%- for call in message.tool_calls %}
{{- call.function | tojson }}{{ '' if loop.last else ', ' }}
{%- endfor %}
{{- ']<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
"""In the form of xLAM-2's templates."""

Call = tuple[str, dict[str, JsonValue]]

ROME: Call = ("look_up", {"city": "Rome"})
ODD: Call = ("look_up", {"city": 'a}]", {"name": "x"', "at": {"x": [1, {"y": "}"}]}})
NONE: Call = ("list_all", {})
SIZES = {"token by token": 1, "three tokens": 3, "all at once": 1 << 20}


def test_its_parser_is_chosen_from_its_template() -> None:
    parsers = choose_parsers({"model_type": "qwen2"}, TEMPLATE)
    assert (parsers.tool, parsers.reasoning) == ("xlam", None)


async def test_what_was_proved_of_it() -> None:
    findings = await proved(parts_of(TEMPLATE))
    assert findings.hold(Subject.TOOL_CALLS)
    assert findings.hold(Subject.PARALLEL_CALLS)
    assert findings.hold(Subject.REQUIRED_CALLS)
    assert "not held to their schemas" in limits(findings)[Subject.SCHEMAS]


@pytest.mark.parametrize("mode", [ToolChoiceMode.AUTO, ToolChoiceMode.REQUIRED])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(
    "calls", [[ROME], [ROME, NONE], [ODD, ROME], [NONE]], ids=["one", "two", "odd", "empty"]
)
def test_calls_are_read_to_their_end(
    calls: Sequence[Call], size: int, mode: ToolChoiceMode
) -> None:
    parts = parts_of(TEMPLATE)
    from precall_service.engine.vllm.parsing import StepParser

    schema = json.dumps({"type": "object", "properties": {"city": {"type": "string"}}})
    plan = parts.plans.plan(
        (declared("look_up", schema), declared("list_all", schema)), ToolChoice(mode=mode)
    )
    assert plan.make_parser is not None
    key = "arguments" if mode is ToolChoiceMode.AUTO else "parameters"  # vLLM's own form
    written = json.dumps([{"name": name, key: given} for name, given in calls])
    ids = tokenizer().encode(written, add_special_tokens=False)
    parser = StepParser(plan.make_parser, plan.request, [1], parts.special_tokens)
    pieces = [
        piece
        for start in range(0, len(ids), size)
        for piece in parser.feed(
            tokenizer().decode(ids[start : start + size]), ids[start : start + size]
        )
    ]
    pieces += parser.end(Finish.STOP, written, ids)
    found = [(each.tool_name, json.loads(each.arguments_json)) for each in calls_of(pieces)]
    assert sorted(found, key=str) == sorted(calls, key=str)
    assert parser.stray_call is None
