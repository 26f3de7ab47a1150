"""What a model writes in the place of tokens is put into the drafts that follow."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from precall_service.engine.vllm.spelling import ENTRIES_MAX, EXPECTED_MAX, WRITTEN_MAX, Spelling


def test_nothing_is_changed_before_anything_is_learned() -> None:
    assert Spelling().spelled([1, 2, 3]) == (1, 2, 3)


def test_what_was_learned_last_counts() -> None:
    spelling = Spelling()
    spelling.learn([1, 2], [3])
    spelling.learn([1, 2], [4, 5])
    assert spelling.spelled([0, 1, 2, 1, 2, 1]) == (0, 4, 5, 4, 5, 1)


def test_the_longest_beginning_counts() -> None:
    spelling = Spelling()
    spelling.learn([1], [7])
    spelling.learn([1, 2, 3], [8])
    assert spelling.spelled([1, 2, 3, 1, 2]) == (8, 7, 2)


def test_a_model_that_writes_as_its_tokenizer_again_is_believed() -> None:
    spelling = Spelling()
    spelling.learn([1], [2, 3])
    spelling.learn([2, 3], [1])
    assert spelling.spelled([1]) == (1,)
    assert spelling.spelled([2, 3]) == (2, 3)


def test_long_passages_are_not_kept() -> None:
    spelling = Spelling()
    long = list(range(EXPECTED_MAX + 1))
    spelling.learn(long, [9])
    spelling.learn([1], [9] * (WRITTEN_MAX + 1))
    spelling.learn([], [9])
    spelling.learn([1], [])
    assert spelling.spelled(long) == tuple(long)


def test_the_oldest_are_forgotten() -> None:
    spelling = Spelling()
    for token in range(ENTRIES_MAX + 1):
        spelling.learn([token], [token, token])
    assert spelling.spelled([0, 1]) == (0, 1, 1)


TEXTS = {1: "a", 2: "b", 3: "ab", 4: "ba", 5: "bab"}
any_tokens = st.lists(st.sampled_from(list(TEXTS)), max_size=6)


def text_of(token_ids: Sequence[int]) -> str:
    return "".join(TEXTS[each] for each in token_ids)


@given(st.lists(st.tuples(any_tokens, st.booleans()), max_size=20), any_tokens)
def test_the_text_stays_the_same(learned: list[tuple[list[int], bool]], given: list[int]) -> None:
    spelling = Spelling()
    for tokens, joined in learned:
        letters = ["ab".index(letter) + 1 for letter in text_of(tokens)]
        spelling.learn(*((letters, tokens) if joined else (tokens, letters)))
    assert text_of(spelling.spelled(given)) == text_of(given)
