"""A call that is written is proposed at once, and with certainty."""

from __future__ import annotations

from dataclasses import replace

from precall_service.speculation.base import Moment, PastCall, Situation
from precall_service.speculation.predictors.early_dispatch import EarlyDispatch
from tests.support.predictors import call, proposed, situation

FIRST, SECOND = call("search", query="a"), call("open", id="7")


def written(*calls: PastCall) -> Situation:
    return replace(situation("Find it.", moment=Moment.CALL_WRITTEN), written=calls)


async def test_the_last_call_that_is_written_is_proposed() -> None:
    early = EarlyDispatch()
    assert await proposed(early, written(FIRST)) == [("search", {"query": "a"}, 1.0)]
    assert await proposed(early, written(FIRST, SECOND)) == [("open", {"id": "7"}, 1.0)]


async def test_nothing_is_proposed_before_a_call_is_written() -> None:
    assert await proposed(EarlyDispatch(), written()) == []


async def test_a_call_of_no_tool_of_the_turn_is_not_proposed() -> None:
    assert await proposed(EarlyDispatch(), written(call("delete", id="7"))) == []
