"""Which drafts a step has, and by which numbers the scheduler accounts for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from precall_service.domain.json import JsonValue
from precall_service.domain.tools import ToolDeclaration
from precall_service.engine.base import StepSpec
from precall_service.engine.drafts import Draft, VerifiedDraft
from precall_service.engine.vllm.drafts import DraftTokens
from tests.support.steps import GREEDY, NONE, declared, step_spec

if TYPE_CHECKING:  # importing vLLM is slow, and it reads environment variables that are set later
    from precall_service.engine.vllm.drafting import Drafting

WEATHER = declared("get_weather")
ROME, OSLO = (Draft(WEATHER.name, city, city) for city in ("rome", "oslo"))
UNKNOWN = Draft("no_such_tool", "{}")


class Texts:
    """Writes each call in one token, which is the length of its arguments."""

    async def tokens(
        self,
        draft: Draft,
        tools: Collection[ToolDeclaration],
        _variables: Mapping[str, JsonValue],
        *,
        certain: bool,
    ) -> DraftTokens | None:
        if draft.tool_name not in {tool.name for tool in tools}:
            return None
        return DraftTokens(token_ids=(len(draft.arguments_json),), mark_tokens=1 if certain else 2)

    async def end(self, _variables: Mapping[str, JsonValue]) -> DraftTokens | None:
        return DraftTokens(token_ids=(0,), mark_tokens=1, again=True)


def drafting(*, structured: bool = True) -> Drafting:
    from precall_service.engine.vllm.drafting import Drafting

    return Drafting(cast("Any", Texts()), structured=structured)


def numbers(fields: list[dict[str, Any]]) -> list[int]:
    return [each["number"] for each in fields]


def spec(*drafts: Draft) -> StepSpec:
    return replace(step_spec(tools=(WEATHER,)), drafts=drafts)


async def test_drafts_are_numbered_in_their_order() -> None:
    begun = drafting().numbered(spec(ROME, UNKNOWN))
    assert numbers(await begun.first(reasons=False)) == [0, 1]
    assert numbers(await begun.more([OSLO])) == [2]
    assert begun.verified([(9, 4), (5, 5), (7, 0)]) == (
        VerifiedDraft(ROME, 9, 4),
        VerifiedDraft(None, 5, 5),
        VerifiedDraft(OSLO, 7, 0),
    )


async def test_a_draft_of_which_nothing_was_verified_is_not_told_of() -> None:
    begun = drafting().numbered(spec(ROME, OSLO))
    await begun.first(reasons=False)
    assert begun.verified([(0, 0), (3, 1)]) == (VerifiedDraft(OSLO, 3, 1),)
    assert begun.verified([]) == ()


async def test_drafts_that_come_before_the_step_is_sent_go_with_it() -> None:
    made, asked = drafting(), spec(ROME)
    begun = made.numbered(asked)
    assert await made.more(asked, [OSLO]) == []
    assert numbers(await begun.first(reasons=False)) == [1, 2, 0]
    assert numbers(await made.more(asked, [OSLO])) == [3]


async def test_a_step_that_is_over_has_no_more_drafts() -> None:
    made, asked = drafting(), spec()
    begun = made.numbered(asked)
    await begun.first(reasons=False)
    assert await made.more(asked, [ROME])
    del begun
    assert await made.more(asked, [ROME]) == []


async def test_a_step_has_a_bounded_number_of_drafts() -> None:
    from precall_service.engine.vllm.drafting import STEP_DRAFTS_MAX

    begun = drafting().numbered(spec())
    await begun.first(reasons=False)
    drafts = await begun.more([ROME] * (2 * STEP_DRAFTS_MAX))
    assert numbers(drafts) == list(range(1, STEP_DRAFTS_MAX))


async def test_without_a_grammar_the_end_of_a_call_is_not_certain() -> None:
    begun = drafting(structured=False).numbered(spec())
    assert await begun.first(reasons=False) == []


async def test_a_step_that_can_make_no_call_has_no_drafts() -> None:
    for each in (step_spec(), step_spec(tools=(WEATHER,), tool_choice=NONE)):
        begun = drafting().numbered(replace(each, drafts=(ROME,)))
        assert await begun.first(reasons=False) == []
        assert await begun.more([ROME]) == []


async def test_a_step_with_stop_texts_has_drafts() -> None:
    generation = replace(GREEDY, stop=("END",))
    begun = drafting().numbered(replace(spec(ROME), generation=generation))
    assert len(await begun.first(reasons=False)) == 2
