"""Templates are shown tools as they expect them; what they may not do is said in words."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from precall_service.engine.base import TemplateRefusedError
from precall_service.engine.chat import chat_tools
from tests.support.prompt_renderers import prompt_renderer
from tests.support.steps import asked, declared


@pytest.mark.parametrize(
    ("schema", "shown"),
    [
        ({"type": ["string", "null"]}, {"type": "string", "nullable": True}),
        (
            {"type": ["null", "string"], "enum": ["a", None]},
            {"type": "string", "nullable": True, "enum": ["a", None]},
        ),
        (
            {"type": ["string", "integer", "null"]},
            {"type": ["string", "integer"], "nullable": True},
        ),
        ({"type": ["string", "integer"]}, {"type": ["string", "integer"]}),
        ({"type": ["null"]}, {"type": ["null"]}),
        (
            {"type": "array", "items": {"type": ["number", "null"]}},
            {"type": "array", "items": {"type": "number", "nullable": True}},
        ),
        (
            {"anyOf": [{"type": ["number", "null"]}, True]},
            {"anyOf": [{"type": "number", "nullable": True}, True]},
        ),
        ({"const": {"type": ["string", "null"]}}, {"const": {"type": ["string", "null"]}}),
    ],
)
def test_a_type_that_may_be_null_is_one_type(schema: Any, shown: Any) -> None:
    def tool(part: Any) -> dict[str, Any]:
        return {"type": "object", "properties": {"type": part}}

    (found,) = chat_tools([declared("f", json.dumps(tool(schema)))])
    assert found["function"]["parameters"] == tool(shown)


async def test_a_template_that_changes_a_list_is_refused_in_words() -> None:
    renderer = copy.copy(prompt_renderer("plain"))
    renderer._chat_template = "{% set ids = [] %}{% set _ = ids.append(1) %}{{ messages }}"
    with pytest.raises(TemplateRefusedError, match=r"cannot change lists .* --chat-template"):
        await renderer.rendered(asked("Hello"), ready=True)
