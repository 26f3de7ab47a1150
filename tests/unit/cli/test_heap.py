"""What an engine holds is taken out of the garbage collection when it has started."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Generator

import pytest

from precall_service.cli.heap import HeapFreezer
from precall_service.engine.supervisor import EngineState


class Cycle:
    """An object that only a collection frees."""

    def __init__(self) -> None:
        self.own = self


@pytest.fixture
def nothing_frozen() -> Generator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("nothing_frozen")
def test_what_lives_when_an_engine_has_started_is_collected_no_more() -> None:
    freezer = HeapFreezer(collects=True)
    freezer(EngineState.STARTING)
    assert not gc.get_freeze_count()
    freezer(EngineState.READY)
    frozen = gc.get_freeze_count()
    assert frozen > 10_000
    assert len(gc.get_objects()) < frozen / 10


@pytest.mark.usefixtures("nothing_frozen")
def test_what_an_engine_that_died_has_left_is_found_at_its_restart() -> None:
    freezer = HeapFreezer(collects=True)
    engine = Cycle()
    left = weakref.ref(engine)
    freezer(EngineState.READY)
    del engine
    gc.collect()
    assert left() is not None, "it is frozen"
    freezer(EngineState.RESTARTING)
    assert left() is not None
    freezer(EngineState.READY)
    assert left() is None


@pytest.mark.usefixtures("nothing_frozen")
def test_an_engine_that_was_silent_has_not_started() -> None:
    freezer = HeapFreezer(collects=True)
    freezer(EngineState.SILENT)
    freezer(EngineState.READY)
    assert not gc.get_freeze_count()


@pytest.mark.usefixtures("nothing_frozen")
def test_an_engine_beside_that_of_the_turns_has_nothing_collected() -> None:
    freezer = HeapFreezer(collects=False)
    left = weakref.ref(Cycle())
    freezer(EngineState.READY)
    assert left() is not None, "a collection would have stopped the turns"
    assert gc.get_freeze_count() > 10_000
