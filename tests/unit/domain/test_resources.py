"""The names of resources, and what templates make of arguments: broader, and never narrower."""

from __future__ import annotations

import math
import time
from typing import cast

import pytest

from precall_service.domain.json import JsonObject
from precall_service.domain.resources import (
    LEVELS_MAX,
    NAME_BYTES_MAX,
    ResourceError,
    ResourceTemplate,
    check_name,
    conversation,
    read_nodes,
    write_nodes,
)
from tests.support.cache_model import conflicts, covers


def names(template: str, arguments: JsonObject) -> tuple[str, ...]:
    return ResourceTemplate.parse(template).names(arguments)


@pytest.mark.parametrize(
    "name",
    [
        "file:/a/b",
        "file:a",
        "order:17",
        "order:*",
        "file:/*",
        "file:/a/*",
        "calendar:ann@example.com/2026",
        "x-y+z.1:a:b",
        "file:/a b/ü/日本/\U0001f600",
        "file:/a/..b/c..",
        "https:a/%2e%2e/?q=1#x",
        "file:" + "/".join("a" * LEVELS_MAX),
        "file:" + "x" * (NAME_BYTES_MAX - 5),
    ],
)
def test_names(name: str) -> None:
    check_name(name)


NO_NAMES = {
    "": "it must begin with a scheme and a colon, as in 'file:/a/b'",
    "file": "it must begin with a scheme and a colon",
    ":a": "it must begin with a scheme",
    "1a:b": "it must begin with a scheme",
    "/a:b": "it must begin with a scheme",
    "é:b": "it must begin with a scheme",
    "file:": "a segment of a name cannot be ''",
    "file:/": "a segment of a name cannot be ''",
    "file://": "a segment of a name cannot be ''",
    "file://a": "a segment of a name cannot be ''",
    "file:/a/": "a segment of a name cannot be ''",
    "file:/a//b": "a segment of a name cannot be ''",
    "file:/a/../b": "a segment of a name cannot be '..'",
    "file:.": "a segment of a name cannot be '.'",
    "file:/a*": "'*' can only be the whole last segment",
    "file:**": "'*' can only be the whole last segment",
    "file:/*/a": "'*' can only be the whole last segment",
    "file:/*/*": "'*' can only be the whole last segment",
    "file:a\nb": "a name cannot contain control characters",
    "file:a\n": "a name cannot contain control characters",
    "file:a\x00": "a name cannot contain control characters",
    "file:a\x7f": "a name cannot contain control characters",
    "file:\ud800": "half of a surrogate pair",
    "file:" + "/".join("a" * (LEVELS_MAX + 1)): "it has 65 levels, the limit is 64",
    "file:" + "/".join("a" * 500): "it has 500 levels, the limit is 64",
    "file:" + "a/" * 10_000 + "a": "it has 20006 bytes, the limit is 1024",
    "file:" + "é" * 510: "it has 1025 bytes, the limit is 1024",
}


@pytest.mark.parametrize("name", NO_NAMES, ids=lambda name: ascii(name)[:30])
def test_what_is_no_name_is_refused_in_words(name: str) -> None:
    with pytest.raises(ResourceError) as caught:
        check_name(name)
    assert NO_NAMES[name] in str(caught.value)


CONFLICTS = [
    ("file:/a/b", "file:/a/b", True),
    ("file:/a/b", "file:/a/c", False),
    ("file:/a/b", "file:/a", False),
    ("file:/a", "file:/a/b", False),
    ("file:/a/*", "file:/a/b", True),
    ("file:/a/*", "file:/a/b/c", True),
    ("file:/a/*", "file:/a", False),
    ("file:/a/*", "file:/ab", False),
    ("file:/a/*", "file:/a/*", True),
    ("file:/a/*", "file:/a/b/*", True),
    ("file:/a/*", "file:/b/*", False),
    ("file:/*", "file:/a/b/*", True),
    ("file:*", "file:/a", True),
    ("file:*", "file:a", True),
    ("file:/*", "file:a", False),
    ("file:/a", "file:a", False),
    ("file:/a", "order:/a", False),
    ("order:*", "file:/a", False),
    ("order:1", "order:17", False),
    ("x:a:b/*", "x:a:b/c", True),
    ("x:a/*", "x:a:b/c", False),
]


