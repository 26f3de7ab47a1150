"""Builders of tools."""

from __future__ import annotations

from precall_service.tools.declarations import ToolLimits
from precall_service.tools.link import HandlerLink
from precall_service.tools.schema_store import SchemaStore
from precall_service.tools.toolset import Toolset

CITY_SCHEMA = """{
  "type": "object",
  "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
  "required": ["city"],
  "additionalProperties": false
}"""


def tool_limits(*, tools_max: int = 8) -> ToolLimits:
    """Limits that are small enough to reach in a test."""
    return ToolLimits(
        tools_max=tools_max,
        schema_bytes_max=4096,
        schemas_stream_bytes_max=64 << 20,
        schemas_tenant_bytes_max=256 << 20,
        schemas_bytes_max=1 << 30,
        description_bytes_max=256,
        arguments_bytes_max=1024,
        result_bytes_max=1024,
        timeout_default_s=30.0,
        timeout_max_s=60.0,
        concurrency_default=4,
        cache_ttl_max_s=3600.0,
    )


def new_toolset(link: HandlerLink, limits: ToolLimits, *, tenant: str = "tenant") -> Toolset:
    """The tools of one stream, with a store of schemas of their own."""
    return Toolset(link, limits, SchemaStore(limits), tenant=tenant)
