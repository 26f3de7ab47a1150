"""The learned arguments of one tool: which forms they have, and where each of them comes from.

The *form* of arguments is the set of their leaves' paths, so an absent optional argument and the
length of an array are parts of it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec

from precall_service.domain.json import JsonObject, JsonValue
from precall_service.speculation.predictors.history.records import CallSeen, LeafSeen, ValueSeen
from precall_service.speculation.predictors.history.schema import fits, part_schema
from precall_service.speculation.predictors.history.sources import Sources
from precall_service.speculation.predictors.history.values import (
    Path,
    arguments_of,
    assembled,
    spelled,
    written,
)
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

Form: TypeAlias = tuple[Path, ...]

FORMS_MAX: Final = 16
LEAVES_MAX: Final = 64
"""The most leaves of a tool, over all forms."""
CONSTANTS_MAX: Final = 16
"""The most values of a leaf that may be proposed again."""
CONSTANT_CHARS_MAX: Final = 256
"""Longer values are not proposed again, unless a source has them."""
POINTERS_MAX: Final = 96
CHOICES_MAX: Final = 192
FORM_WEIGHTS_MAX: Final = CHOICES_MAX
LEAF_WEIGHTS_MAX: Final = POINTERS_MAX + CHOICES_MAX
VALUES_MAX: Final = 3
"""The most values of a leaf that are combined into proposals."""
FORMS_TRIED_MAX: Final = 2
OTHERS_MAX: Final = 12
"""The most possible values that a record has besides the right one."""

_NONE: Final = 0
"""The pointer of "none of the values": its weight is the score of a value that nothing has."""
_ALWAYS: Final = keyed("always")


@dataclass(slots=True)
class _Found:
    """A possible value in a situation."""

    value: JsonValue
    constant: int = 0
    pointers: list[int] | None = None


class Leaf:
    """Where an argument comes from."""

    def __init__(self, age: Age) -> None:
        self._pointers = Pointers(age, POINTERS_MAX)
        self._constants: dict[int, tuple[str, JsonValue]] = {}
        """The values by their hashes, the one learned last at the end."""
        self._choice = Choice(age, CHOICES_MAX)

    @property
    def weights(self) -> int:
        """The number of weights: at most LEAF_WEIGHTS_MAX."""
        return len(self._pointers.table) + len(self._choice)

    def likely(
        self, sources: Sources, words: Features, schema: JsonValue
    ) -> list[tuple[float, JsonValue]]:
        """Returns likely values with their probabilities, the most probable first."""
        found = self._found(sources, schema)
        scored = zip(found.values(), self._chances(found, words), strict=False)
        ranked = sorted(scored, key=lambda each: -each[1])
        return [(chance, each.value) for each, chance in ranked[:VALUES_MAX]]

    def observe(
        self, path: Path, value: JsonValue, sources: Sources, words: Features, schema: JsonValue
    ) -> LeafSeen:
        """Returns what there is to learn from a value."""
        text = written(value)
        if text is None:
            return LeafSeen(path, "")
        found = self._found(sources, schema)
        chances = self._chances(found, words)
        others = [
            (chance, ValueSeen(each.constant, tuple(each.pointers or ())))
            for (other, each), chance in zip(found.items(), chances, strict=False)
            if other != text and chance >= GRADIENT_MIN
        ]
        others.sort(key=lambda each: -each[0])
        seen = tuple(each for _, each in others[:OTHERS_MAX])
        return LeafSeen(path, text, tuple(sources.pointers(value, text)), seen)

    def learn(self, seen: LeafSeen, words: Features) -> None:
        """Learns from a value."""
        if not seen.text:
            return
        constant = self._remember(seen.text)
        if constant or seen.pointers:
            right, target = ValueSeen(constant, seen.pointers), 1
        else:
            right, target = ValueSeen(0, ()), 0
        candidates = (ValueSeen(0, (_NONE,)), right, *seen.others)
        features = ((_ALWAYS, 1.0), *words)
        of_constants = self._choice.scores(features, {each.constant for each in candidates})
        scores = {
            index: self._pointers.total(each.pointers)
            + (of_constants[each.constant] if each.constant else 0.0)
            for index, each in enumerate(candidates)
            if index != 1 or target
        }
        steps = gradients(scores, {target: 1.0})
        for index, gradient in steps.items():
            self._pointers.learn(candidates[index].pointers, gradient)
        # Words tell which constant it is only if it is found nowhere else.
        if seen.pointers:
            features = ((_ALWAYS, 1.0),)
        constants = {candidates[index].constant: step for index, step in steps.items()}
        constants.pop(0, None)
        self._choice.learn(features, constants)

    def rebase(self) -> None:
        """See `Pointers.rebase`."""
        self._pointers.rebase()
        self._choice.rebase()

    def _found(self, sources: Sources, schema: JsonValue) -> dict[str, _Found]:
        """Returns the possible values by their canonical texts."""
        found: dict[str, _Found] = {}
        for pointer in self._pointers.table:
            for value, text in sources.values(pointer):
                each = found.get(text)
                if each is None:
                    if not fits(value, schema):
                        continue
                    each = found[text] = _Found(value, 0, [])
                assert each.pointers is not None
                each.pointers.append(pointer)
        for constant, (text, value) in self._constants.items():
            each = found.get(text)
            if each is not None:
                each.constant = constant
            elif fits(value, schema):
                found[text] = _Found(value, constant)
        return found

    def _chances(self, found: dict[str, _Found], words: Features) -> list[float]:
        """Returns the probability of each value, and last that of none of them."""
        of_constants = self._of_constants(words)
        total = self._pointers.total
        scores = [
            (total(each.pointers) if each.pointers else 0.0)
            + (of_constants[each.constant] if each.constant else 0.0)
            for each in found.values()
        ]
        return probabilities([*scores, self._pointers.value(_NONE)])

    def _of_constants(self, words: Features) -> dict[int, float]:
        """Returns the score of each constant."""
        if not self._constants:
            return {}
        return self._choice.scores(((_ALWAYS, 1.0), *words), self._constants)

    def _remember(self, text: str) -> int:
        """Keeps a value as a constant, and returns its hash; 0 if it is too long."""
        if len(text) > CONSTANT_CHARS_MAX:
            return 0
        constant = keyed("c", text) or 1
        kept = self._constants.pop(constant, None)
        self._constants[constant] = kept or (text, msgspec.json.decode(text))
        if len(self._constants) > CONSTANTS_MAX:
            del self._constants[next(iter(self._constants))]
        return constant


class ToolArguments:
    """The learned arguments of a tool."""

    def __init__(self, age: Age) -> None:
        self._age = age
        self._forms: dict[int, Form] = {}
        self._choice = Choice(age, CHOICES_MAX)
        self._leaves: dict[Path, Leaf] = {}

    def __len__(self) -> int:
        """Returns the number of known leaves."""
        return len(self._leaves)

    @property
    def weights(self) -> int:
        """The number of weights of the forms and all leaves."""
        return len(self._choice) + sum(leaf.weights for leaf in self._leaves.values())

    def likely(
        self, sources: Sources, features: Features, words: Features, schema: JsonObject
    ) -> Iterator[tuple[float, JsonObject]]:
        """Yields likely arguments with their probabilities, form by form, best first in each."""
        chances = [1.0]
        if len(self._forms) > 1:
            scores = self._choice.scores(((_ALWAYS, 1.0), *features), self._forms)
            chances = probabilities(list(scores.values()))
        forms = sorted(zip(chances, self._forms.values(), strict=False), key=lambda each: -each[0])
        known: dict[Path, list[tuple[float, JsonValue]]] = {}
        for chance, form in forms[:FORMS_TRIED_MAX]:
            for path in form:
                if path not in known:
                    leaf = self._leaves.get(path)
                    known[path] = (
                        leaf.likely(sources, words, part_schema(schema, path)) if leaf else []
                    )
            for combined, values in _best([known[path] for path in form]):
                arguments = assembled(list(zip(form, values, strict=True)))
                if fits(arguments, schema):  # it may have changed since the form was learned
                    yield chance * combined, arguments

    def observe(
        self,
        tool_name: str,
        arguments: JsonObject,
        sources: Sources,
        words: Features,
        schema: JsonObject,
        *,
        leaves_max: int,
    ) -> CallSeen:
        """Returns what there is to learn from a call; of its arguments only if they are few."""
        leaves = arguments_of(arguments)
        if leaves is None or len(leaves) > leaves_max:
            return CallSeen(tool_name, None)
        form = tuple(path for path, _ in leaves)
        empty = Leaf(self._age)
        seen = tuple(
            self._leaves.get(path, empty).observe(
                path, value, sources, words, part_schema(schema, path)
            )
            for path, value in leaves
        )
        own = _form_key(form)
        return CallSeen(tool_name, seen, tuple(key for key in self._forms if key != own))

    def learn(self, seen: CallSeen, features: Features, words: Features) -> None:
        """Learns from a call."""
        if seen.leaves is None:
            return
        form = tuple(leaf.path for leaf in seen.leaves)
        key = _form_key(form)
        self._forms.pop(key, None)
        self._forms[key] = form
        if len(self._forms) > FORMS_MAX:
            del self._forms[next(iter(self._forms))]
        features = ((_ALWAYS, 1.0), *features)
        scores = self._choice.scores(features, (key, *seen.other_forms))
        self._choice.learn(features, gradients(scores, {key: 1.0}))
        for each in seen.leaves:
            leaf = self._leaves.pop(each.path, None) or Leaf(self._age)
            self._leaves[each.path] = leaf
            if len(self._leaves) > LEAVES_MAX:
                del self._leaves[next(iter(self._leaves))]
            leaf.learn(each, words)

    def rebase(self) -> None:
        """See `Pointers.rebase`."""
        self._choice.rebase()
        for leaf in self._leaves.values():
            leaf.rebase()


def _form_key(form: Form) -> int:
    return keyed("f", *map(spelled, form)) or 1


def _best(
    leaves: Sequence[Sequence[tuple[float, JsonValue]]],
) -> Iterator[tuple[float, tuple[JsonValue, ...]]]:
    """Yields the VALUES_MAX most probable combinations of values, one of each leaf, best first."""
    if not all(leaves):
        return
    first = tuple(0 for _ in leaves)
    waiting = [(-_product(leaves, first), first)]
    seen = {first}
    for _ in range(VALUES_MAX):
        if not waiting:
            return
        chance, picked = heapq.heappop(waiting)
        yield -chance, tuple(leaf[index][1] for leaf, index in zip(leaves, picked, strict=True))
        for place, index in enumerate(picked):
            following = (*picked[:place], index + 1, *picked[place + 1 :])
            if index + 1 < len(leaves[place]) and following not in seen:
                seen.add(following)
                heapq.heappush(waiting, (-_product(leaves, following), following))


def _product(leaves: Sequence[Sequence[tuple[float, JsonValue]]], picked: Sequence[int]) -> float:
    product = 1.0
    for leaf, index in zip(leaves, picked, strict=True):
        product *= leaf[index][0]
    return product
