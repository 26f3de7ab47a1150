"""What the history predictor knows of the next call, and what that costs.

The conversations are those of BFCL (multi_turn_base), whose calls are made by its own tool classes.
The predictor learns from the ids that end in 0 to 4, and is reported on those that end in 5 or 6;
the others are used for nothing. The size of the learning steps was chosen by cross-validation on 0
to 4. A round learns the conversations in another order. Each call is a step, as it is for a model
that makes one call at a time. Shares are those of the calls that are made, unless all steps are
named: these include the ends of turns, where nothing that is proposed can be right.

"Online" also learns from the earlier steps of the conversation that it is asked in; "frozen" does
not. The baselines remember what followed the last tool of the conversation, or the last two
(trigram, with back-off); to look beyond the turn makes them much better. They rank whole calls and
names each by its own count. The names of the predictor are those of the whole calls that it
proposes.

The costs are measured with the same conversations, learned again and again. Times are those of the
processor: nothing waits.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import gc
import random
import statistics
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import TypeAlias, TypeVar

from bench.bfcl import LEARNED, REPORTED, BfclConversation, conversations
from bench.report import AtLeast, AtMost, Report
from bench.stats import percentile
from precall_service.domain.json import canonical, parse_object
from precall_service.speculation.base import Moment, PastCall, Situation
from precall_service.speculation.predictors.history.model import TenantModel
from precall_service.speculation.predictors.history.predictor import STEPS_AT_ONCE, HistoryLimits
from precall_service.speculation.predictors.history.records import StepSeen, encode

TOP = (1, 3)
BINS = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.01)
PASTE = {1: 28.0, 3: 44.0}
"""The percentages of whole calls that PASTE (arXiv 2603.18897) publishes, of other data."""
TRIGRAM = {1: 50.0, 3: 63.0}
"""The percentages of names that a trial with a trigram of tools reached on these conversations."""
EARLIER_MAX = 64

SIZES = {
    "cpu": {"calls": 10_000, "rounds": 5},
    "quick": {"calls": 600, "rounds": 1},
}

Step: TypeAlias = tuple[Situation, PastCall | None]
Call: TypeAlias = tuple[str, bytes]
Ranked: TypeAlias = list[tuple[Call, float]]

_Both: TypeAlias = tuple[list[Call], list[str]]
"""Whole calls and names, the most probable ones first."""
_Known = TypeVar("_Known", Call, str)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this bench."""
    parser.add_argument("--calls", type=int, help="calls that are learned before times are taken")
    parser.add_argument("--rounds", type=int)


async def run(options: argparse.Namespace, report: Report) -> None:
    """Runs the bench and adds its samples to the report."""
    learned, reported = conversations(LEARNED), conversations(REPORTED)
    assert not {each.id for each in learned} & {each.id for each in reported}
    for number in range(options.rounds):
        order = learned[:]
        random.Random(number).shuffle(order)
        _accuracy(report, order, reported)
        _costs(report, order, options.calls)
        report.round_ended()
        print(f"round {number + 1} of {options.rounds} ended")
        await asyncio.sleep(0)
    for top in TOP:
        for how in ("frozen", "online"):
            report.judge(_quantity("whole call", top, how), AtLeast(PASTE[top]))
            report.judge(_quantity("name", top, how), AtLeast(TRIGRAM[top]))
    report.judge(f"proposal, after {options.calls:,} calls", AtMost(1.0))
    report.judge(f"proposal, after {options.calls:,} calls: mean", AtMost(1.0))
    report.round_ended()


# --- Accuracy ------------------------------------------------------------------------------------


