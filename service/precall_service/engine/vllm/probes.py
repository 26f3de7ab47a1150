"""What the renderings are made of from which precall learns the form of a chat template."""

from __future__ import annotations

import secrets
from typing import Final

from precall_service.domain.tools import ToolDeclaration, ToolEffects

MARKER: Final = f"precall{secrets.token_hex(4)}"
"""Stands where a template writes a text, a thought or an argument; nothing else contains it."""

CALL_ID: Final = "precall00"  # nine letters and digits: some templates take nothing else

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


def common_start(one: str, other: str) -> str:
    """The longest text that both begin with."""
    for length, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return one[:length]
    return min(one, other, key=len)
