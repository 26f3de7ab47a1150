"""Keys differ if calls differ, and invalidations reach exactly the entries that they should."""

from __future__ import annotations

import itertools
from typing import TypedDict, Unpack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precall_service.cache.base import CacheKey, Change, ChangeKind
from precall_service.cache.keys import cache_key, entry_nodes, invalidated_nodes, logged
from precall_service.domain.json import JsonError, JsonObject
from precall_service.domain.tools import CacheScope

ONE = CacheScope.CONVERSATION
ALL = CacheScope.TENANT


class Parts(TypedDict, total=False):
    tenant: str
    scope: CacheScope
    conversation_id: str
    tool_name: str
    tool_version: str
    arguments: JsonObject


def key(**parts: Unpack[Parts]) -> CacheKey:
    return cache_key(
        tenant=parts.get("tenant", "ann"),
        scope=parts.get("scope", ONE),
        conversation_id=parts.get("conversation_id", "conv-1"),
        tool_name=parts.get("tool_name", "weather"),
        tool_version=parts.get("tool_version", "1"),
        arguments=parts.get("arguments", {"city": "Rome"}),
    )


def test_a_key_says_what_it_is_made_of() -> None:
    made = key(arguments={"b": 1.0, "a": "é"})
    assert (made.tenant, made.scope, made.conversation_id) == ("ann", ONE, "conv-1")
    assert (made.tool_name, made.tool_version) == ("weather", "1")
    assert made.arguments_json == '{"a":"é","b":1}'
    assert len(made.digest) == 32


def test_equal_calls_have_equal_keys() -> None:
    assert key(arguments={"a": 1, "b": [2.0]}) == key(arguments={"b": [2], "a": 1.0})
    assert key(scope=ALL, conversation_id="conv-1") == key(scope=ALL, conversation_id="conv-2")


OTHERS: list[Parts] = [
    {"scope": ALL},
    {"scope": ALL, "conversation_id": ""},
    {"conversation_id": "conv-2"},
    {"conversation_id": ""},
    {"tool_name": "weather2"},
    {"tool_version": "2"},
    {"tool_version": ""},
    {"arguments": {}},
    {"arguments": {"city": "rome"}},
    {"arguments": {"city": ["Rome"]}},
    {"arguments": {"city": "Rome", "day": None}},
    {"arguments": {"City": "Rome"}},
]


@pytest.mark.parametrize("parts", OTHERS)
def test_every_part_counts(parts: Parts) -> None:
    assert key(**parts).digest != key().digest
    assert key(**parts) != key()


@pytest.mark.parametrize("text", ["1", "1.0"])
def test_a_number_is_not_its_text(text: str) -> None:
    assert key(arguments={"n": 1}).digest != key(arguments={"n": text}).digest


def test_the_tenant_is_kept_beside_the_digest() -> None:
    """Two tenants have the same digest for the same call, so a store must keep them apart."""
    assert key(tenant="bob") != key()


def test_crafted_names_and_versions_do_not_make_two_calls_one() -> None:
    texts = ["a", "", "1:a", "a 1:a", "1:a 0:", " ", "a 1:a 0: ", "0:", "1:", "a\x00", "\n"]
    made = [
        key(tool_name=name, tool_version=version, conversation_id=conversation, arguments={})
        for name in ("a", "a-", "1")
        for version, conversation in itertools.product(texts, repeat=2)
    ]
    assert len({each.digest for each in made}) == len(made)


TEXT = st.text("a1: -\n", max_size=6)
NAME = st.text("a1_-", min_size=1, max_size=3)
PARTS = st.tuples(NAME, TEXT, TEXT, st.sampled_from([ONE, ALL]))


@given(PARTS, PARTS)
def test_calls_have_equal_keys_only_if_they_are_equal(
    one: tuple[str, str, str, CacheScope], other: tuple[str, str, str, CacheScope]
) -> None:
    keys = [
        key(tool_name=name, tool_version=version, conversation_id=conversation, scope=scope).digest
        for name, version, conversation, scope in (one, other)
    ]
    calls = [(*call[:2], call[2] if call[3] is ONE else None) for call in (one, other)]
    assert (keys[0] == keys[1]) is (calls[0] == calls[1])