@pytest.mark.parametrize(("one", "other", "met"), CONFLICTS)
def test_a_write_meets_the_reads_that_it_conflicts_with(one: str, other: str, met: bool) -> None:
    for write, read in ((one, other), (other, one)):
        assert conflicts(write, read) is met, "the model disagrees"
        assert bool({*write_nodes(write)} & {*read_nodes(read)}) is met


@pytest.mark.parametrize("levels", [1, 2, LEVELS_MAX])
@pytest.mark.parametrize("lead", ["", "/"])
@pytest.mark.parametrize("end", ["a", "*"])
def test_a_name_has_at_most_two_nodes_more_than_levels(levels: int, lead: str, end: str) -> None:
    name = f"file:{lead}{'a/' * (levels - 1)}{end}"
    check_name(name)
    assert len(read_nodes(name)) <= levels + 2
    assert len(write_nodes(name)) <= levels + 2


def test_a_conversation_is_a_resource() -> None:
    check_name(conversation("conv-1"))
    assert {*write_nodes("conversation:*")} & {*read_nodes(conversation("conv-1"))}
    assert not {*write_nodes(conversation("conv-2"))} & {*read_nodes(conversation("conv-1"))}


FIRST_LEVELS = ("file:/a" + "/b" * 62, "file:/a" + "/b" * 62 + "/*")
TEMPLATES: list[tuple[str, JsonObject, tuple[str, ...]]] = [
    # the examples of the documentation
    ("file:{path}", {"path": "/a/b"}, ("file:/a/b",)),
    ("file:{path}", {"path": "a/b"}, ("file:a/b",)),
    ("order:{order.id}", {"order": {"id": 17}}, ("order:17",)),
    ("calendar:{user}/*", {"user": "ann"}, ("calendar:ann/*",)),
    ("calendar:*", {}, ("calendar:*",)),
    ("weather:today", {"path": "x"}, ("weather:today",)),
    # scalars: equal numbers have one text
    ("order:{id}", {"id": 17.0}, ("order:17",)),
    ("order:{id}", {"id": "17"}, ("order:17",)),
    ("order:{id}", {"id": -0.0}, ("order:0",)),
    ("order:{id}", {"id": 0}, ("order:0",)),
    ("order:{id}", {"id": 1e21}, ("order:1e+21",)),
    ("order:{id}", {"id": 0.5}, ("order:0.5",)),
    ("order:{id}", {"id": True}, ("order:true",)),
    ("order:{id}", {"id": False}, ("order:false",)),
    ("order:{id}", {"id": 2**53 - 1}, ("order:9007199254740991",)),
    # numbers without a canonical text
    ("order:{id}", {"id": 2**53}, ("order:*",)),
    ("order:{id}", {"id": 10**5000}, ("order:*",)),
    ("order:{id}", {"id": math.nan}, ("order:*",)),
    ("order:{id}", {"id": math.inf}, ("order:*",)),
    # absent, null, empty
    ("file:{path}", {}, ("file:*",)),
    ("file:{path}", {"path": None}, ("file:*",)),
    ("file:{path}", {"path": ""}, ("file:*",)),
    ("file:/{path}", {}, ("file:/*",)),
    ("file:/r/{path}", {}, ("file:/r", "file:/r/*")),
    ("file:/r/pre{path}", {}, ("file:/r", "file:/r/*")),
    ("file:/r/{path}/x", {}, ("file:/r", "file:/r/*")),
    ("calendar:{user}/*", {}, ("calendar:*",)),
    ("calendar:{user}/{day}", {"user": "ann"}, ("calendar:ann", "calendar:ann/*")),
    ("calendar:{user}/{day}", {"day": "monday"}, ("calendar:*",)),
    ("order:{order.id}", {"order": {}}, ("order:*",)),
    ("order:{order.id}", {"order": "17"}, ("order:*",)),
    ("order:{order.id}", {"order": [{"id": 17}]}, ("order:*",)),
    ("order:{order.id}", {"order.id": 17}, ("order:*",)),
    # not scalar: an array or an object may hold anything, such as a path that leads elsewhere
    ("file:{path}", {"path": ["/a"]}, ("file:*",)),
    ("file:/r/{path}", {"path": ["/a", "../b"]}, ("file:*",)),
    ("file:/r/{path}", {"path": {"..": 1}}, ("file:*",)),
    ("file:/r/{path}", {"path": []}, ("file:*",)),
    ("file:/r/{path.a}", {"path": ["../b"]}, ("file:*",)),
    ("file:/r/{path.a}", {"path": "../b"}, ("file:*",)),
    # no plain path
    ("file:{path}", {"path": "*"}, ("file:*",)),
    ("file:{path}", {"path": "/*"}, ("file:/*",)),
    ("file:{path}", {"path": "a*"}, ("file:*",)),
    ("file:{path}", {"path": "/a/*"}, ("file:/a", "file:/a/*")),
    ("file:{path}", {"path": "/a/*/b"}, ("file:/a", "file:/a/*")),
    ("file:{path}", {"path": "/a/**"}, ("file:/a", "file:/a/*")),
    ("calendar:{user}/*", {"user": "*"}, ("calendar:*",)),
    ("calendar:{user}/*", {"user": "a/*"}, ("calendar:a", "calendar:a/*")),
    ("file:{path}", {"path": "."}, ("file:*",)),
    ("file:{path}", {"path": ".."}, ("file:*",)),
    ("file:{path}", {"path": "./a"}, ("file:*",)),
    ("file:{path}", {"path": "/a/./b"}, ("file:/a", "file:/a/*")),
    ("file:{path}", {"path": "/a/../b"}, ("file:/*",)),
    ("file:{path}", {"path": "/a/b/../c"}, ("file:/a", "file:/a/*")),
    ("file:{path}", {"path": "/a/b/c/../../d"}, ("file:/a", "file:/a/*")),
    ("file:{path}", {"path": "/a//../b"}, ("file:/*",)),
    ("file:{path}", {"path": "../../a"}, ("file:*",)),
    ("file:/r/{path}", {"path": ".."}, ("file:/*",)),
    ("file:/r/.{path}", {"path": "./b"}, ("file:/*",)),
    ("file:/r/{path}.", {"path": "."}, ("file:/*",)),
    ("calendar:{user}/*", {"user": ".."}, ("calendar:*",)),
    ("calendar:{user}/*", {"user": "a/.."}, ("calendar:*",)),
    ("file:{path}", {"path": "/"}, ("file:/*",)),
    ("file:{path}", {"path": "//"}, ("file:/*",)),
    ("file:{path}", {"path": "//a"}, ("file:/*",)),
    ("file:{path}", {"path": "/a/"}, ("file:/a", "file:/a/*")),
    ("file:{path}", {"path": "/a//b"}, ("file:/a", "file:/a/*")),
    ("file:{path}", {"path": "a\x00b"}, ("file:*",)),
    ("file:{path}", {"path": "/a/b\n"}, ("file:/a", "file:/a/*")),
    ("file:{path}", {"path": "/a/\ud800"}, ("file:/a", "file:/a/*")),
    ("file:{path}", {"path": "x" * 5000}, ("file:*",)),
    ("file:{path}", {"path": "/a/" + "x" * 5000}, ("file:*",)),
    ("file:{path}", {"path": "/a/" + "é" * 600}, ("file:/a", "file:/a/*")),
    ("file:{path}", {"path": "/a/" + "/".join("b" * 100)}, FIRST_LEVELS),
    # an argument that begins with "/" below another path: a handler that joins paths starts anew
    ("file:/r/{path}", {"path": "/etc/x"}, ("file:*",)),
    # later arguments lead out of the path of an absent one
    ("file:/r/{a}/{b}", {"b": "../../x"}, ("file:/*",)),
    ("file:/r/{a}/{b}", {"b": ["../../x"]}, ("file:*",)),
    ("file:/r/..{a}", {}, ("file:/*",)),
    ("file:/r/{a}", {"a": ".*"}, ("file:/*",)),
    ("file:/r/{a}", {"a": "*..*"}, ("file:/*",)),
    ("file:/r/{a}..", {}, ("file:/*",)),
    ("file:/r/{a}", {"a": "..."}, ("file:/r/...",)),
    ("file:/r/{a}", {"a": "**"}, ("file:/r", "file:/r/*")),
    ("file:/r/{a}", {"a": ".*x"}, ("file:/r", "file:/r/*")),
    ("file:/r/{a}", {"a": "x/..*/y"}, ("file:/r", "file:/r/*")),
    ("file:/r/{a}", {"a": "x/*.y"}, ("file:/r/x", "file:/r/x/*")),
    ("file:{a}/{b}", {"a": "../x"}, ("file:*",)),
    ("file:{a}/{b}", {"a": "x/.."}, ("file:*",)),
    ("file:/{a}/{b}", {"a": "*"}, ("file:/*",)),
    ("file:/{a}/{b}", {"a": "x\n"}, ("file:/*",)),
    # what a text holds is never read as a template again
    ("file:{a}", {"a": "{b}", "b": "c"}, ("file:{b}",)),
    ("file:{a}", {"a": "/ü/日本/\U0001f600"}, ("file:/ü/日本/\U0001f600",)),
    ("file:{größe}", {"größe": "1"}, ("file:1",)),
    ("file:{a b}", {"a b": "1"}, ("file:1",)),
    ("file:{a}{b}", {"a": "x", "b": 1}, ("file:x1",)),
]


