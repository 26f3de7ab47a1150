"""The public API of the client, pinned."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

import precall
import precall.testing
from precall import _events

ROOT = Path(__file__).parents[2]

PUBLIC = """
    AccessError Answer CacheChange CacheConflictError CacheEntriesInvalidated CacheEntry
    CacheEntryStored CacheKey CacheOrigin CacheStats CacheTarget CacheWatchGap Capability Client
    ClientOptions ConnectError ConnectionLostError ContextWindowExceededError Conversation
    ConversationClosedError ConversationUnknownError EngineLoad EngineState EngineUnavailableError
    InvalidArgumentError LimitReachedError Message NoCallError NotServedError NotServedWarning
    OverloadedError PrecallError PredictorRecord ResourceVersion ResourceVersions ServerError
    ServerInfo ServerLimits Speculation SpeculationMode SpeculationStats TooLargeError Tool
    ToolCache ToolCall ToolCallError ToolContext ToolNamed ToolOptions ToolRejectedError
    ToolSpeculation Turn TurnLimits TurnOptions TurnRunningError UnavailableError
"""
TESTING = """
    Call Disconnect Entry Fail FakeServer Hang Limit NoCall Parallel Predict Refuse Say
    StartedTurn Step ToolResult
"""


def test_the_public_names() -> None:
    """The names of events are generated from the contract."""
    assert sorted(precall.__all__) == sorted([*PUBLIC.split(), *_events.__all__])
    assert len(set(precall.__all__)) == len(precall.__all__), "an event hides another name"
    assert precall.testing.__all__ == sorted(TESTING.split())


def test_everything_public_is_described() -> None:
    for name in precall.__all__:
        value = getattr(precall, name)
        assert not inspect.isclass(value) or inspect.getdoc(value), name


def test_the_public_methods() -> None:
    def methods(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert methods(precall.Client) == {
        "add_tool", "cache", "close", "conversation", "remove_tool", "server_info",
        "speculation_stats", "tool", "tools",
    }  # fmt: skip
    assert methods(precall.Conversation) == {
        "add_tool", "ask", "capabilities", "close", "expires_after_s", "id", "limits", "model",
        "open", "remove_tool", "send", "speculation", "tool_version", "tools",
    }  # fmt: skip
    assert methods(precall.ToolCache) == {
        "get", "invalidate", "put", "resource_versions", "stats", "watch",
    }  # fmt: skip
    assert methods(precall.Turn) == {"answer", "cancel", "turn_id"}


def test_every_time_in_seconds_says_so() -> None:
    named = {
        *precall.ToolOptions.__annotations__,
        *precall.TurnOptions.__annotations__,
        *inspect.signature(precall.testing.FakeServer).parameters,
        *inspect.signature(precall.ToolCache.put).parameters,
    }
    for name in precall.__all__:
        value = getattr(precall, name)
        if dataclasses.is_dataclass(value):
            named |= {field.name for field in dataclasses.fields(value)}
    of_time = re.compile("timeout|ttl|interval|duration|grace|uptime|_time|retry_after|remaining")
    times = {name for name in named if of_time.search(name)}
    assert {"timeout_s", "cache_ttl_s", "rate_interval_s", "open_timeout_s", "uptime_s"} <= times
    assert not {name for name in times if not name.endswith("_s")}


def test_importing_the_client_imports_no_service_and_no_fake() -> None:
    code = (
        "import precall, sys;"
        "bad = {'vllm', 'torch', 'precall_service', 'precall.testing', 'opentelemetry.sdk'};"
        "sys.exit(str(bad & set(sys.modules)) if bad & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=50)


def test_the_client_is_published_under_the_licence_of_the_repository() -> None:
    ours, whole = (ROOT / folder / "LICENSE" for folder in ("clients/python", "."))
    assert ours.read_bytes() == whole.read_bytes()
