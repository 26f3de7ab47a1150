"""Text that a grammar leaves no choice about, written in the tokens of the model's tokenizer.

A grammar masks the tokens that do not fit, and so allows every piece of a word: where it demands
`player`, also `p`, `pl` and `play`. Models have hardly ever seen such pieces, and small ones choose
them nevertheless. That takes more tokens, says things in a form that the model reads badly, and is
not what a draft of the same text has. Here, the only token allowed is the tokenizer's own.

The text is what xgrammar finds that every continuation begins with. Its last word may go on in the
text after it, and is left to the mask. What is allowed depends on the state of the grammar alone,
so that it is the same with drafts and without.

Concurrency: vLLM compiles grammars in threads, and may make the masks of several there. A grammar
is in one thread at a time; they share the Speller.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import torch
from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend, XgrammarGrammar

TEXT_CHARS_MAX: Final = 256
"""How much of a certain text is read at once. A constant may be as long as the schema of a tool."""
TEXTS_MAX: Final = 4096
"""The texts whose first tokens are kept."""


@dataclass(frozen=True, slots=True)
class Spelled:
    """The first token of a text, and the characters that it writes; 0 if it ends within one."""

    token: int
    chars: int


class Speller:
    """Writes texts in the tokens of a tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        """A tokenizer that does not tell where words end spells nothing."""
        self._tokenizer = getattr(tokenizer, "backend_tokenizer", None)
        self.first = lru_cache(TEXTS_MAX)(self._first)

    def _first(self, text: str) -> Spelled | None:
        """Returns the first token of a text; None if it belongs to the last word."""
        if self._tokenizer is None or not text:
            return None
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        words: list[int | None] = encoding.word_ids
        if not words or words[0] == words[-1]:
            return None
        (_, end), (begin, _) = encoding.offsets[:2]
        return Spelled(encoding.ids[0], end if begin == end else 0)


class SpelledGrammar(XgrammarGrammar):
    """vLLM's grammar, which allows one token only where the text is certain."""

    def __init__(self, grammar: XgrammarGrammar, speller: Speller) -> None:
        """Takes the place of a grammar that vLLM has made."""
        super().__init__(vocab_size=grammar.vocab_size, matcher=grammar.matcher, ctx=grammar.ctx)
        self._speller = speller
        self._certain: str | None = None
        """The certain text from here on, if it is known."""
        self._next: Spelled | None = None
        """The first token of it, once the mask has been made."""

    def fill_bitmask(self, bitmask: torch.Tensor, idx: int) -> None:
        """As vLLM's."""
        super().fill_bitmask(bitmask, idx)
        if self._certain is None:
            self._certain = self._found()
        self._next = self._speller.first(self._certain[:TEXT_CHARS_MAX])
        if self._next is not None:
            _allow_alone(bitmask[idx], self._next.token)

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        """As vLLM's."""
        known, spelled = self._certain, self._next
        self._certain = self._next = None
        if known and spelled and spelled.chars and tokens == [spelled.token]:
            self._certain = known[spelled.chars :]
        return super().accept_tokens(request_id, tokens)

    def rollback(self, num_tokens: int) -> None:
        """As vLLM's."""
        super().rollback(num_tokens)
        self._certain = self._next = None

    def reset(self) -> None:
        """As vLLM's."""
        super().reset()
        self._certain = self._next = None

    def _found(self) -> str:
        try:
            return self.matcher.find_jump_forward_string()
        except UnicodeDecodeError:  # within a character
            return ""


def _allow_alone(row: torch.Tensor, token: int) -> None:
    """Leaves one token in the row of a mask, if it is there."""
    word, bit = divmod(token, 32)
    if int(row[word]) >> bit & 1:
        row.zero_()
        row[word] = 1 << bit if bit < 31 else -(1 << 31)


class SpellingBackend(XgrammarBackend):
    """vLLM's use of xgrammar, with such grammars."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._speller = Speller(self.tokenizer)

    def compile_grammar(
        self, request_type: Any, grammar_spec: str, stop_token_ids: set[int] | None = None
    ) -> SpelledGrammar:
        """As vLLM's."""
        made: Any = super().compile_grammar(request_type, grammar_spec, stop_token_ids)
        return SpelledGrammar(made, self._speller)