@pytest.mark.parametrize(("template", "arguments", "expected"), TEMPLATES)
def test_a_template_makes_names_of_arguments(
    template: str, arguments: JsonObject, expected: tuple[str, ...]
) -> None:
    made = names(template, arguments)
    for name in made:
        check_name(name)
    assert made == expected


def test_a_path_of_ten_thousand_levels_becomes_what_covers_it() -> None:
    path = "/" + "/".join(["a"] * 10_000)
    started = time.perf_counter()
    for template, arguments in (
        ("file:{path}", {"path": path}),
        ("file:{path}/*", {"path": path}),
        ("file:{path}/{more}", {"path": path}),
    ):
        made = names(template, arguments)
        assert any(covers(name, f"file:{path}") for name in made)
        for name in made:
            check_name(name)
            assert len(read_nodes(name)) <= LEVELS_MAX + 2
    assert time.perf_counter() - started < 1.0


def test_names_of_objects_are_followed_however_deep() -> None:
    path = ["a"] * 100
    arguments: JsonObject = {"a": "end"}
    for _ in range(99):
        arguments = {"a": arguments}
    assert names(f"file:{{{'.'.join(path)}}}", arguments) == ("file:end",)
    assert names(f"file:{{{'.'.join(path)}.a}}", arguments) == ("file:*",)