@dataclass
class _Score:
    """How often the next call was among the first ones proposed, and how confidently."""

    calls: int = 0
    hits: Counter[tuple[str, int]] = field(default_factory=Counter[tuple[str, int]])
    confidences: list[tuple[float, bool]] = field(default_factory=list[tuple[float, bool]])

    def add(self, found: Ranked, made: PastCall | None) -> None:
        """Counts what the predictor proposed in a step; without a call, its confidences only."""
        right = None if made is None else _call(made)
        self.confidences += [(confidence, call == right) for call, confidence in found]
        if right is not None:
            calls = [call for call, _ in found]
            self.count(calls, [name for name, _ in calls], right)

    def count(self, calls: Sequence[Call], names: Sequence[str], right: Call) -> None:
        """Counts whether the right call, and its name, are among the first."""
        self.calls += 1
        for top in TOP:
            self.hits["whole call", top] += right in calls[:top]
            self.hits["name", top] += right[0] in names[:top]

    def report(self, report: Report, how: str) -> None:
        for what in ("whole call", "name"):
            for top in TOP:
                share = 100 * self.hits[what, top] / self.calls
                report.add(_quantity(what, top, how), share, unit="%")


def _accuracy(
    report: Report, learned: Sequence[BfclConversation], reported: Sequence[BfclConversation]
) -> None:
    model = TenantModel(HistoryLimits().half_life_calls)
    for step in _steps(learned):
        _teach(model, step)
    frozen, online = _Score(), _Score()
    for conversation in reported:
        copied = copy.deepcopy(model)
        for step in _steps([conversation]):
            frozen.add(_proposed(model, step[0]), step[1])
            online.add(_proposed(copied, step[0]), step[1])
            _teach(copied, step)
    frozen.report(report, "frozen")
    online.report(report, "online")
    _calibration(report, frozen.confidences)
    for context, how in ((1, "most frequent next"), (2, "trigram")):
        memory = _Memory(_steps(learned), context)
        _score(memory.frequent, reported).report(report, how)
    _score(partial(memory.random, random.Random(0)), reported).report(report, "random")


def _score(ranked: Callable[[Situation], _Both], reported: Sequence[BfclConversation]) -> _Score:
    score = _Score()
    for situation, made in _steps(reported):
        if made is not None:
            score.count(*ranked(situation), _call(made))
    return score


def _calibration(report: Report, found: Sequence[tuple[float, bool]]) -> None:
    """Adds the Brier score of all proposals in all steps, and how many came true by confidence."""
    rate = statistics.mean(made for _, made in found)
    brier = statistics.mean((confidence - made) ** 2 for confidence, made in found)
    report.add("Brier score of proposals in all steps", brier)
    report.add("Brier score of always the mean", rate * (1 - rate))
    for low, high in pairwise(BINS):
        inside = [each for each in found if low <= each[0] < high]
        if inside:
            name = f"all steps, confidence {low:.1f} to {min(high, 1.0):.1f}"
            report.add(f"{name}: proposals", len(inside))
            report.add(f"{name}: made", 100 * statistics.mean(x for _, x in inside), unit="%")
            report.add(f"{name}: mean", 100 * statistics.mean(x for x, _ in inside), unit="%")


class _Memory:
    """The baselines: calls that were learned, as they were made, after the tools before them."""

    def __init__(self, steps: Iterable[Step], context: int) -> None:
        self._context = context
        self._calls: dict[tuple[str, ...], Counter[Call]] = {}
        self._names: dict[tuple[str, ...], Counter[str]] = {}
        for situation, made in steps:
            if made is not None:
                for before in self._before(situation):
                    self._calls.setdefault(before, Counter())[_call(made)] += 1
                    self._names.setdefault(before, Counter())[made.tool_name] += 1

    def _before(self, where: Situation) -> list[tuple[str, ...]]:
        """The last tools of the conversation: as many as are remembered, then fewer, then none."""
        names = ("", *(call.tool_name for call in (*where.earlier, *where.calls)))
        longest = min(self._context, len(names))
        return [names[len(names) - length :] for length in range(longest, -1, -1)]

    def frequent(self, where: Situation) -> _Both:
        """What most often followed the last tools, and then what was most frequent after fewer."""
        calls = _ranked(self._calls, self._before(where))
        names = _ranked(self._names, self._before(where))
        return (
            [call for call in calls if call[0] in where.tools],
            [name for name in names if name in where.tools],
        )

    def random(self, chance: random.Random, where: Situation) -> _Both:
        """Any learned calls, and any learned names, of the tools that there are."""
        calls = [call for call in self._calls[()] if call[0] in where.tools]
        names = [name for name in self._names[()] if name in where.tools]
        return chance.sample(calls, len(calls)), chance.sample(names, len(names))


