# Copied from service/precall_service/tools/text.py by `make gen`. Do not edit.
"""Shortens the texts of models, handlers and clients for messages."""

from __future__ import annotations


def shorten(text: str, chars_max: int) -> str:
    """Returns the text; one longer than `chars_max` is shortened in the middle.

    Both ends are kept because validators name the value first and the problem last.
    """
    if len(text) <= chars_max:
        return text
    tail = chars_max // 2
    return f"{text[: chars_max - tail - 1]}…{text[len(text) - tail :]}"
