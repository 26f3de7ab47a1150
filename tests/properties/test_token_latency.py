"""A target for the time of a token: the number of turns stays in its bounds and finds its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from precall_service.admission import Admission, AdmissionLimits, Capacity, Share
from precall_service.admission.latency import (
    CALM,
    RETRY_MAX_S,
    SETTLE_S,
    WINDOW_S,
    WINDOW_TOKENS,
)
from tests.support.clock import ManualClock
from tests.support.token_times import TARGET_S, Turns

TURNS_MAX = 24
KV_TOKENS = 100
CURVES = st.lists(
    st.floats(0.0, 2.0) | st.floats(0.0, 0.1), min_size=TURNS_MAX + 1, max_size=TURNS_MAX + 1
).map(lambda steps: tuple(accumulate(steps)))
"""The time of a token by the number of turns, in parts of the target. It never falls."""


def follows(curve: Sequence[float]) -> Callable[[int], float]:
    return lambda turns: TARGET_S * max(1e-3, curve[min(turns, TURNS_MAX)])


def fitting(curve: Sequence[float]) -> int:
    """The most turns whose tokens come in time, and at least one."""
    return max([1, *(turns for turns in range(TURNS_MAX + 1) if curve[turns] <= 1.0)])


def check_settled(turns: Turns, curve: Sequence[float]) -> None:
    """Checks that the number of turns is what it should be, and stays there."""
    turns.settle(200)
    most = fitting(curve)
    seen = [(turns.measure(), turns.running) for _ in range(100)]
    assert max(running for _, running in seen) <= most + 1, "at most one more is tried"
    often = max({running for _, running in seen}, key=[r for _, r in seen].count)
    assert often <= most
    calm = curve[often] <= CALM and often < min(turns.wanted, most)
    assert not calm, f"{often} turns run although tokens come well in time; {most} would fit"


@given(CURVES, st.integers(1, TURNS_MAX))
@settings(max_examples=60, deadline=None)
def test_it_settles_for_any_curve(curve: Sequence[float], wanted: int) -> None:
    check_settled(Turns(follows(curve), wanted=wanted), curve)


@given(CURVES, CURVES)
@settings(max_examples=40, deadline=None)
def test_it_settles_again_when_the_engine_changes(
    before: Sequence[float], after: Sequence[float]
) -> None:
    turns = Turns(follows(before), wanted=TURNS_MAX)
    turns.settle(40)
    turns.curve = follows(after)
    check_settled(turns, after)


@given(CURVES)
@settings(max_examples=40, deadline=None)
def test_tries_become_rare(curve: Sequence[float]) -> None:
    turns = Turns(follows(curve), wanted=TURNS_MAX)
    turns.settle(400)
    began, late = turns.clock.now(), 0
    for _ in range(300):
        turns.measure()
        late += turns.running > fitting(curve)
    assert late <= 2 + 2 * (turns.clock.now() - began) / RETRY_MAX_S


@given(st.floats(0.01, 0.9), st.floats(0.001, 0.5))
@settings(max_examples=60, deadline=None)
def test_with_a_fixed_part_and_one_for_each_turn_no_more_than_one_is_too_many(
    fixed: float, each: float
) -> None:
    """The formula alone never lets too many run: only the one more that is tried."""
    curve = [fixed + each * count for count in range(TURNS_MAX + 1)]
    turns = Turns(follows(curve), wanted=TURNS_MAX)
    for _ in range(40):
        turns.measure()
        assert turns.running <= fitting(curve) + 1


class LatencyMachine(RuleBasedStateMachine):
    """Turns come, wait for tools, come back and leave, while tokens take any time."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        limits = AdmissionLimits(hold_s=5.0, token_latency_s=TARGET_S)
        self.admission = Admission(self.clock, limits)
        self.slots = 0
        self.resize(slots=4)
        self.shares: list[Share] = []
        self.order: list[Share] = []
        """Waiting turns in the order in which they must be admitted: one tenant has them all."""

    @rule(tokens=st.integers(1, 60))
    def enter(self, tokens: int) -> None:
        share = self.admission.enter("ann", tokens)
        self.shares.append(share)
        self.order.append(share)

    @precondition(lambda self: self.admission.admitted)
    @rule(token_s=st.sampled_from([0.0, 0.2, 0.7, 0.95, 1.1, 3.0]), speculating=st.booleans())
    def generate(self, token_s: float, speculating: bool) -> None:
        self.clock.advance(SETTLE_S + WINDOW_S)
        self.admission.observe_tokens(
            token_s * TARGET_S * WINDOW_TOKENS, WINDOW_TOKENS, speculating=speculating
        )

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 9))
    def pause(self, which: int) -> None:
        self.held[which % len(self.held)].pause()

    @precondition(lambda self: self.shares)
    @rule(which=st.integers(0, 9))
    def come_back(self, which: int) -> None:
        share = self.shares[which % len(self.shares)]
        share.unhold()
        if share.state.name == "PARKED":
            returning = [each for each in self.order if each.state.name == "RETURNING"]
            self.order.insert(len(returning), share)
            self.admission.enqueue_returning(share)

    @precondition(lambda self: self.shares)
    @rule(which=st.integers(0, 9))
    def leave(self, which: int) -> None:
        self.admission.release(self.shares.pop(which % len(self.shares)))

    @rule(slots=st.integers(1, 6))
    def resize(self, slots: int) -> None:
        self.slots = slots
        self.admission.resize(Capacity(slots=slots, kv_tokens=KV_TOKENS))

    @property
    def held(self) -> list[Share]:
        """The turns that hold a share."""
        return [share for share in self.shares if share.state.name == "ADMITTED"]

    @property
    def waiting(self) -> list[Share]:
        """The turns that wait for a share, in order."""
        return [s for s in self.order if s.state.name in {"WAITING", "RETURNING"}]

    @invariant()
    def the_number_stays_in_its_bounds(self) -> None:
        assert 1 <= self.admission.turns_max <= self.slots
        assert 0.0 <= self.admission.speculation_width <= 1.0

    @invariant()
    def turns_are_admitted_in_order(self) -> None:
        waiting = self.waiting
        left = [s for s in self.order if s in self.shares and s not in waiting]
        assert all(self.order.index(s) < self.order.index(waiting[0]) for s in left if waiting)
        self.order = waiting
        assert self.admission.waiting == len(waiting)

    @invariant()
    def no_turn_waits_that_fits(self) -> None:
        if not self.waiting:
            return
        held = self.held
        assert held, "a turn waits although none runs"
        used = sum(share.tokens for share in held)
        full = len(held) >= self.slots
        full |= used + self.waiting[0].tokens > KV_TOKENS
        running = [share for share in held if not share.paused]
        assert full or (running and len(held) >= self.admission.turns_max)

    def teardown(self) -> None:
        """Every turn gets its share once those before it have ended."""
        while self.shares:
            for share in self.shares:
                if share.state.name == "PARKED":
                    self.admission.enqueue_returning(share)
            assert self.held
            ended = self.held[0]
            self.shares.remove(ended)
            self.admission.release(ended)
        assert (self.admission.admitted, self.admission.waiting) == (0, 0)
        assert self.clock.pending == 0


TestLatency = LatencyMachine.TestCase
TestLatency.settings = settings(max_examples=60, stateful_step_count=40)
