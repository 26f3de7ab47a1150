"""Checks what a client proposes as a tool, and makes a declaration of it.

Never: which tools there are already (`toolset`), handlers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TypeAlias, cast

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.json import JsonError, JsonObject, dump, parse_object
from precall_service.domain.normal_schema import EndlessReferenceError, normal_form
from precall_service.domain.resources import ResourceError, ResourceTemplate
from precall_service.domain.tools import TOOL_NAME, CacheScope, ToolDeclaration, ToolEffects
from precall_service.tools.schema import Schema, SchemaError
from precall_service.tools.text import shorten

VERSION_BYTES_MAX = 128
RESOURCES_MAX = 64
"""The most templates in `reads`, and in `writes`."""
RESOURCE_BYTES_MAX = 256

Compile: TypeAlias = Callable[[JsonObject], Schema]
"""Raises SchemaError."""

_NO_ARGUMENTS: JsonObject = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolLimits:
    """Limits of tools and of their calls. Sizes are in bytes of UTF-8.

    The limits of all `schemas` of a stream, a tenant or the server are in bytes of memory.

    `early_open_world` are the names of the tools that the operator allows to run early although
    they are declared as open-world.
    """

    tools_max: int
    schema_bytes_max: int
    schemas_stream_bytes_max: int
    schemas_tenant_bytes_max: int
    schemas_bytes_max: int
    description_bytes_max: int
    arguments_bytes_max: int
    result_bytes_max: int
    timeout_default_s: float
    timeout_max_s: float
    concurrency_default: int
    cache_ttl_max_s: float
    early_open_world: frozenset[str] = frozenset()

    def may_run_early(self, tool: ToolDeclaration) -> bool:
        """Returns whether a handler may run for a call that the model may never make."""
        return tool.effects.may_run_early(open_world_allowed=tool.name in self.early_open_world)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolProposal:
    """A tool as its owner declares it, unchecked.

    An empty text, None or 0 means that the owner left the field unset.
    """

    name: str
    version: str = ""
    description: str = ""
    input_schema_json: str = ""
    output_schema_json: str = ""
    effects: ToolEffects = field(default_factory=ToolEffects)
    timeout_s: float | None = None
    max_concurrency: int = 0
    rate_limit: int = 0
    cache_ttl_s: float = 0.0
    cache_scope: CacheScope = CacheScope.CONVERSATION


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedTool:
    """A declaration, with its schemas compiled."""

    declaration: ToolDeclaration
    arguments: Schema
    result: Schema | None

    @property
    def held_bytes(self) -> int:
        """An upper bound of the memory of the schemas."""
        return sum(schema.held_bytes for schema in (self.arguments, self.result) if schema)


def declare(
    proposal: ToolProposal, limits: ToolLimits, *, path: str = "", compiled: Compile = Schema
) -> CheckedTool:
    """Returns the declaration of a proposed tool. `path` precedes the names of fields in errors.

    `compiled` makes its schemas, or returns equal ones that were made before.

    Raises:
        ServiceError: TOOL_NAME_INVALID, TOO_LARGE, TOOL_SCHEMA_INVALID, FIELD_INVALID, or
            NOT_SERVED for an option that would be unsafe to ignore.
    """
    _check_name(proposal.name, path)
    checker = _Checker(proposal.name, path, compiled)
    checker.size("description", proposal.description, limits.description_bytes_max)
    checker.size("version", proposal.version, VERSION_BYTES_MAX)
    _check_effects(checker, proposal)
    if proposal.rate_limit:
        raise checker.error(
            Reason.NOT_SERVED, "rate_limit", "this server does not limit rates yet; leave it at 0"
        )
    _check_cache_policy(checker, proposal, limits)
    timeout_s = limits.timeout_default_s if proposal.timeout_s is None else proposal.timeout_s
    if not 0 < timeout_s <= limits.timeout_max_s:
        raise checker.error(
            Reason.FIELD_INVALID,
            "timeout",
            f"{timeout_s:g} s is outside of what is allowed: more than 0, at most"
            f" {limits.timeout_max_s:g} s",
            limit=f"{limits.timeout_max_s:g}",
        )
    input_schema, arguments = _input_schema(checker, proposal, limits)
    output_schema, result = None, None
    if proposal.output_schema_json:
        output_schema, result = checker.schema(
            "output_schema_json", proposal.output_schema_json, limits.schema_bytes_max
        )
    shown = {
        "name": proposal.name,
        "description": proposal.description,
        "input_schema": input_schema,
        "output_schema": output_schema,
    }
    effects = cast("JsonObject", asdict(proposal.effects))
    declaration = ToolDeclaration(
        name=proposal.name,
        version=proposal.version or _digest({**shown, "effects": effects}, sort_names=True)[:16],
        digest=_digest(shown, sort_names=False),
        description=proposal.description,
        input_schema=input_schema,
        output_schema=output_schema,
        effects=proposal.effects,
        timeout_s=timeout_s,
        max_concurrency=proposal.max_concurrency or limits.concurrency_default,
        cache_ttl_s=proposal.cache_ttl_s,
        cache_scope=proposal.cache_scope,
        reads=_templates(checker, "effects.reads", proposal.effects.reads),
        writes=_templates(checker, "effects.writes", proposal.effects.writes),
    )
    return CheckedTool(declaration=declaration, arguments=arguments, result=result)


@dataclass(frozen=True, slots=True)
class _Checker:
    """Checks the fields of one tool. Its errors name the tool, the field and the limit."""

    tool_name: str
    path: str
    compiled: Compile

    def error(self, reason: Reason, name: str, message: str, **metadata: str) -> ServiceError:
        return ServiceError(
            reason,
            f"{name} of tool {self.tool_name!r}: {message}",
            field=f"{self.path}{name}",
            metadata={"tool_name": self.tool_name, **metadata},
        )

    def size(self, name: str, text: str, bytes_max: int) -> None:
        size = len(text.encode())
        if size > bytes_max:
            raise self.error(
                Reason.TOO_LARGE,
                name,
                f"{size} bytes, the limit is {bytes_max}; shorten it",
                size=str(size),
                limit=str(bytes_max),
            )

    def schema(self, name: str, text: str, bytes_max: int) -> tuple[JsonObject, Schema]:
        self.size(name, text, bytes_max)
        try:
            value = parse_object(text)
        except JsonError as error:
            raise self.error(
                Reason.TOOL_SCHEMA_INVALID, name, f"must be the JSON text of an object: {error}"
            ) from None
        try:
            # Numbers beyond a double and halves of surrogate pairs parse, but cannot be written.
            dump(value).encode()
        except ValueError:
            raise self.error(
                Reason.TOOL_SCHEMA_INVALID,
                name,
                "holds a number or a character that JSON in UTF-8 cannot carry",
            ) from None
        except RecursionError:
            raise self.error(Reason.TOOL_SCHEMA_INVALID, name, "nested too deeply") from None
        try:
            return value, self.compiled(value)
        except SchemaError as error:
            raise self.error(
                Reason.TOOL_SCHEMA_INVALID, name, f"not a JSON Schema (2020-12) for a tool: {error}"
            ) from None


def _check_name(name: str, path: str) -> None:
    if not TOOL_NAME.fullmatch(name):
        raise ServiceError(
            Reason.TOOL_NAME_INVALID,
            f"{shorten(name, 80)!r} is not a tool name: use 1 to 64 of A-Z a-z 0-9 _ and -",
            field=f"{path}name",
        )


def _check_effects(checker: _Checker, proposal: ToolProposal) -> None:
    effects = proposal.effects
    if effects.requires_approval:
        raise checker.error(
            Reason.NOT_SERVED,
            "effects.requires_approval",
            "this server cannot ask for approval yet (CAPABILITY_APPROVALS is not listed), and"
            " running it without would be unsafe; do not register it here",
            capability="CAPABILITY_APPROVALS",
        )
    if effects.read_only and effects.writes:
        raise checker.error(
            Reason.FIELD_INVALID,
            "effects.writes",
            "the tool is declared read_only and writes resources; drop one of the two",
        )
    for name, templates in (("effects.reads", effects.reads), ("effects.writes", effects.writes)):
        if len(templates) > RESOURCES_MAX:
            raise checker.error(
                Reason.TOO_LARGE,
                name,
                f"{len(templates)} templates, the limit is {RESOURCES_MAX}; use wider ones",
                size=str(len(templates)),
                limit=str(RESOURCES_MAX),
            )
        for index, template in enumerate(templates):
            checker.size(f"{name}[{index}]", template, RESOURCE_BYTES_MAX)


def _check_cache_policy(checker: _Checker, proposal: ToolProposal, limits: ToolLimits) -> None:
    ttl_s = proposal.cache_ttl_s
    if not 0 <= ttl_s <= limits.cache_ttl_max_s:
        raise checker.error(
            Reason.FIELD_INVALID,
            "cache.ttl",
            f"{ttl_s:g} s is outside of what is allowed: 0 for never, at most"
            f" {limits.cache_ttl_max_s:g} s",
            limit=f"{limits.cache_ttl_max_s:g}",
        )
    if ttl_s and not proposal.effects.read_only:
        raise checker.error(
            Reason.FIELD_INVALID,
            "cache.ttl",
            "a call that the cache answers does not run the handler, so only a tool that is"
            " read_only may be cached; declare it read_only, or leave the ttl at 0",
        )


def _templates(
    checker: _Checker, name: str, texts: tuple[str, ...]
) -> tuple[ResourceTemplate, ...]:
    templates: list[ResourceTemplate] = []
    for index, text in enumerate(texts):
        try:
            templates.append(ResourceTemplate.parse(text))
        except ResourceError as error:
            raise checker.error(
                Reason.FIELD_INVALID,
                f"{name}[{index}]",
                f"{shorten(text, 80)!r} is not a template of a resource, such as"
                f" 'file:{{path}}': {error}",
            ) from None
    return tuple(templates)


def _input_schema(
    checker: _Checker, proposal: ToolProposal, limits: ToolLimits
) -> tuple[JsonObject, Schema]:
    if not proposal.input_schema_json:
        return _NO_ARGUMENTS, checker.compiled(_NO_ARGUMENTS)
    value, schema = checker.schema(
        "input_schema_json", proposal.input_schema_json, limits.schema_bytes_max
    )
    if value.get("type") != "object":
        raise checker.error(
            Reason.TOOL_SCHEMA_INVALID,
            "input_schema_json",
            '$.type: arguments are always an object; set "type": "object"',
        )
    _check_satisfiable(checker, value)
    return value, schema


def _check_satisfiable(checker: _Checker, schema: JsonObject) -> None:
    try:
        satisfiable = normal_form(schema) is not False
    except EndlessReferenceError as error:
        raise checker.error(
            Reason.TOOL_SCHEMA_INVALID,
            "input_schema_json",
            f"the reference {error} leads to nothing but itself",
        ) from None
    if not satisfiable:
        raise checker.error(
            Reason.TOOL_SCHEMA_INVALID,
            "input_schema_json",
            "no arguments can satisfy it: some keywords contradict each other",
        )


def _digest(shown: JsonObject, *, sort_names: bool) -> str:
    """Returns a digest that changes whenever the meaning of a call or a result may have changed.

    The order of names does not matter to a schema, and so to a version, but prompts show it. This
    is not canonical JSON (RFC 8785), which has no text for the 64-bit limits in many schemas.
    """
    text = json.dumps(shown, sort_keys=sort_names, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
