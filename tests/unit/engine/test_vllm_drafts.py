"""How a generation is followed through its drafts, on a vocabulary of a few texts."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from precall_service.engine.vllm.drafts import (
    DRAFT_TOKENS_MAX,
    DRAFTS_MAX,
    MISFITS_MAX,
    DraftTokens,
    Proposal,
    StagedDrafts,
)

VOCABULARY = (
    *("<", "call", ">", "<call>", "</", "</call>", "END", " "),
    *('{"', "city", '":', ' "', "Paris", "Lyon", '"', "}", '"}'),
)
TEXTS = [text.encode() for text in VOCABULARY]
IDS = {text: index for index, text in enumerate(VOCABULARY)}
STOP = frozenset({IDS["END"]})


def ids(*texts: str) -> list[int]:
    return [IDS[text] for text in texts]


def draft(*texts: str, mark: int = 1, again: bool = False, number: int = 0) -> DraftTokens:
    return DraftTokens(token_ids=tuple(ids(*texts)), mark_tokens=mark, again=again, number=number)


PARIS = ("<", "call", ">", '{"', "city", '":', ' "', "Paris", '"', "}", "</", "call", ">")
LYON = tuple("Lyon" if text == "Paris" else text for text in PARIS)


def staged(*drafts: DraftTokens, output: Sequence[int] = ()) -> StagedDrafts:
    found = StagedDrafts(TEXTS)
    found.stage(drafts, output)
    return found


def proposal(found: StagedDrafts, output: Sequence[int], tokens_max: int = 64) -> Proposal:
    found.follow(output)
    proposed = found.propose(tokens_max, STOP)
    assert proposed is not None
    return proposed


def proposed(found: StagedDrafts, output: Sequence[int], tokens_max: int = 64) -> list[int]:
    found.follow(output)
    proposed = found.propose(tokens_max, STOP)
    return [] if proposed is None else list(proposed.token_ids)


def rejected(
    found: StagedDrafts, proposal: Proposal, output: Sequence[int], *, sampled: int
) -> None:
    found.follow(output)
    found.rejected(proposal, output, sampled)


def test_the_rest_is_proposed_once_the_mark_is_written() -> None:
    found = staged(draft(*PARIS, mark=3))
    assert proposed(found, ids("<")) == []
    assert proposed(found, ids("<", "call")) == []
    assert proposed(found, ids("<", "call", ">")) == ids(*PARIS[3:])


def test_a_draft_is_found_behind_other_text() -> None:
    found = staged(draft(*PARIS))
    assert proposed(found, ids(" ", "city", "<", "<", "call")) == ids(*PARIS[2:])


def test_a_mark_in_other_tokens_is_a_mark() -> None:
    found = staged(draft(*PARIS, mark=3))
    assert proposed(found, ids("<call>")) == ids(*PARIS[3:])


def test_nothing_is_proposed_in_the_middle_of_a_token_of_the_draft() -> None:
    """Until the tokens agree again."""
    found = staged(draft("<call>", '{"', "city"))
    assert proposed(found, ids("<", "call")) == []
    assert proposed(found, ids("<", "call", ">")) == ids('{"', "city")


def test_drafts_that_come_late_are_followed_from_where_the_generation_stands() -> None:
    found = staged(draft(*PARIS), output=ids(" ", *PARIS[:5]))
    assert proposed(found, ids(" ", *PARIS[:5])) == ids(*PARIS[5:])


def test_a_draft_that_was_written_comes_after_those_that_were_not() -> None:
    found = staged(draft(*PARIS, mark=3), draft(*LYON, mark=3))
    first = ids(*PARIS)
    assert proposed(found, first) == []
    second = [*first, *ids(*PARIS[:3])]
    assert proposed(found, second) == ids(*LYON[3:])
    third = [*first, *ids(*LYON), *ids(*PARIS[:3])]
    assert proposed(found, third) == ids(*PARIS[3:])


def test_the_end_of_a_call_is_proposed_for_each_call() -> None:
    found = staged(draft("}", "</", "call", ">", again=True))
    first = ids(*PARIS[:10])
    assert proposed(found, first) == ids("</", "call", ">")
    second = [*first, *ids("</", "call", ">", *LYON[:10])]
    assert proposed(found, second) == ids("</", "call", ">")


def test_a_rejected_draft_is_given_up_and_the_next_one_followed() -> None:
    found = staged(draft(*PARIS), draft(*LYON))
    first = proposal(found, ids(*PARIS[:3]))
    assert first.token_ids == tuple(ids(*PARIS[3:]))
    output = ids(*LYON[:8])
    rejected(found, first, output, sampled=5)
    assert proposed(found, output) == ids(*LYON[8:])


def test_a_draft_whose_text_is_written_in_other_tokens_is_kept() -> None:
    found = staged(draft("<", '"}', "</", "call"))
    first = proposal(found, ids("<"))
    assert first.token_ids == tuple(ids('"}', "</", "call"))
    rejected(found, first, ids("<", '"'), sampled=1)
    assert proposed(found, ids("<", '"', "}")) == ids("</", "call")


def test_a_draft_in_other_tokens_is_given_up_after_some_time() -> None:
    texts = ['"}'] * (MISFITS_MAX + 2)
    found = staged(draft("<", *texts))
    output = ids("<")
    for _ in range(MISFITS_MAX + 1):
        given = proposal(found, output)
        output = [*output, *ids('"')]
        rejected(found, given, output, sampled=1)
        output = [*output, *ids("}")]
    assert not found


def test_a_stop_token_is_never_proposed() -> None:
    found = staged(draft("<", "call", "END", "city"))
    assert proposed(found, ids("<")) == ids("call")


def test_no_more_is_proposed_than_fits() -> None:
    found = staged(draft(*PARIS))
    assert proposed(found, ids("<"), tokens_max=2) == ids("call", ">")
    assert proposed(found, ids("<"), tokens_max=0) == []
    assert proposed(found, ids("<"), tokens_max=-1) == []


def test_drafts_with_unknown_tokens_are_left_out() -> None:
    for bad in (-1, len(TEXTS), 10**12):
        assert not staged(DraftTokens(token_ids=(0, bad), mark_tokens=1))


def test_drafts_have_bounds() -> None:
    found = staged(*(draft(*PARIS) for _ in range(DRAFTS_MAX)), draft(*LYON))
    assert proposed(found, ids(*LYON[:8])) == []
    long = draft("<", *["city"] * (2 * DRAFT_TOKENS_MAX))
    assert len(proposed(staged(long), ids("<"), tokens_max=10**6)) == DRAFT_TOKENS_MAX - 1


def test_each_draft_is_accounted_for_by_its_number() -> None:
    found = staged(draft(*PARIS, number=4), draft(*LYON, number=2))
    first = proposal(found, ids(*PARIS[:7]))
    found.verified(first, first.token_ids, accepted=0)
    rejected(found, first, ids(*LYON[:8]), sampled=1)
    second = proposal(found, ids(*LYON[:8]), 3)
    found.verified(second, second.token_ids[:2], accepted=2)
    assert found.account.proposed == [0, 0, 2, 0, len(first.token_ids)]
    assert found.account.accepted == [0, 0, 2, 0, 0]


def test_tokens_of_another_method_count_for_no_draft() -> None:
    found = staged(draft(*PARIS))
    found.verified(proposal(found, ids("<")), ids("city", "city"), accepted=2)
    assert (found.account.proposed, found.account.accepted) == ([], [])


def test_what_is_left_of_a_proposal() -> None:
    found = staged(draft(*PARIS, number=3))
    given = proposal(found, ids("<"))
    left = found.rest(given, ids("call", ">"))
    assert left is not None
    assert (left.token_ids, left.written) == (given.token_ids[2:], len("<call>"))
    assert found.rest(given, ids("call", "city")) is None
    assert found.rest(given, given.token_ids) is None
    output = ids("<", "call", ">", "city")
    rejected(found, left, output, sampled=1)
    assert not found


def test_an_empty_draft_is_over_at_once() -> None:
    assert not staged(DraftTokens(token_ids=(), mark_tokens=1))


@given(
    st.lists(st.lists(st.sampled_from(range(len(TEXTS))), min_size=1, max_size=8), max_size=4),
    st.lists(st.sampled_from(range(len(TEXTS))), max_size=24),
    st.integers(-2, 9),
)
def test_what_is_proposed_continues_a_draft(
    drafts: list[list[int]], output: list[int], tokens_max: int
) -> None:
    """Whatever was written: a beginning of a draft's text, then what is proposed, is a draft."""
    found = staged(*(DraftTokens(token_ids=tuple(each), mark_tokens=1) for each in drafts))
    for length in range(1, len(output) + 1):
        written = b"".join(TEXTS[each] for each in output[:length])
        tokens = proposed(found, output[:length], tokens_max)
        assert len(tokens) <= max(0, tokens_max)
        assert STOP.isdisjoint(tokens)
        if tokens:
            assert any(
                each[index : index + len(tokens)] == tokens
                and written.endswith(b"".join(TEXTS[token] for token in each[:index]))
                for each in drafts
                for index in range(1, len(each))
            )
