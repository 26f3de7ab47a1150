"""Builds a VllmEngine around a started AsyncLLM: proves the model, and states what it can do."""

from __future__ import annotations

import logging
from functools import partial

import vllm
from vllm.platforms import current_platform
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.tokenizers import TokenizerLike
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend

from precall_service.domain.turn import ToolChoice, ToolChoiceMode
from precall_service.engine.base import EngineInfo, Feature
from precall_service.engine.findings import Findings, Standing, Subject
from precall_service.engine.vllm import probe_chat, probes
from precall_service.engine.vllm.branching import THINKING, Branches
from precall_service.engine.vllm.call_texts import CallTexts
from precall_service.engine.vllm.config import VllmConfig
from precall_service.engine.vllm.drafting import Drafting, verifies_drafts
from precall_service.engine.vllm.engine import VllmEngine
from precall_service.engine.vllm.grammar_maker import GrammarMaker
from precall_service.engine.vllm.grammar_process import GrammarProcess
from precall_service.engine.vllm.grammar_worker import Form, Start
from precall_service.engine.vllm.parts import ModelParts, model_parts
from precall_service.engine.vllm.planning import Planning
from precall_service.engine.vllm.processes import EngineProcesses
from precall_service.engine.vllm.proof import prove, warn_of
from precall_service.engine.vllm.reasoning import ReasoningLimit

log = logging.getLogger(__name__)


async def assemble(
    llm: AsyncLLM, processes: EngineProcesses, grammars: GrammarProcess, config: VllmConfig
) -> VllmEngine:
    """Returns the engine around a running AsyncLLM and the process that makes its grammars.

    Raises:
        EngineStartError: the parsers do not fit the model's tokenizer.
        OSError: the process has ended.
    """
    parts = model_parts(llm.renderer, llm.model_config, config)
    findings = await prove(parts)
    warn_of(findings)
    features = _features(parts, findings)
    if Feature.TOOL_CALLS in features:
        await grammars.serve(_start(llm, parts))  # the proof has chosen the forms of calls
    else:
        await grammars.close()
    branches = await _branches(parts, features)
    limit = _reasoning_limit(parts, config)
    if limit is not None:
        parts.plans.limit_reasoning(limit)
    if branches is not None:
        features |= {Feature.BRANCHES}
    drafting = _drafting(llm, parts, features)
    if drafting is not None:
        features |= {Feature.DRAFTS}
    return VllmEngine(
        llm,
        info=_info(llm, config, features, findings),
        renderer=parts.renderer,
        branches=branches,
        drafting=drafting,
        planning=Planning(parts.plans, partial(_verify, llm)),
        sampling=parts.sampling,
        grammars=GrammarMaker(grammars),
        special_tokens=parts.special_tokens,
        processes=processes,
        stop_timeout_s=config.stop_timeout_s,
        share_prefix_cache=config.share_prefix_cache,
        reasoning_limit=limit,
    )


def _verify(llm: AsyncLLM, grammar: StructuredOutputsParams) -> None:
    """Has vLLM verify a grammar, and note in it which of its backends is to compile it.

    Raises:
        VLLMClientError: no backend takes it.
    """
    SamplingParams(structured_outputs=grammar).verify(
        llm.model_config,
        None,
        llm.vllm_config.structured_outputs_config,
        llm.renderer.get_tokenizer(),
    )


def _features(parts: ModelParts, findings: Findings) -> frozenset[Feature]:
    features: set[Feature] = set()
    if parts.parsers.reasoning is not None:
        features.add(Feature.REASONING)
    calls = findings.on(Subject.TOOL_CALLS)
    if calls is not None and calls.standing is not Standing.FAILS:
        features.add(Feature.TOOL_CALLS)
    if findings.hold(Subject.SCHEMAS):
        features.add(Feature.STRUCTURED_CALLS)
    return frozenset(features)


def _start(llm: AsyncLLM, parts: ModelParts) -> Start:
    """What the process that makes grammars is to know of the model."""
    forms = parts.plans.forms_of_arguments(probe_chat.LOOKUP)
    return Start(
        tokenizer_info=_tokenizer_info(llm, parts.tokenizer),
        forms=[Form(style=form.style, lines=form.lines) for form in forms],
    )


def _tokenizer_info(llm: AsyncLLM, tokenizer: TokenizerLike) -> str:
    """What a compiler of grammars needs to know of the model's tokens, as vLLM's own knows it."""
    backend = XgrammarBackend(
        llm.vllm_config, tokenizer=tokenizer, vocab_size=llm.model_config.get_vocab_size()
    )
    return backend.compiler.compile_grammar('root ::= "any"').tokenizer_info.serialize_json()


def _reasoning_limit(parts: ModelParts, config: VllmConfig) -> ReasoningLimit | None:
    if config.reasoning_tokens_max is None:
        return None
    if parts.marks is None:
        log.warning("the reasoning of this model has no limit, since its end is no single token")
        return None
    return ReasoningLimit(
        marks=parts.marks,
        tokens_max=config.reasoning_tokens_max,
        special_ids=frozenset(parts.tokenizer.all_special_ids),
    )


async def _branches(parts: ModelParts, features: frozenset[Feature]) -> Branches | None:
    """What makes the prompts of branches; None if calls cannot follow directly on reasoning."""
    if parts.marks is None or Feature.TOOL_CALLS not in features:
        return None
    required = parts.plans.plan((probes.TOOL,), ToolChoice(mode=ToolChoiceMode.REQUIRED), THINKING)
    if required.structured_outputs is None:
        return None  # without a grammar nothing would hold a branch to a call
    branches = Branches(parts.renderer, parts.marks)
    return branches if await branches.known(THINKING) else None


def _drafting(llm: AsyncLLM, parts: ModelParts, features: frozenset[Feature]) -> Drafting | None:
    """What makes drafts; None if the engine verifies none, or the model makes no calls."""
    if not (Feature.TOOL_CALLS in features and verifies_drafts(llm.vllm_config)):
        return None
    return Drafting(CallTexts(parts), structured=Feature.STRUCTURED_CALLS in features)


def _info(
    llm: AsyncLLM, config: VllmConfig, features: frozenset[Feature], findings: Findings
) -> EngineInfo:
    cache = llm.vllm_config.cache_config
    # vLLM's own count includes all kinds of layers; it has no count if all blocks are alike.
    kv_tokens = cache.kv_cache_size_tokens
    return EngineInfo(
        name=f"vllm {vllm.__version__}",
        model=config.model_name,
        context_tokens_max=llm.model_config.max_model_len,
        sequences_max=llm.vllm_config.scheduler_config.max_num_seqs,
        kv_tokens=(cache.num_gpu_blocks or 0) * cache.block_size
        if kv_tokens is None
        else kv_tokens,
        kv_block_tokens=cache.block_size,
        features=features,
        device="cpu" if current_platform.is_cpu() else "gpu",
        findings=findings,
    )
