"""What the commands of `precall cache` do with the tool cache, and what they print."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import NoReturn, Self

import pydantic

import precall
from precall_service.cli.console import stderr
from precall_service.cli.errors import EXIT_USAGE, CommandError


async def on_cache(
    address: str,
    tenant: str,
    act: Callable[[precall.ToolCache], Coroutine[None, None, None]],
) -> None:
    """Calls `act` with the tool cache of a tenant.

    Raises:
        CommandError: the address or the tenant is invalid.
        PrecallError: the server cannot be reached, or refuses the request.
    """
    try:
        client = precall.Client(address, tenant=tenant)
    except ValueError as error:
        _usage(str(error))
    async with client:
        await act(client.cache)


def key_of(tool: str, version: str, arguments: str, conversation: str) -> precall.CacheKey:
    """Returns a key.

    Raises:
        CommandError: the arguments are not a JSON object.
    """
    if not isinstance(_parsed(arguments, "ARGUMENTS"), dict):
        _usage('ARGUMENTS: a JSON object is needed, such as \'{"city": "Paris"}\'')
    return precall.CacheKey(tool, version, arguments, conversation)


def target_of(
    *,
    tool: str | None,
    version: str | None,
    arguments: str | None,
    resource: str | None,
    conversation: str | None,
    everything: bool,
) -> precall.CacheTarget:
    """Returns the entries that the options of `invalidate` choose.

    Raises:
        CommandError: no option chooses entries, or more than one does.
    """
    if version is not None and tool is None:
        _usage("--version needs --tool: name the tool whose version it is")
    if arguments is not None and (tool is None or version is None):
        _usage("--arguments needs --tool and --version: name the tool that is called")
    if arguments is not None and tool is not None and version is not None:
        key = key_of(tool, version, arguments, conversation or "")
        named = precall.CacheTarget(key=key, resource=resource, everything=everything)
    elif tool is not None and version is not None:
        named = precall.CacheTarget(
            tool_version=(tool, version),
            resource=resource,
            conversation_id=conversation,
            everything=everything,
        )
    else:
        named = precall.CacheTarget(
            tool=tool, resource=resource, conversation_id=conversation, everything=everything
        )
    ways = [value for value in dataclasses.astuple(named) if value not in {None, False}]
    if len(ways) != 1:
        _usage("choose the entries with exactly one of --tool, --resource, --conversation, --all")
    return named


@dataclass(frozen=True, slots=True)
class Result:
    """A result to put, and the versions of the resources that it depends on."""

    value: pydantic.JsonValue
    observed: precall.ResourceVersions

    @classmethod
    def read(cls, text: str, observed: Sequence[str], position: int | None) -> Self:
        """Reads the arguments of `put`; the text - stands for stdin.

        Raises:
            CommandError: the text is not JSON, or a version is not NAME=VERSION.
        """
        if text == "-":
            try:
                text = sys.stdin.read()
            except UnicodeDecodeError as error:
                _usage(f"RESULT: stdin is not text: {error}")
        versions = tuple(map(_observed, observed))
        return cls(_parsed(text, "RESULT"), precall.ResourceVersions(versions, position))


async def show_stats(cache: precall.ToolCache) -> None:
    """Prints the statistics."""
    _print(dataclasses.asdict(await cache.stats()), indent=2)


async def show_entry(cache: precall.ToolCache, *, key: precall.CacheKey, whole: bool) -> None:
    """Prints the entry for a call.

    Raises:
        CommandError: there is no usable entry.
    """
    entry = await cache.get(
        key.tool_name, key.tool_version, key.arguments_json, conversation_id=key.conversation_id
    )
    if entry is None:
        raise CommandError(
            "the cache has no usable entry for this call: it was never stored, has expired, is "
            "stale, or belongs to another version of the tool"
        )
    if whole:
        _print(_entry(entry), indent=2)
        return
    print(entry.result_json, flush=True)
    notices = stderr()
    notices.print(
        f"version {entry.entry_version} ({entry.origin.value}), stored at {entry.created_at:%F %T} "
        f"UTC, expires at {entry.expires_at:%F %T} UTC",
        style="dim",
    )
    for seen in entry.resource_versions:
        notices.print(
            f"depends on {seen.resource} at version {seen.version}", style="dim", markup=False
        )


async def show_versions(cache: precall.ToolCache, *, names: Sequence[str]) -> None:
    """Prints the versions of resources, and the position at which they were read."""
    found = await cache.resource_versions(names)
    versions = {seen.resource: seen.version for seen in found.versions}
    _print({"versions": versions, "position": found.position}, indent=2)


async def put_result(
    cache: precall.ToolCache,
    *,
    key: precall.CacheKey,
    given: Result,
    ttl_s: float,
    expected: int | None,
    cost_s: float | None,
    content: str,
) -> None:
    """Puts a result and prints the version of its entry.

    Raises:
        CommandError: an option has a value that is not allowed.
    """
    try:
        entry_version = await cache.put(
            key.tool_name,
            key.tool_version,
            key.arguments_json,
            given.value,
            ttl_s=ttl_s,
            observed=given.observed,
            expected_entry_version=expected,
            recompute_cost_s=cost_s,
            content=content,
            conversation_id=key.conversation_id,
        )
    except ValueError as error:
        _usage(str(error).replace("ttl_s", "--ttl").replace("recompute_cost_s", "--cost"))
    _print({"entry_version": entry_version})


async def invalidate_target(cache: precall.ToolCache, *, target: precall.CacheTarget) -> None:
    """Makes entries unreachable, and prints the position of the change."""
    match target:
        case precall.CacheTarget(key=precall.CacheKey() as key):
            position = await cache.invalidate(key=key)
        case precall.CacheTarget(tool=str(tool)):
            position = await cache.invalidate(tool=tool)
        case precall.CacheTarget(tool_version=(tool, version)):
            position = await cache.invalidate(tool_version=(tool, version))
        case precall.CacheTarget(resource=str(resource)):
            position = await cache.invalidate(resource=resource)
        case precall.CacheTarget(conversation_id=str(conversation_id)):
            position = await cache.invalidate(conversation_id=conversation_id)
        case _:
            position = await cache.invalidate(everything=target.everything)
    _print({"position": position})


async def show_changes(cache: precall.ToolCache, *, after: int | None) -> None:
    """Prints changes as they happen, until it is cancelled or the server ends the watch."""
    async for change in cache.watch(after):
        _print(_change(change))


def _change(change: precall.CacheChange) -> dict[str, object]:
    told: dict[str, object] = {"position": change.position, "at": change.changed_at.isoformat()}
    match change:
        case precall.CacheEntryStored():
            told |= {
                "change": "stored",
                "key": _key(change.key),
                "entry_version": change.entry_version,
            }
        case precall.CacheEntriesInvalidated(target=target):
            told |= {"change": "invalidated", "target": _target(target)}
        case precall.CacheWatchGap():
            told["change"] = "gap"
    return told


def _target(target: precall.CacheTarget) -> dict[str, object]:
    named: dict[str, object] = {
        "key": target.key and _key(target.key),
        "tool": target.tool,
        "tool_version": target.tool_version,
        "resource": target.resource,
        "conversation": target.conversation_id,
        "all": target.everything or None,
    }
    return {way: value for way, value in named.items() if value is not None}


def _entry(entry: precall.CacheEntry) -> dict[str, object]:
    return {
        "key": _key(entry.key),
        "result": entry.result,
        "entry_version": entry.entry_version,
        "resource_versions": {seen.resource: seen.version for seen in entry.resource_versions},
        "execution_id": entry.execution_id,
        "origin": entry.origin.value,
        "created_at": entry.created_at.isoformat(),
        "expires_at": entry.expires_at.isoformat(),
        "recompute_cost_s": entry.recompute_cost_s,
        "content": "".join(part.text or "" for part in entry.content),
    }


def _key(key: precall.CacheKey) -> dict[str, object]:
    return {
        "tool": key.tool_name,
        "version": key.tool_version,
        "arguments": key.arguments,
        "conversation": key.conversation_id,
    }


def _observed(text: str) -> precall.ResourceVersion:
    name, _, version = text.rpartition("=")
    if not name or not version.isdecimal():
        _usage(
            f"--observed {text}: NAME=VERSION is needed; `precall cache versions {text}` prints "
            "the version"
        )
    return precall.ResourceVersion(name, int(version))


def _parsed(text: str, what: str) -> pydantic.JsonValue:
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        _usage(f"{what}: {text[:80]!r} is not JSON: {error}")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"JSON has no {name}")


def _print(value: object, indent: int | None = None) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=indent), flush=True)


def _usage(message: str) -> NoReturn:
    raise CommandError(message, exit_code=EXIT_USAGE)
