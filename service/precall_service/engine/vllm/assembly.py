"""Builds a VllmEngine around a started AsyncLLM, with its renderer, parsers, plans and info.

Owns: the choice of parsers for a model if the operator names none.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any, Final, cast

import vllm
from vllm.config import ModelConfig
from vllm.parser.abstract_parser import Parser
from vllm.parser.parser_manager import ParserManager
from vllm.reasoning import ReasoningParserManager
from vllm.renderers.hf import resolve_chat_template
from vllm.tokenizers import TokenizerLike
from vllm.tokenizers import registry as tokenizers
from vllm.tool_parsers import ToolParserManager
from vllm.v1.engine.async_llm import AsyncLLM

from precall_service.domain.turn import ToolChoice, ToolChoiceMode
from precall_service.engine.base import (
    EngineInfo,
    EngineStartError,
    Feature,
    TemplateRefusedError,
)
from precall_service.engine.families import Parsers, choose_parsers, missing_package
from precall_service.engine.vllm import probes
from precall_service.engine.vllm.branching import THINKING, Branches
from precall_service.engine.vllm.config import NO_PARSER, VllmConfig
from precall_service.engine.vllm.engine import VllmEngine
from precall_service.engine.vllm.json_parser import reading_json
from precall_service.engine.vllm.parsing import SpecialTokens
from precall_service.engine.vllm.plain_text import plain_texts
from precall_service.engine.vllm.processes import EngineProcesses
from precall_service.engine.vllm.reasoning import (
    ReasoningLimit,
    ReasoningMarks,
    reasoning_marks,
)
from precall_service.engine.vllm.rendering import PromptRenderer
from precall_service.engine.vllm.sampling import StepPlans

log = logging.getLogger(__name__)

THINKING_SWITCH: Final = "enable_thinking"
"""The template variable that turns reasoning on and off in most families."""


def chosen_parsers(config: VllmConfig, model_config: ModelConfig) -> Parsers:
    """The parsers that the operator has named; for each one left out, the one that fits the model.

    Raises:
        EngineStartError: vLLM has no parser of that name, or it needs a package that is missing.
    """
    fitting = choose_parsers(
        cast("dict[str, object]", model_config.hf_config.to_dict()),
        config.chat_template or _own_template(model_config),
    )
    parsers = Parsers(
        tool=_named_or(config.tool_call_parser, fitting.tool),
        reasoning=_named_or(config.reasoning_parser, fitting.reasoning),
        reason=fitting.reason,
    )
    _check_name("tool", parsers.tool, ToolParserManager.list_registered())
    _check_name("reasoning", parsers.reasoning, ReasoningParserManager.list_registered())
    return parsers


async def assemble(llm: AsyncLLM, processes: EngineProcesses, config: VllmConfig) -> VllmEngine:
    """Returns the engine around a running AsyncLLM.

    Raises:
        EngineStartError: the parsers do not fit the model's tokenizer.
    """
    tokenizer = llm.renderer.get_tokenizer()
    parser_class = _parser_class(llm, config, tokenizer)
    plans = StepPlans(
        parser_class,
        tokenizer,
        llm.model_config,
        structured_calls=config.structured_calls,
        defaults=llm.model_config.get_diff_sampling_param(),
    )
    renderer = PromptRenderer(
        llm.renderer,
        chat_template=config.chat_template,
        stop_token_ids=_stop_token_ids(llm),
        texts=plain_texts(tokenizer, config.chat_template or _own_template(llm.model_config)),
    )
    if await renderer.switched_off(THINKING_SWITCH):  # vLLM's parsers take it to be on
        plans.take_unset_as({THINKING_SWITCH: False})
    features = _features(parser_class, plans, config)
    if Feature.STRUCTURED_CALLS in features:
        with contextlib.suppress(TemplateRefusedError):  # a template without calls
            plans.write_calls_as(await renderer.rendered_call(probes.TOOL), probes.TOOL)
    marks = _marks(plans, tokenizer)
    branches = await _branches(marks, plans, renderer)
    limit = _reasoning_limit(marks, config, tokenizer)
    if limit is not None:
        plans.limit_reasoning(limit)
    if branches is not None:
        features |= {Feature.BRANCHES}
    return VllmEngine(
        llm,
        info=_info(llm, config, features),
        renderer=renderer,
        branches=branches,
        plans=plans,
        special_tokens=SpecialTokens(
            {
                token_id: tokenizer.decode([token_id], skip_special_tokens=False)
                for token_id in tokenizer.all_special_ids
            }
        ),
        processes=processes,
        stop_timeout_s=config.stop_timeout_s,
        share_prefix_cache=config.share_prefix_cache,
        reasoning_limit=limit,
    )


def _own_template(model_config: ModelConfig) -> str | None:
    tokenizer = cast("Any", tokenizers).cached_tokenizer_from_config(model_config)
    try:
        return resolve_chat_template(tokenizer, None, [{}], model_config=model_config)
    except (AttributeError, TypeError, ValueError):  # the tokenizer has no templates
        return None


def _named_or(named: str | None, fitting: str | None) -> str | None:
    return fitting if named is None else None if named == NO_PARSER else named


def _check_name(kind: str, name: str | None, known: list[str]) -> None:
    if name is None:
        return
    if name not in known:
        raise EngineStartError(
            f"vLLM has no {kind} parser {name!r}; it has {', '.join(sorted(known))}"
        )
    if package := missing_package(name):
        raise EngineStartError(
            f"the {kind} parser {name!r} of this model needs the package {package}, which is not "
            f"installed: install it, or name another parser, or {NO_PARSER!r} for none, with "
            f"--{'tool-call' if kind == 'tool' else kind}-parser"
        )


def _parser_class(
    llm: AsyncLLM, config: VllmConfig, tokenizer: TokenizerLike
) -> type[Parser] | None:
    parsers = chosen_parsers(config, llm.model_config)
    try:
        parser_class = ParserManager.get_parser(
            tool_parser_name=parsers.tool,
            reasoning_parser_name=parsers.reasoning,
            enable_auto_tools=True,
            model_name=config.model_name,
            is_harmony=llm.model_config.hf_config.model_type == "gpt_oss",
            tool_strict_level="parameter" if config.structured_calls else "auto",
            tokenizer=tokenizer,
        )
    except TypeError as error:
        raise EngineStartError(
            f"{error}. Name other parsers with --tool-call-parser and --reasoning-parser, or "
            f"{NO_PARSER!r} for none"
        ) from error
    return None if parser_class is None else reading_json(parser_class)


def _features(
    parser_class: type[Parser] | None, plans: StepPlans, config: VllmConfig
) -> frozenset[Feature]:
    features: set[Feature] = set()
    if parser_class is not None and parser_class.reasoning_parser_cls is not None:
        features.add(Feature.REASONING)
    if parser_class is not None and parser_class.tool_parser_cls is not None:
        features.add(Feature.TOOL_CALLS)
        held = plans.plan((probes.TOOL,), ToolChoice()).structured_outputs is not None
        if held:
            features.add(Feature.STRUCTURED_CALLS)
        elif config.structured_calls:
            log.warning(
                "vLLM has no grammar for this model's calls: they are checked after generation, "
                "not held to their schemas"
            )
    return frozenset(features)


def _marks(plans: StepPlans, tokenizer: TokenizerLike) -> ReasoningMarks | None:
    """The marks of the model's reasoning; None if it does not reason, or if they are unknown."""
    plan = plans.plan((), ToolChoice(), THINKING)
    parser = None if plan.make_parser is None else plan.make_parser().reasoning_parser
    return None if parser is None else reasoning_marks(parser, tokenizer)


