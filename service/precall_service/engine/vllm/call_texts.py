"""Writes a predicted call in the tokens that this model is expected to write it in.

The text is cut out of a short conversation that the model's template renders, as the proof at the
start does it (`readback`). Arguments stand in the order of the tool's schema, as the grammar holds
the model to. The result is a guess that the engine verifies: if a template writes calls in another
way than its model, drafts are rejected and nothing else happens.

Owns: drafts as tokens.
Never: decides which calls are drafted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from cachetools import LRUCache

from precall_service.domain.json import JsonObject, JsonValue, dump, parse_object
from precall_service.domain.messages import AssistantMessage, ToolCall, Transcript, UserMessage
from precall_service.domain.tools import ToolDeclaration
from precall_service.engine.base import TemplateRefusedError
from precall_service.engine.drafts import Draft
from precall_service.engine.vllm import probes
from precall_service.engine.vllm.drafts import DraftTokens
from precall_service.engine.vllm.parts import ModelParts
from precall_service.engine.vllm.readback import NotReadError, ReadBack

_MARK_BYTES: Final = len("<tool_call>")
"""How much of a call must have been written, at least, before the rest is drafted. A special token
counts as much. Less of it may stand in a thought, and a draft that is rejected there is lost."""


class CallTexts:
    """Writes calls for one model with one template."""

    def __init__(self, parts: ModelParts) -> None:
        self._renderer = parts.renderer
        self._readback = ReadBack(parts)
        self._special_ids = frozenset(parts.tokenizer.all_special_ids)
        self._ends: LRUCache[str, DraftTokens | None] = LRUCache(probes.SHAPES_MAX)

    async def tokens(
        self,
        draft: Draft,
        tools: Collection[ToolDeclaration],
        variables: Mapping[str, JsonValue],
        *,
        certain: bool,
    ) -> DraftTokens | None:
        """The tokens of a call; None if the template writes none that can be cut out.

        `certain`: whether the model must write some call next.
        """
        tool = next((each for each in tools if each.name == draft.tool_name), None)
        if tool is None:
            return None
        arguments = in_schema_order(parse_object(draft.arguments_json), tool.input_schema)
        text = await self._written(tool, dump(arguments), variables)
        if not text:
            return None
        token_ids = await self._renderer.token_ids(text)
        return DraftTokens(token_ids=token_ids, mark_tokens=1 if certain else self._mark(token_ids))

    async def end(self, variables: Mapping[str, JsonValue]) -> DraftTokens | None:
        """The tokens from the end of the arguments to the end of any call.

        None if there is no more than the end of a JSON object.
        """
        key = dump(dict(variables))
        if key not in self._ends:
            self._ends[key] = await self._probed_end(variables)
        return self._ends[key]

    async def _probed_end(self, variables: Mapping[str, JsonValue]) -> DraftTokens | None:
        arguments = dump({"x": probes.MARKER})
        text = await self._written(probes.TOOL, arguments, variables)
        _, _, end = text.partition(f'{probes.MARKER}"')
        brackets = end[: len(end) - len(end.lstrip("}]"))]
        if not brackets or brackets == end:
            return None
        token_ids = await self._renderer.token_ids(end)
        mark = len(await self._renderer.token_ids(brackets))
        return DraftTokens(token_ids=token_ids, mark_tokens=mark, again=True)

    async def _written(
        self, tool: ToolDeclaration, arguments_json: str, variables: Mapping[str, JsonValue]
    ) -> str:
        """What the template writes for a call, without the blanks and the end of the message."""
        question = Transcript(
            messages=(UserMessage(text=probes.probe_text("question")),),
            tools=(tool,),
            template_variables=variables,
        )
        call = ToolCall(call_id=probes.CALL_ID, tool_name=tool.name, arguments_json=arguments_json)
        try:
            text = await self._readback.text(
                question, AssistantMessage(text="", tool_calls=(call,))
            )
        except (TemplateRefusedError, NotReadError):
            return ""
        return self._readback.without_thought(text).strip()

    def _mark(self, token_ids: tuple[int, ...]) -> int:
        """How many tokens tell that a call begins."""
        size = 0
        for index, token_id in enumerate(token_ids):
            size += len(self._readback.decoded([token_id]))
            if token_id in self._special_ids or size >= _MARK_BYTES:
                return index + 1
        return len(token_ids)


def in_schema_order(value: JsonValue, schema: JsonValue) -> JsonValue:
    """The same value with the members of its objects in the order of the schema's properties.

    References are not followed: what they lead to stays in the order that it has.
    """
    if not isinstance(schema, Mapping):
        return value
    if isinstance(value, Mapping):
        properties = schema.get("properties")
        known: JsonObject = properties if isinstance(properties, Mapping) else {}
        names = [
            *(name for name in known if name in value),
            *(name for name in value if name not in known),
        ]
        return {name: in_schema_order(value[name], known.get(name)) for name in names}
    if isinstance(value, list | tuple):
        return [in_schema_order(each, schema.get("items")) for each in value]
    return value