def _ranked(
    counts: Mapping[tuple[str, ...], Counter[_Known]], before: Sequence[tuple[str, ...]]
) -> list[_Known]:
    found = (known for each in before if each in counts for known, _ in counts[each].most_common())
    return list(dict.fromkeys(found))


def _call(call: PastCall) -> Call:
    return call.tool_name, canonical(call.arguments)


def _proposed(model: TenantModel, situation: Situation) -> Ranked:
    return [
        ((each.tool_name, canonical(parse_object(each.arguments_json))), each.confidence)
        for each in model.propose(situation)
    ]


def _teach(model: TenantModel, step: Step) -> StepSeen:
    seen = model.observe(step[0], () if step[1] is None else (step[1],))
    model.learn(seen)
    return seen


def _quantity(what: str, top: int, how: str) -> str:
    return f"{what}, top {top}: {how}"


def _steps(of: Iterable[BfclConversation]) -> Iterator[Step]:
    """Yields the steps of conversations: where they begin, and their calls; None at an end."""
    for conversation in of:
        earlier: tuple[PastCall, ...] = ()
        for number, turn in enumerate(conversation.turns):
            for step, made in enumerate((*turn.calls, None)):
                situation = Situation(
                    tenant="bench",
                    conversation_id=conversation.id,
                    turn_id=str(number),
                    moment=Moment.STEP_BEGAN,
                    step=step,
                    text=turn.text,
                    tools=conversation.tools,
                    calls=turn.calls[:step],
                    earlier=earlier[-EARLIER_MAX:],
                )
                yield situation, made
            earlier += turn.calls


# --- Costs ---------------------------------------------------------------------------------------


def _costs(report: Report, learned: Sequence[BfclConversation], calls: int) -> None:
    """Adds what a proposal, a lesson and the memory cost once so many calls are learned."""
    steps = [step for step in _steps(learned) if step[1] is not None]
    model = TenantModel(HistoryLimits().half_life_calls)
    seen: list[StepSeen] = []
    learning: list[float] = []
    while len(seen) < calls:
        start = time.process_time()
        seen.append(_teach(model, steps[len(seen) % len(steps)]))
        learning.append(1000 * (time.process_time() - start))
    proposing = [1000 * _timed(model, situation) for situation, _ in steps]
    after = f"after {calls:,} calls"
    report.add(f"proposal, {after}", statistics.median(proposing), unit="ms")
    report.add(f"proposal, {after}: mean", statistics.mean(proposing), unit="ms")
    report.add(f"proposal, {after}: 99th percentile", percentile(proposing, 0.99), unit="ms")
    report.add("lesson", statistics.median(learning), unit="ms")
    report.add("lesson: 99th percentile", percentile(learning, 0.99), unit="ms")
    records = [encode(each) or b"" for each in seen]
    report.add("record", statistics.mean(map(len, records)), unit="bytes a call")
    _reload(report, seen, calls)
    report.add(f"memory, {after}", _memory(seen) / calls, unit="bytes a call")


def _timed(model: TenantModel, situation: Situation) -> float:
    start = time.process_time()
    model.propose(situation)
    return time.process_time() - start


def _reload(report: Report, seen: Sequence[StepSeen], calls: int) -> None:
    """Adds how long it takes to learn everything again, and to learn so much as is done at once."""
    model = TenantModel(HistoryLimits().half_life_calls)
    times: list[float] = []
    for first in range(0, len(seen), STEPS_AT_ONCE):
        start = time.process_time()
        for each in seen[first : first + STEPS_AT_ONCE]:
            model.learn(each)
        times.append(time.process_time() - start)
    report.add(f"learning {calls:,} calls again", sum(times), unit="s")
    at_once = 1000 * percentile(times, 0.99)
    report.add("learning again, without a break: 99th percentile", at_once, unit="ms")


def _memory(seen: Sequence[StepSeen]) -> float:
    """Returns the bytes of a model that has learned these steps."""
    gc.collect()
    tracemalloc.start()
    try:
        model = TenantModel(HistoryLimits().half_life_calls)
        for each in seen:
            model.learn(each)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
