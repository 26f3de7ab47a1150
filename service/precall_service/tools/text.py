"""Text of others, cut to a length that fits a message."""

from __future__ import annotations


def shorten(text: str, chars_max: int) -> str:
    """The text, with its middle left out when it is longer than `chars_max`.

    Both ends stay: validators write the value first and what is wrong with it last.
    """
    if len(text) <= chars_max:
        return text
    tail = chars_max // 2
    return f"{text[: chars_max - tail - 1]}…{text[len(text) - tail :]}"
