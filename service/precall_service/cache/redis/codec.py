"""Turns entries and changes into bytes that Redis keeps, and back.

An entry's value is one line of JSON, which says everything except the result, and then the result
as it is: a hit does not parse it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import cast

from precall_service.cache.base import (
    CacheKey,
    Change,
    ChangeKind,
    Entry,
    Origin,
    ResourceVersion,
    Value,
)
from precall_service.domain.tools import CacheScope

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)


def pack_value(value: Value, resources: Sequence[str]) -> bytes:
    """Returns a value and the names of the resources that it depends on as bytes."""
    head = _ENCODER.encode(
        [
            value.content,
            value.execution_id,
            value.origin.value,
            value.cost_s,
            value.ttl_s,
            resources,
        ]
    )
    # A text from JSON may hold half of a surrogate pair, which is given back as it came.
    return f"{head}\n{value.result_json}".encode(errors="surrogatepass")


def unpack_entry(data: bytes, versions: bytes, entry_version: int, expires_in_s: float) -> Entry:
    """Returns the entry of a packed value, and of the versions of its resources as text."""
    head, _, result = data.partition(b"\n")
    content, execution_id, origin, cost_s, ttl_s, names = cast(
        "tuple[str, str, int, float, float, list[str]]",
        json.loads(head.decode(errors="surrogatepass")),
    )
    value = Value(
        result_json=result.decode(errors="surrogatepass"),
        content=content,
        execution_id=execution_id,
        origin=Origin(origin),
        cost_s=cost_s,
        ttl_s=ttl_s,
    )
    return Entry(
        value=value,
        entry_version=entry_version,
        resources=tuple(map(ResourceVersion, names, map(int, versions.split())) if names else ()),
        age_s=max(0.0, ttl_s - expires_in_s),
        expires_in_s=expires_in_s,
    )


def pack_change(change: Change | None) -> bytes:
    """Returns a change as bytes, without the tenant and the version of an entry; empty if None."""
    if change is None:
        return b""
    key = change.key
    fields: list[object] = [change.kind.value, change.names]
    if key is not None:
        fields += [
            key.scope.value,
            key.conversation_id,
            key.tool_name,
            key.tool_version,
            key.arguments_json,
            key.digest.hex(),
        ]
    return _ENCODER.encode(fields).encode(errors="surrogatepass")


def unpack_change(tenant: str, data: bytes, entry_version: int) -> Change:
    """Returns the change of a packed one."""
    kind, names, *fields = cast(
        "tuple[str, list[str], str, str, str, str, str, str]",
        json.loads(data.decode(errors="surrogatepass")),
    )
    key = None
    if fields:
        scope, conversation_id, tool_name, tool_version, arguments_json, digest = fields
        key = CacheKey(
            tenant=tenant,
            scope=CacheScope(scope),
            conversation_id=conversation_id,
            tool_name=tool_name,
            tool_version=tool_version,
            arguments_json=arguments_json,
            digest=bytes.fromhex(digest),
        )
    return Change(kind=ChangeKind(kind), key=key, entry_version=entry_version, names=tuple(names))
