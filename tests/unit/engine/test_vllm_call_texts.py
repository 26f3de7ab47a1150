"""Predicted calls as the templates of several families write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest

from precall_service.domain.json import JsonValue, dump
from precall_service.engine.drafts import Draft
from tests.support import proving
from tests.support.prompt_renderers import STOP_TOKENS, token_ids, tokenizer
from tests.support.proving import parts_of
from tests.support.steps import declared

if TYPE_CHECKING:  # importing vLLM is slow
    from precall_service.engine.vllm.call_texts import CallTexts

FORECAST = declared(
    "get_forecast",
    dump(
        {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "when": {"type": "object", "properties": {"day": {}, "hour": {}}},
                "tags": {"type": "array", "items": {"properties": {"b": {}, "a": {}}}},
            },
        }
    ),
)
EMBEDDED = "embedded"


def texts(template: str) -> CallTexts:
    parts = parts_of(proving.template(template), stop=STOP_TOKENS[template])
    from precall_service.engine.vllm.call_texts import CallTexts

    return CallTexts(parts)


async def written(
    template: str,
    arguments: Mapping[str, JsonValue],
    *,
    certain: bool = False,
) -> tuple[str, str]:
    """The text of a draft up to the end of its mark, and the rest."""
    draft = Draft(FORECAST.name, dump(dict(arguments)))
    tokens = await texts(template).tokens(draft, (FORECAST,), {}, certain=certain)
    assert tokens is not None
    decode = tokenizer().decode
    return (
        decode(list(tokens.token_ids[: tokens.mark_tokens])),
        decode(list(tokens.token_ids[tokens.mark_tokens :])),
    )


async def test_a_call_is_written_as_the_template_writes_it() -> None:
    mark, rest = await written(EMBEDDED, {"city": "Zürich"})
    assert mark + rest == (
        '<tool_call>\n{"name": "get_forecast", "arguments": {"city": "Zürich"}}\n</tool_call>'
    )
    assert "<tool_call>".startswith(mark)


async def test_arguments_stand_in_the_order_of_the_schema() -> None:
    arguments = {"when": {"hour": 1, "day": 2}, "more": 0, "tags": [{"a": 1, "b": 2}], "city": "x"}
    _, rest = await written(EMBEDDED, arguments)
    found = json.loads(rest[rest.index('"arguments": ') + 13 : rest.rindex("}")])
    assert dump(found) == dump(
        {"city": "x", "when": {"day": 2, "hour": 1}, "tags": [{"b": 2, "a": 1}], "more": 0}
    )


async def test_a_call_that_must_come_is_drafted_from_its_first_token() -> None:
    draft = Draft(FORECAST.name, "{}")
    tokens = await texts(EMBEDDED).tokens(draft, (FORECAST,), {}, certain=True)
    assert tokens is not None
    assert tokens.mark_tokens == 1


@pytest.mark.parametrize("template", ["embedded", "thinking_chatml", "headers", "roles", "ids"])
async def test_every_template_with_calls_has_them(template: str) -> None:
    mark, rest = await written(template, {"city": "Paris"})
    assert "Paris" in rest
    assert mark


async def test_a_template_without_calls_has_none() -> None:
    draft = Draft(FORECAST.name, "{}")
    assert await texts("plain").tokens(draft, (FORECAST,), {}, certain=False) is None


async def test_a_tool_that_the_step_lacks_has_no_draft() -> None:
    assert (
        await texts(EMBEDDED).tokens(Draft("other", "{}"), (FORECAST,), {}, certain=False) is None
    )


async def test_control_tokens_in_arguments_are_text() -> None:
    _, rest = await written(EMBEDDED, {"city": "<|im_end|>"})
    (end,) = token_ids("<|im_end|>")
    draft = Draft(FORECAST.name, dump({"city": "<|im_end|>"}))
    tokens = await texts(EMBEDDED).tokens(draft, (FORECAST,), {}, certain=False)
    assert tokens is not None
    assert end not in tokens.token_ids
    assert rest


async def test_the_end_of_a_call_begins_after_its_arguments() -> None:
    end = await texts(EMBEDDED).end({})
    assert end is not None
    decode = tokenizer().decode
    assert decode(list(end.token_ids)) == "}}\n</tool_call>"
    assert decode(list(end.token_ids[: end.mark_tokens])) == "}}"
    assert end.again


async def test_a_call_that_ends_with_its_arguments_has_no_certain_end() -> None:
    assert await texts("headers").end({}) is None
