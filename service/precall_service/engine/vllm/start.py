"""Starts an engine: configuration in, a VllmEngine that has generated once out."""

from __future__ import annotations

import asyncio

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.parser.abstract_parser import Parser
from vllm.parser.parser_manager import ParserManager
from vllm.tokenizers import TokenizerLike
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM

from precall_service.domain.turn import GenerationSettings, ToolChoice
from precall_service.engine.base import (
    EngineInfo,
    Feature,
    Priority,
    Progress,
    Prompt,
    StepSpec,
)
from precall_service.engine.vllm import scheduling
from precall_service.engine.vllm.arguments import engine_arguments
from precall_service.engine.vllm.config import VllmConfig
from precall_service.engine.vllm.engine import VllmEngine
from precall_service.engine.vllm.parsing import SpecialTokens
from precall_service.engine.vllm.processes import EngineProcesses
from precall_service.engine.vllm.rendering import PromptRenderer
from precall_service.engine.vllm.sampling import StepPlans


async def start(config: VllmConfig, on_progress: Progress) -> VllmEngine:
    on_progress("starting the engine's processes", None)
    llm = await asyncio.to_thread(_construct, engine_arguments(config))
    engine = _assemble(llm, config)
    on_progress("generating for the first time", None)
    await _warm_up(engine)
    return engine


def _construct(arguments: AsyncEngineArgs) -> AsyncLLM:
    vllm_config = arguments.create_engine_config(UsageContext.ENGINE_CONTEXT)
    scheduler = vllm_config.scheduler_config
    scheduler_class = (
        scheduling.AsyncScheduler if scheduler.async_scheduling else scheduling.Scheduler
    )
    scheduler.scheduler_cls = f"{scheduling.__name__}.{scheduler_class.__name__}"
    return AsyncLLM.from_vllm_config(
        vllm_config, disable_log_stats=arguments.disable_log_stats, enable_log_requests=False
    )


def _assemble(llm: AsyncLLM, config: VllmConfig) -> VllmEngine:
    tokenizer = llm.renderer.get_tokenizer()
    parser_class = _parser_class(config, llm, tokenizer)
    template = config.chat_template.read_text(encoding="utf-8") if config.chat_template else None
    stop = _stop_token_ids(llm)
    return VllmEngine(
        llm,
        info=_info(llm, config, parser_class),
        renderer=PromptRenderer(llm.renderer, chat_template=template, stop_token_ids=stop),
        plans=StepPlans(
            parser_class,
            tokenizer,
            structured_calls=config.structured_calls,
            defaults=llm.model_config.get_diff_sampling_param(),
        ),
        parser_class=parser_class,
        special_tokens=SpecialTokens(
            {i: tokenizer.decode([i], skip_special_tokens=False) for i in tokenizer.all_special_ids}
        ),
        processes=EngineProcesses(llm),
        stop_timeout_s=config.stop_timeout_s,
    )


def _stop_token_ids(llm: AsyncLLM) -> set[int]:
    eos = llm.input_processor.generation_config_fields.get("eos_token_id")
    ids = set(eos if isinstance(eos, list) else [] if eos is None else [eos])
    ids.add(llm.renderer.get_eos_token_id())
    return {i for i in ids if i is not None}


def _parser_class(
    config: VllmConfig, llm: AsyncLLM, tokenizer: TokenizerLike
) -> type[Parser] | None:
    return ParserManager.get_parser(
        tool_parser_name=config.tool_parser,
        reasoning_parser_name=config.reasoning_parser,
        enable_auto_tools=True,
        model_name=config.model_name,
        is_harmony=llm.model_config.hf_config.model_type == "gpt_oss",
        tool_strict_level="parameter" if config.structured_calls else "auto",
        tokenizer=tokenizer,
    )


def _info(llm: AsyncLLM, config: VllmConfig, parser_class: type[Parser] | None) -> EngineInfo:
    features: set[Feature] = set()
    cache = llm.vllm_config.cache_config
    ranks = llm.vllm_config.parallel_config.data_parallel_size
    return EngineInfo(
        name="vllm",
        model=config.model_name,
        context_tokens_max=llm.model_config.max_model_len,
        sequences_max=llm.vllm_config.scheduler_config.max_num_seqs * ranks,
        kv_tokens=(cache.num_gpu_blocks or 0) * cache.block_size,
        kv_block_tokens=cache.block_size,
        features=frozenset(features),
    )


async def _warm_up(engine: VllmEngine) -> None:
    spec = StepSpec(
        step_id="warm-up",
        max_tokens=2,
        generation=GenerationSettings(temperature=0.0),
        tools=(),
        tool_choice=ToolChoice(),
        priority=Priority.STARTS_TURN,
    )
    async for _ in engine.generate(Prompt((1, 2, 3)), spec):
        pass
