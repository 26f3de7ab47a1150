"""Tells a thought that a model itself opens, first thing in its message, from what follows.

Models whose thinking is optional do so, without a trace in the prompt. vLLM's reasoning parsers
take either all messages for thoughts up to a mark, or none.

Never: tokens, calls.
"""

from __future__ import annotations

from precall_service.engine.vllm.call_reader import overlap


class LeadingThought:
    """The thought of one message, if it begins with the mark that opens one.

    Attributes:
        past: Whether all text from now on is no thought.
        length: How many characters the thought had, with its marks and the blanks before it.
    """

    def __init__(self, start: str, end: str) -> None:
        self._start = start
        self._end = end
        self._open = False
        self._held: str = ""
        self.past = False
        self.length = 0

    def feed(self, text: str) -> tuple[str, str]:
        """What the next piece of the message has of the thought, and of what follows on it."""
        text, self._held = self._held + text, ""
        if not self._open:
            begun = text.lstrip()
            if self._start.startswith(begun):
                if begun != self._start:
                    self._held = text
                    return "", ""
            elif not begun.startswith(self._start):
                self.past = True
                return "", text
            self._open = True
            self.length += len(text) - len(begun) + len(self._start)
            text = begun[len(self._start) :]
        at = text.find(self._end)
        if at < 0:
            kept = len(text) - overlap(text, self._end)
            self._held = text[kept:]
            self.length += kept
            return text[:kept], ""
        self.past = True
        self.length += at + len(self._end)
        return text[:at], text[at + len(self._end) :]

    def rest(self) -> tuple[str, str]:
        """The same for what was held back, at the end of the message."""
        held, self._held = self._held, ""
        self.past = True
        return (held, "") if self._open else ("", held)
