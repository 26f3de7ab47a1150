"""Converts entries and changes to the bytes that are kept in Redis, and back.

The value of an entry is packed as a head of fixed size, three short texts, and the result.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Final, cast

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

_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)

_HEAD: Final = struct.Struct("<BddIII")
"""Origin, cost, time to live, and the lengths of the execution id, content and resources."""

_ORIGINS: Final = {origin.value: origin for origin in Origin}


def pack_value(value: Value, resources: Sequence[str]) -> bytes:
    """Returns a value and the names of the resources that it depends on as bytes."""
    texts = [_encoded(value.execution_id), _encoded(value.content), _encoded("\n".join(resources))]
    head = _HEAD.pack(value.origin.value, value.cost_s, value.ttl_s, *map(len, texts))
    return b"".join((head, *texts, _encoded(value.result_json)))


def unpack_entry(
    data: bytes, versions: bytes, entry_version: int, expires_in_s: float
) -> Entry | None:
    """Returns the entry of a packed value; None if it cannot be read.

    `versions` are those of its resources, as text.
    """
    try:
        return _unpacked(data, versions, entry_version, expires_in_s)
    except (struct.error, KeyError, ValueError):
        return None


def _unpacked(data: bytes, versions: bytes, entry_version: int, expires_in_s: float) -> Entry:
    origin, cost_s, ttl_s, *sizes = _HEAD.unpack_from(data)
    first = _HEAD.size + sizes[0]
    second = first + sizes[1]
    third = second + sizes[2]
    names = _decoded(data[second:third])
    value = Value(
        result_json=_decoded(data[third:]),
        content=_decoded(data[first:second]),
        execution_id=_decoded(data[_HEAD.size : first]),
        origin=_ORIGINS[origin],
        cost_s=cost_s,
        ttl_s=ttl_s,
    )
    found = map(ResourceVersion, names.split("\n"), map(int, versions.split())) if names else ()
    return Entry(
        value=value,
        entry_version=entry_version,
        resources=tuple(found),
        age_s=max(0.0, ttl_s - expires_in_s),
        expires_in_s=expires_in_s,
    )


def _encoded(text: str) -> bytes:
    # A text may contain half of a surrogate pair, which is returned unchanged.
    return text.encode(errors="surrogatepass")


def _decoded(data: bytes) -> str:
    return data.decode(errors="surrogatepass")


def pack_change(change: Change | None) -> bytes:
    """Returns a change as bytes, without its tenant and entry version. None becomes empty bytes."""
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
    """Returns the change that these bytes were made of."""
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
