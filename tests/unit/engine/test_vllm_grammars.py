"""Grammars for calls are narrowed to one form if they offer several, and not otherwise."""

from __future__ import annotations

import json
from typing import Any

from precall_service.domain.json import JsonObject

MARKS = ("<call>", ">")


def call_tag(begin: str, schema: JsonObject, style: str = "json") -> dict[str, Any]:
    content = {"type": "json_schema", "json_schema": schema, "style": style}
    return {"type": "tag", "begin": begin, "content": content, "end": "</call>"}


def written_as_templates_do(form: dict[str, Any]) -> dict[str, Any]:
    from precall_service.engine.vllm.grammars import (
        CallForm,
        arguments_grammar,
        as_templates_write,
    )

    tag = json.dumps({"type": "structural_tag", "format": form})
    written = as_templates_write(tag, ["look"], CallForm(*MARKS), arguments_grammar)
    return json.loads(written)["format"]


def test_the_templates_own_form_is_kept_of_several() -> None:
    tags = [call_tag("<call>\nlook>", {}), call_tag("<call>look>", {})]
    for kind in ("triggered_tags", "tags_with_separator"):
        left = written_as_templates_do({"type": kind, "tags": tags})["tags"]
        assert [tag["begin"] for tag in left] == ["<call>look>"]


def test_elements_around_a_call_are_kept() -> None:
    elements = [{"type": "tag", "begin": "<think>"}, call_tag("<call>look>", {})]
    written = written_as_templates_do({"type": "sequence", "elements": elements})
    assert [element["begin"] for element in written["elements"]] == ["<think>", "<call>look>"]


def test_all_forms_are_kept_if_the_template_writes_none_of_them() -> None:
    tags = [call_tag("[look]", {}), call_tag("[ look ]", {})]
    assert len(written_as_templates_do({"type": "triggered_tags", "tags": tags})["tags"]) == 2


def test_a_schema_is_not_read_as_a_grammar() -> None:
    schema = {"enum": [{"type": "json_schema"}, {"tags": [1, {"begin": "<call>look>"}]}]}
    tag = call_tag("<call>look>", schema, style="qwen_xml")
    assert written_as_templates_do(tag) == tag
