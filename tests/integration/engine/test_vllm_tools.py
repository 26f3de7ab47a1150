"""Tools of any schema that is accepted: judged in time, and every turn with them begins one."""

from __future__ import annotations

import json

import pytest

from precall_service.engine.base import Engine
from tests.support.hostile_schemas import FORESEEN, UNFORESEEN, wide
from tests.support.steps import REQUIRED, asked, declared, heard, step_spec

ALL = {**FORESEEN, **UNFORESEEN}


@pytest.mark.parametrize("name", ALL)
async def test_a_tool_of_any_schema_is_judged_and_then_called(
    vllm_engine: Engine, name: str
) -> None:
    schema, loosened = ALL[name]
    tool = declared(f"tool_{list(ALL).index(name)}", schema=json.dumps(schema))
    [judged] = await vllm_engine.judge([tool], "tenant")
    assert [keyword.path for keyword in judged] == loosened
    prompt = await vllm_engine.render(asked("Call the tool."))
    spec = step_spec(max_tokens=32, tools=(tool,), tool_choice=REQUIRED)
    said = await heard(vllm_engine.generate(prompt, spec))
    assert f'"name": "{tool.name}", "arguments": {{' in said.end.raw_text


async def test_many_costly_tools_share_what_one_turn_may(
    vllm_engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """Tools of 1,000 properties: those that do not fit are held to any object."""
    tools = tuple(declared(f"wide_{n}", schema=json.dumps(wide(1000, n))) for n in range(16))
    assert not any(await vllm_engine.judge(tools, "tenant"))
    prompt = await vllm_engine.render(asked("Call a tool."))
    spec = step_spec(max_tokens=8, tools=tools, tool_choice=REQUIRED)
    await heard(vllm_engine.generate(prompt, spec))
    assert "are held to no schema in a turn with all of them" in caplog.text
