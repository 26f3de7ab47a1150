"""What precall uses of vLLM, and the version of vLLM in which each of these was verified.

vLLM promises little of this to be there tomorrow. So the list is checked when an engine starts, in
the sources of the installed vLLM, before any of it is imported (`pin_check`). docs/engine.md says
what each is used for, and how to move to another version.

Owns: the list, which has everything that `engine/vllm` imports, overrides or replaces.
Never: vLLM itself.

An entry is the name of something in a module: a class, a function, or `Class.member`. A name with
parentheses is a function with exactly these parameters, which is overridden, replaced or called by
position. A member without them may also be set by the constructor.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, TypeAlias

VERIFIED_VERSION: Final = "0.32.0"
"""The version that the tests run on. The requirement files pin it for a CPU and for a GPU."""


class Part(enum.Enum):
    """What does not work without a name of vLLM's."""

    SERVICE = "the service"
    CPU = "the service on a CPU"
    DRAFTS = "drafts of predicted calls"
    CPU_VERIFICATION = "speculative decoding on a CPU"
    GPU_DRAFTS = "drafts of predicted calls on a GPU"


Uses: TypeAlias = Mapping[str, tuple[str, ...]]
"""Names by the module that they are in."""

_SERVICE: Final[Uses] = {
    "vllm.config": (
        "LoggingConfig",
        "ModelConfig",
        "SpeculativeConfig",
        "StructuredOutputsConfig",
        "VllmConfig",
    ),
    "vllm.config.model": (
        "ModelConfig.get_diff_sampling_param()",
        "ModelConfig.try_get_generation_config()",
        "ModelConfig.get_vocab_size()",
        "ModelConfig.max_model_len",
        "ModelConfig.hf_config",
    ),
    "vllm.config.cache": ("CacheConfig.num_gpu_blocks", "CacheConfig.kv_cache_size_tokens"),
    "vllm.config.scheduler": (
        "SchedulerConfig.scheduler_cls",
        "SchedulerConfig.async_scheduling",
        "SchedulerConfig.max_num_seqs",
    ),
    "vllm.config.parallel": ("ParallelConfig.worker_cls",),
    "vllm.engine.arg_utils": (
        "AsyncEngineArgs",
        "EngineArgs.create_model_config()",
        "EngineArgs.create_engine_config(usage_context, headless)",
        "EngineArgs.speculative_config",
        "EngineArgs.logging_config",
        "EngineArgs.reasoning_parser",
    ),
    "vllm.entrypoints.generate.base.protocol": (
        "DeltaFunctionCall",
        "DeltaMessage",
        "DeltaToolCall",
        "ExtractedToolCallInformation",
        "FunctionCall",
        "ToolCall",
    ),
    "vllm.entrypoints.openai.chat_completion.protocol": ("ChatCompletionRequest",),
    "vllm.exceptions": ("GracefulHTTPError", "VLLMClientError"),
    "vllm.inputs.engine": ("tokens_input(prompt_token_ids, prompt, cache_salt)",),
    "vllm.logprobs": ("Logprob",),
    "vllm.outputs": (
        "CompletionOutput.spec_decode_metrics",
        "CompletionOutput.stop_reason",
        "RequestOutput.num_cached_tokens",
    ),
    "vllm.parser.abstract_parser": (
        "DelegatingParser",
        "Parser.parse_delta(delta_text, delta_token_ids, request, prompt_token_ids, finished)",
        "Parser.parse(model_output, request, enable_auto_tools, model_output_token_ids)",
        "structured_outputs_to_format",
    ),
    "vllm.parser.parser_manager": ("ParserManager.get_parser",),
    "vllm.platforms": ("current_platform",),
    "vllm.reasoning": ("ReasoningParser", "ReasoningParserManager"),
    "vllm.renderers": ("ChatParams", "TokenizeParams"),
    "vllm.renderers.base": (
        "BaseRenderer.render_messages_async(messages, params)",
        "BaseRenderer.tokenize_prompts_async(prompts, params)",
        "BaseRenderer.get_tokenizer()",
        "BaseRenderer.get_eos_token_id()",
    ),
    "vllm.renderers.hf": ("resolve_chat_template(tokenizer, chat_template, tools, model_config)",),
    "vllm.renderers.registry": ("renderer_from_config",),
    "vllm.sampling_params": (
        "RequestOutputKind",
        (
            "SamplingParams.verify("
            "model_config, speculative_config, structured_outputs_config, tokenizer)"
        ),
        "StructuredOutputsParams.structural_tag",
    ),
    "vllm.tokenizers": ("TokenizerLike",),
    "vllm.tokenizers.registry": ("cached_tokenizer_from_config",),
    "vllm.tool_parsers": ("ToolParserManager",),
    "vllm.tool_parsers.abstract_tool_parser": (
        "ToolParser.extract_tool_calls(model_output, request)",
        (
            "ToolParser.extract_tool_calls_streaming(previous_text, current_text, delta_text, "
            "previous_token_ids, current_token_ids, delta_token_ids, request)"
        ),
    ),
    "vllm.tool_parsers.apertus_tool_parser": ("ApertusToolParser",),
    "vllm.tool_parsers.deepseekv31_tool_parser": ("DeepSeekV31ToolParser",),
    "vllm.tool_parsers.deepseekv3_tool_parser": ("DeepSeekV3ToolParser",),
    "vllm.tool_parsers.ernie45_tool_parser": ("Ernie45ToolParser",),
    "vllm.tool_parsers.functiongemma_tool_parser": ("FunctionGemmaToolParser",),
    "vllm.tool_parsers.gemma4_engine_tool_parser": ("Gemma4EngineToolParser",),
    "vllm.tool_parsers.gigachat3_tool_parser": ("GigaChat3ToolParser",),
    "vllm.tool_parsers.granite4_tool_parser": ("Granite4ToolParser",),
    "vllm.tool_parsers.granite_engine_tool_parser": ("GraniteEngineToolParser",),
    "vllm.tool_parsers.hermes_tool_parser": ("Hermes2ProToolParser",),
    "vllm.tool_parsers.hunyuan_a13b_tool_parser": ("HunyuanA13BToolParser",),
    "vllm.tool_parsers.internlm2_tool_parser": ("Internlm2ToolParser",),
    "vllm.tool_parsers.jamba_tool_parser": ("JambaToolParser",),
    "vllm.tool_parsers.kimi_k2_tool_parser": ("KimiK2ToolParser",),
    "vllm.tool_parsers.lfm2_tool_parser": ("Lfm2ToolParser",),
    "vllm.tool_parsers.llama4_pythonic_tool_parser": ("Llama4PythonicToolParser",),
    "vllm.tool_parsers.llama_tool_parser": ("Llama3JsonToolParser",),
    "vllm.tool_parsers.longcat_tool_parser": ("LongcatFlashToolParser",),
    "vllm.tool_parsers.mistral_tool_parser": ("MistralToolParser",),
    "vllm.tool_parsers.olmo3_tool_parser": ("Olmo3PythonicToolParser",),
    "vllm.tool_parsers.structural_tag_registry": ("limit_to_single_tool_call",),
    "vllm.usage.usage_lib": ("UsageContext",),
    "vllm.utils.argparse_utils": ("FlexibleArgumentParser",),
    "vllm.utils.func_utils": ("_supports_kw",),
    "vllm.utils.mistral": ("is_mistral_tokenizer",),
    "vllm.v1.core.sched.async_scheduler": ("AsyncScheduler",),
    "vllm.v1.core.sched.scheduler": (
        "Scheduler.get_request_counts()",
        "Scheduler.get_kv_cache_usage()",
    ),
    "vllm.v1.engine.async_llm": (
        "AsyncLLM.from_vllm_config",
        "AsyncLLM.generate",
        "AsyncLLM.shutdown(timeout)",
        "AsyncLLM.output_handler",
        "AsyncLLM.engine_core",
        "AsyncLLM.renderer",
    ),
    "vllm.v1.engine.core": ("EngineCore.scheduler",),
    "vllm.v1.engine.core_client": (
        "AsyncMPClient.call_utility_all_async(method, args)",
        "MPClient.resources",
        "BackgroundResources.engine_manager",
        "BackgroundResources.ctx",
    ),
    "vllm.v1.engine.exceptions": ("EngineDeadError", "EngineGenerateError"),
    "vllm.v1.engine.utils": ("CoreEngineProcManager.processes",),
    "vllm.v1.request": ("Request.structured_output_request",),
    "vllm.v1.structured_output": (
        "StructuredOutputManager.grammar_init(request)",
        "StructuredOutputManager.backend",
        "StructuredOutputManager.executor",
        "XgrammarBackend",
    ),
    "vllm.v1.structured_output.backend_xgrammar": (
        "XgrammarBackend.compile_grammar(request_type, grammar_spec, stop_token_ids)",
        "XgrammarBackend.compiler",
        "XgrammarGrammar.fill_bitmask(bitmask, idx)",
        "XgrammarGrammar.accept_tokens(request_id, tokens)",
        "XgrammarGrammar.rollback(num_tokens)",
        "XgrammarGrammar.reset()",
        "XgrammarGrammar.matcher",
        "XgrammarGrammar.vocab_size",
        "XgrammarGrammar.ctx",
    ),
}

