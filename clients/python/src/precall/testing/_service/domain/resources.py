# Copied from service/precall_service/domain/resources.py by `make gen`. Do not edit.
"""The names of resources, the templates by which tools declare them, and which names conflict.

A name is a path: a scheme, a colon, and segments separated by "/", as in `file:/a/b`. A name whose
last segment is "*" covers every name that begins with the rest: `file:/a/*` covers `file:/a/b` and
`file:/a/b/c`, but not `file:/a`; `order:*` covers every name with the scheme `order`.

A write conflicts with a read if the names are equal or one covers the other. Conflicts are found by
comparing versions of *nodes*. A name has several nodes, at most two for each of its levels. A write
gives new versions to its nodes, and a read is stale if one of its own nodes has a new version:

    name        nodes of a read                        nodes of a write
    file:/a/b   =file:/a/b *file: *file:/ *file:/a/    =file:/a/b <file: <file:/ <file:/a/
    file:/a/*   <file:/a/ *file: *file:/               *file:/a/ <file: <file:/ <file:/a/

So an `=` node changes with a write to this name, a `*` node with a write to everything below a
prefix, and a `<` node with a write to anything below the prefix.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from precall.testing._service.domain.json import JsonObject, JsonValue, canonical

NAME_BYTES_MAX: Final = 1024
LEVELS_MAX: Final = 64
"""The most segments in a name."""

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_CHAR_BYTES_MAX: Final = 4
_UNKNOWN: Final = "\0"
"""Stands for an argument that has no text. A segment that contains it is not plain."""
_MAYBE_UP: Final = re.compile(r"(?=[*\x00]*\.)(?=\.*[*\x00])[.*\x00]+")
"""Only dots and wildcards, and at least one of each."""


class ResourceError(ValueError):
    """A name or a template is invalid; the message says why."""


def check_name(name: str) -> None:
    """Checks a name that a client gives.

    Raises:
        ResourceError: the name is malformed, too long or too deep.
    """
    match = _SCHEME.match(name)
    if match is None:
        raise ResourceError("it must begin with a scheme and a colon, as in 'file:/a/b'")
    if (size := len(name.encode(errors="replace"))) > NAME_BYTES_MAX:
        raise ResourceError(f"it has {size} bytes, the limit is {NAME_BYTES_MAX}")
    segments = _segments(name[match.end() :])
    if len(segments) > LEVELS_MAX:
        raise ResourceError(f"it has {len(segments)} levels, the limit is {LEVELS_MAX}")
    if segments[-1] == "*":
        segments.pop()
    for segment in segments:
        if (problem := _problem(segment)) is not None:
            raise ResourceError(problem)


def conversation(conversation_id: str) -> str:
    """Returns the name of the resource that stands for a conversation."""
    return f"conversation:{conversation_id}"


def conversation_of(name: str) -> str | None:
    """Returns the id of the conversation that a resource stands for; None for other resources."""
    scheme, _, path = name.partition(":")
    return path if scheme == "conversation" and "/" not in path and path != "*" else None


def read_nodes(name: str) -> list[str]:
    """Returns the nodes of a read of this name."""
    nodes = _prefixes(name, "*")
    if name.endswith("*"):
        return [f"<{nodes.pop()[1:]}", *nodes]
    return [f"={name}", *nodes]


def write_nodes(name: str) -> list[str]:
    """Returns the nodes of a write to this name."""
    nodes = _prefixes(name, "<")
    return [f"*{nodes[-1][1:]}" if name.endswith("*") else f"={name}", *nodes]


@dataclass(frozen=True, slots=True)
class ResourceTemplate:
    """A template such as `file:{path}`, which makes names from the arguments of a call.

    `{order.id}` stands for the member `id` of the argument `order`. If an argument is absent, is
    not a scalar, or does not make a plain path, the names are broader, never narrower.
    """

    text: str
    _parts: tuple[str | tuple[str, ...], ...]
    """Literal texts, and between them the paths of arguments."""

    @staticmethod
    def parse(text: str) -> ResourceTemplate:
        """Parses a template.

        Raises:
            ResourceError: the text is not a template.
        """
        parts: list[str | tuple[str, ...]] = []
        for index, piece in enumerate(_PLACEHOLDER.split(text)):
            if index % 2:
                path = tuple(piece.split("."))
                if not all(path):
                    raise ResourceError(f"{{{piece}}} names no argument")
                parts.append(path)
            else:
                if "{" in piece or "}" in piece:
                    raise ResourceError("a brace is not closed, or stands alone")
                parts.append(piece)
        # The name is checked with a plain word in place of each argument.
        check_name("".join(part if isinstance(part, str) else "x" for part in parts))
        if _SCHEME.match(str(parts[0])) is None:
            raise ResourceError("the scheme cannot come from an argument")
        return ResourceTemplate(text, tuple(parts))

    def names(self, arguments: JsonObject) -> tuple[str, ...]:
        """Returns the names for these arguments: one, or two if they are broader."""
        name = ""
        for part in self._parts:
            if isinstance(part, str):
                name += part
                continue
            value = _scalar(arguments, part)
            # An array or an object may contain any path. When they join paths, many handlers drop
            # everything before one with a leading "/".
            if value is None or (value.startswith("/") and _is_below(name)):
                return _everything(name)
            name += value or _UNKNOWN
            if len(name) > NAME_BYTES_MAX:
                return _everything(name)
        return _plain_or_broad(name, whole=str(self._parts[-1]).endswith(("/*", ":*")))


def _plain_or_broad(name: str, *, whole: bool) -> tuple[str, ...]:
    """Returns the name, or broader ones if one of its segments is not plain.

    `whole` says whether the template itself ends with "*".
    """
    if _is_surely_plain(name):
        return (name,)
    start = name.index(":") + 1
    lead = start + 1 if name.startswith("/", start) else start
    segments = name[lead:].split("/")
    if whole:
        segments.pop()
    clean, depth = len(segments), 0
    size = len(name[:lead].encode())
    for index, segment in enumerate(segments):
        size += len(segment.encode(errors="replace")) + 1
        if _may_lead_up(segment):  # everything below where it leads may be meant
            depth -= 1
            clean = min(clean, index, max(depth, 0))
        elif segment in ("", ".") or _UNKNOWN in segment:  # it may not be a level at all
            clean = min(clean, index)
        else:
            depth += 1
            if _problem(segment) or index >= LEVELS_MAX - 1 or size >= NAME_BYTES_MAX:
                clean = min(clean, index)
    if clean == len(segments):
        return (name,)
    return _broad(name[:lead] + "".join(f"{segment}/" for segment in segments[:clean]))


def _is_surely_plain(name: str) -> bool:
    """Returns whether all segments are plain, by a quick check that most names pass.

    A printable text has neither control characters nor halves of surrogate pairs.
    """
    return (
        len(name) * _CHAR_BYTES_MAX < NAME_BYTES_MAX
        and name.count("/") < LEVELS_MAX - 1
        and name.isprintable()
        and name[-1] not in "/:"
        and "*" not in name
        and "//" not in name
        and "/." not in name
        and ":." not in name
    )


def _broad(prefix: str) -> tuple[str, ...]:
    """Returns the names that cover a prefix and everything below it."""
    if prefix.endswith((":", ":/")):
        return (f"{prefix}*",)
    return (prefix[:-1], f"{prefix}*")


def _may_lead_up(segment: str) -> bool:
    """Returns whether a segment is "..", or may match it, as ".*" does in a shell."""
    return segment == ".." or _MAYBE_UP.fullmatch(segment) is not None


def _everything(name: str) -> tuple[str, ...]:
    """Returns the name that covers the whole scheme of a name."""
    return (name[: name.index(":") + 1] + "*",)


def _is_below(text: str) -> bool:
    """Returns whether a segment that is not the first one starts at the end of a text."""
    return text.endswith("/") and not text.endswith(":/")


def _scalar(arguments: JsonObject, path: Sequence[str]) -> str | None:
    """Returns the text of the scalar at this path.

    It is empty if the value is absent or has no canonical text, and None if the value is an array
    or an object.
    """
    value: JsonValue = arguments
    for name in path:
        if value is None:
            return ""
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        try:
            return canonical(value).decode()
        except ValueError:
            return ""
    return "" if value is None else None


def _prefixes(name: str, mark: str) -> list[str]:
    """Returns the prefixes of a name that end with a separator, with a mark, shortest first."""
    scheme, _, path = name.partition(":")
    prefix = f"{mark}{scheme}:"
    prefixes = [prefix]
    for segment in path.split("/")[:-1]:
        prefix = f"{prefix}{segment}/"
        prefixes.append(prefix)
    return prefixes


def _segments(path: str) -> list[str]:
    """Returns the segments of a path, without the empty one before a leading "/"."""
    return path.removeprefix("/").split("/")


def _problem(segment: str) -> str | None:
    """Returns what is wrong with a segment, or None."""
    if segment in ("", ".", ".."):
        return f"a segment of a name cannot be {segment!r}"
    if "*" in segment:
        return "'*' can only be the whole last segment"
    if _CONTROL.search(segment):
        return "a name cannot contain control characters or half of a surrogate pair"
    return None
