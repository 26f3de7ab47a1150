"""What precall asks of a running engine that vLLM does not tell: how much it holds.

vLLM imports the class named by `scheduler_cls` in every EngineCore process. This module re-exports
vLLM's own schedulers, so that vLLM imports it there; the import adds the utility, replaces
vLLM's grammars by ours, and gives it a second thread to compile them in. A stat logger would not
do: it is called after steps only, and an engine whose last generation was aborted may take no
further step.

Concurrency: utilities run in the engine's main loop, between two steps.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from vllm.v1 import structured_output
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine.core import EngineCore
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from precall_service.engine.vllm.certain_text import SpellingBackend

__all__ = ["LOAD_UTILITY", "AsyncScheduler", "Scheduler"]

LOAD_UTILITY: Final = "precall_load"
COMPILING_THREADS_MIN: Final = 2

_vllm_grammar_init = StructuredOutputManager.grammar_init


def _load(core: EngineCore) -> tuple[int, int, float]:
    """Running generations, waiting generations, and the fraction of the KV cache in use."""
    running, waiting = core.scheduler.get_request_counts()
    return running, waiting, core.scheduler.get_kv_cache_usage()


def grammar_init(self: StructuredOutputManager, request: Request) -> None:
    """As vLLM's, with two threads at least.

    One costly grammar is compiled at a time (`compiling`), so it never has the only thread.
    """
    if self.backend is None and request.structured_output_request is not None:  # the first one
        threads = max(COMPILING_THREADS_MIN, (multiprocessing.cpu_count() + 1) // 2)
        self.executor = ThreadPoolExecutor(threads)
    _vllm_grammar_init(self, request)


setattr(EngineCore, LOAD_UTILITY, _load)
structured_output.StructuredOutputManager.grammar_init = grammar_init
structured_output.XgrammarBackend = SpellingBackend  # pyright: ignore[reportPrivateImportUsage]
