"""Where no tool may run early, calls are predicted for drafts alone: no handler runs for them."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Sequence
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from precall_service.domain.events import (
    Invoke,
    PredictionConfirmed,
    PredictionDiscarded,
    PredictionLaunched,
    PredictionProposed,
    Predictor,
)
from precall_service.domain.tools import ToolEffects
from precall_service.speculation.base import Moment, Proposal
from precall_service.speculation.limits import SpeculationLimits
from tests.support.agent import agent_on, scripted
from tests.support.scripts import TICK, calls, says, thinks
from tests.support.speculating import ALWAYS, BOOK, SAFE, Told, proposal

EFFECTS: Final = {
    "changes": ToolEffects(),
    "reads": ToolEffects(read_only=True),
    "says_safe": ToolEffects(speculation_safe=True),
    "web": dataclasses.replace(SAFE, open_world=True),
}
TOOLS: Final = [dataclasses.replace(BOOK, name=name, effects=EFFECTS[name]) for name in EFFECTS]
CALLS: Final = st.tuples(st.sampled_from([*EFFECTS, "unknown"]), st.sampled_from(["Rome", "Oslo"]))
PREDICTED: Final = st.tuples(
    st.sampled_from([each for each in Predictor if each is not Predictor.UNSPECIFIED]),
    st.sets(st.sampled_from(ALWAYS), min_size=1),
    st.lists(CALLS.map(lambda call: proposal(*call)), max_size=4),
)


@settings(max_examples=60)
@given(
    st.lists(PREDICTED, max_size=4, unique_by=lambda each: each[0]),
    st.lists(st.lists(CALLS, min_size=1, max_size=3), max_size=3),
)
def test_nothing_runs_early_where_no_tool_may(
    predicted: list[tuple[Predictor, set[Moment], list[Proposal]]],
    steps: list[list[tuple[str, str]]],
) -> None:
    async def play() -> None:
        predictors = [
            Told(proposals, name=name, moments=list(moments))
            for name, moments, proposals in predicted
        ]
        engine = scripted(
            *([*thinks("hm"), TICK, *calls(*map(written, step)), TICK] for step in steps),
            [*thinks("hm"), TICK, *says("done")],
        )
        limits = SpeculationLimits(margin_s=-1000.0)
        async with agent_on(engine, predictors=predictors, speculation=limits) as there:
            client = there.open(*TOOLS)
            turn = await client.send()
            answered = 0
            while answered < len(client.of(Invoke)):
                await client.answer(answered)
                answered += 1
            client.ending(turn)
        made = sum(name in EFFECTS for step in steps for name, _ in step)
        assert answered == made, "a handler runs for each call of the model, and for no other"
        assert not any(invoke.prediction_id for invoke in client.of(Invoke))
        assert not client.of(PredictionLaunched)
        assert not client.of(PredictionConfirmed)
        proposed = [each.prediction_id for each in client.of(PredictionProposed)]
        ended = [each.prediction_id for each in client.of(PredictionDiscarded)]
        assert sorted(proposed) == sorted(ended)

    asyncio.run(play())


def written(call: Sequence[str]) -> tuple[str, str]:
    name, city = call
    return name, json.dumps({"city": city})
