"""The precall service: a vLLM engine and the agent loop beside it, behind gRPC."""

from __future__ import annotations

__version__ = "0.1.0"
