"""Tools that read and write files, and the scripts of turns that call them, for the tool cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from precall_service.domain.events import Invoke, ResultSource, ToolCallCompleted
from precall_service.domain.tools import CacheScope, ToolEffects
from precall_service.tools.declarations import ToolProposal
from precall_service.tools.link import HandlerAnswer, HandlerResult
from tests.support.agent import Client
from tests.support.scripts import Item, calls, says
from tests.support.tools import CITY_SCHEMA

FILE_SCHEMA = '{"type": "object", "properties": {"path": {}}}'
READ = ToolProposal(
    name="read",
    version="1",
    input_schema_json=FILE_SCHEMA,
    effects=ToolEffects(read_only=True, reads=("file:{path}",)),
    cache_ttl_s=60.0,
    cache_scope=CacheScope.TENANT,
    timeout_s=20.0,
)
LIST = dataclasses.replace(
    READ, name="list", effects=ToolEffects(read_only=True, reads=("file:{path}/*",))
)
WRITE = ToolProposal(
    name="write",
    input_schema_json=FILE_SCHEMA,
    effects=ToolEffects(writes=("file:{path}",)),
    timeout_s=20.0,
)
SHELL = ToolProposal(name="shell", input_schema_json=FILE_SCHEMA, timeout_s=20.0)
WEATHER = ToolProposal(
    name="weather",
    input_schema_json=CITY_SCHEMA,
    effects=ToolEffects(read_only=True),
    cache_ttl_s=60.0,
    timeout_s=20.0,
)


def read(path: str = "/a/b") -> tuple[str, str]:
    return ("read", f'{{"path": "{path}"}}')


def write(path: str = "/a/b") -> tuple[str, str]:
    return ("write", f'{{"path": "{path}"}}')


SHELL_CALL = ("shell", '{"path": "rm"}')


def turns(*called: tuple[str, str] | Sequence[tuple[str, str]]) -> list[list[Item]]:
    """The steps of turns that each make the calls given, and then answer."""
    steps: list[list[Item]] = []
    for each in called:
        group = [each] if isinstance(each[0], str) else each
        steps += [list(calls(*group)), list(says("done"))]  # pyright: ignore[reportArgumentType]
    return steps


def together(*called: tuple[str, str] | Sequence[tuple[str, str]]) -> list[list[Item]]:
    """The steps of turns that begin one after the other, before any of them is answered."""
    steps = turns(*called)
    return steps[::2] + steps[1::2]


class Handler:
    """Answers each invocation with its number, or as told."""

    def __init__(self) -> None:
        self.invocations: list[Invoke] = []
        self.answer: HandlerAnswer | None = None
        self.waits = False

    def __call__(self, invocation: Invoke) -> HandlerAnswer | None:
        self.invocations.append(invocation)
        if self.waits:
            return None
        return self.answer or HandlerResult(
            str(len(self.invocations)), f"run {len(self.invocations)}"
        )

    @property
    def names(self) -> list[str]:
        return [invocation.tool_name for invocation in self.invocations]


def completed(client: Client) -> list[tuple[ResultSource, str]]:
    return [(each.source, each.result_json) for each in client.of(ToolCallCompleted)]


RAN, CACHED, JOINED = ResultSource.COMMITTED, ResultSource.CACHE, ResultSource.JOINED
