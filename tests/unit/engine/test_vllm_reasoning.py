"""Reasoning that a grammar ends at a limit, on the tokens that the engine would sample."""

from __future__ import annotations

from typing import Any, Final

import pytest

from precall_service.domain.turn import ToolChoice
from tests.support.prompt_renderers import model_config, token_ids, tokenizer
from tests.support.steps import NONE, REQUIRED, declared

TOOLS = (declared("get_weather"),)
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
LIMIT: Final = 8


def marks() -> Any:
    model_tokenizer = tokenizer()  # first, since it imports vLLM as precall does
    from vllm.reasoning import ReasoningParserManager

    from precall_service.engine.vllm.reasoning import reasoning_marks

    parser_class: Any = ReasoningParserManager.get_reasoning_parser("qwen3")
    return reasoning_marks(parser_class(model_tokenizer), model_tokenizer)


def matcher(choice: ToolChoice, *, opened: bool) -> Any:
    """Accepts the tokens of a step one by one, as the engine does."""
    limited_to = marks()  # first, since it imports vLLM as precall does
    from vllm.parser.parser_manager import ParserManager
    from xgrammar import GrammarCompiler, GrammarMatcher, TokenizerInfo

    from precall_service.engine.vllm.plans import StepPlans
    from precall_service.engine.vllm.reasoning import ReasoningLimit

    parser_class = ParserManager.get_parser(
        tool_parser_name="hermes",
        reasoning_parser_name="qwen3",
        enable_auto_tools=True,
        tool_strict_level="parameter",
    )
    plans = StepPlans(parser_class, tokenizer(), model_config(), structured_calls=True)
    plans.limit_reasoning(
        ReasoningLimit(
            marks=limited_to, tokens_max=LIMIT, special_ids=frozenset(tokenizer().all_special_ids)
        )
    )
    params = plans.plan(TOOLS, choice, {"enable_thinking": True}).limited[opened]
    assert params.structural_tag is not None
    compiler = GrammarCompiler(TokenizerInfo.from_huggingface(tokenizer()))
    compiled: Any = compiler.compile_structural_tag(params.structural_tag)
    return GrammarMatcher(compiled)


def accepts(choice: ToolChoice, text: str, *, opened: bool = True) -> bool:
    """Whether a whole message is accepted."""
    matching = matcher(choice, opened=opened)
    tokens = (*token_ids(text), *token_ids("<|im_end|>"))
    return all(matching.accept_token(token) for token in tokens)


def allowed(matching: Any) -> set[int]:
    """The tokens that the engine may sample next."""
    from xgrammar import allocate_token_bitmask, testing

    size = len(tokenizer())
    mask: Any = allocate_token_bitmask(1, size)
    if not matching.fill_next_token_bitmask(mask):
        return set(range(size))
    masked: Any = testing._get_masked_tokens_from_bitmask(mask, size)  # pyright: ignore[reportPrivateUsage]
    return set(range(size)) - set(masked)


@pytest.mark.parametrize(
    ("choice", "text", "accepted"),
    [
        (ToolChoice(), "I know.\n</think>\n\nParis.", True),
        (ToolChoice(), "</think>Paris.", True),
        (ToolChoice(), f"Hm.\n</think>\n\n{CALL}", True),
        (ToolChoice(), f"Hm.\n</think>\n\nI look. {CALL}", True),
        (ToolChoice(), f"Hm.\n</think>\n\n{CALL.replace('city', 'town')}", False),
        (REQUIRED, f"Hm.\n</think>\n\n{CALL}", True),
        (REQUIRED, f"Hm.\n</think>{CALL}", True),
        (REQUIRED, "Hm.\n</think>\n\nParis.", False),
        (NONE, "Hm.\n</think>\n\nParis.", True),
        (ToolChoice(), "A thought without an end.", False),
        (ToolChoice(), "Well, <think> again.\n</think>\n\nParis.", False),
    ],
)
def test_a_thought_ends_before_the_call_or_the_answer(
    choice: ToolChoice, text: str, accepted: bool
) -> None:
    assert accepts(choice, text) == accepted


def test_a_model_that_begins_its_thought_itself_has_to() -> None:
    assert accepts(REQUIRED, f"<think>\nHm.\n</think>\n\n{CALL}", opened=False)
    assert not accepts(REQUIRED, f"\nHm.\n</think>\n\n{CALL}", opened=False)
    assert not accepts(ToolChoice(), "Paris.", opened=False)


def test_only_the_end_of_the_thought_is_left_at_the_limit() -> None:
    matching = matcher(REQUIRED, opened=True)
    (word,) = token_ids("a")
    for _ in range(LIMIT):
        assert word in allowed(matching)
        assert matching.accept_token(word)
    assert allowed(matching) == set(token_ids("</think>"))


def test_no_message_ends_within_its_thought() -> None:
    for end in ("<|im_end|>", "<|endoftext|>"):
        assert not matcher(ToolChoice(), opened=True).accept_token(token_ids(end)[0])


@pytest.mark.parametrize(
    ("text", "opened"),
    [
        ("<think>\n", True),
        ("<think>\nHm.\n</think>\n\n", False),
        ("<think>\nHm.\n</think>\n\nParis.<|im_end|>\n<think>\n", True),
        ("Paris.", False),
    ],
)
def test_the_last_mark_says_whether_a_thought_is_open(text: str, opened: bool) -> None:
    assert marks().opened_in(token_ids(text)) == opened


def test_marks_of_several_tokens_are_none() -> None:
    model_tokenizer = tokenizer()  # first, since it imports vLLM as precall does
    from precall_service.engine.vllm.reasoning import reasoning_marks

    class Parser:
        reasoning_start_str = "<a thought>"
        reasoning_end_str = "</a thought>"

    parser: Any = Parser()
    assert reasoning_marks(parser, model_tokenizer) is None
