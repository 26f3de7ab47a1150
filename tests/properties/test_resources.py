"""Nodes have something in common exactly if their names conflict; templates never narrow names."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, TypeAlias

import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from precall_service.domain.json import JsonObject, JsonValue
from precall_service.domain.resources import (
    LEVELS_MAX,
    ResourceError,
    ResourceTemplate,
    check_name,
    read_nodes,
    write_nodes,
)
from tests.support.cache_model import conflicts, covers

SEGMENT = st.sampled_from(["a", "b", "ab", "a:", ":", "é", "a b", "=", "<", "..."])
"""Only a few segments, so that names often conflict."""


class Draw(Protocol):
    def __call__(self, strategy: st.SearchStrategy[str], /) -> str: ...


@st.composite
def names(draw: Draw) -> str:
    scheme = draw(st.sampled_from(["x:", "xy:", "x.:"]))
    lead = draw(st.sampled_from(["", "/"]))
    path = draw(
        st.lists(SEGMENT, max_size=4).map(lambda segments: "".join(f"{s}/" for s in segments))
    )
    return scheme + lead + path + draw(SEGMENT | st.just("*"))


@settings(max_examples=500)
@given(names(), names())
def test_nodes_meet_exactly_where_names_conflict(write: str, read: str) -> None:
    check_name(write)
    check_name(read)
    assert bool({*write_nodes(write)} & {*read_nodes(read)}) is conflicts(write, read)


@given(
    st.lists(SEGMENT, min_size=1, max_size=LEVELS_MAX), st.sampled_from(["", "/"]), st.booleans()
)
def test_a_name_has_at_most_two_nodes_more_than_levels(
    segments: list[str], lead: str, whole: bool
) -> None:
    if whole:
        segments[-1] = "*"
    name = f"x:{lead}{'/'.join(segments)}"
    check_name(name)
    for nodes in (read_nodes(name), write_nodes(name)):
        assert len(nodes) == len({*nodes}) <= len(segments) + 2
        assert sum(map(len, nodes)) <= (len(segments) + 2) * (len(name) + 1)


@given(st.text(max_size=20) | st.text("x:/.*a\n\ud800", max_size=12))
def test_any_text_is_a_name_or_is_refused_in_words(text: str) -> None:
    check_name_or_template: list[Callable[[str], object]] = [check_name, ResourceTemplate.parse]
    for accept in check_name_or_template:
        assert refusal(accept, text).isprintable()


def refusal(accept: Callable[[str], object], text: str) -> str:
    """Why a text is not accepted; empty if it is."""
    try:
        accept(text)
    except ResourceError as error:
        return str(error)
    return ""


Piece: TypeAlias = tuple[str, str]
"""A literal text of a template, or the name of an argument in it: the first says which."""

PATH = st.text("ab./*", max_size=6) | st.sampled_from(
    ["", "/", "..", "../..", "a/..", "/a/../..", "*", "a/*", "a\n", "\0", "\ud800", "a" * 1100]
)
SCALAR: st.SearchStrategy[JsonValue] = (
    PATH | st.integers() | st.floats() | st.booleans() | st.none()
)
VALUE = SCALAR | st.lists(PATH, max_size=2) | st.dictionaries(PATH, PATH, max_size=2)
ARGUMENTS = st.dictionaries(st.sampled_from("pqr"), VALUE)
PIECE = st.tuples(st.just("text"), st.sampled_from(["/", "a", "/b", "b/", "."])) | st.tuples(
    st.just("argument"), st.sampled_from(["p", "q", "r", "p.a"])
)
UNKNOWN = st.sampled_from(["", "u", "u/v", "u/"])
"""What an absent argument may stand for: a default that stays below the path before it."""


def resolve(path: str) -> str:
    """The path as a file system reads it: "." and "//" mean nothing, and ".." leads up."""
    lead = "/" if path.startswith("/") else ""
    resolved: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            if resolved and resolved[-1] != "..":
                resolved.pop()
            elif not lead:
                resolved.append("..")
        elif segment not in ("", "."):
            resolved.append(segment)
    return lead + "/".join(resolved)


def stands_for(value: JsonValue, unknown: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """The texts that a handler may read from an argument."""
    match value:
        case bool():
            return st.just("true" if value else "false")
        case str():
            return st.just(value) if value else st.just("") | unknown
        case int():
            return st.just(str(value))
        case float() if math.isfinite(value):
            return st.just(rfc8785.dumps(value).decode())
        case list() if value:
            return st.sampled_from([str(each) for each in value])
        case dict() if value:
            return st.sampled_from([*value, *map(str, value.values())])
        case _:
            return unknown


def argument(arguments: JsonObject, path: str) -> JsonValue:
    value: JsonValue = arguments
    for name in path.split("."):
        if not isinstance(value, dict):
            return value  # a handler may make anything of it
        value = value.get(name)
    return value


def readings(pieces: list[Piece], arguments: JsonObject, data: st.DataObject) -> list[str]:
    """Paths to which these arguments may lead in a handler."""
    plain = joined = before = ""
    for kind, text in pieces:
        if kind == "text":
            plain, joined, before = plain + text, joined + text, text
            continue
        value = data.draw(stands_for(argument(arguments, text), UNKNOWN))
        # Some functions that join paths begin anew at one with a leading slash.
        anew = value.startswith("/") and before.endswith("/")
        value = value.replace("*", data.draw(st.sampled_from(["", "a", "b/a"])))
        plain, joined = plain + value, value if anew else joined + value
        before = ""
    return [plain, joined, resolve(plain), resolve(joined)]


@settings(max_examples=600)
@given(st.lists(PIECE, min_size=1, max_size=5), st.booleans(), ARGUMENTS, st.data())
def test_names_are_never_narrower_than_what_the_arguments_lead_to(
    pieces: list[Piece], whole: bool, arguments: JsonObject, data: st.DataObject
) -> None:
    text = "".join(text if kind == "text" else f"{{{text}}}" for kind, text in pieces)
    try:
        template = ResourceTemplate.parse(f"x:{text}/*" if whole else f"x:{text}")
    except ResourceError:
        return  # such as two slashes in a row
    made = template.names(arguments)
    for name in made:
        check_name(name)
    for path in readings(pieces, arguments, data):
        for below in ("/z", "/z/y") if whole else ("",):
            led_to = f"x:{path}{below}" if path.strip("/") else f"x:{path}{below[1:]}"
            assert any(name == led_to or covers(name, led_to) for name in made), led_to
