"""Refuses tools as a precall server does, except for what only a server's model can say."""

from __future__ import annotations

from collections.abc import Sequence

from precall import _frames
from precall.testing._cache_refusals import TTL_MAX_S
from precall.testing._fields import TOOL_NAME, json_object
from precall.testing._schemas import NO_ARGUMENTS, ToolSchemas
from precall.testing._service.domain.json import JsonObject
from precall.testing._service.domain.normal_schema import EndlessReferenceError, normal_form
from precall.testing._service.domain.resources import ResourceError, ResourceTemplate
from precall.testing._service.tools.schema import Schema, SchemaError
from precall.testing._status import RefusedError
from precall.v1 import agent_pb2, tool_pb2

VERSION_BYTES_MAX = 128
RESOURCES_MAX = 64
RESOURCE_BYTES_MAX = 256


def check_tool(tool: tool_pb2.Tool, limits: agent_pb2.ServerLimits, path: str) -> ToolSchemas:
    """Returns the schemas of a tool.

    Args:
        tool: The declaration.
        limits: The limits; 0 is none.
        path: What precedes the names of fields in errors.

    Raises:
        RefusedError: No server with these limits takes the tool.
    """
    return _Checker(tool, path).check(limits)


class _Checker:
    """Checks the fields of one tool."""

    def __init__(self, tool: tool_pb2.Tool, path: str) -> None:
        self._tool = tool
        self._path = path

    def check(self, limits: agent_pb2.ServerLimits) -> ToolSchemas:
        tool = self._tool
        if not TOOL_NAME.fullmatch(tool.name):
            problem = f"{tool.name[:80]!r} is not 1 to 64 of A-Z a-z 0-9 _ and -"
            raise self._refused("TOOL_NAME_INVALID", "name", problem)
        self._check_size("description", tool.description, limits.description_bytes_max)
        self._check_size("version", tool.version, VERSION_BYTES_MAX)
        self._check_effects()
        if tool.rate_limit:
            raise self._refused("NOT_SERVED", "rate_limit", "rate limits are not served yet")
        self._check_cache()
        if tool.HasField("timeout"):
            self._check_timeout(_frames.seconds(limits.tool_timeout_max))
        arguments = self._arguments(tool.input_schema_json, limits)
        result = None
        if tool.output_schema_json:
            _, result = self._schema("output_schema_json", tool.output_schema_json, limits)
        self._check_templates("effects.reads", tool.effects.reads)
        self._check_templates("effects.writes", tool.effects.writes)
        return ToolSchemas(arguments=arguments, result=result)

    def _refused(self, reason: str, name: str, problem: str) -> RefusedError:
        text = f"{name} of tool {self._tool.name[:80]!r}: {problem}"
        return RefusedError(reason, text, f"{self._path}{name}")

    def _check_size(self, name: str, text: str, bytes_max: int) -> None:
        if bytes_max and (size := len(text.encode())) > bytes_max:
            problem = f"{size} bytes, the limit is {bytes_max}; shorten it"
            raise self._refused("TOO_LARGE", name, problem)

    def _check_effects(self) -> None:
        effects = self._tool.effects
        if effects.requires_approval:
            name = "effects.requires_approval"
            raise self._refused("NOT_SERVED", name, "approvals are not served yet")
        if effects.read_only and effects.writes:
            problem = "the tool is declared read_only and writes resources; drop one of the two"
            raise self._refused("FIELD_INVALID", "effects.writes", problem)
        for name, templates in (
            ("effects.reads", effects.reads),
            ("effects.writes", effects.writes),
        ):
            if len(templates) > RESOURCES_MAX:
                problem = f"{len(templates)} templates, the limit is {RESOURCES_MAX}"
                raise self._refused("TOO_LARGE", name, problem)
            for index, template in enumerate(templates):
                self._check_size(f"{name}[{index}]", template, RESOURCE_BYTES_MAX)

    def _check_cache(self) -> None:
        ttl_s = _frames.seconds(self._tool.cache.ttl)
        if not 0 <= ttl_s <= TTL_MAX_S:
            problem = f"{ttl_s:g} s is not from 0 s to {TTL_MAX_S:g} s"
            raise self._refused("FIELD_INVALID", "cache.ttl", problem)
        if ttl_s and not self._tool.effects.read_only:
            problem = "only a tool that is read_only may be cached"
            raise self._refused("FIELD_INVALID", "cache.ttl", problem)

    def _check_timeout(self, most_s: float) -> None:
        timeout_s = _frames.seconds(self._tool.timeout)
        if timeout_s <= 0 or (most_s and timeout_s > most_s):
            problem = f"{timeout_s:g} s is not above 0 s and at most {most_s:g} s"
            raise self._refused("FIELD_INVALID", "timeout", problem)

    def _arguments(self, text: str, limits: agent_pb2.ServerLimits) -> Schema:
        if not text:
            return Schema(NO_ARGUMENTS)
        name = "input_schema_json"
        value, schema = self._schema(name, text, limits)
        if value.get("type") != "object":
            problem = '$.type: arguments are always an object; set "type": "object"'
            raise self._refused("TOOL_SCHEMA_INVALID", name, problem)
        try:
            satisfiable = normal_form(value) is not False
        except EndlessReferenceError as error:
            problem = f"the reference {error} leads to nothing but itself"
            raise self._refused("TOOL_SCHEMA_INVALID", name, problem) from None
        if not satisfiable:
            problem = "no arguments can satisfy it: some keywords contradict each other"
            raise self._refused("TOOL_SCHEMA_INVALID", name, problem)
        return schema

    def _schema(
        self, name: str, text: str, limits: agent_pb2.ServerLimits
    ) -> tuple[JsonObject, Schema]:
        self._check_size(name, text, limits.schema_bytes_max)
        try:
            value = json_object(text)
            return value, Schema(value)
        except SchemaError as error:
            problem = f"not a JSON Schema (2020-12) for a tool: {error}"
            raise self._refused("TOOL_SCHEMA_INVALID", name, problem) from None
        except ValueError as error:
            problem = f"must be the JSON text of an object: {error}"
            raise self._refused("TOOL_SCHEMA_INVALID", name, problem) from None

    def _check_templates(self, name: str, templates: Sequence[str]) -> None:
        for index, template in enumerate(templates):
            try:
                ResourceTemplate.parse(template)
            except ResourceError as error:
                problem = f"{template[:80]!r} is not a template, such as 'file:{{path}}': {error}"
                raise self._refused("FIELD_INVALID", f"{name}[{index}]", problem) from None
