"""Builds what reads and writes the messages of one model: its renderer, parsers and plans.

Owns: the choice of parsers for a model if the operator names none.
Never: an engine. A tokenizer and a model's configuration are enough.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

from vllm.config import ModelConfig
from vllm.parser.abstract_parser import Parser
from vllm.parser.parser_manager import ParserManager
from vllm.reasoning import ReasoningParserManager
from vllm.renderers.base import BaseRenderer
from vllm.renderers.hf import resolve_chat_template
from vllm.tokenizers import TokenizerLike
from vllm.tokenizers import registry as tokenizers
from vllm.tool_parsers import ToolParserManager

from precall_service.domain.turn import ToolChoice
from precall_service.engine.base import EngineStartError
from precall_service.engine.families import Parsers, choose_parsers, missing_package
from precall_service.engine.vllm import probes
from precall_service.engine.vllm.branching import THINKING
from precall_service.engine.vllm.call_parsers import own_opening, reading_calls
from precall_service.engine.vllm.config import NO_PARSER, VllmConfig
from precall_service.engine.vllm.parsing import SpecialTokens
from precall_service.engine.vllm.plain_text import plain_texts
from precall_service.engine.vllm.plans import StepPlans
from precall_service.engine.vllm.reasoning import ReasoningMarks, reasoning_marks
from precall_service.engine.vllm.rendering import PromptRenderer
from precall_service.engine.vllm.sampling import StepSampling


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParts:
    """What turns the messages of one model into tokens and back.

    `marks` are those of its reasoning; None if it does not reason, or if they are unknown.
    """

    tokenizer: TokenizerLike
    parsers: Parsers
    plans: StepPlans
    sampling: StepSampling
    renderer: PromptRenderer
    special_tokens: SpecialTokens
    marks: ReasoningMarks | None
    structured_calls: bool


def model_parts(
    renderer: BaseRenderer[Any], model_config: ModelConfig, config: VllmConfig
) -> ModelParts:
    """Returns the parts for a model with vLLM's renderer and configuration of it.

    A tool parser that does not fit the model's tokenizer is left out, unless the operator named it.

    Raises:
        EngineStartError: the parsers do not fit the model.
    """
    tokenizer = renderer.get_tokenizer()
    parsers = chosen_parsers(config, model_config)
    try:
        plans = _plans(parsers, tokenizer, model_config, config)
    except EngineStartError as error:
        if parsers.tool is None or config.tool_call_parser is not None:
            raise
        parsers = replace(parsers, tool=None, reason=str(error))
        plans = _plans(parsers, tokenizer, model_config, config)
    template = config.chat_template or _own_template(model_config)
    return ModelParts(
        tokenizer=tokenizer,
        parsers=parsers,
        plans=plans,
        sampling=StepSampling(model_config.get_diff_sampling_param()),
        renderer=PromptRenderer(
            renderer,
            chat_template=config.chat_template,
            stop_token_ids=_stop_token_ids(renderer, model_config),
            texts=plain_texts(tokenizer, template),
        ),
        special_tokens=SpecialTokens(
            {
                token_id: tokenizer.decode([token_id], skip_special_tokens=False)
                for token_id in tokenizer.all_special_ids
            }
        ),
        marks=_marks(plans, tokenizer),
        structured_calls=config.structured_calls,
    )


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
        reason="it is turned off" if config.tool_call_parser == NO_PARSER else fitting.reason,
    )
    _check_name("tool", parsers.tool, ToolParserManager.list_registered())
    _check_name("reasoning", parsers.reasoning, ReasoningParserManager.list_registered())
    return parsers


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


def _plans(
    parsers: Parsers, tokenizer: TokenizerLike, model_config: ModelConfig, config: VllmConfig
) -> StepPlans:
    """Plans of steps that are read by these parsers.

    Raises:
        EngineStartError: a parser does not fit the tokenizer.
    """
    try:
        parser_class: type[Parser] | None = ParserManager.get_parser(
            tool_parser_name=parsers.tool,
            reasoning_parser_name=parsers.reasoning,
            enable_auto_tools=True,
            model_name=config.model_name,
            is_harmony=model_config.hf_config.model_type == "gpt_oss",
            tool_strict_level="parameter" if config.structured_calls else "auto",
            tokenizer=tokenizer,
        )
        plans = StepPlans(
            None if parser_class is None else reading_calls(parser_class),
            tokenizer,
            model_config,
            structured_calls=config.structured_calls,
        )
        plans.plan((probes.TOOL,), ToolChoice())  # most parsers look for their tokens when made
    except Exception as error:  # vLLM's parsers raise anything
        raise EngineStartError(
            f"{error}. Name other parsers with --tool-call-parser and --reasoning-parser, or "
            f"{NO_PARSER!r} for none"
        ) from error
    return plans


def _marks(plans: StepPlans, tokenizer: TokenizerLike) -> ReasoningMarks | None:
    plan = plans.plan((), ToolChoice(), THINKING)
    parser = None if plan.make_parser is None else plan.make_parser()
    if parser is None or parser.reasoning_parser is None:
        return None
    return reasoning_marks(parser.reasoning_parser, tokenizer, own_opening(parser.tool_parser))


def _stop_token_ids(renderer: BaseRenderer[Any], model_config: ModelConfig) -> frozenset[int]:
    """The tokens that end a message by themselves, as vLLM knows them."""
    more = model_config.try_get_generation_config().get("eos_token_id")
    token_ids = {renderer.get_eos_token_id()}
    token_ids |= set(cast("list[int]", more)) if isinstance(more, list) else {more}
    return frozenset(token_id for token_id in token_ids if token_id is not None)
