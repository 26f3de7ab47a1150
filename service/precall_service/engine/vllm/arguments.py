"""Decides what vLLM's engine is started with: our defaults on a CPU."""

from __future__ import annotations

from vllm.engine.arg_utils import AsyncEngineArgs

from precall_service.engine.vllm.config import VllmConfig


def engine_arguments(config: VllmConfig) -> AsyncEngineArgs:
    """The arguments of the engine."""
    return AsyncEngineArgs(
        model=config.model,
        block_size=32,
        kv_cache_memory_bytes=config.kv_cache_bytes or 1 << 30,
        max_num_seqs=16,
        enforce_eager=True,
        scheduling_policy="priority",
        max_model_len=-1,
        use_tqdm_on_load=False,
    )
