"""Drafts with steps that are scheduled ahead: vLLM's scheduler and our proposer, without a GPU.

The worker is simulated (tests/support/async_engine.py), so these tests say nothing of CUDA.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precall_service.engine.vllm.drafts import DraftTokens
from precall_service.engine.vllm.proposing import AHEAD_TOKENS_A_STEP
from tests.support.prompt_renderers import tokenizer

if TYPE_CHECKING:  # importing vLLM is slow
    from tests.support.async_engine import SimulatedEngine

CALL = (
    '<tool_call>\n{"name": "get_forecast", "arguments": {"city": "Paris", "reason": "The user has '
    'asked for the weather of the next few days, and wants to know why it rains", "days": 3}}\n'
    "</tool_call>"
)
OTHER = CALL.replace("Paris", "Lima").replace("rains", "snows")
END = [2]
"""The end of a message."""

Make = Callable[..., "SimulatedEngine"]


@pytest.fixture(scope="module")
def make() -> Make:
    tokenizer()  # first, since it imports vLLM as precall does
    from vllm.v1.structured_output import StructuredOutputManager

    from tests.support.async_engine import SimulatedEngine, engine_config

    config = engine_config()
    return functools.partial(SimulatedEngine, config, StructuredOutputManager(config))


def tokens(text: str) -> list[int]:
    return tokenizer().encode(text, add_special_tokens=False)


def spelled(text: str) -> list[int]:
    """The tokens of a model that writes each character by itself."""
    return [token for character in text for token in tokens(character)]


def draft(text: str, *, mark: int = 1, number: int = 0, again: bool = False) -> DraftTokens:
    return DraftTokens(token_ids=tuple(tokens(text)), mark_tokens=mark, number=number, again=again)


LEAD = "I should look that up first. "


def written(lead: str = LEAD, call: str = CALL) -> list[int]:
    return [*tokens(lead), *tokens(call), *END, *[0] * 300]


def upto_end(text: Sequence[int]) -> list[int]:
    return list(text[: text.index(END[0]) + 1])


def accounts(engine: SimulatedEngine, name: str) -> tuple[list[int], list[int]]:
    metrics: Any = engine.metrics[name]
    return metrics.per_step_drafted, metrics.per_step_accepted


def test_without_drafts_nothing_is_verified(make: Make) -> None:
    engine = make()
    engine.add("a", written(), stop=END)
    engine.run()
    assert engine.outputs["a"] == upto_end(written())
    assert set(engine.widths) == {0}


def test_a_right_draft_is_kept(make: Make) -> None:
    engine = make()
    engine.add("a", written(), [draft(CALL)], stop=END)
    steps = engine.run()
    assert engine.outputs["a"] == upto_end(written())
    assert steps < len(tokens(LEAD)) + 8
    (proposed,), (accepted,) = accounts(engine, "a")
    assert len(tokens(CALL)) - 5 < accepted <= proposed
    assert not engine.held


def test_a_draft_that_comes_while_the_step_runs_is_kept(make: Make) -> None:
    engine = make()
    engine.add("a", written(), stop=END)
    engine.run(6)
    engine.stage("a", draft(CALL))
    steps = engine.run()
    assert engine.outputs["a"] == upto_end(written())
    assert steps < len(tokens(LEAD)) + 8


def test_a_draft_of_what_is_being_written_is_joined(make: Make) -> None:
    engine = make()
    engine.add("a", written(), stop=END)
    engine.run(len(tokens(LEAD)) + 10)
    engine.stage("a", draft(CALL))
    assert engine.run() < 10
    assert engine.outputs["a"] == upto_end(written())


def test_a_wrong_draft_costs_two_wide_steps_at_most(make: Make) -> None:
    engine = make()
    engine.add("a", written(), [draft(CALL[:40] + " nothing of this is written")], stop=END)
    engine.run()
    assert engine.outputs["a"] == upto_end(written())
    assert 0 < sum(width > 0 for width in engine.widths) <= 2


def test_the_next_draft_is_followed_where_the_first_one_is_wrong(make: Make) -> None:
    engine = make()
    engine.add("a", written(), [draft(OTHER, number=0), draft(CALL, number=1)], stop=END)
    steps = engine.run()
    assert engine.outputs["a"] == upto_end(written())
    assert steps < len(tokens(LEAD)) + 14
    proposed, accepted = accounts(engine, "a")
    assert proposed[0] > accepted[0]
    assert accepted[1] > len(tokens(CALL)) / 2


def test_a_draft_is_found_again_in_other_tokens(make: Make) -> None:
    """The model spells the beginning of the call, and then goes on as the tokenizer would."""
    engine = make()
    at = CALL.index('"city"')
    text = [*spelled(CALL[:at]), *tokens(CALL[at:]), *END, *[0] * 300]
    engine.add("a", text, [draft(CALL)], stop=END)
    steps = engine.run()
    assert engine.outputs["a"] == upto_end(text)
    assert steps < len(spelled(CALL[:at])) + 16


@pytest.mark.parametrize("max_tokens", range(1, 46, 3))
def test_a_limit_inside_a_draft_is_kept(make: Make, max_tokens: int) -> None:
    engine = make()
    engine.add("a", written(), [draft(CALL)], max_tokens=max_tokens)
    engine.run()
    assert engine.outputs["a"] == written()[:max_tokens]


def test_the_end_of_the_context_inside_a_draft_is_kept(make: Make) -> None:
    from tests.support.async_engine import CONTEXT_TOKENS

    engine = make()
    prompt = [5] * (CONTEXT_TOKENS - len(tokens(LEAD)) - 20)
    engine.add("a", written(), [draft(CALL)], prompt=prompt)
    engine.run()
    assert engine.outputs["a"] == written()[: len(tokens(LEAD)) + 20]


def test_a_stop_token_is_not_proposed(make: Make) -> None:
    engine = make()
    stop = tokens(CALL)[12]
    engine.add("a", written(), [draft(CALL)], stop=[stop])
    engine.run()
    text = written()
    assert engine.outputs["a"] == text[: text.index(stop) + 1]


def test_a_request_that_is_given_up_leaves_nothing(make: Make) -> None:
    engine = make()
    for number in range(len(tokens(LEAD)), len(tokens(LEAD)) + 6):
        engine.add("a", written(), [draft(CALL)], stop=END)
        engine.run(number)
        engine.abort("a")
        engine.run()
        assert not engine.held


def test_requests_side_by_side(make: Make) -> None:
    """More than run at once, each with its own draft, some wrong and some without."""
    engine = make()
    texts: dict[str, list[int]] = {}
    for number in range(9):
        name, lead = f"r{number}", "word " * (3 * number)
        texts[name] = written(lead, OTHER if number % 2 else CALL)
        given = [[draft(CALL)], [draft(OTHER)], []][number % 3]
        engine.add(name, texts[name], given, prompt=[number + 1] * (7 * number + 1), stop=END)
    engine.run()
    assert engine.outputs == {name: upto_end(text) for name, text in texts.items()}
    assert any(engine.widths)
    assert not engine.held


def test_requests_that_are_preempted_go_on(make: Make) -> None:
    engine = make(blocks=24)
    texts = {f"r{number}": written("word " * (20 + number)) for number in range(4)}
    for name, text in texts.items():
        engine.add(name, text, [draft(CALL)], prompt=[3] * 40, stop=END)
    engine.run()
    assert engine.outputs == {name: upto_end(text) for name, text in texts.items()}


def test_no_row_is_given_more_than_a_step_verifies(make: Make) -> None:
    engine = make()
    engine.add("a", written(call=CALL * 3), [draft(CALL * 3)], stop=END, max_tokens=300)
    engine.run()
    assert engine.outputs["a"] == upto_end(written(call=CALL * 3))
    assert max(engine.widths) == AHEAD_TOKENS_A_STEP


PARTS = ["<tool_call>", '{"', "city", '": "', "Paris", "Lima", '"}', " ", "\n", "</tool_call>"]
any_text = st.lists(st.sampled_from(PARTS), min_size=1, max_size=12).map("".join)


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(any_text, st.booleans(), st.lists(any_text, max_size=3), st.integers(1, 40)),
        min_size=1,
        max_size=5,
    ),
    st.lists(st.tuples(st.integers(0, 4), any_text, st.integers(0, 12)), max_size=3),
)
def test_no_draft_changes_what_is_written(
    make: Make,
    requests: list[tuple[str, bool, list[str], int]],
    late: list[tuple[int, str, int]],
) -> None:
    engine = make()
    texts: dict[str, list[int]] = {}
    for number, (text, spells, drafts, max_tokens) in enumerate(requests):
        name = f"r{number}"
        ids = [*(spelled if spells else tokens)(text), *END, *[0] * 300]
        texts[name] = upto_end(ids)[:max_tokens]
        given_drafts = [draft(each, number=index) for index, each in enumerate(drafts)]
        engine.add(name, ids, given_drafts, max_tokens=max_tokens, stop=END)
    for number, text, steps in late:
        engine.run(steps)
        engine.stage(f"r{number}", draft(text, again=True))
    engine.run()
    assert engine.outputs == texts
    assert not engine.held
