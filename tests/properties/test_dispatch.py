"""For any acts in any order, every run ends once and leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from precall_service.domain.endings import InvocationEnding
from precall_service.domain.errors import Reason, ServiceError
from precall_service.domain.events import InvocationCancelReason, Invoke
from precall_service.tools.dispatch import Dispatcher
from precall_service.tools.link import HandlerResult
from precall_service.tools.run import Run
from tests.support.at_once import at_once
from tests.support.calls import CONTEXT, TIMEOUT_S
from tests.support.clock import ManualClock, settle
from tests.support.processes import LIMITS, NAMES, Process

NEVER_RAN = {Reason.OVERLOADED}
ANSWERED = {None, Reason.RESULT_INVALID}
REASONS = list(InvocationCancelReason)[1:]


class Watched:
    """A run, and the observations of it."""

    def __init__(self, run: Run, process: Process) -> None:
        self.run = run
        self.speculative = run.speculative
        self.process = process
        self.name = run.tool.name
        self.closing = asyncio.create_task(run.closed())
        self.waits: list[asyncio.Task[InvocationEnding]] = [asyncio.create_task(run.ending())]
        self.ended: InvocationEnding | None = None
        self.discarded: InvocationCancelReason | None = None
        self.answer: str | None = None
        """The answer of its handler, if the answer was still wanted."""
        run.on_progress(self._on_progress)

    def _on_progress(self, _message: str, _fraction: float | None) -> None:
        assert self.run.ended is None

    @property
    def asked(self) -> bool:
        """Whether the run got its slot and was given to its link."""
        ids = [each.invocation_id for each in self.process.link.asked]
        assert ids.count(self.run.invocation_id) <= 1
        return self.run.invocation_id in ids

    @property
    def waits_for_a_slot(self) -> bool:
        return self.run.ended is None and not self.asked

    def look(self) -> None:
        """Checks the run by itself, after everything has settled."""
        if self.ended is not None:
            assert self.run.ended is self.ended, "the run ended twice"
        self.ended = self.run.ended
        for wait in self.waits:
            assert wait.done() == (self.ended is not None) or wait.cancelled()
            if wait.done() and not wait.cancelled():
                assert wait.result() is self.ended
        if self.ended is None:
            assert not self.closing.done()
        taken = [each.invocation_id for each in self.process.link.invocations]
        assert self.run.sent == (self.run.invocation_id in taken)


class Interleaving:
    """Performs steps in any order and checks the invariants after each."""

    def __init__(self, slots: int) -> None:
        self.clock = ManualClock()
        self.dispatcher = Dispatcher(self.clock, LIMITS)
        self.processes = [Process(slots) for _ in range(2)]
        self.runs: dict[str, Watched] = {}
        self.accepted: set[str] = set()
        self._calls_waiting: set[str] = set()
        self._speculative_asked: set[str] = set()

    def process(self, choice: int) -> Process:
        """Chooses a process. One of them is chosen more often, so that its runs wait for slots."""
        return self.processes[choice % 4 == 0]

    def some_run(self, choice: int) -> Watched | None:
        runs = list(self.runs.values())
        return runs[choice % len(runs)] if runs else None

    def invocation(self, choice: int) -> tuple[Process, Invoke] | None:
        sent = [(each, one) for each in self.processes for one in each.link.invocations]
        return sent[choice % len(sent)] if sent else None

    # Steps of the owners of runs.

    def call(self, choice: int) -> None:
        self._launch(choice, f"call-{len(self.runs)}")

    def speculate(self, choice: int) -> None:
        self._launch(choice, "")

    def _launch(self, choice: int, call_id: str) -> None:
        process = self.process(choice)
        run = self.dispatcher.launch(
            tool=process.tools[choice % 3 == 0],
            arguments_json="{}",
            context=CONTEXT,
            call_id=call_id,
        )
        self.runs[run.invocation_id] = Watched(run, process)

    def commit(self, choice: int) -> None:
        if (watched := self.some_run(choice)) is not None:
            watched.run.commit(watched.run.call_id or f"commit-{choice}")

    def discard(self, choice: int) -> None:
        if (watched := self.some_run(choice)) is not None:
            reason = REASONS[choice % len(REASONS)]
            if watched.run.ended is None:
                watched.discarded = reason
            watched.run.discard(reason)
            assert watched.run.ended is not None

    def wait_for_ending(self, choice: int) -> None:
        if (watched := self.some_run(choice)) is not None:
            watched.waits.append(asyncio.create_task(watched.run.ending()))

    def stop_waiting(self, choice: int) -> None:
        if (watched := self.some_run(choice)) is not None:
            watched.waits[choice % len(watched.waits)].cancel()

    # Steps of processes.

    def answer(self, choice: int) -> None:
        self._answer(choice, str(len(self.accepted)), taken=None)

    def answer_badly(self, choice: int) -> None:
        self._answer(choice, "{", taken=Reason.RESULT_INVALID)

    def _answer(self, choice: int, result_json: str, *, taken: Reason | None) -> None:
        if (found := self.invocation(choice)) is None:
            return
        process, invocation = found
        watched = self.runs[invocation.invocation_id]
        wanted = watched.run.ended is None
        reason = self._deliver(process, invocation, result_json)
        # A late answer is always swallowed. At most one answer of a run is accepted.
        assert reason in {taken, None, Reason.INVOCATION_UNKNOWN}
        answered = invocation.invocation_id in self.accepted
        if reason is Reason.INVOCATION_UNKNOWN:
            assert answered or process.lost
        else:
            assert not answered
            self.accepted.add(invocation.invocation_id)
            if wanted:
                watched.answer = result_json
                assert watched.run.ended is not None

    def answer_for_another(self, choice: int) -> None:
        if (found := self.invocation(choice)) is None:
            return
        process, invocation = found
        [other] = [each for each in self.processes if each is not process]
        assert self._deliver(other, invocation, "0") is Reason.INVOCATION_UNKNOWN

    def _deliver(self, process: Process, invocation: Invoke, text: str) -> Reason | None:
        try:
            at_once(
                self.dispatcher.deliver(process.link, invocation.invocation_id, HandlerResult(text))
            )
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

    # Checks.

    async def settle(self) -> None:
        """Lets everything run as far as it can, then checks all invariants."""
        await settle()
        for watched in self.runs.values():
            watched.look()
        for process in self.processes:
            for name in NAMES:
                self._check_slots(process, name)
        self._check_order()
        # One timer for each run: for its slot, its sending, its handler, or its cancellation.
        open_runs = sum(not watched.closing.done() for watched in self.runs.values())
        assert self.clock.pending == self.dispatcher.in_flight == open_runs

    def _check_slots(self, process: Process, name: str) -> None:
        runs = [
            watched
            for watched in self.runs.values()
            if watched.process is process and watched.name == name and not watched.closing.done()
        ]
        waiting = [watched for watched in runs if watched.waits_for_a_slot]
        holding = len(runs) - len(waiting)
        assert holding <= process.slots
        assert holding == process.slots or not waiting
        if process.lost:
            assert not runs

    def _check_order(self) -> None:
        """Checks that no speculative run got a slot that a committed run was waiting for."""
        speculative = {
            invocation.invocation_id: self.runs[invocation.invocation_id]
            for process in self.processes
            for invocation in process.link.asked
            if not invocation.call_id
        }
        waiting = {
            invocation_id: watched
            for invocation_id, watched in self.runs.items()
            if watched.waits_for_a_slot and not watched.run.speculative
        }
        for started in speculative.keys() - self._speculative_asked:
            for passed_over in waiting.keys() & self._calls_waiting:
                started_run, waiting_run = speculative[started], waiting[passed_over]
                assert (started_run.process, started_run.name) != (
                    waiting_run.process,
                    waiting_run.name,
                )
        self._speculative_asked, self._calls_waiting = set(speculative), set(waiting)

    async def finish(self) -> None:
        """Advances time until the last run has ended by itself."""
        for process in self.processes:
            process.link.taking = True
        for _ in range(len(self.runs) + 3):
            await self.settle()
            self.clock.advance(TIMEOUT_S)
        await self.settle()
        assert all(watched.ended for watched in self.runs.values())

    async def leave(self) -> None:
        """Prepares for the end of the dispatcher's block, which discards the open runs."""
        for process in self.processes:
            process.link.taking = True
        for watched in self.runs.values():
            if watched.run.ended is None:
                watched.discarded = InvocationCancelReason.DRAINING

    def answer_late(self) -> None:
        for choice in range(sum(len(each.link.invocations) for each in self.processes)):
            self.answer(choice)
            self.answer(choice)

    def check_endings(self) -> None:
        for process in self.processes:
            link = process.link
            assert max(Counter(told for told, _ in link.cancels).values(), default=0) <= 1
            assert max(Counter(told for told, _ in link.commits).values(), default=0) <= 1
            sent = {each.invocation_id: each for each in link.invocations}
            cancels, commits = dict(link.cancels), dict(link.commits)
            assert cancels.keys() | commits.keys() <= sent.keys()
            for invocation_id, call_id in commits.items():
                assert sent[invocation_id].call_id == ""
                assert self.runs[invocation_id].run.call_id == call_id
            for watched in self.runs.values():
                if watched.process is process:
                    self._check_ending(watched, cancels.get(watched.run.invocation_id))

    def _check_ending(self, watched: Watched, told: InvocationCancelReason | None) -> None:
        """Checks that the ending fits what happened, and that the process got the right cancel."""
        ending = watched.run.ended
        assert ending is not None
        reason = ending.error and ending.error.reason
        if watched.answer is not None:
            assert reason is (Reason.RESULT_INVALID if watched.answer == "{" else None)
            assert ending.result_json == (watched.answer if reason is None else "")
        else:
            assert reason not in ANSWERED
        if watched.discarded is None and reason is Reason.CANCELLED:
            assert watched.speculative, "only a speculative run is evicted"
            watched.discarded = InvocationCancelReason.PREDICTION_DISCARDED
        assert (watched.discarded is not None) == (reason is Reason.CANCELLED)
        if reason in NEVER_RAN:
            assert not watched.run.sent
        because = (
            InvocationCancelReason.TIMEOUT if reason is Reason.TOOL_TIMEOUT else watched.discarded
        )
        if not watched.run.sent or because is None:
            assert told is None
        elif not watched.process.lost and not watched.process.was_stuck:
            assert told is because
        else:
            assert told in (None, because)

    def check_nothing_left(self) -> None:
        assert self.dispatcher.in_flight == 0
        assert self.clock.pending == 0
        for peer in self.dispatcher._peers.values():  # pyright: ignore[reportPrivateUsage]
            assert not peer.runs
            assert not peer.gates
            assert not peer.owed


