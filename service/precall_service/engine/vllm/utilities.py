"""What precall asks of a running engine that vLLM does not tell: how much it holds.

vLLM imports the class named by `scheduler_cls` in every EngineCore process. This module re-exports
vLLM's own schedulers, so that vLLM imports it there; the import adds the utility, and replaces
vLLM's grammars by ours. A stat logger would not do: it is called after steps only, and an
engine whose last generation was aborted may take no further step.

Concurrency: utilities run in the engine's main loop, between two steps.
"""

from __future__ import annotations

from typing import Final

from vllm.v1 import structured_output
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine.core import EngineCore

from precall_service.engine.vllm.certain_text import SpellingBackend

__all__ = ["LOAD_UTILITY", "AsyncScheduler", "Scheduler"]

LOAD_UTILITY: Final = "precall_load"


def _load(core: EngineCore) -> tuple[int, int, float]:
    """Running generations, waiting generations, and the fraction of the KV cache in use."""
    running, waiting = core.scheduler.get_request_counts()
    return running, waiting, core.scheduler.get_kv_cache_usage()


setattr(EngineCore, LOAD_UTILITY, _load)
structured_output.XgrammarBackend = SpellingBackend  # pyright: ignore[reportPrivateImportUsage]
