"""Turns a prompt and the tokens that a step has sampled into the prompt of a branch.

A branch skips the rest of the reasoning. It continues the sampled tokens with what the template
writes from a thought to a call, so that the model goes on as after a thought of its own.

Owns: what a template writes around a thought. It is cut out of the renderings of a few short
messages, once for each set of template variables.
Never: decides whether a step still reasons; vLLM's reasoning parser knows that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from cachetools import LRUCache

from precall_service.domain.json import JsonValue, dump
from precall_service.domain.messages import AssistantMessage, ToolCall, Transcript, UserMessage
from precall_service.engine.base import TemplateRefusedError
from precall_service.engine.vllm import probes
from precall_service.engine.vllm.reasoning import ReasoningMarks
from precall_service.engine.vllm.rendering import PromptRenderer
from precall_service.engine.vllm.token_prompt import TokenPrompt

THINKING: Final[Mapping[str, JsonValue]] = MappingProxyType(
    {"enable_thinking": True, "thinking": True}
)
"""Turns reasoning on in every template that has a switch for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """What a template writes around a thought that a call follows, as tokens.

    `opened` says whether the head of a message already begins the thought; if not, the model does.
    """

    opened: bool
    whole: tuple[int, ...]
    rest: tuple[int, ...]


class Branches:
    """Makes the prompts of branches for one model with one template."""

    def __init__(self, renderer: PromptRenderer, marks: ReasoningMarks) -> None:
        self._renderer = renderer
        self._marks = marks
        self._forms: LRUCache[str, _Form | None] = LRUCache(probes.SHAPES_MAX)

    async def known(self, variables: Mapping[str, JsonValue]) -> bool:
        """Whether the template's form is known if it is given these variables."""
        return await self._form(variables) is not None

    async def prompt(
        self, prompt: TokenPrompt, token_ids: Sequence[int], variables: Mapping[str, JsonValue]
    ) -> TokenPrompt | None:
        """The prompt of a branch that ends the step's reasoning here.

        Returns None if the form is unknown, or if the step has begun without reasoning or ended it.
        """
        form = await self._form(variables)
        if form is None or self._marks.end_id in token_ids:
            return None
        if form.opened or self._marks.start_id in token_ids:
            skipped = form.rest
        elif not token_ids:
            skipped = form.whole
        else:
            return None
        return TokenPrompt((*prompt.token_ids, *token_ids, *skipped))

    async def _form(self, variables: Mapping[str, JsonValue]) -> _Form | None:
        shape = dump(dict(variables))
        if shape not in self._forms:
            try:
                self._forms[shape] = await self._probed(variables)
            except TemplateRefusedError:  # it may have no calls, for example
                self._forms[shape] = None
        return self._forms[shape]

    async def _probed(self, variables: Mapping[str, JsonValue]) -> _Form | None:
        """Finds the form by comparing a message that calls with one that answers.

        Both begin with the same thought, and they are the last message each: some templates leave
        out the thoughts of all messages before.
        """
        call = ToolCall(
            call_id=probes.CALL_ID, tool_name=probes.TOOL.name, arguments_json=dump({"x": 1})
        )
        question = Transcript(
            messages=(UserMessage(text=probes.probe_text("question")),),
            tools=(probes.TOOL,),
            template_variables=variables,
        )
        head = await self._renderer.rendered(question, ready=True)
        calls, answers = [
            await self._renderer.rendered(
                replace(question, messages=(*question.messages, message)), ready=False
            )
            for message in (
                AssistantMessage(text="", reasoning=probes.MARKER, tool_calls=(call,)),
                AssistantMessage(text=probes.probe_text("said"), reasoning=probes.MARKER),
            )
        ]
        if not isinstance(head, str) or not isinstance(calls, str) or not isinstance(answers, str):
            return None
        return await self._cut(head, probes.common_start(calls, answers))

    async def _cut(self, head: str, thought: str) -> _Form | None:
        """Cuts the form out of the head of a message and the common start of two messages."""
        start, end = self._marks.start, self._marks.end
        opened = head.rstrip().endswith(start)
        before, marker, after = thought.removeprefix(head).partition(probes.MARKER)
        if marker:
            begun = opened or before.strip().endswith(start)
            if not (begun and thought.startswith(head) and after.count(end) == 1):
                return None
        else:
            if not opened:
                return None
            # A template that begins a thought but never writes one, such as DeepSeek-R1's. Its
            # model was trained to end a thought as it begins, and an answer follows a paragraph.
            space = head[len(head.rstrip()) :]
            before, after = "", f"{space}{end}{space}{space}"
        return _Form(
            opened=opened,
            whole=await self._renderer.token_ids(before + after),
            rest=await self._renderer.token_ids(after),
        )
