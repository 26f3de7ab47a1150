"""Proves at start what a model's chat template, parsers and grammars hold together.

The template renders conversations of probe texts, and its own rendering of a message is read back
through the parsers that were chosen. What does not survive is found here, before a tool has run.
Each feature is asked for separately, so that a template that refuses one of them is known by that.

Owns: the findings, and what the plans of steps are limited to because of them.
Never: an engine. A tokenizer, a template and parsers are enough.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from precall_service.domain.json import parse_object
from precall_service.domain.messages import (
    Message,
    ToolCall,
    Transcript,
    UserMessage,
)
from precall_service.domain.turn import ToolChoice, ToolChoiceMode
from precall_service.engine.base import TemplateRefusedError
from precall_service.engine.findings import Finding, Findings, Standing, Subject
from precall_service.engine.vllm import probe_chat as chat
from precall_service.engine.vllm import skeletons
from precall_service.engine.vllm.branching import THINKING
from precall_service.engine.vllm.derivation import derived_text
from precall_service.engine.vllm.grammars import WholeCall, whole_call
from precall_service.engine.vllm.parts import ModelParts
from precall_service.engine.vllm.probes import TOOL
from precall_service.engine.vllm.readback import NotReadError, ReadBack
from precall_service.engine.vllm.survival import RefutedError, Survival

log = logging.getLogger(__name__)

THINKING_SWITCH: Final = "enable_thinking"
"""The template variable that turns reasoning on and off in most families."""

_AUTO: Final = ToolChoice()
_CHOICES: Final = (
    ToolChoice(mode=ToolChoiceMode.REQUIRED),
    ToolChoice(mode=ToolChoiceMode.NAMED, tool_name=chat.CONSTANT.name),
)


async def prove(parts: ModelParts) -> Findings:
    """Returns what holds of a model, and limits the plans of its steps to that.

    On cancel: the plans may be limited in part.
    """
    await _fit_plans(parts)
    proof = _Proof(parts)
    chats, systems, calls = (
        await proof.conversations(),
        await proof.system_prompts(),
        await proof.tool_calls(),
    )
    found = [chats, systems, calls]
    tools = calls.standing is not Standing.FAILS
    if tools:
        found += [await proof.parallel_calls(), await proof.required_calls(), proof.schemas()]
    found += await proof.reasoning()
    if tools or chats.standing is not Standing.FAILS:
        found += [await proof.appending(tools=tools), await proof.history(tools=tools)]
    return Findings(tuple(found))


async def _fit_plans(parts: ModelParts) -> None:
    """Tells the plans how the template takes a switch that is not set, and how it writes calls."""
    if await parts.renderer.switched_off(THINKING_SWITCH):  # vLLM's parsers take it to be on
        parts.plans.take_unset_as({THINKING_SWITCH: False})
    if parts.structured_calls and parts.parsers.tool is not None:
        with contextlib.suppress(TemplateRefusedError):  # a template without calls
            parts.plans.write_calls_as(await parts.renderer.rendered_call(TOOL), TOOL)


def warn_of(findings: Findings) -> None:
    """Logs each finding that limits."""
    for finding in findings.each:
        if finding.limits:
            log.warning("%s: %s", finding.subject.value, finding.sentence)


class _Proof:
    def __init__(self, parts: ModelParts) -> None:
        self._parts = parts
        self._plans = parts.plans
        self._renderer = parts.renderer
        self._readback = ReadBack(parts)
        self._survival = Survival(self._readback)

    async def conversations(self) -> Finding:
        again = [chat.said(text=chat.SAID), UserMessage(text=chat.NEXT_QUESTION)]
        texts = chat.QUESTION, chat.SAID, chat.NEXT_QUESTION
        try:
            await self._survival.renders(
                skeletons.with_messages(chat.asked(), again),
                "several turns without tools",
                *texts,
            )
        except RefutedError as refuted:
            return _fails(Subject.CONVERSATIONS, str(refuted))
        return _holds(Subject.CONVERSATIONS, "the model reads every message")

    async def system_prompts(self) -> Finding:
        refuted: list[str] = []
        for tools in ((), chat.TOOLS):  # some templates are for conversations with tools only
            try:
                question = chat.asked(*tools, system=True)
                await self._survival.renders(question, "the system prompt", chat.SYSTEM)
            except RefutedError as error:
                refuted.append(str(error))
            else:
                return _holds(Subject.SYSTEM_PROMPTS, "the model reads system prompts")
        return _fails(Subject.SYSTEM_PROMPTS, refuted[0])

    async def tool_calls(self) -> Finding:
        if self._parts.parsers.tool is None:
            return _no_tools(f"their calls could not be read, since {self._parts.parsers.reason}")
        question, flat, empty = chat.asked(*chat.TOOLS), chat.lookup(), chat.empty_call()
        other = chat.lookup(chat.OTHER, call_id=chat.EARLIER_CALL_ID)
        rounds = skeletons.with_messages(question, [*chat.round_of(other), *chat.round_of(flat)])
        later: list[Message] = [chat.said(text=chat.SAID), UserMessage(text=chat.NEXT_QUESTION)]
        try:
            await self._survival.renders(question, "the tools", *(tool.name for tool in chat.TOOLS))
            await self._survival.answered("the result of a call", flat)
            written = await self._survival.survives(question, chat.said(flat), "a call")
            await self._survival.survives(question, chat.said(empty), "a call without arguments")
            await self._survival.renders(
                rounds, "the results of a second call", *_results(other, flat)
            )
            await self._survival.renders(
                skeletons.with_messages(rounds, later),
                "the question after calls",
                chat.NEXT_QUESTION,
            )
        except RefutedError as refuted:
            return _no_tools(str(refuted))
        if not written.text:
            return _limited(
                Subject.TOOL_CALLS,
                "the chat template leaves calls out of the history: once a turn is over, the model "
                "does not see which calls it made",
            )
        return await self._limit_of_calls(question) or _holds(
            Subject.TOOL_CALLS, "calls are read as the chat template writes them"
        )

    async def _limit_of_calls(self, question: Transcript) -> Finding | None:
        """The finding on calls that only some tools and messages have; None if all survive."""
        thinking = replace(question, template_variables=THINKING)
        flat, nested = chat.lookup(), chat.lookup(chat.NESTED)
        messages = [
            (question, chat.said(nested), "a call with an object or a list in its arguments"),
            (question, chat.said(flat, text=chat.SAID), "a call with text before it"),
            (thinking, chat.said(flat, reasoning=skeletons.THOUGHT), "a call after a thought"),
        ]
        for asked, message, what in messages:
            try:
                await self._survival.survives(asked, message, what)
            except RefutedError as refuted:
                return _limited(Subject.TOOL_CALLS, str(refuted))
        return None

    async def parallel_calls(self) -> Finding:
        question, calls = chat.asked(*chat.TOOLS), chat.two_calls()
        try:
            await self._survival.answered("the results of two calls in one message", *calls)
            await self._survival.survives(question, chat.said(*calls), "two calls in one message")
        except RefutedError as refuted:
            self._plans.limit_calls()
            return _limited(
                Subject.PARALLEL_CALLS, f"a step makes one call, and ends after it: {refuted}"
            )
        return _holds(Subject.PARALLEL_CALLS, "a step may make several calls")

    async def required_calls(self) -> Finding:
        holds = "a required or named call is held by a grammar"
        question = chat.asked(chat.CONSTANT)
        if await self._required_is_read(question):
            return _holds(Subject.REQUIRED_CALLS, holds)
        self._plans.require_calls_as(await self._whole_call(question))
        if await self._required_is_read(question):
            return _holds(Subject.REQUIRED_CALLS, f"{holds}, one in a step")
        self._plans.require_calls_as(None)
        return _limited(
            Subject.REQUIRED_CALLS,
            "no grammar holds the model to a required or named call in a form that its parser "
            "reads: a turn in which it makes none ends with NO_CALL and the reason CALL_MISSING",
        )

    async def _required_is_read(self, question: Transcript) -> bool:
        prompt = await self._renderer.render(question)
        call = chat.constant_call()
        if not self._parts.structured_calls:  # then any arguments are allowed, and none are fewest
            call = replace(call, arguments_json="{}")
        for choice in _CHOICES:
            outputs = self._plans.plan(question.tools, choice).structured_outputs
            if outputs is None:
                return False
            if outputs.grammar is not None:
                continue  # mistral-common's, made from the same tokenizer as the parser
            text = derived_text(outputs)
            if text is None:
                return False
            written = self._readback.as_written(prompt, text)
            try:
                said = chat.said(call)
                self._survival.check(written, question, said, "a required call", choice)
            except RefutedError as refuted:
                log.debug("%s calls are not read: %s", choice.mode.value, refuted)
                return False
        return True

    async def _whole_call(self, question: Transcript) -> WholeCall | None:
        """The form in which the template writes a message with one call; None if it has no JSON."""
        call = chat.constant_call()
        try:
            written = await self._readback.written(question, chat.said(call))
        except (TemplateRefusedError, NotReadError):
            return None
        text = self._readback.without_thought(written.text)
        arguments = json.dumps(parse_object(call.arguments_json))  # spaced as templates do it
        return whole_call(text, call.tool_name, arguments, call.call_id)

    def schemas(self) -> Finding:
        if self._plans.plan((chat.CONSTANT,), _AUTO).structured_outputs is not None:
            return _holds(Subject.SCHEMAS, "calls are held to their schemas by a grammar")
        why = (
            "vLLM has no grammar for the calls of this model"
            if self._parts.structured_calls
            else "engine.structured_calls is off"
        )
        return _limited(
            Subject.SCHEMAS,
            f"calls are checked once they are written, not held to their schemas: {why}",
        )

    async def reasoning(self) -> Sequence[Finding]:
        """The finding on reasoning; none if nothing shows that the model reasons."""
        question = replace(chat.asked(), template_variables=THINKING)
        thought = chat.said(text=chat.SAID, reasoning=skeletons.THOUGHT)
        try:
            written = await self._readback.written(question, thought)
            prompt = await self._renderer.render(chat.asked())
        except (TemplateRefusedError, NotReadError):
            return []  # told as a finding on conversations
        if self._parts.parsers.reasoning is None:
            if skeletons.THOUGHT not in written.text:
                return []
            why = "no parser of its reasoning is known: thoughts stay in the text"
            return [_limited(Subject.REASONING, why)]
        try:
            self._survival.check(
                self._readback.with_thought(written), question, thought, "a text after a thought"
            )
        except RefutedError as refuted:
            return [_limited(Subject.REASONING, str(refuted))]
        answer = self._readback.as_written(prompt, chat.SAID)
        if not self._readback.opens_thought(answer):
            try:
                plain = chat.said(text=chat.SAID)
                self._survival.check(answer, chat.asked(), plain, "a text", thinks=False)
            except RefutedError:
                why = "a message in which the model does not think is taken for a thought"
                return [_limited(Subject.REASONING, why)]
        return [_holds(Subject.REASONING, "reasoning is told apart from text")]

    async def appending(self, *, tools: bool) -> Finding:
        question = chat.asked(*chat.TOOLS) if tools else chat.asked()
        thinking = replace(question, template_variables=THINKING)
        steps = {"an answer": (question, chat.said(text=chat.SAID))}
        if tools:
            call, thought = chat.lookup(), skeletons.THOUGHT
            steps |= {
                "a call": (question, chat.said(call)),
                "a text with a call": (question, chat.said(call, text=chat.SAID)),
            }
            if self._parts.parsers.reasoning is not None:
                steps["a call after a thought"] = thinking, chat.said(call, reasoning=thought)
        afresh = [
            name
            for name, (asked, message) in steps.items()
            if not await self._continued(skeletons.with_messages(asked, [message]))
        ]
        if not afresh:
            return _holds(
                Subject.APPENDING, "each step continues the exact tokens of the one before"
            )
        return _limited(
            Subject.APPENDING,
            f"the prompt after {' or '.join(afresh)} is rendered afresh, and may find less of "
            "itself in the cache: the chat template ends the message without a token of its own, "
            "or writes what depends on earlier messages",
        )

    async def _continued(self, transcript: Transcript) -> bool:
        """Whether a prompt can continue the transcript's last message."""
        following = skeletons.probe_answers(transcript, "0")
        return await self._renderer.delta(transcript, following) is not None

    async def history(self, *, tools: bool) -> Finding:
        question = chat.asked(*chat.TOOLS) if tools else chat.asked()
        plain, thoughtful = [
            await self._renderer.rewrites_history(
                skeletons.with_messages(question, [chat.said(text=chat.SAID, reasoning=thought)])
            )
            for thought in ("", skeletons.THOUGHT)
        ]
        if plain:
            return _limited(
                Subject.HISTORY,
                "each new turn is rendered afresh, and may find less of itself in the cache: the "
                "chat template changes earlier messages once the user speaks again",
            )
        reasons = self._parts.parsers.reasoning is not None
        but = ", unless the model has reasoned" if thoughtful and reasons else ""
        return _holds(Subject.HISTORY, f"a new turn continues the tokens of the one before{but}")


def _results(*calls: ToolCall) -> list[str]:
    return [chat.result_text(call.call_id) for call in calls]


def _holds(subject: Subject, sentence: str) -> Finding:
    return Finding(subject, Standing.HOLDS, sentence)


def _fails(subject: Subject, sentence: str) -> Finding:
    return Finding(subject, Standing.FAILS, sentence)


def _no_tools(why: str) -> Finding:
    return _fails(Subject.TOOL_CALLS, f"tools are refused: {why}")


def _limited(subject: Subject, sentence: str) -> Finding:
    return Finding(subject, Standing.LIMITED, sentence)
