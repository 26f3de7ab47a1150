"""Requests to the tool cache are converted to values; any request is either accepted or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings

from precall.v1 import content_pb2, tool_cache_pb2, tool_pb2
from precall_service.cache.base import (
    Change,
    ChangeKind,
    Observation,
    Origin,
    ResourceVersion,
    Value,
)
from precall_service.cache.limits import CacheLimits
from precall_service.domain.errors import ServiceError
from precall_service.domain.tools import CacheScope
from precall_service.transport import cache_in
from precall_service.transport.cache_in import CacheReader
from precall_service.transport.statuses import to_status
from tests.support import cache_service
from tests.support.any_frames import messages
from tests.support.cache_service import Get, Invalidate, Put, Target, Versions, Watch
from tests.support.wire import Failure, failure, said

READER = CacheReader("acme", 1024, CacheLimits(entry_bytes_max=2048, ttl_max_s=3600.0))

any_request = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def call(arguments_json: str = "{}", **fields: Any) -> tool_cache_pb2.CacheKey:
    """A key of a conversation's entry."""
    fields = {"scope": tool_pb2.CACHE_SCOPE_UNSPECIFIED, "conversation_id": "c1", **fields}
    return cache_service.call(arguments_json, **fields)


def put(
    result_json: str = "1",
    *,
    key: tool_cache_pb2.CacheKey | None = None,
    ttl: Duration | None = None,
    observed: dict[str, int] | list[str] | None = None,
    cost: Duration | None = None,
    content: list[content_pb2.ContentPart] | None = None,
) -> Put:
    versions = observed if isinstance(observed, dict) else dict.fromkeys(observed or [], 1)
    return Put(
        key=call() if key is None else key,
        result_json=result_json,
        ttl=Duration(seconds=60) if ttl is None else ttl,
        observed_versions=[
            tool_cache_pb2.ResourceVersion(resource=name, version=version)
            for name, version in versions.items()
        ],
        recompute_cost=cost,
        content=content,
    )


def refused(read: Callable[[], object]) -> Failure:
    with pytest.raises(ServiceError) as raised:
        read()
    return failure(to_status(raised.value))


def assert_sendable(error: ServiceError) -> None:
    assert failure(to_status(error)).reason in {"FIELD_INVALID", "TOO_LARGE", "NOT_SERVED"}


def test_a_key_has_the_values_of_its_message() -> None:
    key = READER.get(Get(key=call('{"b":1, "a": "x"}')))
    assert (key.tenant, key.tool_name, key.tool_version) == ("acme", "weather", "1")
    assert (key.scope, key.conversation_id) == (CacheScope.CONVERSATION, "c1")
    assert key.arguments_json == '{"a":"x","b":1}'
    assert key == READER.get(Get(key=call('{"a":"x","b":1}', scope=1)))


def test_a_key_of_the_tenant_has_no_conversation() -> None:
    key = READER.get(Get(key=call(scope=tool_pb2.CACHE_SCOPE_TENANT, conversation_id="")))
    assert (key.scope, key.conversation_id) == (CacheScope.TENANT, "")


KEYS: dict[str, tuple[tool_cache_pb2.CacheKey, str, str]] = {
    "no tool": (call(tool_name=""), "tool_name", "1 to 64 characters"),
    "a tool's name": (call(tool_name="no spaces"), "tool_name", "'no spaces' is not 1 to 64"),
    "no version": (call(tool_version=""), "tool_version", "1 to 128 bytes, not 0"),
    "a long version": (call(tool_version="é" * 65), "tool_version", "1 to 128 bytes, not 130"),
    "no conversation": (call(conversation_id=""), "conversation_id", "name the conversation"),
    "a conversation's id": (call(conversation_id="a/b"), "conversation_id", "'a/b' is not 1 to"),
    "a long id": (call(conversation_id="x" * 129), "conversation_id", "1 to 128 characters"),
    "a tenant's conversation": (call(scope=2), "conversation_id", "leave the field empty"),
    "an unknown scope": (call(scope=3), "scope", "no scope 3: set CACHE_SCOPE_CONVERSATION (1)"),
    "no arguments": (call(""), "arguments_json", "{} if there are no arguments"),
    "a list": (call("[1]"), "arguments_json", "expected an object, found an array"),
    "null": (call("null"), "arguments_json", "found null"),
    "no JSON": (call("{'a':1}"), "arguments_json", "line 1, column 2"),
    "NaN": (call('{"a":NaN}'), "arguments_json", "NaN is not JSON"),
    "infinity": (call('{"a":-Infinity}'), "arguments_json", "-Infinity is not JSON"),
    "too large": (call('{"a":1e999}'), "arguments_json", "1e999 is too large"),
    "a name twice": (call('{"a":1,"a":1}'), "arguments_json", "'a' occurs twice"),
    "2^53": (call('{"a":[9007199254740992]}'), "arguments_json", "9007199254740992 is beyond"),
    "-2^53": (call('{"a":-9007199254740992}'), "arguments_json", "beyond 2^53 - 1"),
    "many digits": (call(f'{{"a":1{"0" * 900}}}'), "arguments_json", "beyond 2^53 - 1"),
    "half a pair": (call('{"a":"\\ud800"}'), "arguments_json", "$.a: holds half of a surrogate"),
    "half a name": (call('{"\\ud800":1}'), "arguments_json", "half of a surrogate"),
}