@pytest.mark.parametrize(
    "arguments",
    [{"n": 2**53}, {"n": float("nan")}, {"n": float("inf")}, {"t": "\ud800"}, {"\udc00": 1}],
)
def test_arguments_without_a_canonical_text_have_no_key(arguments: JsonObject) -> None:
    with pytest.raises(JsonError):
        key(arguments=arguments)


def test_arguments_nested_deeper_than_python_can_follow_have_no_key() -> None:
    arguments: JsonObject = {}
    for _ in range(10_000):
        arguments = {"a": arguments}
    with pytest.raises(JsonError, match="nested too deeply"):
        key(arguments=arguments)


def test_the_log_keeps_no_long_arguments() -> None:
    assert logged(key()) == key()
    exact = key(arguments={"a": "x" * (4096 - len('{"a":""}'))})
    assert logged(exact) == exact
    # 4096 characters, but more bytes
    longer = key(arguments={"a": "é" + "x" * (4095 - len('{"a":""}'))})
    assert logged(longer).arguments_json == ""
    assert logged(longer).digest == longer.digest


def meets(change: Change, made: CacheKey) -> bool:
    return bool({*invalidated_nodes(change)} & {*entry_nodes(made)})


def about(kind: ChangeKind, *names: str) -> Change:
    return Change(kind=kind, names=names)


INVALIDATIONS: list[tuple[Change, Parts, bool]] = [
    (about(ChangeKind.TOOL, "weather"), {}, True),
    (about(ChangeKind.TOOL, "weather"), {"tool_version": "2", "scope": ALL}, True),
    (about(ChangeKind.TOOL, "weather"), {"tool_name": "weather2"}, False),
    (about(ChangeKind.TOOL, "weather"), {"tool_name": "v"}, False),
    (about(ChangeKind.TOOL_VERSION, "weather", "1"), {}, True),
    (about(ChangeKind.TOOL_VERSION, "weather", "1"), {"scope": ALL}, True),
    (about(ChangeKind.TOOL_VERSION, "weather", "1"), {"tool_version": "2"}, False),
    (about(ChangeKind.TOOL_VERSION, "weather", "1"), {"tool_version": "11"}, False),
    (about(ChangeKind.TOOL_VERSION, "weather", "1"), {"tool_name": "time"}, False),
    (about(ChangeKind.TOOL_VERSION, "weather", ""), {}, False),
    (about(ChangeKind.CONVERSATION, "conv-1"), {}, True),
    (about(ChangeKind.CONVERSATION, "conv-1"), {"conversation_id": "conv-12"}, False),
    (about(ChangeKind.CONVERSATION, "conv-12"), {}, False),
    (about(ChangeKind.CONVERSATION, "conv-1"), {"scope": ALL}, False),
    (about(ChangeKind.RESOURCE, "conversation:conv-1"), {}, True),
    (about(ChangeKind.RESOURCE, "conversation:*"), {}, True),
    (about(ChangeKind.RESOURCE, "conversation:*"), {"scope": ALL}, False),
    (about(ChangeKind.RESOURCE, "conversation:conv-1/x"), {}, False),
    (about(ChangeKind.RESOURCE, "file:/a"), {}, False),
    (about(ChangeKind.ALL), {}, True),
    (about(ChangeKind.ALL), {"scope": ALL, "tool_name": "time", "tool_version": "9"}, True),
]


@pytest.mark.parametrize(("change", "parts", "met"), INVALIDATIONS)
def test_an_invalidation_meets_the_entries_that_it_is_about(
    change: Change, parts: Parts, met: bool
) -> None:
    assert meets(change, key(**parts)) is met


@given(NAME, TEXT, NAME, TEXT)
def test_a_version_of_a_tool_meets_only_itself(
    name: str, version: str, other_name: str, other_version: str
) -> None:
    change = about(ChangeKind.TOOL_VERSION, name, version)
    made = key(tool_name=other_name, tool_version=other_version)
    assert meets(change, made) is ((name, version) == (other_name, other_version))
    assert meets(about(ChangeKind.TOOL, name), made) is (name == other_name)


@given(NAME, TEXT)
def test_nodes_hold_no_control_characters(name: str, version: str) -> None:
    for node in entry_nodes(key(tool_name=name, tool_version=version)):
        assert node.isprintable()


def test_names_that_do_not_fit_the_kind_invalidate_nothing() -> None:
    for kind in ChangeKind:
        assert invalidated_nodes(Change(kind=kind, names=("a", "b", "c"))) == []
