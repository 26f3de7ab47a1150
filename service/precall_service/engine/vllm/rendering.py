"""Turns transcripts into prompts, and the messages after a step into the tokens that follow it.

Owns: the output of a model's chat template, and the decision when a prompt may only grow.
Never: generates.

Within a turn nothing is rendered twice. `append` keeps the tokens that the model was given and the
tokens that it sampled. It adds the template's *delta*: the text that the template writes from the
end of an assistant message to the start of the next one. The delta is cut out of a rendering of a
few short messages: one user message, the assistant message with a marker in place of its text, and
the messages that follow. Where it contains another text of the short messages, or depends on what
came before, the whole is rendered instead.

The delta begins with the token that ends a message. Tokenizers split text at such tokens before
anything else. The delta can therefore be tokenised alone, and the whole prompt has the same tokens
as the template's own rendering. No text of a conversation spells such a token, because the
spellings are broken before both renderings.

Mistral's own tokenizers (mistral-common) have no template and find no special tokens in a text.
They turn messages into tokens, always those of a whole transcript.

Concurrency: one event loop, which a long text does not stop. vLLM's renderer has a thread for the
template and the tokenizer. What is done before is done in a thread as well, if there is much text
or there are several tools.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, TypeAlias, cast

from cachetools import LRUCache
from vllm.exceptions import VLLMClientError
from vllm.renderers import ChatParams
from vllm.renderers.base import BaseRenderer
from vllm.utils.mistral import is_mistral_tokenizer

from precall_service.domain.messages import (
    AssistantMessage,
    Message,
    ToolCall,
    ToolMessage,
    Transcript,
    UserMessage,
    characters,
    refusal_of,
)
from precall_service.domain.text import encodable
from precall_service.domain.tools import ToolDeclaration
from precall_service.engine.base import Finish, StepEnd, TemplateRefusedError
from precall_service.engine.chat import ChatMessage, ChatTool, chat_messages, chat_tools
from precall_service.engine.vllm import skeletons
from precall_service.engine.vllm.plain_text import PlainTexts
from precall_service.engine.vllm.probes import (
    CALL_ID,
    MARKER,
    PROBE,
    SHAPES_MAX,
    common_start,
    probe_text,
)
from precall_service.engine.vllm.token_prompt import TokenPrompt
from precall_service.engine.vllm.tokenizing import Tokenizing

_LONG: Final = 16 << 10
"""From so many characters on, a transcript is prepared in a thread. A thread takes 0.2 ms."""
_TOOLS_LONG: Final = 4
"""The same for the number of tools, whose schemas may be of any size."""
_Format: TypeAlias = Literal["auto", "openai", "string"]


class PromptRenderer:
    """Renders for one model with one template."""

    def __init__(
        self,
        renderer: BaseRenderer[Any],
        *,
        chat_template: str | None,
        stop_token_ids: Collection[int],
        texts: PlainTexts,
    ) -> None:
        self._renderer = renderer
        self._tokenizer = renderer.get_tokenizer()
        self._tokenizing = Tokenizing(renderer)
        self._chat_template = chat_template
        self._texts = texts
        self._makes_tokens = is_mistral_tokenizer(self._tokenizer)
        self.stop_token_ids = frozenset(stop_token_ids)
        """The tokens that end a message by themselves."""
        added = self._tokenizer.get_added_vocab()
        self._added_token_ids = frozenset(added.values())
        self._added_texts = tuple(sorted(added, key=len, reverse=True))
        self._stop_texts = tuple(
            text for text, token_id in added.items() if token_id in self.stop_token_ids
        )
        # Bounded, since clients choose the variables in a shape.
        self._ends: LRUCache[skeletons.Shape, str | None] = LRUCache(SHAPES_MAX)
        self._rewrites: LRUCache[skeletons.Shape, bool] = LRUCache(SHAPES_MAX)
        self._format: _Format | None = None
        self.rendered_afresh = 0
        """How often `append` rendered the whole, because it could not cut out a delta."""

    async def render(self, transcript: Transcript) -> TokenPrompt:
        """The template's own rendering, ready for the model's next message.

        Raises:
            TemplateRefusedError: the template refuses the transcript.
            PromptTooLongError: it is far too long for the context window.
        """
        rendered = await self.rendered(transcript, ready=True)
        if isinstance(rendered, str):
            return TokenPrompt(await self._tokenizing.fitting(rendered))
        return TokenPrompt(tuple(rendered))

    async def rendered_call(self, tool: ToolDeclaration) -> str:
        """The template's rendering of a conversation with one call of this tool.

        Raises:
            TemplateRefusedError: the template refuses calls.
        """
        call = ToolCall(call_id=CALL_ID, tool_name=tool.name, arguments_json="{}")
        transcript = Transcript(
            messages=(
                UserMessage(text=probe_text("question")),
                AssistantMessage(text="", tool_calls=(call,)),
                ToolMessage(call_id=call.call_id, tool_name=tool.name, text=probe_text("answer")),
            ),
            tools=(tool,),
        )
        rendered = await self.rendered(transcript, ready=True)
        return rendered if isinstance(rendered, str) else ""

    async def switched_off(self, variable: str) -> bool:
        """Whether the template takes a switch that is not set to be off."""
        unset = Transcript(messages=(UserMessage(text=probe_text("question")),))
        try:
            rendered, on, off = [
                await self.rendered(replace(unset, template_variables=variables), ready=True)
                for variables in ({}, {variable: True}, {variable: False})
            ]
        except TemplateRefusedError:
            return False
        return rendered == off != on

    async def append(
        self,
        prompt: TokenPrompt,
        end: StepEnd,
        transcript: Transcript,
        following: Sequence[Message],
    ) -> TokenPrompt:
        """`prompt`, the sampled tokens, and the delta up to the model's next message.

        Raises:
            TemplateRefusedError: the template refuses the messages.
            PromptTooLongError: they are far too long for the context window.
        """
        whole = skeletons.with_messages(transcript, following)
        user_speaks = any(isinstance(message, UserMessage) for message in following)
        if end.cut_after_call or (user_speaks and await self.rewrites_history(transcript)):
            return await self.render(whole)
        delta = await self.delta(transcript, following)
        if delta is None:
            self.rendered_afresh += 1
            return await self.render(whole)
        return TokenPrompt(prompt.token_ids + self._kept(end) + delta)

    def _kept(self, end: StepEnd) -> tuple[int, ...]:
        """The sampled tokens up to the end of the message's text.

        The sampled end token is left out, because the delta begins with the template's own.
        """
        tokens = end.token_ids
        if end.finish is Finish.LENGTH or not tokens:
            return tokens
        if tokens[-1] in self.stop_token_ids:
            return tokens[:-1]
        return self._without_stop_string(tokens, end.raw_text)

    def _without_stop_string(self, tokens: tuple[int, ...], text: str) -> tuple[int, ...]:
        """The tokens of `text`, without those of the stop string that followed it."""
        kept = len(tokens)
        while True:
            decoded = self._tokenizer.decode(list(tokens[:kept]), skip_special_tokens=True)
            if text.startswith(decoded):
                rest = self._tokenizer.encode(text[len(decoded) :], add_special_tokens=False)
                return (*tokens[:kept], *rest)
            kept -= 1

    async def delta(
        self, transcript: Transcript, following: Sequence[Message]
    ) -> tuple[int, ...] | None:
        """The tokens that the template writes after the last message; None if they cannot be cut.

        They can be cut out only where they begin with a token that ends a message, and contain
        nothing of the skeleton.
        """
        if self._makes_tokens:
            return None
        try:
            return await self._cut_delta(transcript, following)
        except TemplateRefusedError:  # the short messages; the whole may be taken
            return None

    async def _cut_delta(
        self, transcript: Transcript, following: Sequence[Message]
    ) -> tuple[int, ...] | None:
        skeleton = skeletons.skeleton(transcript)
        end = await self._end_of_message(skeletons.shape(skeleton), skeleton)
        if end is None:
            return None
        rendered = await self.rendered(skeletons.with_messages(skeleton, following), ready=True)
        delta = _after_marker(rendered, end)
        if delta is None or PROBE in delta:
            return None
        token_ids = await self._tokenizing.fitting(delta)
        return token_ids if token_ids[0] in self._added_token_ids else None

    async def _end_of_message(self, shape: skeletons.Shape, skeleton: Transcript) -> str | None:
        """The text of the token that ends assistant messages of this shape; None if there is none.

        There is none either if what follows the message depends on what came before it.
        """
        if shape not in self._ends:
            self._ends[shape] = await self._probed_end(skeleton)
        return self._ends[shape]

    async def _probed_end(self, skeleton: Transcript) -> str | None:
        """Finds the end by two renderings with answers that differ from their first letter on.

        The end of the message and the head of the next one stand between the marker and that
        letter. A third rendering has an earlier turn and step, and must say the same after it.
        """
        one, other = [
            await self.rendered(
                skeletons.with_messages(skeleton, skeletons.probe_answers(skeleton, letter)),
                ready=True,
            )
            for letter in "01"
        ]
        if not isinstance(one, str) or not isinstance(other, str):
            return None
        common = common_start(one, other)
        if MARKER not in common:
            return None
        end = self._end_in(common[common.find(MARKER) + len(MARKER) :])
        if end is None:
            return None
        later = skeletons.with_past(skeleton)
        try:
            later_one = await self.rendered(
                skeletons.with_messages(later, skeletons.probe_answers(later, "0")), ready=True
            )
        except TemplateRefusedError:  # a conversation of this form is not continued
            return None
        delta = _after_marker(one, end)
        return end if delta == _after_marker(later_one, end) else None

    def _end_in(self, tail: str) -> str | None:
        stops = [(tail.find(text), text) for text in self._stop_texts if text in tail]
        if stops:
            return min(stops)[1]
        return next((text for text in self._added_texts if text and tail.startswith(text)), None)

    async def rewrites_history(self, transcript: Transcript) -> bool:
        """Whether the template changes earlier messages once a user speaks again.

        A template that makes tokens is taken to do so.
        """
        if self._makes_tokens:
            return True
        skeleton = skeletons.skeleton(transcript)
        reasoning = skeletons.reasoned(transcript)
        shape = replace(skeletons.shape(skeleton), calls=False, text=True, reasoning=reasoning)
        if shape not in self._rewrites:
            history = skeletons.finished_turn(skeleton, reasoning=reasoning)
            again = [UserMessage(text=probe_text("next question"))]
            try:
                before = await self.rendered(history, ready=False)
                after = await self.rendered(skeletons.with_messages(history, again), ready=True)
            except TemplateRefusedError:  # the short messages; the whole may be taken
                self._rewrites[shape] = True
            else:
                self._rewrites[shape] = not skeletons.continues(before, after, reasoning=reasoning)
        return self._rewrites[shape]

    async def _content_format(self) -> _Format:
        """Whether the template takes texts or lists of parts.

        vLLM tells from a look at the template. One that takes both may take only texts from some
        roles, and then prints the list. So texts are preferred where the template writes all.
        """
        if self._format is None:
            for transcript, format_ in skeletons.chats(("string", "openai")):
                with contextlib.suppress(TemplateRefusedError):
                    rendered = await self._rendered(transcript, format_, ready=True)
                    if isinstance(rendered, str) and skeletons.says_all(rendered, transcript):
                        self._format = format_
                        break
            else:
                self._format = "auto"
        return self._format

    async def rendered(self, transcript: Transcript, *, ready: bool) -> str | list[int]:
        """The template's rendering; tokens if the model has no template but its own tokenizer.

        `ready` adds the head of the model's next message.

        Raises:
            TemplateRefusedError: the template refuses the transcript.
        """
        if refusal := refusal_of(transcript.template_variables):
            raise TemplateRefusedError(refusal)
        if self._makes_tokens:
            return await self._rendered(transcript, "auto", ready=ready)
        format_ = await self._content_format()
        if _is_long(transcript):
            transcript = await asyncio.to_thread(self._texts.transcript, transcript)
        else:
            transcript = self._texts.transcript(transcript)
        return await self._rendered(transcript, format_, ready=ready)

    async def _rendered(
        self, transcript: Transcript, content_format: _Format, *, ready: bool
    ) -> str | list[int]:
        def shaped() -> tuple[list[ChatMessage], list[ChatTool]]:
            return chat_messages(transcript), chat_tools(transcript.tools)

        messages, tools = await asyncio.to_thread(shaped) if _is_long(transcript) else shaped()
        params = ChatParams(
            chat_template=self._chat_template,
            chat_template_content_format=content_format,
            chat_template_kwargs=dict(transcript.template_variables)
            | {
                "tools": tools or None,
                "add_generation_prompt": ready,
                "tokenize": self._makes_tokens,
            },
        )
        try:
            _, rendered = await self._renderer.render_messages_async(cast(Any, messages), params)
        except (VLLMClientError, ValueError, TimeoutError) as error:
            raise TemplateRefusedError(
                "the model's chat template refuses the messages, tools or template variables of "
                f"the conversation: {_said(error)}"
            ) from error
        prompt = cast(dict[str, Any], rendered)
        # Schemas and variables may spell halves of surrogate pairs, which no tokenizer takes.
        return prompt.get("prompt_token_ids") or encodable(prompt["prompt"])

    async def token_ids(self, part: str) -> tuple[int, ...]:
        """The tokens of a part of a rendering that begins with a token of its own."""
        return await self._tokenizing.token_ids(part)


def _is_long(transcript: Transcript) -> bool:
    """Whether a transcript takes so long to prepare that this is done in a thread."""
    if len(transcript.tools) >= _TOOLS_LONG:
        return True
    return len(transcript.system_prompt) + characters(transcript.messages) >= _LONG


def _said(error: Exception) -> str:
    text = str(error) or type(error).__name__
    if "is unsafe" not in text:
        return text
    return (
        f"{text} Templates run in a sandbox, in which they cannot change lists and mappings: name "
        "one that builds new ones instead with --chat-template"
    )


def _after_marker(rendered: str | list[int], end: str) -> str | None:
    """What a rendering says from the first `end` after the marker on."""
    if not isinstance(rendered, str) or MARKER not in rendered:
        return None
    start = rendered.find(end, rendered.find(MARKER))
    return None if start < 0 else rendered[start:]