@pytest.mark.parametrize("case", KEYS)
def test_a_bad_key_is_refused_by_field_and_remedy(case: str) -> None:
    key, field, says = KEYS[case]
    error = refused(lambda: READER.get(Get(key=key)))
    assert error.reason == "FIELD_INVALID"
    assert error.field == f"key.{field}"
    assert says in error.message
    assert refused(lambda: READER.put(put(key=key))) == error
    target = refused(lambda: READER.change(Invalidate(target=Target(key=key))))
    assert target.field == f"target.key.{field}"


def test_arguments_may_be_as_long_as_those_of_a_call() -> None:
    longest = f'{{"a":"{"x" * 1016}"}}'
    assert READER.get(Get(key=call(longest))).arguments_json == longest
    error = refused(lambda: READER.get(Get(key=call(longest + " "))))
    assert (error.reason, error.field) == ("TOO_LARGE", "key.arguments_json")
    assert error.metadata == {"size": "1025", "limit": "1024"}


def test_deep_arguments_are_refused() -> None:
    deep = CacheReader("acme", 1 << 20, READER.limits)
    arguments = '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"
    error = refused(lambda: deep.get(Get(key=call(arguments))))
    assert (error.reason, error.field) == ("FIELD_INVALID", "key.arguments_json")


def test_a_put_has_the_values_of_its_message() -> None:
    request = put(
        ' {"warm":true} ',
        observed={"file:/a/*": 3, "order:*": 0},
        cost=Duration(seconds=2, nanos=500_000_000),
        content=said("Wa", "rm."),
    )
    request.expected_entry_version = 0
    read = READER.put(request)
    assert read.key == READER.get(Get(key=call()))
    assert read.value == Value(
        result_json=' {"warm":true} ',
        content="Warm.",
        execution_id="",
        origin=Origin.PUT,
        cost_s=2.5,
        ttl_s=60.0,
    )
    assert read.observed.versions == (
        ResourceVersion("file:/a/*", 3),
        ResourceVersion("order:*", 0),
    )
    assert read.entry_version == 0


def test_unset_fields_of_a_put_mean_nothing_known_and_no_condition() -> None:
    read = READER.put(put())
    assert (read.value.cost_s, read.value.content) == (0.0, "")
    assert read.observed == Observation()
    assert read.entry_version is None


WITHOUT_TTL = put()
WITHOUT_TTL.ClearField("ttl")
NAMES = [f"file:/{number}" for number in range(65)]

PUTS: dict[str, tuple[Put, str, str]] = {
    "no key": (Put(), "key", "it is unset"),
    "no result": (put(""), "result_json", "it must be JSON text"),
    "no JSON": (put("warm"), "result_json", "line 1, column 1"),
    "NaN": (put("[NaN]"), "result_json", "NaN is not JSON"),
    "a name twice": (put('{"a":1,"a":2}'), "result_json", "occurs twice"),
    "no ttl": (WITHOUT_TTL, "ttl", "above 0 s and at most 3600 s, not unset"),
    "zero": (put(ttl=Duration()), "ttl", "not 0 s"),
    "negative": (put(ttl=Duration(seconds=-1)), "ttl", "not -1 s"),
    "just negative": (put(ttl=Duration(nanos=-1)), "ttl", "above 0 s"),
    "long": (put(ttl=Duration(seconds=3600, nanos=1)), "ttl", "at most 3600 s"),
    "endless": (put(ttl=Duration(seconds=2**63 - 1)), "ttl", "at most 3600 s"),
    "a cost below zero": (put(cost=Duration(nanos=-1)), "recompute_cost", "from 0 to 86400 s"),
    "a cost without end": (put(cost=Duration(seconds=2**60)), "recompute_cost", "from 0 to"),
    "no resource": (put(observed=[""]), "observed_versions[0].resource", "a scheme"),
    "no path": (put(observed=["a:b", "c"]), "observed_versions[1].resource", "'c' is not the name"),
    "dots": (put(observed=["file:/a/../b"]), "observed_versions[0].resource", "'..'"),
    "a star inside": (put(observed=["file:/*/b"]), "observed_versions[0].resource", "last segment"),
    "a deep name": (
        put(observed=["a:" + "b/" * 64 + "c"]),
        "observed_versions[0].resource",
        "65 levels, the limit is 64",
    ),
    "10,000 levels": (
        put(observed=["a:" + "b/" * 10_000 + "c"]),
        "observed_versions[0].resource",
        "20003 bytes, the limit is 1024",
    ),
    "an unset part": (put(content=[content_pb2.ContentPart()]), "content[0]", "unset"),
}


