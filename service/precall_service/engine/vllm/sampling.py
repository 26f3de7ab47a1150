"""Turns a step's settings into vLLM's sampling parameters, and its tools into a grammar.

Owns: a bounded memory of the plans made, since every step of a turn asks for the same tools.
Never: parsing.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, cast

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.parser.abstract_parser import Parser
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.tokenizers import TokenizerLike
from xgrammar import Grammar

from precall_service.domain.tools import ToolDeclaration
from precall_service.domain.turn import ToolChoice, ToolChoiceMode
from precall_service.engine.base import StepSpec
from precall_service.engine.vllm.chat import chat_tools

log = logging.getLogger(__name__)

_PLANS_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """What steps with the same tools and tool choice have in common.

    `request` is what vLLM's parsers are asked with; they do not change it. None of it is sent
    anywhere.
    """

    tools: tuple[ToolDeclaration, ...]
    request: ChatCompletionRequest
    structured_outputs: StructuredOutputsParams | None


class StepPlans:
    """Plans for the steps of one model."""

    def __init__(
        self,
        parser_class: type[Parser] | None,
        tokenizer: TokenizerLike,
        *,
        structured_calls: bool,
        defaults: dict[str, Any],
    ) -> None:
        self._parser_class = parser_class
        self._tokenizer = tokenizer
        self._structured_calls = structured_calls
        self._defaults = defaults
        self._plans: OrderedDict[tuple[tuple[str, ...], ToolChoice], StepPlan] = OrderedDict()

    def plan(self, tools: tuple[ToolDeclaration, ...], choice: ToolChoice) -> StepPlan:
        """The plan for these tools, made at the first use of their digests."""
        key = tuple(tool.digest for tool in tools), choice
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._make(tools, choice)
            if len(self._plans) > _PLANS_MAX:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        return plan

    def sampling_params(self, spec: StepSpec, plan: StepPlan, *, parsed: bool) -> SamplingParams:
        """What vLLM is asked to generate. `parsed` output keeps the special tokens parsers need."""
        generation = spec.generation
        given = {
            "temperature": generation.temperature,
            "top_p": generation.top_p,
            "top_k": generation.top_k,
        }
        chosen = {name: value for name, value in given.items() if value is not None}
        # A mapping of Any: its values are the model's own, from its generation_config.json.
        return SamplingParams(
            **cast("Any", self._defaults | chosen),
            seed=generation.seed,
            stop=list(generation.stop),
            max_tokens=spec.max_tokens,
            skip_special_tokens=not parsed,
            structured_outputs=plan.structured_outputs,
            output_kind=RequestOutputKind.DELTA,
            skip_clone=True,
        )

    def _make(self, tools: tuple[ToolDeclaration, ...], choice: ToolChoice) -> StepPlan:
        request = ChatCompletionRequest.model_validate(
            {
                "messages": [{"role": "user", "content": ""}],
                "tools": chat_tools(tools, strict=self._structured_calls) or None,
                "tool_choice": _tool_choice(choice) if tools else None,
            }
        )
        if self._parser_class is not None and tools and choice.mode is not ToolChoiceMode.NONE:
            parser = self._parser_class(self._tokenizer, cast("Any", request.tools))
            request = cast(ChatCompletionRequest, parser.adjust_request(request))
        return StepPlan(
            tools=tools,
            request=request,
            structured_outputs=_without_free_whitespace(request.structured_outputs),
        )


def _tool_choice(choice: ToolChoice) -> str | dict[str, Any]:
    if choice.mode is ToolChoiceMode.NAMED:
        return {"type": "function", "function": {"name": choice.tool_name}}
    return choice.mode.value


def _without_free_whitespace(
    params: StructuredOutputsParams | None,
) -> StructuredOutputsParams | None:
    """The same grammar, with JSON spaced as templates write it: `{"a": 1, "b": 2}`.

    The grammars that vLLM builds let a model put any whitespace anywhere. What is not spaced as
    the template would space it comes back other than it was written when a later turn is rendered
    afresh, and costs tokens.
    """
    if params is None or params.structural_tag is None:
        return params
    tag = json.loads(params.structural_tag)
    return StructuredOutputsParams(structural_tag=json.dumps(_respaced(tag)))


def _respaced(node: Any) -> Any:
    if isinstance(node, list):
        return [_respaced(item) for item in cast(list[Any], node)]
    if not isinstance(node, dict):
        return node
    fields = cast(dict[str, Any], node)
    if fields.get("type") == "json_schema" and fields.get("style") == "json":
        return {"type": "grammar", "grammar": _json_grammar(fields["json_schema"])}
    return {name: _respaced(value) for name, value in fields.items()}


def _json_grammar(schema: Any) -> str:
    """What a value of this schema may be written as; any JSON, where the schema says too much.

    Arguments are checked again before they are used: what no grammar can hold is refused there.
    """
    try:
        return str(Grammar.from_json_schema(json.dumps(schema), any_whitespace=False))
    except RuntimeError as error:
        reason = str(error).strip().rsplit(": ", maxsplit=1)[-1]
        log.warning("calls of a tool are not held to its schema: %s", reason)
        return str(Grammar.from_json_schema("true", any_whitespace=False))
