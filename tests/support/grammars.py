"""What a grammar lets a model write, asked of xgrammar itself."""

from __future__ import annotations

import json
from collections.abc import Sequence

from xgrammar import Grammar
from xgrammar.testing import _is_grammar_accept_string  # pyright: ignore[reportPrivateUsage]

from precall_service.domain.json import JsonObject, JsonValue
from precall_service.engine.vllm.grammars import AS_JSON
from precall_service.engine.vllm.tool_grammars import tool_grammar


def derivable(schema: JsonObject, values: Sequence[JsonValue]) -> list[bool]:
    """Which of the values a model could write under the grammar of a schema."""
    grammar = Grammar.from_ebnf(tool_grammar(schema, [AS_JSON]).texts[AS_JSON])
    return [
        _is_grammar_accept_string(grammar, json.dumps(value, ensure_ascii=False))
        for value in values
    ]


def fits(pattern: str, text: str) -> bool:
    """Whether a model could write this text under a pattern."""
    (found,) = derivable({"type": "string", "pattern": pattern}, [text])
    return found


def allowed(structural_tag: str, text: str) -> bool:
    """Whether a model could write this text under a structural tag."""
    grammar = Grammar.from_structural_tag(structural_tag)
    return _is_grammar_accept_string(grammar, text)