@pytest.mark.parametrize("case", PUTS)
def test_a_bad_put_is_refused_by_field_and_remedy(case: str) -> None:
    request, field, says = PUTS[case]
    error = refused(lambda: READER.put(request))
    assert (error.reason, error.field) == ("FIELD_INVALID", field)
    assert says in error.message


def test_a_resource_is_observed_once() -> None:
    request = put(observed=["file:/a"])
    request.observed_versions.append(request.observed_versions[0])
    error = refused(lambda: READER.put(request))
    assert error.field == "observed_versions[1].resource"
    assert "'file:/a' occurs twice" in error.message


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (put(f'"{"x" * 2047}"'), "result_json"),
        (put(observed=NAMES), "observed_versions"),
        (put(content=said("x") * 257), "content"),
    ],
    ids=["result", "resources", "parts"],
)
def test_too_much_is_refused_with_size_and_limit(request_: Put, field: str) -> None:
    error = refused(lambda: READER.put(request_))
    assert (error.reason, error.field) == ("TOO_LARGE", field)
    assert int(error.metadata["size"]) == int(error.metadata["limit"]) + 1


def test_content_other_than_text_is_not_served() -> None:
    image = content_pb2.ContentPart(image=content_pb2.MediaPart())
    error = refused(lambda: READER.put(put(content=[image])))
    assert error.reason == "NOT_SERVED"
    assert error.metadata["method"] == "content[0].image"


def test_resources_to_look_up_are_checked() -> None:
    assert cache_in.resource_names(Versions()) == ()
    assert cache_in.resource_names(Versions(resources=["a:*", "a:*"])) == ("a:*", "a:*")
    assert len(cache_in.resource_names(Versions(resources=NAMES[:64]))) == 64
    error = refused(lambda: cache_in.resource_names(Versions(resources=NAMES)))
    assert (error.reason, error.field) == ("TOO_LARGE", "resources")
    error = refused(lambda: cache_in.resource_names(Versions(resources=["a:b", "a:"])))
    assert (error.reason, error.field) == ("FIELD_INVALID", "resources[1]")


def test_a_watch_begins_now_or_after_a_position() -> None:
    assert cache_in.watched_after(Watch()) is None
    assert cache_in.watched_after(Watch(after_position=0)) == 0
    assert cache_in.watched_after(Watch(after_position=2**64 - 1)) == 2**64 - 1


VERSION = tool_cache_pb2.ToolVersion(tool_name="weather", tool_version="1")

TARGETS: dict[str, tuple[Target, Change]] = {
    "key": (Target(key=call()), Change(kind=ChangeKind.KEY, key=READER.get(Get(key=call())))),
    "tool": (Target(tool_name="weather"), Change(kind=ChangeKind.TOOL, names=("weather",))),
    "tool version": (
        Target(tool_version=VERSION),
        Change(kind=ChangeKind.TOOL_VERSION, names=("weather", "1")),
    ),
    "resource": (Target(resource="a:*"), Change(kind=ChangeKind.RESOURCE, names=("a:*",))),
    "conversation": (
        Target(conversation_id="c1"),
        Change(kind=ChangeKind.CONVERSATION, names=("c1",)),
    ),
    "all": (Target(all=tool_cache_pb2.AllEntries()), Change(kind=ChangeKind.ALL)),
}


@pytest.mark.parametrize("case", TARGETS)
def test_an_invalidation_has_the_values_of_its_message(case: str) -> None:
    target, change = TARGETS[case]
    assert READER.change(Invalidate(target=target)) == change


@pytest.mark.parametrize(
    ("target", "field"),
    [
        (Target(), "target"),
        (Target(tool_name=""), "target.tool_name"),
        (Target(tool_version=tool_cache_pb2.ToolVersion()), "target.tool_version.tool_name"),
        (
            Target(tool_version=tool_cache_pb2.ToolVersion(tool_name="a")),
            "target.tool_version.tool_version",
        ),
        (Target(resource="no-scheme"), "target.resource"),
        (Target(conversation_id=""), "target.conversation_id"),
        (Target(conversation_id="*"), "target.conversation_id"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_target_is_refused(target: Target, field: str) -> None:
    error = refused(lambda: READER.change(Invalidate(target=target)))
    assert (error.reason, error.field) == ("FIELD_INVALID", field)


READERS: dict[type[Message], Callable[[Message], object]] = {
    Get: lambda request: READER.get(cast("Get", request)),
    Put: lambda request: READER.put(cast("Put", request)),
    Invalidate: lambda request: READER.change(cast("Invalidate", request)),
    Versions: lambda request: cache_in.resource_names(cast("Versions", request)),
    Watch: lambda request: cache_in.watched_after(cast("Watch", request)),
}


@pytest.mark.parametrize("kind", READERS, ids=lambda kind: kind.__name__)
def test_any_request_is_accepted_or_refused(kind: type[Message]) -> None:
    @any_request
    @given(messages(kind.DESCRIPTOR))
    def accepted_or_refused(request: Message) -> None:
        try:
            READERS[kind](request)
        except ServiceError as error:
            assert_sendable(error)

    accepted_or_refused()