Step = Callable[[Interleaving, int], None]

# Calls and answers are chosen more often than steps that end everything.
STEPS: tuple[Step, ...] = (
    *(Interleaving.call,) * 5,
    *(Interleaving.speculate,) * 5,
    *(Interleaving.answer,) * 4,
    *(Interleaving.wait,) * 3,
    *(Interleaving.commit,) * 3,
    *(Interleaving.discard,) * 3,
    *(Interleaving.stop_waiting,) * 2,
    Interleaving.wait_for_ending,
    Interleaving.answer_badly,
    Interleaving.answer_for_another,
    Interleaving.progress,
    Interleaving.stick,
    Interleaving.loosen,
    Interleaving.lose,
    Interleaving.withdraw,
    Interleaving.register,
)

# A step, the choice of the run or process that it concerns, and whether the event loop runs
# afterwards: if it does not, the next step happens in the same iteration of the loop.
A_STEP = st.tuples(st.sampled_from(STEPS), st.integers(0, 30), st.booleans())


@settings(max_examples=200)
@given(
    slots=st.integers(1, 3),
    # Long lists find failures; short ones are what hypothesis shrinks them to.
    steps=st.lists(A_STEP, max_size=40) | st.lists(A_STEP, min_size=40, max_size=80),
    leaves=st.booleans(),
)
def test_every_run_ends_once(slots: int, steps: list[tuple[Step, int, bool]], leaves: bool) -> None:
    async def interleave() -> None:
        interleaving = Interleaving(slots)
        async with interleaving.dispatcher:
            for step, choice, breath in steps:
                step(interleaving, choice)
                if breath:
                    await interleaving.settle()
            await (interleaving.leave() if leaves else interleaving.finish())
        await interleaving.settle()
        interleaving.answer_late()
        interleaving.check_endings()
        interleaving.check_nothing_left()

    asyncio.run(interleave())
