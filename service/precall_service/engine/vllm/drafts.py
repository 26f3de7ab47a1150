"""Follows a generation through the calls that it is expected to write, to the next tokens.

A draft is found in what a generation writes by its bytes and not by its tokens: under a grammar, a
model may write the same text in other tokens than its tokenizer would. Tokens of a draft are
proposed only from where the two agree again.

Owns: how far a generation has written each of its drafts, and when a draft is given up.
Never: verifies tokens, which the engine does; knows tokenizers or vLLM.
Concurrency: used by the scheduler alone, between two steps of the engine.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

DRAFTS_MAX: Final = 16
"""The most drafts of one generation. Further ones are left out."""
DRAFT_TOKENS_MAX: Final = 1024
"""The most tokens of one draft. The rest is left out."""
MISFITS_MAX: Final = 12
"""How often a generation may write a draft's text in other tokens before the draft is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftTokens:
    """The tokens that a generation is expected to write in a row.

    Attributes:
        token_ids: All of them, as the tokenizer writes their text.
        mark_tokens: How many must have been written before the rest is proposed; at least one.
        again: Whether they are as likely after they were written, as the end of a call is.
        number: Names the draft among those of its generation, in the account.
    """

    token_ids: tuple[int, ...]
    mark_tokens: int
    again: bool = False
    number: int = 0


class DraftAccount:
    """How many tokens of each draft were verified, and how many of them were kept.

    Both lists have an entry for each draft, by its number; drafts after the last entry have none.
    """

    def __init__(self) -> None:
        self.proposed: list[int] = []
        self.accepted: list[int] = []

    def add(self, number: int, proposed: int, accepted: int) -> None:
        """Notes that so many tokens of a draft were verified in one step."""
        missing = number + 1 - len(self.proposed)
        for counts in (self.proposed, self.accepted):
            counts.extend([0] * missing)
        self.proposed[number] += proposed
        self.accepted[number] += accepted


class _Draft:
    """One draft, and how much of its beginning stands at the end of what was written.

    That is found with the algorithm of Knuth, Morris and Pratt (SIAM J. Comput. 6, 1977), whose
    cost does not grow with how often the beginning of the draft occurs in a text.
    """

    def __init__(self, draft: DraftTokens, token_bytes: Sequence[bytes]) -> None:
        self._token_ids = draft.token_ids[:DRAFT_TOKENS_MAX]
        texts = [token_bytes[token_id] for token_id in self._token_ids]
        self._text = b"".join(texts)
        ends = itertools.accumulate(map(len, texts), initial=0)
        self._token_after = {end: index for index, end in enumerate(ends)}
        self._mark = sum(map(len, texts[: draft.mark_tokens]))
        self._fallbacks = _fallbacks(self._text)
        self.written = 0
        """How many bytes of it stand at the end of what was written."""
        self._again = draft.again
        self.repeats = 0
        """How often it has been written. Models repeat calls, so it may be written again."""
        self._misfits = 0
        self.number = draft.number
        self.over = not self._text
        """Whether nothing of it will be proposed again."""

    def write(self, text: bytes) -> None:
        """Takes what the generation has written next."""
        if self.over:
            return
        for byte in text:
            if self.written == len(self._text):
                self.written = self._fallbacks[-1]
            while self.written and self._text[self.written] != byte:
                self.written = self._fallbacks[self.written - 1]
            self.written += self._text[self.written] == byte
            if self.written == len(self._text):
                self.repeats += not self._again
                self._misfits = 0

    def propose(self) -> tuple[int, ...]:
        """The tokens that come next by this draft; none if the generation does not follow it."""
        index = self._token_after.get(self.written)
        if self.over or index is None or self.written < self._mark:
            return ()
        return self._token_ids[index:]

    def rejected(self, *, follows: bool) -> None:
        """The engine has rejected a token of it, and written another.

        The draft is given up unless its text `follows` all the same: in other tokens.
        """
        self._misfits += 1
        self.over = self.over or not follows or self._misfits > MISFITS_MAX


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """The tokens that come next by a draft.

    Attributes:
        draft: The draft.
        written: How many of its bytes stand before them.
        token_ids: The tokens; at least one.
    """

    draft: _Draft
    written: int
    token_ids: tuple[int, ...]


