"""Finds a text that a grammar of calls allows, so that a parser can be asked whether it reads it.

Never: a model's tokens; the grammar is walked byte by byte.
"""

from __future__ import annotations

import json
from typing import Any, Final, cast

import torch
from vllm.sampling_params import StructuredOutputsParams
from vllm.tool_parsers.structural_tag_registry import limit_to_single_tool_call
from xgrammar import (
    CompiledGrammar,
    GrammarCompiler,
    GrammarMatcher,
    StructuralTag,
    TokenizerInfo,
    VocabType,
    allocate_token_bitmask,
)

_END: Final = 256
"""The token that ends a text; each token before it is a byte."""

_BYTES_MAX: Final = 2048
"""Longer than any call of a probe: a walk that goes on has lost its way in a free text."""

_ORDER: Final = {
    **dict.fromkeys(b"]}<", 0),
    ord("{"): 1,
    ord('"'): 2,
    ord("\n"): 4,
    **dict.fromkeys(b" \t\r", 5),
}
_OTHERS: Final = 3
"""What closes something is taken first, for any value an empty object, and blanks last: grammars
allow any number of them."""


def derived_text(outputs: StructuredOutputsParams) -> str | None:
    """A text with one call that the grammar allows; None if a greedy walk finds none."""
    try:
        matcher = GrammarMatcher(_compiled(outputs))
        walked = _walked(matcher)
        return None if walked is None else walked.decode()
    except (
        RuntimeError,
        ValueError,
    ):  # a grammar that names tokens of a model, or half a character
        return None


def _compiled(outputs: StructuredOutputsParams) -> CompiledGrammar:
    alphabet = [bytes([byte]) for byte in range(_END)]
    compiler = GrammarCompiler(
        TokenizerInfo([*alphabet, b"<end>"], vocab_type=VocabType.RAW, stop_token_ids=[_END]),
        cache_enabled=False,
    )
    if outputs.structural_tag is not None:
        tag = StructuralTag.model_validate_json(outputs.structural_tag)
        return compiler.compile_structural_tag(limit_to_single_tool_call(tag))
    schema = cast("str | dict[str, Any] | None", outputs.json)
    if schema is not None:
        text = schema if isinstance(schema, str) else json.dumps(schema)
        return compiler.compile_json_schema(text, any_whitespace=False)
    raise ValueError("neither a structural tag nor a schema")


def _walked(matcher: GrammarMatcher) -> bytes | None:
    """Takes what the grammar forces, ends where it may, and closes what it can."""
    bitmask = allocate_token_bitmask(1, _END + 1)
    walked = bytearray()
    while len(walked) < _BYTES_MAX:
        matcher.fill_next_token_bitmask(bitmask)
        allowed = _members(bitmask)
        if _END in allowed:
            return bytes(walked)
        if not allowed:
            return None
        byte = min(allowed, key=lambda each: _ORDER.get(each, _OTHERS))
        matcher.accept_token(byte)
        walked.append(byte)
    return None


def _members(bitmask: torch.Tensor) -> list[int]:
    words = cast("list[int]", cast("Any", bitmask)[0].tolist())
    return [token for token in range(_END + 1) if words[token // 32] >> (token % 32) & 1]
