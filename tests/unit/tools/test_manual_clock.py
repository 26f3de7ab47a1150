"""The clock that the tests move."""

from __future__ import annotations

from tests.support.clock import ManualClock


def test_calls_in_order_of_time_then_of_arrival() -> None:
    clock = ManualClock(now=0.0)
    calls: list[tuple[str, float]] = []

    def note(name: str) -> None:
        calls.append((name, clock.now()))

    def nest() -> None:
        clock.call_later(0.5, lambda: note("nested"))

    clock.call_later(2.0, lambda: note("late"))
    clock.call_later(1.0, lambda: note("first"))
    clock.call_later(1.0, nest)
    clock.call_later(1.0, lambda: note("second")).cancel()
    clock.call_later(9.0, lambda: note("never"))
    clock.advance(3.0)
    assert calls == [("first", 1.0), ("nested", 1.5), ("late", 2.0)]
    assert clock.now() == 3.0
    assert clock.pending == 1
