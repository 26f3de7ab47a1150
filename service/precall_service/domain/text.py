"""Text that UTF-8 can carry."""

from __future__ import annotations


def encodable(text: str) -> str:
    """The text, with "?" in place of each half of a surrogate pair.

    JSON can spell such a half, Python can hold it, and UTF-8 cannot encode it: neither protobuf
    nor a tokenizer takes it.
    """
    return text.encode(errors="replace").decode()
