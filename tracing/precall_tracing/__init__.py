"""Traces of precall: one trace per turn, following the GenAI semantic conventions.

Owns: the names (`names`), the spans of a turn (`turns`), and the setup of the SDK (`setup`).
Never: imports other packages of precall. Every part of the service may import this one.

Conventions: `open-telemetry/semantic-conventions-genai`, status Development, as of 2026-09. Their
names still change, so all of them are in one module.
"""

from __future__ import annotations