NO_TEMPLATES = {
    "": "it must begin with a scheme",
    "{path}": "it must begin with a scheme",
    "{scheme}:a": "the scheme cannot come from an argument",
    "fi{a}:b": "the scheme cannot come from an argument",
    "file:{}": "{} names no argument",
    "file:{.a}": "{.a} names no argument",
    "file:{a..b}": "{a..b} names no argument",
    "file:{a": "a brace is not closed, or stands alone",
    "file:a}": "a brace is not closed, or stands alone",
    "file:{{a}}": "a brace is not closed, or stands alone",
    "file:{a}*": "'*' can only be the whole last segment",
    "file:*/{a}": "'*' can only be the whole last segment",
    "file:{a}/../b": "a segment of a name cannot be '..'",
    "file:{a}//b": "a segment of a name cannot be ''",
    "file:{a}/": "a segment of a name cannot be ''",
    "file:{a}\n": "a name cannot contain control characters",
    "file:" + "{a}/" * 64 + "b": "it has 65 levels, the limit is 64",
    "file:" + "b" * 2000: "it has 2005 bytes, the limit is 1024",
}


@pytest.mark.parametrize("template", NO_TEMPLATES, ids=lambda text: ascii(text)[:30])
def test_what_is_no_template_is_refused_in_words(template: str) -> None:
    with pytest.raises(ResourceError) as caught:
        ResourceTemplate.parse(template)
    assert NO_TEMPLATES[template] in str(caught.value)


def test_arguments_of_another_kind_of_mapping_are_read_too() -> None:
    class Frozen(dict[str, object]):
        pass

    assert names("order:{id}", cast("JsonObject", Frozen(id=17))) == ("order:17",)
