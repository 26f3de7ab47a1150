"""What a grammar leaves no choice about is written in the tokenizer's own tokens."""

from __future__ import annotations

import functools
import itertools
import json
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import pytest
import xgrammar

from precall_service.domain.json import JsonObject
from precall_service.engine.vllm.grammars import AS_JSON
from precall_service.engine.vllm.tool_grammars import tool_grammar
from tests.support.prompt_renderers import tokenizer

if TYPE_CHECKING:  # it imports vLLM
    from precall_service.engine.vllm.certain_text import SpelledGrammar

CALL: Final = '{"player_name": "John", "unit": "degrees_celsius"}'
SCHEMA: Final[JsonObject] = {
    "type": "object",
    "properties": {
        "player_name": {"type": "string"},
        "unit": {"enum": ["degrees_celsius", "degrees_fahrenheit", 7]},
        "more": {"type": "array", "items": {"type": "boolean"}},
    },
    "required": ["player_name", "unit"],
}


@functools.cache
def tokenizer_info() -> xgrammar.TokenizerInfo:
    return xgrammar.TokenizerInfo.from_huggingface(tokenizer())


def encoded(text: str) -> list[int]:
    return tokenizer().encode(text, add_special_tokens=False)


def spelled(schema: JsonObject) -> SpelledGrammar:
    """The grammar of a tool's arguments, as vLLM makes it of ours."""
    return grammar_of(tool_grammar(schema, [AS_JSON]).texts[AS_JSON])


def grammar_of(ebnf: str) -> SpelledGrammar:
    model = tokenizer()
    from vllm.v1.structured_output.backend_xgrammar import XgrammarGrammar

    from precall_service.engine.vllm.certain_text import (
        SpelledGrammar,
        Speller,
    )

    compiler = xgrammar.GrammarCompiler(tokenizer_info())
    ctx = compiler.compile_grammar(xgrammar.Grammar.from_ebnf(ebnf))
    made = XgrammarGrammar(
        vocab_size=ctx.tokenizer_info.vocab_size,
        matcher=xgrammar.GrammarMatcher(ctx),
        ctx=ctx,
    )
    return SpelledGrammar(made, Speller(model))


def masked(grammar: SpelledGrammar) -> list[int]:
    """The mask of the next token, as words of 32 bits."""
    mask = xgrammar.allocate_token_bitmask(1, grammar.vocab_size)
    grammar.fill_bitmask(mask, 0)
    return cast("Any", mask[0]).tolist()


def allowed(grammar: SpelledGrammar) -> list[int]:
    """The tokens that the model may write next."""
    return [
        32 * index + bit
        for index, word in enumerate(masked(grammar))
        for bit in range(32)
        if word >> bit & 1
    ]


def texts(token_ids: Sequence[int]) -> list[str]:
    return [tokenizer().decode([token]) for token in token_ids]


def ways(grammar: SpelledGrammar, token_ids: Sequence[int]) -> list[int]:
    """How many tokens are allowed in the place of each token."""
    counts: list[int] = []
    for token in token_ids:
        mask = allowed(grammar)
        assert token in mask
        counts.append(len(mask))
        assert grammar.accept_tokens("a", [token])
    return counts


def test_names_are_written_in_the_tokens_of_the_tokenizer() -> None:
    written = encoded(CALL)
    counts = ways(spelled(SCHEMA), written)
    certain = [text for text, count in zip(texts(written), counts, strict=True) if count == 1]
    names = ['{"', "player", "_", "name", '":', ' "', "unit", '":', "degrees", "_", "elsius"]
    assert certain == names


def test_the_last_word_of_a_certain_text_may_go_on() -> None:
    """Both begin with "gett", and neither is written "get", "t"."""
    schema: JsonObject = {"enum": ["getting x", "getter x"]}
    grammar = spelled(schema)
    assert texts(allowed(grammar)) == ['"']
    assert grammar.accept_tokens("a", allowed(grammar))
    assert grammar.matcher.find_jump_forward_string() == "gett"
    assert {"get", "getting", "getter"} <= set(texts(allowed(grammar)))


