"""Fills what speculation keeps in memory: predictions, records of tenants, learned history."""

from __future__ import annotations

import gc
import json
import random

from bench.process import Link, run_child
from precall_service.domain.events import Predictor
from precall_service.domain.json import JsonObject, canonical
from precall_service.domain.tools import ToolDeclaration, ToolEffects
from precall_service.loop_clock import LoopClock
from precall_service.speculation.base import Lesson, Moment, PastCall, Situation
from precall_service.speculation.estimates import WINDOW
from precall_service.speculation.ledger import CallKey, Ledger, Prediction
from precall_service.speculation.limits import SpeculationLimits
from precall_service.speculation.places import PLACES
from precall_service.speculation.predictors.history.predictor import HistoryPredictor
from precall_service.speculation.records import TOOLS_MAX, TOOLSETS_MAX, SpeculationRecords

PREDICTORS = (Predictor.CACHE, Predictor.EARLY_DISPATCH, Predictor.HISTORY, Predictor.FORK)
WORDS = [f"{start}{end}" for start in ("ba", "ce", "di", "fo", "gu") for end in range(400)]
HISTORY_TOOLS = 128
TOOLS_OF_A_TURN = 16
ARGUMENTS = ("city", "day", "kind", "count")


class Memory:
    """Keeps what it is asked to fill."""

    def __init__(self) -> None:
        self._source = random.Random(0)
        self._clock = LoopClock()
        self._ledger = Ledger(self._clock, lambda _event: None)
        self._records = SpeculationRecords(self._clock, SpeculationLimits())
        self._history = HistoryPredictor()
        self._tools = [_declared(f"tool_{number}") for number in range(HISTORY_TOOLS)]

    async def predictions(self, fields: JsonObject) -> JsonObject:
        """Adds open predictions, each of another call."""
        for _ in range(int(str(fields["count"]))):
            tool = self._source.choice(self._tools)
            arguments = self._arguments()
            self._ledger.propose(
                Prediction(
                    key=CallKey(tool.name, tool.version, canonical(arguments).decode()),
                    declaration=tool,
                    arguments=arguments,
                    predictor=Predictor.FORK,
                    confidence=self._source.random(),
                    depth=1,
                    step=0,
                    proposed_at=self._clock.now(),
                )
            )
        return _collected()

    async def records(self, fields: JsonObject) -> JsonObject:
        """Adds tenants with as many tools as are kept, all of whose estimates are full."""
        for tenant in range(int(str(fields["count"]))):
            record = self._records.of(f"tenant-{tenant}")
            for number in range(TOOLS_MAX):
                tool = record.tool(f"tool_{number}")
                for name in PREDICTORS:
                    own = tool.of(name)
                    for _ in range(WINDOW):
                        seconds = self._source.random()
                        tool.run_times.observe(seconds)
                        own.leads_at(1).observe(seconds)
                        own.leads_at(2).observe(seconds)
                        own.acceptance.observe(seconds, matched=seconds > 0.5)
            for number in range(TOOLSETS_MAX):
                places = record.branches(frozenset({f"tool_{number}"}), first_step=True)
                for reasoned in PLACES:
                    for _ in range(WINDOW):
                        places.at(reasoned).begin()
                        places.at(reasoned).propose(self._source.random(), self._source.random())
        return _collected()

    async def history(self, fields: JsonObject) -> JsonObject:
        """Lets each of some tenants learn from so many calls of many tools."""
        for tenant in range(int(str(fields["count"]))):
            for turn in range(int(str(fields["calls"])) // 2):
                self._learn(f"tenant-{tenant}", turn)
        return _collected()

    def _learn(self, tenant: str, turn: int) -> None:
        tools = self._source.sample(self._tools, TOOLS_OF_A_TURN)
        text = " ".join(self._source.choices(WORDS, k=20))
        before: tuple[PastCall, ...] = ()
        for step in range(2):
            call = PastCall(
                tool_name=self._source.choice(tools).name,
                arguments={**self._arguments(), "city": self._source.choice(text.split())},
                result_json=json.dumps({"id": self._source.getrandbits(32), "found": text[:40]}),
            )
            situation = Situation(
                tenant=tenant,
                conversation_id="conversation",
                turn_id=f"turn-{turn}",
                moment=Moment.STEP_BEGAN,
                step=step,
                text=text,
                tools={tool.name: tool for tool in tools},
                calls=before,
            )
            self._history.learn(Lesson(before=situation, calls=(call,)))
            before += (call,)

    def _arguments(self) -> JsonObject:
        words = self._source.choices(WORDS, k=len(ARGUMENTS) - 1)
        return {**dict(zip(ARGUMENTS, words, strict=False)), "count": self._source.randint(1, 99)}


def _declared(name: str) -> ToolDeclaration:
    return ToolDeclaration(
        name=name,
        version="1",
        digest=name,
        description=f"Looks up what {name} knows.",
        input_schema={
            "type": "object",
            "properties": {
                argument: {"type": "integer" if argument == "count" else "string"}
                for argument in ARGUMENTS
            },
            "required": list(ARGUMENTS),
        },
        output_schema=None,
        effects=ToolEffects(read_only=True, speculation_safe=True),
        timeout_s=10.0,
        max_concurrency=16,
    )


def _collected() -> JsonObject:
    gc.collect()
    return {}


async def main(_config: JsonObject, link: Link) -> None:
    """Fills what the bench asks for."""
    memory = Memory()
    commands = {
        "predictions": memory.predictions,
        "records": memory.records,
        "history": memory.history,
    }
    await link.answer({}, commands)


if __name__ == "__main__":
    run_child(main)
