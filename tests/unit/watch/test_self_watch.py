"""What the service logs of itself: what is over its limit, once, with the tenant."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from precall_service.domain.errors import Reason
from precall_service.engine.supervisor import EngineState
from precall_service.watch import self_watch
from precall_service.watch.loop_watch import Pause
from precall_service.watch.self_watch import (
    CALM_S,
    CHECK_S,
    PAUSES_S,
    REPEAT_S,
    SelfWatch,
    WatchLimits,
)
from precall_service.watch.vitals import Vitals
from tests.support.clock import ManualClock

IDLE = Vitals(
    engine_state=EngineState.READY,
    engine_progress_age_s=0.0,
    turns_admitted=0,
    turns_waiting={},
    conversations={},
    runs=0,
    predictions=0,
    calls=0,
    calls_cut_off=0,
    first_messages_waiting=0,
    frames_waiting=0,
    bytes_held={},
    schema_bytes={},
    refusals={},
)
LIMITS = WatchLimits(loop_pause_s=0.05, turns_waiting=100, conversations=1000, bytes_held=100 << 20)
PAUSE = Pause(
    seconds=0.2,
    processor_s=0.19,
    collecting_s=0.0,
    task="reader of conv-1 (tenant eve)",
    where="schema.check:10 < answers.read_answer:20",
)


class Watched:
    """A watch on vitals that the test sets."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.vitals = IDLE
        self.watch = SelfWatch(lambda: self.vitals, LIMITS, self.clock)

    def after(self, seconds: float = CHECK_S) -> None:
        """Checks after a time."""
        self.clock.advance(seconds)
        self.watch.check()

    def refused(self, counts: Mapping[str, Mapping[Reason, int]]) -> None:
        self.vitals = replace(self.vitals, refusals=counts)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """The lines of the log, as they come."""
    caplog.set_level(logging.INFO, "precall_service")
    shown: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            shown.append(record.getMessage())

    handler = Handler()
    logger = logging.getLogger("precall_service.watch.self_watch")
    logger.addHandler(handler)
    yield shown
    logger.removeHandler(handler)


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_an_idle_service_logs_nothing(watched: Watched, lines: list[str]) -> None:
    for _ in range(5):
        watched.after()
    assert lines == []


def test_a_pause_is_logged_with_its_task_and_its_place(watched: Watched, lines: list[str]) -> None:
    watched.watch.note_pause(PAUSE)
    watched.after()
    [line] = lines
    assert line == (
        "the event loop stood still for 200 ms, in reader of conv-1 (tenant eve) at "
        "schema.check:10 < answers.read_answer:20"
    )
    assert watched.watch.longest_pause_s() == 0.2
    assert watched.watch.longest_pause_s() == 0.0


def test_a_service_that_starts_may_pause(watched: Watched, lines: list[str]) -> None:
    watched.vitals = replace(IDLE, engine_state=EngineState.STARTING)
    watched.watch.note_pause(PAUSE)
    watched.after()
    assert not lines


def test_many_pauses_are_one_line_now_and_then(watched: Watched, lines: list[str]) -> None:
    watched.watch.note_pause(PAUSE)
    watched.after()
    for seconds in (0.1, 0.7, 0.3):
        watched.watch.note_pause(replace(PAUSE, seconds=seconds, processor_s=seconds))
        watched.after()
    assert len(lines) == 1
    watched.after(PAUSES_S)
    assert len(lines) == 2
    assert "for 700 ms" in lines[1]
    assert "2 more since the last line" in lines[1]


@pytest.mark.parametrize(
    ("pause", "why"),
    [
        (replace(PAUSE, collecting_s=0.15), "150 ms of it were garbage collection"),
        (replace(PAUSE, processor_s=0.01), "it computed for 10 ms of that"),
    ],
    ids=["garbage", "a busy machine"],
)
def test_a_pause_that_is_nobodys_work_says_so(
    watched: Watched, lines: list[str], pause: Pause, why: str
) -> None:
    watched.watch.note_pause(pause)
    watched.after()
    assert why in lines[0]


def test_a_full_queue_is_logged_when_it_begins_and_ends(watched: Watched, lines: list[str]) -> None:
    watched.vitals = replace(IDLE, turns_waiting={"ann": 10, "eve": 75})
    for _ in range(3):
        watched.after()
    assert lines == [
        "turns waiting: 85 of 100 that all tenants may have together; tenant eve has 75, the most"
    ]
    watched.after(REPEAT_S)
    assert len(lines) == 2, "it is repeated while it lasts"
    watched.vitals = replace(IDLE, turns_waiting={"ann": 10})
    watched.after()
    assert len(lines) == 2, "it may come back at once"
    watched.after(CALM_S)
    assert lines[2:] == ["turns waiting: below the limit again"]


def test_memory_is_logged_in_mebibytes(watched: Watched, lines: list[str]) -> None:
    watched.vitals = replace(IDLE, bytes_held={"ann": 1 << 20, "eve": 89 << 20})
    watched.after()
    [line] = lines
    assert line == (
        "memory of conversations: 90 MiB of 100 MiB that all tenants may have together; tenant eve "
        "has 89 MiB, the most"
    )


def test_a_flood_of_refusals_is_logged_with_its_tenant(watched: Watched, lines: list[str]) -> None:
    watched.refused({"ann": {Reason.OVERLOADED: 3}})
    watched.after()
    assert lines == []
    watched.refused(
        {"ann": {Reason.OVERLOADED: 4}, "eve": {Reason.FIELD_INVALID: 500, Reason.OVERLOADED: 7}}
    )
    watched.after()
    [line] = lines
    assert line == (
        "refusals: 508 in the last 1 s; tenant eve had 507 (500 FIELD_INVALID, 7 OVERLOADED), the "
        "most"
    )
    watched.after(CALM_S)
    assert lines[1:] == ["refusals: below the limit again"]


async def test_the_watch_checks_by_itself_and_survives_a_defect(
    lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_watch, "CHECK_S", 0.001)
    answers = [RuntimeError("a defect"), replace(IDLE, conversations={"eve": 900})]
    read_all = asyncio.Event()

    def read() -> Vitals:
        if not answers:
            read_all.set()
            return IDLE
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with SelfWatch(read, LIMITS, ManualClock()).watching(), asyncio.timeout(30):
        await read_all.wait()
    assert "could not check itself" in lines[0]
    assert lines[1].startswith("conversations: 900 of 1,000")
