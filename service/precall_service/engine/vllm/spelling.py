"""How a model writes texts in other tokens than its tokenizer would.

Under a grammar, a model may write `"` and `,` where its tokenizer has `",`, and it does so in every
call. A draft in the tokenizer's tokens is then rejected each time, though its text is right. So
what was written in the place of rejected tokens is kept, and put into the drafts that follow.

Owns: what was written last in the place of which tokens.
Concurrency: used by the scheduler alone, between two steps of the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

EXPECTED_MAX: Final = 4
"""The most tokens in whose place others are kept. Longer ones would hardly be met again."""
WRITTEN_MAX: Final = 8
"""The most tokens that are kept in the place of others."""
ENTRIES_MAX: Final = 4096
"""The most entries. The oldest are forgotten first."""

Tokens = tuple[int, ...]


class Spelling:
    """What one model writes, in all generations of an engine."""

    def __init__(self) -> None:
        self._written: dict[Tokens, Tokens] = {}

    def learn(self, expected: Sequence[int], written: Sequence[int]) -> None:
        """Notes that a model wrote a text in these tokens where others were expected."""
        expected, written = tuple(expected), tuple(written)
        if not 0 < len(expected) <= EXPECTED_MAX or not 0 < len(written) <= WRITTEN_MAX:
            return
        if self._written.get(written) == expected:
            del self._written[written]  # it writes again as the tokenizer does
            return
        self._written.pop(expected, None)
        self._written[expected] = written
        if len(self._written) > ENTRIES_MAX:
            del self._written[next(iter(self._written))]

    def spelled(self, token_ids: Sequence[int]) -> Tokens:
        """Returns tokens of the same text, as the model would write it."""
        given, spelled, at = tuple(token_ids), list[int](), 0
        while at < len(given):
            known = self._longest(given[at : at + EXPECTED_MAX])
            spelled += self._written.get(known, known)
            at += len(known)
        return tuple(spelled)

    def _longest(self, token_ids: Tokens) -> Tokens:
        """The first tokens, as many as have others in their place; the first one if none have."""
        beginnings = (token_ids[:count] for count in range(len(token_ids), 0, -1))
        return next((each for each in beginnings if each in self._written), token_ids[:1])
