"""What the renderings are made of from which precall learns the form of a chat template."""

from __future__ import annotations

import secrets
from typing import Final

from precall_service.domain.tools import ToolDeclaration, ToolEffects

PROBE: Final = f"precall{secrets.token_hex(4)}"
"""Every text of a probe contains this, and no text of a conversation does."""

MARKER: Final = f"{PROBE}marker"
"""Stands where a template writes a text, a thought or an argument; nothing else contains it."""

CALL_ID: Final = "precall00"  # nine letters and digits: some templates take nothing else
EARLIER_CALL_ID: Final = "precall01"

TOOL: Final = ToolDeclaration(
    name="probe",
    version="1",
    digest="probe",
    description="Does nothing.",
    input_schema={"type": "object", "properties": {}, "additionalProperties": False},
    output_schema=None,
    effects=ToolEffects(),
    timeout_s=1.0,
    max_concurrency=1,
)

SHAPES_MAX: Final = 256
"""How many forms are remembered. Clients choose the variables that forms depend on."""


def probe_text(meaning: str) -> str:
    """A text that differs from those with another meaning: some templates compare messages."""
    return f"{PROBE} {meaning}"


def common_start(one: str, other: str) -> str:
    """The longest text that both begin with."""
    for length, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return one[:length]
    return min(one, other, key=len)
