"""Traces of precall: one per turn, in the GenAI semantic conventions.

Owns: the names (`names`), the spans of a turn (`turns`), and the SDK's set-up (`setup`).
Never: anything of ours; every part of the service may use it, and it knows none.

Conventions: `open-telemetry/semantic-conventions-genai`, status Development, as of 2026-09. They
move: that is why every name stands in one module.
"""

from __future__ import annotations
