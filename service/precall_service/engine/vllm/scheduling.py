"""Adds to the engine's process a utility that reads its load.

vLLM imports the class named by `scheduler_cls` in every EngineCore process. This module re-exports
vLLM's own schedulers unchanged, so that vLLM imports this module there; the import adds the
utility. A stat logger would not do: it is called after steps only, and an engine whose last
generation was aborted may take no further step.

Concurrency: a utility runs in the engine's main loop, between two steps.
"""

from __future__ import annotations

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine.core import EngineCore

__all__ = ["LOAD_UTILITY", "AsyncScheduler", "Scheduler"]

LOAD_UTILITY = "precall_load"


def _load(core: EngineCore) -> tuple[int, int, float]:
    """Running generations, waiting generations, and the fraction of the KV cache in use."""
    running, waiting = core.scheduler.get_request_counts()
    return running, waiting, core.scheduler.get_kv_cache_usage()


setattr(EngineCore, LOAD_UTILITY, _load)
