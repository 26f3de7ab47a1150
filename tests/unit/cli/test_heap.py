"""What full collections leave is frozen; thorough collections find what is frozen garbage."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Generator

import pytest

from precall_service.cli import heap as heaps
from precall_service.cli.heap import COLLECTIONS_MAX, YOUNG_MAX, QuietHeap
from precall_service.engine.supervisor import EngineState


class Cycle:
    """An object that only a collection frees."""

    def __init__(self) -> None:
        self.own = self


class Turns:
    """How many turns run."""

    count = 0

    def __call__(self) -> int:
        return self.count


@pytest.fixture
def turns() -> Turns:
    return Turns()


@pytest.fixture
def heap(turns: Turns) -> Generator[QuietHeap]:
    gc.unfreeze()
    gc.collect()
    with QuietHeap(turns) as heap:
        heap.on_state(EngineState.READY)
        yield heap


def test_an_object_is_looked_at_once(heap: QuietHeap) -> None:
    kept = [Cycle() for _ in range(YOUNG_MAX)]
    left = weakref.ref(Cycle())
    heap.look()
    assert left() is None, "garbage is found"
    assert gc.get_freeze_count() > len(kept)
    assert len(gc.get_objects()) < YOUNG_MAX / 10


def test_nothing_is_looked_at_before_there_is_much(heap: QuietHeap) -> None:
    left = weakref.ref(Cycle())
    heap.look()
    assert left() is not None


def test_freed_objects_do_not_put_a_collection_off(heap: QuietHeap) -> None:
    kept = [Cycle() for _ in range(3 * YOUNG_MAX)]
    gc.freeze()
    left = weakref.ref(Cycle())
    for number in range(YOUNG_MAX):
        kept.append(Cycle())
        kept[number].__dict__.clear()
        kept[number] = kept[-1]
    heap.look()
    assert left() is None


@pytest.mark.usefixtures("heap")
def test_frozen_objects_are_freed_when_nothing_refers_to_them() -> None:
    kept = [set[int]()]
    left = weakref.ref(kept[0])
    gc.collect()
    gc.freeze()
    kept.clear()
    assert left() is None


def test_what_an_engine_that_died_has_left_is_found_at_its_restart(heap: QuietHeap) -> None:
    engine = Cycle()
    left = weakref.ref(engine)
    gc.freeze()
    del engine
    gc.collect()
    assert left() is not None, "it is frozen"
    heap.on_state(EngineState.RESTARTING)
    assert left() is not None
    heap.on_state(EngineState.READY)
    assert left() is None


def test_an_engine_that_was_silent_has_not_started(heap: QuietHeap) -> None:
    heap.on_state(EngineState.SILENT)
    left = weakref.ref(Cycle())
    heap.on_state(EngineState.READY)
    assert left() is not None


def froze_much(heap: QuietHeap) -> weakref.ref[Cycle]:
    """Has collections made, the first of which freezes an object that is garbage afterwards."""
    alive = [Cycle()]
    left = weakref.ref(alive[0])
    for _ in range(COLLECTIONS_MAX):
        more = [Cycle() for _ in range(YOUNG_MAX)]
        heap.look()
        del more
        alive.clear()
    return left


def test_quiet_times_are_used_if_much_was_frozen(
    heap: QuietHeap, turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heaps, "YOUNG_MAX", 100)
    left = froze_much(heap)
    turns.count = 1
    heap.look()
    assert left() is not None, "a turn would have to wait"
    turns.count = 0
    heap.look()
    assert left() is None


def test_what_may_be_garbage_does_not_wait_for_ever(
    heap: QuietHeap, turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns.count = 1
    monkeypatch.setattr(heaps, "FROZEN_MAX", YOUNG_MAX * COLLECTIONS_MAX // 2)
    assert froze_much(heap)() is None


def test_all_is_as_before_after_the_block(turns: Turns) -> None:
    with QuietHeap(turns):
        assert not gc.isenabled()
        assert gc.get_freeze_count()
    assert gc.isenabled()
    assert not gc.get_freeze_count()
