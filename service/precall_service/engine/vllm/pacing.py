"""Decides how often a parser is asked that reads a long call from its beginning each time.

Most of vLLM's parsers do, or copy all that came before. Asked at every token, their work grows with
the square of the call. Here, tokens are collected first once a call is long, and more of them the
longer it is. The work then grows with the call, times a constant.

Never: delays text or reasoning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_PACED_FROM: Final = 4096
"""Characters since the last text or reasoning up to which a parser is asked at every token."""

_SHARE: Final = 16
"""Beyond that, it is asked each time when these characters have grown by this part of them."""


class Pace:
    """The pace of one step."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        self._held = 0
        self._silent = 0

    @property
    def holds(self) -> bool:
        """Whether text waits to be parsed."""
        return bool(self._token_ids) or self._held > 0

    def take(self, text: str, token_ids: Sequence[int], *, special: bool) -> bool:
        """Adds the next text of a step; returns whether all that waits is to be parsed now.

        A special token, as many formats end their calls with, is always parsed at once.
        """
        self._texts.append(text)
        self._token_ids += token_ids
        self._held += len(text)
        self._silent += len(text)
        return special or self._silent <= _PACED_FROM or self._held * _SHARE >= self._silent

    def taken(self) -> tuple[str, list[int]]:
        """What waits to be parsed; from now on nothing waits."""
        text, token_ids = "".join(self._texts), self._token_ids
        self._texts, self._token_ids, self._held = [], [], 0
        return text, token_ids

    def told(self) -> None:
        """The step has brought text or reasoning: it is not in a long call."""
        self._silent = self._held