_CPU: Final[Uses] = {
    "vllm.v1.worker.cpu_worker": ("CPUWorker", "CPUModelRunner"),
    "vllm.v1.worker.cpu_model_runner": ("CPUModelRunner",),
    "vllm.v1.worker.gpu_model_runner": (
        "GPUModelRunner.sample_tokens(grammar_output)",
        "GPUModelRunner.discard_request_mask",
        "GPUModelRunner.input_batch",
    ),
    "vllm.v1.worker.gpu_input_batch": ("InputBatch.generators", "InputBatch.num_reqs"),
}

_DRAFTS: Final[Uses] = {
    "vllm.config.speculative": (
        "SpeculativeConfig.num_speculative_tokens",
        "SpeculativeConfig.num_speculative_tokens_per_batch_size",
        "SpeculativeConfig.draft_sample_method",
    ),
    "vllm.engine.arg_utils": ("EngineArgs.per_request_spec_decode_metrics",),
    "vllm.sampling_params": ("SamplingParams.extra_args", "SamplingParams.all_stop_token_ids"),
    "vllm.v1.core.sched.output": (
        "SchedulerOutput.scheduled_spec_decode_tokens",
        "SchedulerOutput.num_scheduled_tokens",
        "SchedulerOutput.num_spec_tokens_to_schedule",
    ),
    "vllm.v1.core.sched.scheduler": (
        "Scheduler.add_request(request)",
        "Scheduler.update_from_output(scheduler_output, model_runner_output)",
        "Scheduler.update_draft_token_ids(draft_token_ids)",
        "Scheduler._free_request(request, delay_free_blocks)",
        "Scheduler.requests",
        "Scheduler.num_spec_tokens",
        "Scheduler.max_model_len",
        "Scheduler.structured_output_manager",
        "Scheduler.vllm_config",
    ),
    "vllm.v1.engine": ("EngineCoreOutput.spec_decode_metrics",),
    "vllm.v1.engine.core": ("EngineCore.post_step(model_executed)",),
    "vllm.v1.metrics.stats": (
        "RequestSpecDecodeMetrics.per_step_accepted",
        "RequestSpecDecodeMetrics.per_step_drafted",
    ),
    "vllm.v1.outputs": ("DraftTokenIds.req_ids", "DraftTokenIds.draft_token_ids"),
    "vllm.v1.request": (
        "Request.request_id",
        "Request.sampling_params",
        "Request.status",
        "Request.max_tokens",
        "Request.spec_decode_metrics",
        "Request.spec_token_ids",
        "Request.is_prefill_chunk",
        "Request.output_token_ids",
        "Request.num_output_tokens",
        "Request.num_tokens",
        "Request.is_finished()",
        "RequestStatus.RUNNING",
    ),
    "vllm.v1.spec_decode.custom_class_proposer": ("create_custom_proposer",),
    "vllm.v1.structured_output": ("StructuredOutputManager.validate_tokens(request, spec_tokens)",),
}

