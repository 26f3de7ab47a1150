# Copied from service/precall_service/domain/text.py by `make gen`. Do not edit.
"""Text that can be encoded in UTF-8."""

from __future__ import annotations


def encodable(text: str) -> str:
    """Returns the text with "?" in place of each half of a surrogate pair.

    JSON can spell such a half and a Python string can hold it, but UTF-8 cannot encode it, so
    neither protobuf nor a tokenizer accepts it.
    """
    return text.encode(errors="replace").decode()
