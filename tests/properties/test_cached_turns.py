"""Conversations read and write the same files in any order: no call gets an old result.

The files are kept by the test. A handler reads them at once when it is invoked, so its result may
be as old as that. It writes them then or when it answers.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from precall_service.domain.errors import ServiceError
from precall_service.domain.events import (
    CancelInvocation,
    ConversationEvent,
    Invoke,
    ToolCallCompleted,
    ToolCallOutcome,
    ToolCallReady,
    TurnCompleted,
)
from precall_service.domain.tools import CacheScope, ToolEffects
from precall_service.domain.turn import GenerationSettings, TurnSpec
from precall_service.engine.base import StepSpec
from precall_service.engine.vllm.token_prompt import TokenPrompt
from precall_service.tools.link import HandlerError, HandlerResult
from tests.support import scripted_template as template
from tests.support.agent import LIMITS, Agent, Client, agent_on, scripted
from tests.support.cached import LIST, READ, SHELL, WRITE
from tests.support.clock import settle
from tests.support.scripts import Item, calls, says

CLIENTS = 3
FILES = ("/a/b", "/a/c", "/d")
TOOLS = (
    dataclasses.replace(READ, max_concurrency=1),
    LIST,
    dataclasses.replace(WRITE, max_concurrency=1),
    SHELL,
)
WRITES = ("write", "shell")
UPDATES = (
    TOOLS[0],
    dataclasses.replace(TOOLS[0], version="2"),
    dataclasses.replace(TOOLS[0], effects=ToolEffects(read_only=True, reads=("file:*",))),
    dataclasses.replace(TOOLS[0], version="3", cache_ttl_s=0.0),
    LIST,
    dataclasses.replace(LIST, version="2", cache_scope=CacheScope.CONVERSATION),
    TOOLS[2],
    dataclasses.replace(TOOLS[2], effects=ToolEffects(writes=("file:*",))),
)
"""The tools that a client may register again. Their behaviour stays the same."""
Called = tuple[str, str]
"""A tool and a path."""
CALLS = st.lists(
    st.sampled_from(
        [
            *[("read", "/a/b")] * 6,
            *[("list", "/a")] * 3,
            *(("read", "/a/c"), ("read", "/d")),
            *[("write", "/a/b")] * 3,
            *(("write", "/a/*"), ("write", "/d"), ("shell", "/")),
        ]
    ),
    min_size=1,
    max_size=2,
)
ASKED = st.lists(CALLS, min_size=3, max_size=9)
ACTS = st.tuples(
    st.sampled_from(
        ["send"] * 6 + ["answer"] * 7 + ["fail", "cancel", "cancel", "progress", "update", "vanish"]
    ),
    st.integers(0, 23),
)


def touches(called: Called, path: str) -> bool:
    """Whether a call reads or writes this file, or a file below its path."""
    tool, whole = called
    if tool == "shell":
        return True
    if tool == "list":
        return path.startswith(f"{whole}/")
    return path == whole or (whole.endswith("/*") and path.startswith(whole.removesuffix("*")))


@dataclass
class Made:
    """A call that the model has made. Its result must be at least as new as `least`."""

    called: Called
    moment: int
    least: int


@dataclass
class Ran:
    """An invocation as its handler sees it."""

    client: Client
    invocation: Invoke
    made: Made
    early: bool
    """Whether the handler does its work at once. Otherwise, it does it when it answers."""
    value: int = 0
    answered: bool = False
    usable: bool = True
    """Whether other calls may get its result, now or later."""


@dataclass
class World:
    """The files, and what calls of each conversation must see of them."""

    moment: int = 0
    stamps: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FILES, 0))
    seen: dict[tuple[Client | None, str], int] = field(
        default_factory=dict[tuple[Client | None, str], int]
    )
    """The newest write to a file that has ended: for all (None), or for one conversation."""
    changed: int = 0
    """When a write last began or ended."""

    def tick(self) -> int:
        self.moment += 1
        return self.moment

    def work(self, ran: Ran) -> None:
        """What the handler does."""
        files = [path for path in FILES if touches(ran.made.called, path)]
        if ran.made.called[0] in WRITES:
            ran.value = self.tick()
            self.stamps |= dict.fromkeys(files, ran.value)
        else:
            ran.value = max(self.stamps[path] for path in files)

    def ended(self, ran: Ran) -> None:
        """A run that may have written has ended, so calls that are made from now on see it."""
        if ran.made.called[0] not in WRITES:
            return
        self.changed = self.tick()
        whose = ran.client if ran.made.called[0] == "shell" else None
        for path in FILES:
            if touches(ran.made.called, path):
                self.seen[whose, path] = max(self.seen.get((whose, path), 0), ran.value)

    def least(self, client: Client, called: Called) -> int:
        """The oldest value that a call may get if it is made now."""
        return max(
            max(self.seen.get((None, path), 0), self.seen.get((client, path), 0))
            for path in FILES
            if touches(called, path)
        )


class Play:
    """Clients that act, and the handlers of their tools."""

    def __init__(
        self, asked: Sequence[list[Called]], early: Sequence[bool], *, updated: bool
    ) -> None:
        self._asked = itertools.cycle(asked)
        self._early = itertools.cycle(early)
        self.world = World()
        self.runs: list[Ran] = []
        self.made: dict[str, Made] = {}
        """By the ids of the calls."""
        self.sent: list[tuple[Client, str]] = []
        self.gone: set[Client] = set()
        self.updated = updated
        """Whether clients update their tools, so that equal calls need not share runs."""
        self._read: defaultdict[Client, int] = defaultdict(int)
        """How many of a client's events have been looked at."""

    async def act(self, there: Agent, kind: str, number: int) -> None:
        client = there.clients[number % CLIENTS]
        match kind:
            case "send" if client not in self.gone:
                await self._send(client)
            case "answer" | "fail" if self.open_runs:
                await self.answer(self.open_runs[number % len(self.open_runs)], kind == "fail")
            case "cancel" if client not in self.gone:
                with suppress(ServiceError):  # no turn is running
                    client.conversation.cancel_turn("")
            case "progress" if self.open_runs:
                run = self.open_runs[number % len(self.open_runs)]
                with suppress(ServiceError):  # the run has ended
                    run.client.conversation.progress(run.invocation.invocation_id, "so far", 0.5)
            case "update" if self.updated and client not in self.gone:
                await client.conversation.register_tools(0, [UPDATES[number // CLIENTS]])
            case "vanish" if client not in self.gone and len(self.gone) < CLIENTS - 1:
                await self._vanish(client)
            case _:
                return
        await settle()
        self.look(there)

    @property
    def open_runs(self) -> list[Ran]:
        """The runs whose handlers have not answered."""
        return [run for run in self.runs if not run.answered]

    async def _send(self, client: Client) -> None:
        turn_id = f"turn-{len(self.sent)}"
        spec = TurnSpec(
            turn_id=turn_id,
            text=json.dumps(next(self._asked)),
            generation=GenerationSettings(),
            limits=LIMITS,
        )
        with suppress(ServiceError):  # a turn is running
            await client.conversation.start_turn(spec)
            self.sent.append((client, turn_id))

    async def answer(self, run: Ran, failed: bool) -> None:
        run.answered = True
        if not run.early:
            self.world.work(run)
        if failed:
            run.usable = False
        with suppress(ServiceError):  # a late answer that is no longer awaited
            await run.client.conversation.deliver(
                run.invocation.invocation_id,
                HandlerError("E", "failed") if failed else HandlerResult(str(run.value)),
            )
        await settle()
        self.world.ended(run)

    async def _vanish(self, client: Client) -> None:
        self.gone.add(client)
        await client.vanish()
        await settle()
        for run in self.runs:
            if run.client is client and not run.answered:
                run.answered, run.usable = True, False
                self.world.ended(run)

    def look(self, there: Agent) -> None:
        """Looks at the new events: first at calls and invocations, then at endings."""
        new = [(client, event) for client in there.clients for event in self._new_events(client)]
        calls = [(client, event) for client, event in new if isinstance(event, ToolCallReady)]
        shared = self._shared([called(event) for _, event in calls])
        for client, event in calls:
            self._make(client, event)
        if any(event.tool_name in WRITES for _, event in calls):
            self.world.changed = self.world.tick()  # reads at the same time may have started before
        for client, event in new:
            if isinstance(event, Invoke):
                made = self.made[event.call_id]
                assert made.called not in shared, "a run for a call that needs none"
                early = made.called[0] not in WRITES or next(self._early)
                run = Ran(client, event, made, early)
                if run.early:
                    self.world.work(run)
                self.runs.append(run)
        for _, event in new:
            if isinstance(event, ToolCallCompleted):
                self._complete(event)
            elif isinstance(event, CancelInvocation):
                for run in self.runs:
                    run.usable &= run.invocation.invocation_id != event.invocation_id

    def _new_events(self, client: Client) -> list[ConversationEvent]:
        events = client.events[self._read[client] :]
        self._read[client] += len(events)
        return events

    def _shared(self, calls: list[Called]) -> set[Called]:
        """The calls that need no run of their own: a fresh result is there, or on its way."""
        if self.updated or any(tool in WRITES for tool, _ in calls):
            return set()
        fresh = {
            run.made.called
            for run in self.runs
            if run.usable and run.made.moment > self.world.changed
        }
        return fresh & {*calls}

    def _make(self, client: Client, event: ToolCallReady) -> None:
        asked = called(event)
        least = self.world.least(client, asked)
        self.made[event.call_id] = Made(asked, self.world.tick(), least)

    def _complete(self, event: ToolCallCompleted) -> None:
        made = self.made[event.call_id]
        if made.called[0] not in WRITES:
            if event.outcome is ToolCallOutcome.RESULT:
                assert int(event.result_json) >= made.least, "an old result"
            return
        for run in self.runs:
            if run.made is made:
                self.world.ended(run)

    async def finish(self, there: Agent) -> None:
        """Answers what is open, and checks that every turn has ended once."""
        while self.open_runs:
            await self.answer(self.open_runs[0], failed=False)
            self.look(there)
        for client, turn_id in self.sent:
            endings = [
                numbered
                for numbered in client.numbered
                if isinstance(numbered.event, TurnCompleted) and numbered.turn_id == turn_id
            ]
            assert len(endings) == 1 or client in self.gone


def called(event: ToolCallReady) -> Called:
    return event.tool_name, json.loads(event.arguments_json)["path"]


def script(prompt: TokenPrompt, _spec: StepSpec) -> list[Item]:
    """Makes the calls that the user asks for, and answers when they have ended."""
    *_, last = template.prompt_text(prompt).removesuffix("\n<model>").split("\n")
    if not last.startswith("<user>"):
        return says("done")
    asked = json.loads(last.removeprefix("<user>"))
    return calls(*((tool, json.dumps({"path": path})) for tool, path in asked))


@settings(max_examples=150)
@given(
    ASKED,
    st.lists(st.booleans(), min_size=1, max_size=4),
    st.lists(ACTS, min_size=15, max_size=50),
    st.booleans(),
)
def test_no_call_gets_a_result_that_is_older_than_it_may_be(
    asked: list[list[Called]], early: list[bool], acts: list[tuple[str, int]], updated: bool
) -> None:
    async def play() -> None:
        played = Play(asked, early, updated=updated)
        async with agent_on(scripted(script=script)) as there:
            for _ in range(CLIENTS):
                there.open(*TOOLS)
            for kind, number in acts:
                await played.act(there, kind, number)
            await played.finish(there)

    asyncio.run(play())