def test_a_text_that_may_end_may_end() -> None:
    grammar = grammar_of('root ::= "one two" (" three four")*')
    stops = set(tokenizer_info().stop_token_ids)
    assert not stops & set(allowed(grammar))
    assert grammar.accept_tokens("a", encoded("one two"))
    assert stops & set(allowed(grammar))
    assert encoded(" three")[0] in allowed(grammar)


def test_a_value_is_free() -> None:
    grammar = spelled(SCHEMA)
    begin = encoded('{"player_name": "')
    assert grammar.accept_tokens("a", begin)
    assert len(allowed(grammar)) > 40_000


def test_an_unusual_beginning_is_continued_in_the_tokens_of_the_tokenizer() -> None:
    """As after a text that was free: the mask before may have allowed a piece of what follows."""
    grammar = spelled(SCHEMA)
    pieces = [tokenizer().convert_tokens_to_ids(each) for each in ("{", '"')]
    for piece in pieces:
        assert grammar.matcher.accept_token(piece)
        grammar.num_processed_tokens += 1
    assert texts(allowed(grammar)) == ["player"]


@pytest.mark.parametrize("text", ["ab cd " * 2000, "漢字 " * 20], ids=["long", "characters"])
def test_a_constant_is_written_in_the_tokens_of_the_tokenizer(text: str) -> None:
    """A long one is read in parts. No text is known within a character of several tokens."""
    written = encoded(json.dumps({"a": text}, ensure_ascii=False))
    schema: JsonObject = {"type": "object", "properties": {"a": {"const": text}}, "required": ["a"]}
    counts = ways(spelled(schema), written)
    within = sum(tokenizer().decode([token]) == "�" for token in written)
    assert counts.count(1) >= 0.95 * (len(written) - within)


def test_a_tokenizer_that_tells_no_words_spells_nothing() -> None:
    tokenizer()
    from precall_service.engine.vllm.certain_text import Speller

    assert Speller(object()).first("a text of words") is None


@pytest.mark.parametrize("seed", range(6))
def test_any_walk_has_a_way_on_and_is_the_same_after_a_step_back(seed: int) -> None:
    """As with drafts: vLLM accepts their tokens for the masks of a step, and takes them back."""
    chance = random.Random(seed)
    grammar, path = spelled(SCHEMA), list[int]()
    while not grammar.is_terminated() and len(path) < 60:
        ahead: list[int] = []
        masks: list[list[int]] = []
        for _ in range(chance.randrange(1, 8)):
            masks.append(masked(grammar))
            tokens = allowed(grammar)
            assert tokens, texts([*path, *ahead])
            ends = [each for each in tokens if '"' in texts([each])[0]] or tokens
            token = chance.choice(ends if chance.random() < 0.5 else tokens)
            assert grammar.accept_tokens("a", [token])
            ahead.append(token)
            if grammar.is_terminated():
                break
        back = chance.randrange(len(ahead) + 1)
        grammar.rollback(back)
        kept = ahead[: len(ahead) - back]
        if back:
            assert masked(grammar) == masks[len(kept)]
        path += kept
        fresh = spelled(SCHEMA)
        assert all(fresh.accept_tokens("a", [each]) for each in path)
        if not grammar.is_terminated():
            assert sorted(allowed(fresh)) == sorted(allowed(grammar))


def test_what_was_certain_on_another_way_is_forgotten() -> None:
    """Two ways of the same length, one after the other, with a step back between them."""
    grammar = spelled({"anyOf": [{"const": {"a": "x y z"}}, {"const": {"b": "u v w"}}]})
    ids = {text: encoded(text) for text in ('{"a": "x y z"}', '{"b": "u v w"}')}
    for text in itertools.chain(ids, ids):
        ways(grammar, ids[text])
        grammar.rollback(len(ids[text]))
