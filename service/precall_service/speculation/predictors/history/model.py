"""What was learned from the calls of one tenant.

A call's probability is that of its tool, times that of the form of its arguments, times those of
their values. Each is a log-linear model (`weights`). Learning has two halves: `observe` makes a
record of a step (`records`), and `learn` updates the model from the record alone. So a model can be
made again from the kept records.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeAlias

from precall_service.domain.json import JsonObject, dump
from precall_service.domain.tools import ToolDeclaration
from precall_service.speculation.base import PastCall, Proposal, Situation
from precall_service.speculation.predictors.history.arguments import (
    FORM_WEIGHTS_MAX,
    LEAF_WEIGHTS_MAX,
    ToolArguments,
)
from precall_service.speculation.predictors.history.calibration import Calibration
from precall_service.speculation.predictors.history.records import (
    PROBABILITY_UNITS,
    RESEMBLANCE,
    CallSeen,
    Judged,
    Rival,
    StepSeen,
)
from precall_service.speculation.predictors.history.sources import CallReader
from precall_service.speculation.predictors.history.text import Reading, reading, words_of
from precall_service.speculation.predictors.history.values import written
from precall_service.speculation.predictors.history.weights import (
    GRADIENT_MIN,
    Age,
    Choice,
    Features,
    Pointers,
    gradients,
    keyed,
    probabilities,
)

PROPOSALS_MAX: Final = 3
TOOLS_MAX: Final = 128
"""The most tools that are known; the one learned longest ago is forgotten."""
KNOWN_LEAVES_MAX: Final = 512
"""The most arguments that are known, over all tools."""
TOOLS_TRIED_MAX: Final = 6
CALLS_MAX: Final = 8
"""The most calls of a step that are learned."""
CONTEXT_CALLS_MAX: Final = 16
"""The last calls of the turn, which are features of what follows them."""
CONTEXT_MAX: Final = 3
"""The longest sequence of tools that is a feature of what follows it."""
LEAVES_MAX: Final = 32
"""The most arguments of a step that are learned, and of a proposal that are looked at."""
RIVALS_MAX: Final = 24
DESCRIPTION_CHARS_MAX: Final = 1000
CHOICES_MAX: Final = 32_768
WORD_COUNTS_MAX: Final = 4096
WEIGHTS_MAX: Final = (
    CHOICES_MAX + TOOLS_MAX * FORM_WEIGHTS_MAX + KNOWN_LEAVES_MAX * LEAF_WEIGHTS_MAX
)
PROBABILITY_MIN: Final = 0.002
"""Calls that are less probable are not proposed."""

_END: Final = 0
"""The outcome that the step makes no call."""
_WORDS_VALUE: Final = 2.0
"""The length of the vector of words, relative to the value of one other feature."""
_RESEMBLANCE_VALUE: Final = 2.0
_NAME: Final = keyed("resembles", "name")
_NAME_CALLED: Final = keyed("resembles", "name", "called")
_DESCRIPTION: Final = keyed("resembles", "description")
_CALLED: Final = keyed("called")

_Call: TypeAlias = tuple[str, JsonObject, str]
"""The name of its tool, its arguments, and their canonical text."""


@dataclass(frozen=True, slots=True)
class _Looked:
    """What a situation looks like to the model."""

    text: Reading
    contexts: tuple[int, ...]
    rivals: Mapping[str, Rival]


class TenantModel:
    """Learns from the steps of one tenant. Concurrency: one event loop; nothing waits."""

    def __init__(self, half_life_calls: int) -> None:
        self._age = Age(half_life_calls)
        self._tools: dict[str, ToolArguments] = {}
        self._choice = Choice(self._age, CHOICES_MAX)
        self._resemblance = Pointers(self._age, WORD_COUNTS_MAX)
        self._words = _WordCounts()
        self._calibration = Calibration(self._age)
        self._reader = CallReader()
        self._described: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    @property
    def arguments(self) -> Mapping[str, int]:
        """The number of known arguments of each known tool."""
        return {name: len(arguments) for name, arguments in self._tools.items()}

    @property
    def weights(self) -> int:
        """The number of weights, of which a model has at most WEIGHTS_MAX."""
        return len(self._choice) + sum(each.weights for each in self._tools.values())

    def propose(self, situation: Situation) -> list[Proposal]:
        """Returns at most PROPOSALS_MAX calls, the most probable one first."""
        return [
            Proposal(
                tool_name=name,
                arguments_json=dump(arguments),
                confidence=self._calibration.confidence(estimate),
            )
            for estimate, _, _, (name, arguments, _) in self._ranked(
                situation, self._look(situation)
            )
        ]

    def observe(self, situation: Situation, calls: Sequence[PastCall]) -> StepSeen:
        """Returns what there is to learn from a step: its calls, and where it began."""
        looked = self._look(situation)
        calls = calls[:CALLS_MAX]
        made = {(call.tool_name, written(call.arguments)) for call in calls}
        judged = tuple(
            Judged(round(raw * PROBABILITY_UNITS), (name, text) in made, repeats)
            for _, raw, repeats, (name, _, text) in self._ranked(situation, looked)
        )
        words = self._words.features(looked.text.words)
        chances = self._tool_chances(looked, words)
        names = {call.tool_name for call in calls}
        rivals = [
            (chance, looked.rivals[name])
            for name, chance in chances.items()
            if name and (name in names or chance >= GRADIENT_MIN)
        ]
        rivals.sort(key=lambda each: -each[0])
        kept = [rival for _, rival in rivals[:RIVALS_MAX]]
        for name in names:
            rival = self._rival(name, situation, frozenset(looked.text.words))
            if rival not in kept:
                kept.append(rival)
        return StepSeen(
            contexts=looked.contexts,
            words=looked.text.words,
            begins=not situation.calls,
            rivals=tuple(kept),
            calls=self._calls_seen(situation, calls, looked, words),
            judged=judged,
        )

    def _calls_seen(
        self, situation: Situation, calls: Sequence[PastCall], looked: _Looked, words: Features
    ) -> tuple[CallSeen, ...]:
        sources = self._reader.sources(situation, looked.text)
        left = LEAVES_MAX
        found: list[CallSeen] = []
        for call in calls:
            known = self._tools.get(call.tool_name) or ToolArguments(self._age)
            schema = _schema(situation.tools, call.tool_name)
            seen = known.observe(
                call.tool_name, call.arguments, sources, words, schema, leaves_max=left
            )
            left -= len(seen.leaves or ())
            found.append(seen)
        return tuple(found)

    def learn(self, step: StepSeen) -> None:
        """Learns from a step. Equal steps in equal order make equal models."""
        if step.begins:
            self._words.count(step.words)
        words = self._words.features(step.words)
        features = (*((key, 1.0) for key in step.contexts), *words)
        for each in step.judged:
            self._calibration.learn(
                each.probability / PROBABILITY_UNITS, made=each.made, repeats=each.repeats
            )
        self._learn_tools(step, features)
        for call in step.calls:
            self._learn_arguments(call, features, words)
        for _ in step.calls:
            self._age.tick()
        if self._age.over():
            self._rebase()

    def _learn_tools(self, step: StepSeen, features: Features) -> None:
        names = {keyed(call.tool_name) for call in step.calls} or {_END}
        right = dict.fromkeys(names, 1 / len(names))
        rivals = {rival.tool: rival for rival in step.rivals}
        scores = self._choice.scores(features, sorted({_END, *rivals, *right}))
        for tool, rival in rivals.items():
            scores[tool] += self._resembling(rival)
        steps = gradients(scores, right)
        self._choice.learn(features, steps)
        for tool, gradient in steps.items():
            for key, value in _resemblances(rivals.get(tool)):
                self._resemblance.learn((key,), gradient * value)

    def _learn_arguments(self, call: CallSeen, features: Features, words: Features) -> None:
        arguments = self._tools.pop(call.tool_name, None) or ToolArguments(self._age)
        self._tools[call.tool_name] = arguments
        arguments.learn(call, features, words)
        while (
            len(self._tools) > TOOLS_MAX or sum(map(len, self._tools.values())) > KNOWN_LEAVES_MAX
        ):
            del self._tools[next(iter(self._tools))]

    def _ranked(
        self, situation: Situation, looked: _Looked
    ) -> list[tuple[float, float, bool, _Call]]:
        """Returns the most probable calls: estimate, uncorrected estimate, whether it repeats."""
        words = self._words.features(looked.text.words)
        features = (*((key, 1.0) for key in looked.contexts), *words)
        chances = self._tool_chances(looked, words)
        chances.pop("", None)
        tried = heapq.nlargest(TOOLS_TRIED_MAX, chances.items(), key=lambda each: each[1])
        sources = self._reader.sources(situation, looked.text)
        before = {(call.tool_name, written(call.arguments)) for call in situation.calls}
        best: list[tuple[float, float, bool, _Call]] = []
        left = LEAVES_MAX
        for name, chance in tried:
            least = best[-1][0] if len(best) == PROPOSALS_MAX else PROBABILITY_MIN
            if chance < least or left <= 0:
                break
            left -= len(self._tools[name])
            schema = situation.tools[name].input_schema
            for combined, arguments in self._tools[name].likely(sources, features, words, schema):
                raw = chance * combined
                text = written(arguments)
                if raw < PROBABILITY_MIN or text is None:
                    continue
                repeats = (name, text) in before
                estimate = self._calibration.estimated(raw, repeats=repeats)
                best.append((estimate, raw, repeats, (name, arguments, text)))
            best.sort(key=lambda each: -each[0])
            del best[PROPOSALS_MAX:]
        return best

    def _look(self, situation: Situation) -> _Looked:
        text = reading(situation.text)
        words = frozenset(text.words)
        rivals = {
            name: self._rival(name, situation, words)
            for name in self._tools
            if name in situation.tools
        }
        return _Looked(text, _contexts(situation), rivals)

    def _rival(self, name: str, situation: Situation, words: AbstractSet[int]) -> Rival:
        declared = situation.tools.get(name)
        called = any(call.tool_name == name for call in situation.calls[-CONTEXT_CALLS_MAX:])
        if declared is None:
            return Rival(keyed(name), called=called)
        of_name, of_description = self._words_of(declared)
        share = self._words.share
        return Rival(
            keyed(name),
            round(RESEMBLANCE * share(of_name, words)),
            round(RESEMBLANCE * share(of_description, words)),
            called,
        )

    def _words_of(self, tool: ToolDeclaration) -> tuple[tuple[int, ...], tuple[int, ...]]:
        found = self._described.get(tool.digest)
        if found is None:
            if len(self._described) >= 2 * TOOLS_MAX:
                self._described.clear()
            found = words_of(tool.name), words_of(tool.description[:DESCRIPTION_CHARS_MAX])
            self._described[tool.digest] = found
        return found

    def _tool_chances(self, looked: _Looked, words: Features) -> dict[str, float]:
        """Returns the probability of each known tool of the situation; "" for no call."""
        rivals = looked.rivals
        features = (*((key, 1.0) for key in looked.contexts), *words)
        outcomes = {rival.tool: name for name, rival in rivals.items()}
        scores = self._choice.scores(features, (_END, *outcomes))
        for tool, name in outcomes.items():
            scores[tool] += self._resembling(rivals[name])
        names = ("", *outcomes.values())
        return dict(zip(names, probabilities(list(scores.values())), strict=True))

    def _resembling(self, rival: Rival) -> float:
        value = self._resemblance.value
        return sum(value(key) * amount for key, amount in _resemblances(rival))

    def _rebase(self) -> None:
        self._choice.rebase()
        self._resemblance.rebase()
        self._calibration.rebase()
        for tool in self._tools.values():
            tool.rebase()
        self._age.scale = 1.0


class _WordCounts:
    """In how many texts each word was: rare words tell more (inverse document frequency)."""

    def __init__(self) -> None:
        self._texts = 0
        self._counts: dict[int, int] = {}

    def count(self, words: Sequence[int]) -> None:
        """Counts the words of a text."""
        self._texts += 1
        counts = self._counts
        for word in words:
            counts[word] = counts.pop(word, 0) + 1
        excess = len(counts) - WORD_COUNTS_MAX
        for word in list(islice(counts, max(0, excess))):
            del counts[word]

    def features(self, words: Sequence[int]) -> Features:
        """Returns the words of a text as features, in a vector of a fixed length."""
        weights = [self._rarity(word) for word in words]
        length = math.sqrt(sum(weight * weight for weight in weights)) or 1.0
        return [
            (word, _WORDS_VALUE * weight / length)
            for word, weight in zip(words, weights, strict=True)
        ]

    def share(self, some: Sequence[int], words: AbstractSet[int]) -> float:
        """Returns which fraction of some words a text has; rare ones count more."""
        common = [word for word in some if word in words]
        if not common:
            return 0.0
        return sum(map(self._rarity, common)) / sum(map(self._rarity, some))

    def _rarity(self, word: int) -> float:
        return math.log((self._texts + 2) / (self._counts.get(word, 0) + 1))


def _resemblances(rival: Rival | None) -> Features:
    if rival is None:
        return ()
    name = _RESEMBLANCE_VALUE * rival.name / RESEMBLANCE
    description = _RESEMBLANCE_VALUE * rival.description / RESEMBLANCE
    found = [(_NAME, name), (_DESCRIPTION, description)]
    if rival.called:
        found += [(_NAME_CALLED, name), (_CALLED, 1.0)]
    return found


def _contexts(situation: Situation) -> tuple[int, ...]:
    """Returns the features of the calls before: sequences of tools, and the set of them."""
    names = [call.tool_name for call in situation.calls[-CONTEXT_CALLS_MAX:]]
    sequence = ["^", *names] if len(situation.calls) == len(names) else names
    found = [keyed("n", *sequence[-length:]) for length in range(1, CONTEXT_MAX + 1)]
    if not names:
        found.append(keyed("e", *(call.tool_name for call in situation.earlier[-1:])))
    found += [keyed("c", name) for name in dict.fromkeys(names)]
    return tuple(dict.fromkeys(found))


def _schema(tools: Mapping[str, ToolDeclaration], name: str) -> JsonObject:
    tool = tools.get(name)
    return {} if tool is None else tool.input_schema
