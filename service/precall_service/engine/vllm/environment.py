"""Sets the environment that vLLM reads when it is imported; it is set nowhere else.

What the operator has set stays, but for what precall does not work without.
"""

from __future__ import annotations

import os
import sys

from precall_service.engine.vllm.config import VllmConfig

_DEFAULTS = {
    "VLLM_NO_USAGE_STATS": "1",  # nothing is reported to anybody
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",  # one prompt is tokenised at a time, and processes are forked
}
_OWNED = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # the parent has threads and an event loop
    "VLLM_ENFORCE_STRICT_TOOL_CALLING": "1",  # parsers without grammars know no required calls
    "VLLM_CONFIGURE_LOGGING": "1",
}
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def prepare(config: VllmConfig) -> None:
    """Makes the environment ready for importing vLLM. Idempotent."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.update(_OWNED)
    if config.offline or config.local:
        os.environ.update(_OFFLINE)
    os.environ["VLLM_LOGGING_LEVEL"] = config.log_level


def imported() -> bool:
    """Whether it is too late to prepare."""
    return "vllm" in sys.modules