def _reasoning_limit(
    marks: ReasoningMarks | None, config: VllmConfig, tokenizer: TokenizerLike
) -> ReasoningLimit | None:
    if config.reasoning_tokens_max is None:
        return None
    if marks is None:
        log.warning("the reasoning of this model has no limit, since its end is no single token")
        return None
    return ReasoningLimit(
        marks=marks,
        tokens_max=config.reasoning_tokens_max,
        special_ids=frozenset(tokenizer.all_special_ids),
    )


async def _branches(
    marks: ReasoningMarks | None, plans: StepPlans, renderer: PromptRenderer
) -> Branches | None:
    """What makes the prompts of branches; None if calls cannot follow directly on reasoning."""
    required = plans.plan((probes.TOOL,), ToolChoice(mode=ToolChoiceMode.REQUIRED), THINKING)
    if marks is None or required.structured_outputs is None:
        return None  # without a grammar nothing would hold a branch to a call
    branches = Branches(renderer, marks)
    return branches if await branches.known(THINKING) else None


def _info(llm: AsyncLLM, config: VllmConfig, features: frozenset[Feature]) -> EngineInfo:
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
    )


def _stop_token_ids(llm: AsyncLLM) -> frozenset[int]:
    """The tokens that end a message by themselves, as vLLM knows them."""
    more = llm.input_processor.generation_config_fields.get("eos_token_id")
    token_ids = {llm.renderer.get_eos_token_id()}
    token_ids |= set(cast("list[int]", more)) if isinstance(more, list) else {more}
    return frozenset(token_id for token_id in token_ids if token_id is not None)
