"""What steps with the same tools have in common: their grammar, and how they are read.

Never: parses, keeps plans (`planning` does).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final, cast

from vllm.config import ModelConfig
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.parser.abstract_parser import Parser
from vllm.sampling_params import StructuredOutputsParams
from vllm.tokenizers import TokenizerLike

from precall_service.domain.json import JsonObject, JsonValue
from precall_service.domain.tools import ToolDeclaration
from precall_service.domain.turn import ToolChoice, ToolChoiceMode
from precall_service.engine.chat import ChatTool, chat_tool, chat_tool_choice
from precall_service.engine.vllm.grammars import (
    ArgumentsForm,
    CallForm,
    WholeCall,
    arguments_alone,
    arguments_grammar,
    as_templates_write,
    calls_listed,
    form_of_calls,
    one_call_of,
    schema_text,
)
from precall_service.engine.vllm.reasoning import ReasoningLimit
from precall_service.engine.vllm.tool_grammars import (
    ToolGrammar,
    compile_together_s,
    tool_grammar,
    within_budget,
)

log = logging.getLogger(__name__)

_NO_VARIABLES: Final[Mapping[str, JsonValue]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """What steps with the same tools, tool choice and template variables have in common.

    Attributes:
        request: The request that vLLM's parsers take as an argument. They do not change it, and it
            is sent nowhere.
        make_parser: Makes the parser of one step; None if a step can bring text only.
        reasoning_parser_kwargs: For the parser in the engine's process, which finds where the
            grammar begins and must therefore know the same variables.
        forms: The forms of arguments that its grammars are for.
        calls_max: The most calls that a step may make; None if there is no limit.
        compile_s: About how much processor time the engine needs to compile its grammar.
        limited: If reasoning has a limit, the grammar of a step that reasons and then follows
            `structured_outputs`: by whether the prompt has begun the reasoning.
    """

    request: ChatCompletionRequest
    make_parser: Callable[[], Parser] | None
    reasoning_parser_kwargs: dict[str, Any] | None
    structured_outputs: StructuredOutputsParams | None
    forms: frozenset[ArgumentsForm]
    calls_max: int | None
    compile_s: float
    limited: Mapping[bool, StructuredOutputsParams]


class StepPlans:
    """Makes the plans for the steps of one model."""

    def __init__(
        self,
        parser_class: type[Parser] | None,
        tokenizer: TokenizerLike,
        model_config: ModelConfig,
        *,
        structured_calls: bool,
    ) -> None:
        self._parser_class = parser_class
        self._tokenizer = tokenizer
        self._model_config = model_config
        self._structured_calls = structured_calls
        self._call_form: CallForm | None = None
        self._calls_max: int | None = None
        self._requires_as_vllm = True
        self._whole_call: WholeCall | None = None
        self._unset: Mapping[str, JsonValue] = _NO_VARIABLES
        self._limit: ReasoningLimit | None = None

    def plan(
        self,
        tools: tuple[ToolDeclaration, ...],
        choice: ToolChoice,
        variables: Mapping[str, JsonValue] = _NO_VARIABLES,
        grammars: Sequence[ToolGrammar] | None = None,
    ) -> StepPlan:
        """The plan for these tools, this choice and these template variables.

        Parsers need the variables to know whether the template left reasoning out. `grammars` are
        those of the tools. Without them they are made here: that is for the tools of the proof,
        which finds out in which forms the others are to be made, and would take minutes for some
        tools of a client.
        """
        variables = {**self._unset, **variables}
        if grammars is None:
            grammars = [tool_grammar(tool.input_schema, ()) for tool in tools]
        return self._make(tools, choice, variables, _fitting(tools, grammars))

    def forms_of_arguments(self, tool: ToolDeclaration) -> frozenset[ArgumentsForm]:
        """The forms of arguments that grammars of calls, such as of this tool, are for."""
        choices = ToolChoice(), ToolChoice(mode=ToolChoiceMode.REQUIRED)
        return frozenset(form for each in choices for form in self.plan((tool,), each).forms)

    def take_unset_as(self, variables: Mapping[str, JsonValue]) -> None:
        """From now on tells parsers these values of template variables that a step does not set."""
        self._unset = variables

    def limit_reasoning(self, limit: ReasoningLimit) -> None:
        """From now on holds steps that reason to this limit."""
        self._limit = limit

    def write_calls_as(self, rendered: str, tool: ToolDeclaration) -> None:
        """From now on holds calls to the form of the rendering, which has a call of this tool."""
        self._call_form = None
        outputs = self.plan((tool,), ToolChoice()).structured_outputs
        if outputs is not None and outputs.structural_tag is not None:
            self._call_form = form_of_calls(outputs.structural_tag, tool.name, rendered)

    def limit_calls(self) -> None:
        """From now on lets a step make one call, and holds it to that where there is a grammar."""
        self._calls_max = 1

    def require_calls_as(self, form: WholeCall | None) -> None:
        """From now on holds required and named calls to one call of this form, or to nothing.

        They are read as the calls of any other step, not in the form of vLLM's own grammar for
        required calls, which this replaces.
        """
        self._requires_as_vllm = False
        self._whole_call = form

    def _make(
        self,
        tools: tuple[ToolDeclaration, ...],
        choice: ToolChoice,
        variables: dict[str, Any],
        grammars: Sequence[ToolGrammar],
    ) -> StepPlan:
        reads_as_any = choice.requires_call and not self._requires_as_vllm
        held_here = reads_as_any or (choice.requires_call and self._lists_required_calls())
        request = ChatCompletionRequest.model_validate(
            {
                "messages": [{"role": "user", "content": ""}],
                "tools": list(map(self._tool, tools, grammars)) or None,
                "tool_choice": chat_tool_choice(ToolChoice() if reads_as_any else choice)
                if tools
                else None,
                "parallel_tool_calls": self._calls_max is None,
                "chat_template_kwargs": variables,
            }
        )
        reasons = self._parser_class is not None and self._parser_class.reasoning_parser_cls
        make_parser = None
        if self._parser_class is not None and (tools or reasons):
            make_parser = partial(
                self._parser_class,
                self._tokenizer,
                cast("Any", request.tools),
                model_config=self._model_config,
                chat_template_kwargs=variables,
            )
            if tools and choice.mode is not ToolChoiceMode.NONE and not held_here:
                request = cast("ChatCompletionRequest", make_parser().adjust_request(request))
        texts = _Texts(grammars)
        if held_here and tools:
            schemas = {tool.name: made.schema for tool, made in zip(tools, grammars, strict=True)}
            outputs = self._required_calls(schemas, choice, texts)
        else:
            names = [tool.name for tool in tools]
            outputs = self._grammar(request.structured_outputs, names, texts)
        limit = self._limit if reasons else None
        return StepPlan(
            request=request,
            make_parser=make_parser,
            reasoning_parser_kwargs={"chat_template_kwargs": variables} if reasons else None,
            structured_outputs=outputs,
            forms=frozenset(texts.forms),
            calls_max=self._calls_max,
            compile_s=0.0 if outputs is None else compile_together_s(grammars),
            limited={opened: limit.applied_to(outputs, opened=opened) for opened in (True, False)}
            if limit
            else {},
        )

    def _lists_required_calls(self) -> bool:
        """Whether required calls are read as a list in JSON, and a named one as its arguments."""
        if self._parser_class is None or self._parser_class.tool_parser_cls is None:
            return False
        return self._parser_class.tool_parser_cls.supports_required_and_named

    def _required_calls(
        self, schemas: Mapping[str, JsonObject | bool], choice: ToolChoice, texts: _Texts
    ) -> StructuredOutputsParams | None:
        """The grammar of calls of tools with these schemas, or of a call of the one that is named.

        None if no form of such a call is known that is read.
        """
        named = choice.mode is ToolChoiceMode.NAMED
        if named:
            schemas = {choice.tool_name: schemas[choice.tool_name]}
        if not self._structured_calls:
            schemas = {name: {"type": "object"} for name in schemas}
        if not self._requires_as_vllm:
            if self._whole_call is None:
                return None
            tag = one_call_of(schemas, self._whole_call, texts.grammar_of)
        elif named:
            tag = arguments_alone(schemas[choice.tool_name], texts.grammar_of)
        else:
            tag = calls_listed(schemas, texts.grammar_of, several=self._calls_max is None)
        return StructuredOutputsParams(structural_tag=tag)

    def _tool(self, tool: ToolDeclaration, grammar: ToolGrammar) -> ChatTool:
        """The tool as parsers and grammars see it, with what a grammar can hold of its schema."""
        shown = chat_tool(tool.name, tool.description, grammar.schema)
        if self._structured_calls:
            shown["function"]["strict"] = True
        return shown

    def _grammar(
        self, outputs: StructuredOutputsParams | None, tool_names: Sequence[str], texts: _Texts
    ) -> StructuredOutputsParams | None:
        if outputs is None or outputs.structural_tag is None:
            return outputs
        tag = outputs.structural_tag
        tag = as_templates_write(tag, tool_names, self._call_form, texts.grammar_of)
        return StructuredOutputsParams(structural_tag=tag)


class _Texts:
    """The texts of a plan's grammars. What has not been made already is made here.

    `forms` has the forms of arguments that were asked for.
    """

    def __init__(self, grammars: Sequence[ToolGrammar]) -> None:
        self._known = {
            (schema_text(grammar.schema), form): text
            for grammar in grammars
            for form, text in grammar.texts.items()
        }
        self.forms: set[ArgumentsForm] = set()

    def grammar_of(self, schema: JsonObject | bool, form: ArgumentsForm) -> str:
        """The grammar of a schema that a tool holds a call to, in this form of arguments."""
        self.forms.add(form)
        known = self._known.get((schema_text(schema), form))
        return arguments_grammar(schema, form) if known is None else known


def _fitting(
    tools: Sequence[ToolDeclaration], grammars: Sequence[ToolGrammar]
) -> Sequence[ToolGrammar]:
    """The grammars as far as one turn may have them; the log names the tools that go without."""
    fitting = within_budget(grammars)
    for tool, own, kept in zip(tools, grammars, fitting, strict=True):
        if kept is not own:
            log.warning(
                "calls of tool %r, one of %d, are held to no schema in a turn with all of them: %s",
                *(tool.name, len(tools), kept.loosened[0].reason),
            )
    return fitting
