"""Names vLLM's own schedulers through a module of ours, and so is imported in the engine process.

vLLM imports the class named as `scheduler_cls` in every EngineCore process. The classes are vLLM's,
untouched; what importing this module adds is one utility that reads what the engine holds. A
stat logger would not do: it hears of steps only, and an engine whose last generation was aborted
may take none.

Concurrency: a utility runs in the engine's main loop, between two steps.
"""

from __future__ import annotations

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine.core import EngineCore

__all__ = ["LOAD_UTILITY", "AsyncScheduler", "Scheduler"]

LOAD_UTILITY = "precall_load"


def _load(core: EngineCore) -> tuple[int, int, float]:
    """Running and waiting generations, and the share of the KV cache in use."""
    running, waiting = core.scheduler.get_request_counts()
    return running, waiting, core.scheduler.get_kv_cache_usage()


setattr(EngineCore, LOAD_UTILITY, _load)
