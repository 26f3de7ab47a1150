"""The grammar of a tool's arguments: as much of its schema as a model can be held to.

Never: compiles grammars, bounds the time that making one takes (`grammar_worker` does both).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Final

from precall_service.domain.events import LoosenedKeyword
from precall_service.domain.json import JsonObject
from precall_service.domain.normal_schema import normal_form
from precall_service.engine.vllm.grammars import ArgumentsForm, arguments_grammar, schema_text
from precall_service.engine.vllm.held import held

GRAMMAR_BYTES_MAX: Final = 256 << 10
"""The most characters of one tool's grammar, together with the schema that it holds. Ordinary tools
have one or two thousand."""

LOOSENED_MAX: Final = 32
"""The most loosened keywords of one tool that are named."""
SET_COMPILE_MAX_S: Final = 4.0
"""The most processor time for the grammars of the tools of one turn, which the engine compiles
again, as one grammar."""
RULES_FOR_TWICE: Final = 1000
"""Beside so many rules, each part of a grammar takes twice as long to compile as alone: for every
state, xgrammar makes a parser, and that has a place for each rule of the whole grammar. Measured
with a vocabulary of 49,000 tokens; with a larger one, the states themselves take longer."""
SET_CHARS_MAX: Final = 1 << 20
"""The most characters of the grammars of the tools of one turn."""

_REASON_CHARS_MAX: Final = 300
_ANY_OBJECT: Final[JsonObject] = {"type": "object"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolGrammar:
    """What holds a model to the schema of a tool.

    Attributes:
        schema: What of the tool's schema is held.
        texts: The grammar of that schema, by the form of arguments that it is for. None for a tool
            that is held to be an object: its grammar is quick to make where it is needed.
        loosened: What is not held.
        compile_s: The processor time that it took to compile, alone, in seconds.
        rules: How many rules it has when it is compiled.
    """

    schema: JsonObject | bool
    texts: Mapping[ArgumentsForm, str] = field(default_factory=dict[ArgumentsForm, str])
    loosened: tuple[LoosenedKeyword, ...] = ()
    compile_s: float = 0.0
    rules: int = 0

    @property
    def size(self) -> int:
        """The characters of all texts."""
        return sum(map(len, self.texts.values()))


def tool_grammar(
    schema: JsonObject, forms: Sequence[ArgumentsForm], *, costly: bool = True
) -> ToolGrammar:
    """Returns the grammar of a tool's schema; without `costly`, one that is quick to compile."""
    found = held(normal_form(schema), costly=costly)
    try:
        texts = {form: arguments_grammar(found.schema, form) for form in forms}
    except RuntimeError as error:
        return any_object(plain_reason(error))
    made = ToolGrammar(schema=found.schema, texts=texts, loosened=_told(found.loosened))
    size = made.size + len(schema_text(found.schema))
    if size > GRAMMAR_BYTES_MAX:
        return any_object(f"its grammar has {size} characters, the limit is {GRAMMAR_BYTES_MAX}")
    return made


def within_budget(grammars: Iterable[ToolGrammar]) -> list[ToolGrammar]:
    """Returns the grammars of one turn's tools, as far as they fit beside one another."""
    together = _Together()
    fitting: list[ToolGrammar] = []
    for grammar in grammars:
        more = together.with_one(grammar)
        if more.compile_s > SET_COMPILE_MAX_S or more.characters > SET_CHARS_MAX:
            fitting.append(any_object("the other tools of the turn have used up what a turn may"))
            continue
        together = more
        fitting.append(grammar)
    return fitting


def compile_together_s(grammars: Iterable[ToolGrammar]) -> float:
    """Returns about how much processor time it takes to compile all of these as one grammar."""
    return reduce(_Together.with_one, grammars, _Together()).compile_s


@dataclass(frozen=True, slots=True)
class _Together:
    """Grammars that are compiled as one; `states_s` is the time for their states, without rules."""

    states_s: float = 0.0
    rules: int = 0
    characters: int = 0

    @property
    def compile_s(self) -> float:
        """The processor time that this takes."""
        return self.states_s * _times_longer(self.rules)

    def with_one(self, grammar: ToolGrammar) -> _Together:
        """These and one more."""
        return _Together(
            self.states_s + grammar.compile_s / _times_longer(grammar.rules),
            self.rules + grammar.rules,
            self.characters + grammar.size,
        )


def _times_longer(rules: int) -> float:
    return 1 + rules / RULES_FOR_TWICE


def _told(loosened: tuple[LoosenedKeyword, ...]) -> tuple[LoosenedKeyword, ...]:
    more = len(loosened) - LOOSENED_MAX
    if more <= 0:
        return loosened
    return (*loosened[:LOOSENED_MAX], LoosenedKeyword("$", f"{more} more keywords of it"))


def plain_reason(error: Exception) -> str:
    """What an error of xgrammar's says, without the place in its source."""
    said = str(error).strip().rsplit(": ", maxsplit=1)[-1]
    return said[:_REASON_CHARS_MAX] or type(error).__name__


def any_object(reason: str) -> ToolGrammar:
    """Returns the grammar of a tool whose arguments are held to be an object, and no more."""
    return ToolGrammar(schema=_ANY_OBJECT, loosened=(LoosenedKeyword("$", reason),))