_CPU_VERIFICATION: Final[Uses] = {
    "vllm.v1.sample.rejection_sampler": (
        "expand_batch_to_tokens(x, cu_num_tokens, num_tokens, replace_from, replace_to)",
    ),
    "vllm.v1.spec_decode.metadata": ("SpecDecodeMetadata.num_draft_tokens",),
    "vllm.v1.worker.gpu_model_runner": ("GPUModelRunner._sample(logits, spec_decode_metadata)",),
}

_GPU_DRAFTS: Final[Uses] = {
    "vllm.config": ("VllmConfig",),
    "vllm.config.vllm": ("VllmConfig.use_v2_model_runner",),
    "vllm.v1.core.sched.async_scheduler": (
        "AsyncScheduler._update_after_schedule(scheduler_output)",
    ),
    "vllm.v1.request": ("Request.num_output_placeholders", "Request.num_prompt_tokens"),
    "vllm.v1.worker.gpu.input_batch": (
        "InputBatch.req_ids",
        "InputBatch.num_reqs",
        "InputBatch.idx_mapping",
    ),
    "vllm.v1.worker.gpu.model_runner": (
        "GPUModelRunner.execute_model",
        "GPUModelRunner.speculator",
        "init_speculator",
    ),
    "vllm.v1.worker.gpu.spec_decode": ("init_speculator(vllm_config, device, req_states)",),
    "vllm.v1.worker.gpu.spec_decode.speculator": (
        "BaseSpeculator.init_cudagraph_manager(cudagraph_mode)",
        "BaseSpeculator.capture()",
        "BaseSpeculator.propose",
    ),
    "vllm.v1.worker.gpu.states": ("RequestState.all_token_ids", "RequestState.total_len"),
    "vllm.v1.worker.gpu_worker": ("Worker",),
}

USES: Final[Mapping[Part, Uses]] = {
    Part.SERVICE: _SERVICE,
    Part.CPU: _CPU,
    Part.DRAFTS: _DRAFTS,
    Part.CPU_VERIFICATION: _CPU_VERIFICATION,
    Part.GPU_DRAFTS: _GPU_DRAFTS,
}