class StagedDrafts:
    """The drafts of one generation, the likeliest first."""

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        """`token_bytes` has the text of each token of the vocabulary."""
        self._token_bytes = token_bytes
        self._drafts: list[_Draft] = []
        self._followed = 0
        self.account = DraftAccount()

    def stage(self, drafts: Iterable[DraftTokens], output: Sequence[int]) -> None:
        """Adds drafts to a generation that has sampled the tokens `output` so far."""
        self.follow(output)
        written = self._bytes(output[-DRAFT_TOKENS_MAX:])
        for given in itertools.islice(drafts, DRAFTS_MAX - len(self._drafts)):
            if all(0 <= token_id < len(self._token_bytes) for token_id in given.token_ids):
                draft = _Draft(given, self._token_bytes)
                draft.write(written)
                self._drafts.append(draft)
        self._tidy()

    def follow(self, output: Sequence[int]) -> None:
        """Takes the tokens of `output` that are new since the last time."""
        new = self._bytes(output[self._followed :])
        self._followed = len(output)
        for draft in self._drafts:
            draft.write(new)
        self._tidy()

    def propose(self, tokens_max: int, stop_token_ids: Collection[int]) -> Proposal | None:
        """The next tokens by the likeliest draft that is followed, up to a stop token.

        A draft that has been written is less likely than all that have not.
        """
        for draft in sorted(self._drafts, key=lambda draft: draft.repeats):
            tokens = itertools.takewhile(
                lambda token_id: token_id not in stop_token_ids,
                draft.propose()[: max(0, tokens_max)],
            )
            if token_ids := tuple(tokens):
                return Proposal(draft, draft.written, token_ids)
        return None

    def rest(self, proposal: Proposal, token_ids: Sequence[int]) -> Proposal | None:
        """What is left of a proposal once these tokens were written.

        None if they are others than those proposed, or if nothing is left.
        """
        count = len(token_ids)
        if proposal.token_ids[:count] != tuple(token_ids) or count >= len(proposal.token_ids):
            return None
        written = proposal.written + len(self._bytes(token_ids))
        return Proposal(proposal.draft, written, proposal.token_ids[count:])

    def verified(self, proposal: Proposal, token_ids: Sequence[int], accepted: int) -> None:
        """The engine has verified these tokens, and kept so many of them.

        They do not count if they do not begin the proposal, but are of another method.
        """
        if proposal.token_ids[: len(token_ids)] == tuple(token_ids):
            self.account.add(proposal.draft.number, len(token_ids), accepted)

    def rejected(self, proposal: Proposal, output: Sequence[int], sampled: int) -> None:
        """The engine has rejected a token of a proposal, and sampled the last tokens of `output`.

        They must have been followed before.
        """
        draft = proposal.draft
        written = proposal.written + len(self._bytes(output[len(output) - sampled :]))
        draft.rejected(follows=draft.written == written)
        self._tidy()

    def __bool__(self) -> bool:
        return bool(self._drafts)

    def _tidy(self) -> None:
        self._drafts = [draft for draft in self._drafts if not draft.over]

    def _bytes(self, token_ids: Sequence[int]) -> bytes:
        # A model may have more tokens than its tokenizer, which have no text.
        known = (each for each in token_ids if each < len(self._token_bytes))
        return b"".join(self._token_bytes[each] for each in known)


def _fallbacks(text: bytes) -> list[int]:
    """For each beginning of the text, the length of the longest shorter one that also ends it."""
    lengths = [0] * len(text)
    for index in range(1, len(text)):
        length = lengths[index - 1]
        while length and text[length] != text[index]:
            length = lengths[length - 1]
        lengths[index] = length + (text[length] == text[index])
    return lengths
