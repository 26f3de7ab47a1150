"""Whatever happens in whatever order: every invocation ends once, and nothing stays behind."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.messages import ToolCall
from precall_service.domain.turn import CallOutcome
from precall_service.tools.declarations import ToolProposal
from precall_service.tools.dispatch import Dispatcher, InvocationContext
from precall_service.tools.endings import InvocationEnding
from precall_service.tools.link import HandlerResult, Invocation
from precall_service.tools.toolset import RegisteredTool, Toolset
from tests.support.clock import ManualClock, settle
from tests.support.links import RecordingLink
from tests.support.tools import tool_limits

CONTEXT = InvocationContext(turn_id="turn", conversation_id="conversation")
LIMITS = tool_limits()
TIMEOUT_S = 5.0
NAMES = ("a", "b")


class Process:
    """One process with handlers for two tools, and what is known of it."""

    def __init__(self, dispatcher: Dispatcher, places: int) -> None:
        self.dispatcher = dispatcher
        self.places = places
        self.link = RecordingLink()
        self.toolset = Toolset(self.link, LIMITS)
        self.lost = False
        self.was_stuck = False
        self.register()
        self.tools: tuple[RegisteredTool, ...] = self.toolset.snapshot()

    def register(self) -> None:
        self.toolset.register(
            [
                ToolProposal(name=name, timeout_s=TIMEOUT_S, max_concurrency=self.places)
                for name in NAMES
            ]
        )


class Interleaving:
    """Steps in an arbitrary order, and what must hold after each."""

    def __init__(self, places: int) -> None:
        self.clock = ManualClock()
        self.dispatcher = Dispatcher(self.clock, LIMITS)
        self.processes = [Process(self.dispatcher, places) for _ in range(2)]
        self.calls: dict[str, asyncio.Task[InvocationEnding]] = {}
        self.tools: dict[str, RegisteredTool] = {}
        self.accepted: set[str] = set()
        self.timely: dict[str, str] = {}

    def process(self, choice: int) -> Process:
        return self.processes[choice % 2]

    def invocation(self, choice: int) -> tuple[Process, Invocation] | None:
        sent = [(each, one) for each in self.processes for one in each.link.invocations]
        return sent[choice % len(sent)] if sent else None

    def call(self, choice: int) -> None:
        call_id = f"call-{len(self.calls)}"
        tool = self.process(choice).tools[choice // 2 % 2]
        self.tools[call_id] = tool
        self.calls[call_id] = asyncio.create_task(
            self.dispatcher.run(
                call=ToolCall(call_id=call_id, tool_name=tool.name, arguments_json="{}"),
                tool=tool,
                context=CONTEXT,
                on_progress=lambda _message, _fraction: self._assert_runs(call_id),
            )
        )

    def _assert_runs(self, call_id: str) -> None:
        assert not self.calls[call_id].done()

    def cancel(self, choice: int) -> None:
        if self.calls:
            list(self.calls.values())[choice % len(self.calls)].cancel()

    def answer(self, choice: int) -> None:
        self._answer(choice, str(len(self.accepted)), taken=None)

    def answer_badly(self, choice: int) -> None:
        self._answer(choice, "{", taken=Reason.RESULT_INVALID)

    def _answer(self, choice: int, result_json: str, *, taken: Reason | None) -> None:
        if (found := self.invocation(choice)) is None:
            return
        process, invocation = found
        before = self.dispatcher.in_flight
        reason = self._deliver(process, invocation, result_json)
        wanted = self.dispatcher.in_flight < before
        # A late answer is swallowed, whatever it is; an accepted one is the only one.
        assert reason in {taken, None, Reason.INVOCATION_UNKNOWN}
        answered = invocation.invocation_id in self.accepted
        if reason is Reason.INVOCATION_UNKNOWN:
            assert answered or process.lost
        else:
            assert not answered
            self.accepted.add(invocation.invocation_id)
            if wanted:
                self.timely[invocation.invocation_id] = result_json

    def answer_for_another(self, choice: int) -> None:
        if (found := self.invocation(choice)) is None:
            return
        process, invocation = found
        [other] = [each for each in self.processes if each is not process]
        assert self._deliver(other, invocation, "0") is Reason.INVOCATION_UNKNOWN

    def _deliver(self, process: Process, invocation: Invocation, text: str) -> Reason | None:
        try:
            self.dispatcher.deliver(process.link, invocation.invocation_id, HandlerResult(text))
        except ServiceError as error:
            return error.reason
        return None

    def progress(self, choice: int) -> None:
        if (found := self.invocation(choice)) is None:
            return
        process, invocation = found
        ended = process.lost or invocation.invocation_id in self.accepted
        try:
            self.dispatcher.progress(process.link, invocation.invocation_id, "", None)
        except ServiceError:
            assert ended
        else:
            assert not ended

    def stick(self, choice: int) -> None:
        if not self.process(choice).lost:
            self.process(choice).link.taking = False
            self.process(choice).was_stuck = True

    def loosen(self, choice: int) -> None:
        self.process(choice).link.taking = True

    def lose(self, choice: int) -> None:
        self.process(choice).lost = True
        self.process(choice).link.break_off()
        self.dispatcher.link_lost(self.process(choice).link)

    def withdraw(self, choice: int) -> None:
        self.process(choice).toolset.withdraw(NAMES)

    def register(self, choice: int) -> None:
        self.process(choice).register()

    def wait(self, choice: int) -> None:
        self.clock.advance((0.5, 1.0, 2.5, TIMEOUT_S)[choice % 4])

    async def settle(self) -> None:
        """Everything goes on that can; then each place is taken that anyone waits for."""
        await settle()
        for process in self.processes:
            for tool in process.tools:
                self._check_places(process, tool)
        # One timer for each call: on its place, its sending, its handler, or its calling off.
        assert self.clock.pending == sum(not call.done() for call in self.calls.values())

    def _check_places(self, process: Process, tool: RegisteredTool) -> None:
        calls = {
            call_id
            for call_id, call in self.calls.items()
            if self.tools[call_id] is tool and not call.done()
        }
        running = [each for each in process.link.invocations if each.call_id in calls]
        assert len(running) <= process.places
        if process.link.taking:
            assert len(running) == min(len(calls), process.places)
        if process.lost:
            assert not calls

    async def finish(self) -> None:
        """Time passes until the last call has ended by itself; then the late answers come."""
        for process in self.processes:
            process.link.taking = True
        for _ in range(len(self.calls) + 3):
            await self.settle()
            self.clock.advance(TIMEOUT_S)
        await self.settle()
        assert all(call.done() for call in self.calls.values())
        for choice in range(sum(len(each.link.invocations) for each in self.processes)):
            self.answer(choice)
            self.answer(choice)

    def check_endings(self) -> None:
        for process in self.processes:
            told = Counter(invocation_id for invocation_id, _ in process.link.cancels)
            for invocation in process.link.invocations:
                times = told.pop(invocation.invocation_id, 0)
                wanted_to_the_end = self._check_ending(invocation)
                assert times <= 1
                if wanted_to_the_end:
                    assert times == 0
                elif not process.lost and not process.was_stuck:
                    assert times == 1
            assert not told

    def _check_ending(self, invocation: Invocation) -> bool:
        """Whether the call got what was answered, or lost its process, before anyone gave it up."""
        call = self.calls[invocation.call_id]
        answer = self.timely.get(invocation.invocation_id)
        if call.cancelled():
            return answer is not None
        ending = call.result()
        match ending.outcome:
            case CallOutcome.RESULT:
                assert ending.result_json == answer
            case CallOutcome.ERROR:
                assert answer == "{"
            case CallOutcome.TIMEOUT | CallOutcome.UNAVAILABLE:
                assert answer is None
            case _:
                raise AssertionError(ending)
        return ending.outcome is not CallOutcome.TIMEOUT

    def check_nothing_left(self) -> None:
        assert self.dispatcher.in_flight == 0
        assert self.clock.pending == 0
        for peer in self.dispatcher._peers.values():  # pyright: ignore[reportPrivateUsage]
            assert not peer.gates
            assert not peer.owed


Step = Callable[[Interleaving, int], None]

# Calls and answers come up more often than what ends everything.
STEPS: tuple[Step, ...] = (
    *(Interleaving.call,) * 5,
    *(Interleaving.answer,) * 4,
    *(Interleaving.wait,) * 3,
    *(Interleaving.cancel,) * 2,
    Interleaving.answer_badly,
    Interleaving.answer_for_another,
    Interleaving.progress,
    Interleaving.stick,
    Interleaving.loosen,
    Interleaving.lose,
    Interleaving.withdraw,
    Interleaving.register,
)


@settings(max_examples=200, deadline=None)
@given(
    places=st.integers(1, 3),
    # A step, which one it is about, and whether the event loop gets its turn afterwards: without
    # it, the next step falls into the same breath.
    steps=st.lists(
        st.tuples(st.sampled_from(STEPS), st.integers(0, 15), st.booleans()), max_size=80
    ),
)
def test_every_invocation_ends_once(places: int, steps: list[tuple[Step, int, bool]]) -> None:
    async def interleave() -> None:
        interleaving = Interleaving(places)
        for step, choice, breath in steps:
            step(interleaving, choice)
            if breath:
                await interleaving.settle()
        await interleaving.finish()
        interleaving.check_endings()
        interleaving.check_nothing_left()

    asyncio.run(interleave())
