"""The precall service: a vLLM engine and the agent loop in one process, served over gRPC."""

from __future__ import annotations

__version__ = "0.1.0"
