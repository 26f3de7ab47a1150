"""The states of a prediction, and the events about them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from precall_service.domain.events import (
    DiscardReason,
    PredictionConfirmed,
    PredictionDiscarded,
    PredictionLaunched,
    PredictionProposed,
    PredictionReady,
    Predictor,
)
from precall_service.speculation.ledger import (
    CallKey,
    Ledger,
    Prediction,
    PredictionEvent,
    State,
)
from tests.support.clock import ManualClock
from tests.support.speculating import predicted

MISMATCH = DiscardReason.MISMATCH
MOVES: dict[str, Callable[[Ledger, Prediction], None]] = {
    "skip": lambda ledger, each: ledger.skip(each, DiscardReason.LOAD),
    "launch": lambda ledger, each: ledger.launch(each, "run-1"),
    "ready": lambda ledger, each: ledger.ready(each, "1"),
    "fail": lambda ledger, each: ledger.fail(each),
    "confirm": lambda ledger, each: ledger.confirm(each, "call-1"),
    "discard": lambda ledger, each: ledger.discard(each, MISMATCH),
}
WAYS: dict[State, tuple[str, ...]] = {
    State.PROPOSED: (),
    State.SKIPPED: ("skip",),
    State.LAUNCHED: ("launch",),
    State.READY: ("launch", "ready"),
    State.FAILED: ("launch", "fail"),
    State.CONFIRMED: ("launch", "confirm"),
    State.DISCARDED: ("discard",),
}
"""How a prediction comes into each state."""
ALLOWED = {
    (State.PROPOSED, "skip"): State.SKIPPED,
    (State.PROPOSED, "launch"): State.LAUNCHED,
    (State.PROPOSED, "ready"): State.READY,
    (State.LAUNCHED, "ready"): State.READY,
    (State.LAUNCHED, "fail"): State.FAILED,
    (State.LAUNCHED, "confirm"): State.CONFIRMED,
    (State.READY, "confirm"): State.CONFIRMED,
    **{
        (state, "discard"): State.DISCARDED
        for state in (State.PROPOSED, State.SKIPPED, State.LAUNCHED, State.READY, State.FAILED)
    },
}


class Notes:
    """A ledger, and what it has noted."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.events: list[PredictionEvent] = []
        self.ledger = Ledger(self.clock, self.events.append)

    def proposed(
        self, way: tuple[str, ...] = (), *, city: str = "Rome", step: int = 0
    ) -> Prediction:
        prediction = predicted(city=city, step=step, at=self.clock.now())
        self.ledger.propose(prediction)
        for move in way:
            MOVES[move](self.ledger, prediction)
        return prediction


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("move", list(MOVES))
def test_only_the_moves_of_the_diagram_are_possible(state: State, move: str) -> None:
    notes = Notes()
    prediction = notes.proposed(WAYS[state])
    assert prediction.state is state
    before = list(notes.events)
    wanted = ALLOWED.get((state, move))
    if wanted is not None:
        MOVES[move](notes.ledger, prediction)
        assert prediction.state is wanted
        return
    with pytest.raises(ValueError, match=f"a {state.value} prediction cannot become"):
        MOVES[move](notes.ledger, prediction)
    assert prediction.state is state
    assert notes.events == before


@pytest.mark.parametrize("state", list(State))
def test_a_prediction_is_open_until_it_has_ended(state: State) -> None:
    notes = Notes()
    prediction = notes.proposed(WAYS[state])
    ended = state in (State.CONFIRMED, State.DISCARDED)
    assert prediction.open is not ended
    assert list(notes.ledger.open()) == ([] if ended else [prediction])
    assert prediction.usable is (state in (State.LAUNCHED, State.READY))


def test_the_events_of_a_confirmed_prediction() -> None:
    notes = Notes()
    prediction = notes.proposed()
    name = prediction.prediction_id
    notes.clock.advance(1)
    notes.ledger.launch(prediction, "run-1")
    notes.clock.advance(2)
    notes.ledger.ready(prediction, '"sunny"')
    notes.clock.advance(4)
    notes.ledger.confirm(prediction, "call-1")
    assert notes.events == [
        PredictionProposed(name, "weather", "1", '{"city":"Rome"}', Predictor.FORK, 0.9, 1),
        PredictionLaunched(name, "run-1"),
        PredictionReady(name, 2.0),
        PredictionConfirmed(name, "call-1", 7.0),
    ]
    assert prediction.result_json == '"sunny"'
    assert prediction.handler_s(notes.clock.now()) == 2


def test_a_discarded_prediction_has_wasted_the_time_of_its_handler() -> None:
    notes = Notes()
    prediction = notes.proposed()
    notes.clock.advance(1)
    notes.ledger.launch(prediction, "run-1")
    notes.clock.advance(2)
    notes.ledger.discard(prediction, MISMATCH, call_id="call-1")
    notes.clock.advance(4)
    assert notes.events[-1] == PredictionDiscarded(
        prediction.prediction_id, MISMATCH, 2.0, "call-1"
    )
    assert prediction.handler_s(notes.clock.now()) == 2


@pytest.mark.parametrize("way", [("launch", "ready"), ("launch", "fail")])
def test_the_wait_for_the_model_is_no_waste(way: tuple[str, ...]) -> None:
    notes = Notes()
    prediction = notes.proposed()
    notes.ledger.launch(prediction, "run-1")
    notes.clock.advance(2)
    MOVES[way[1]](notes.ledger, prediction)
    notes.clock.advance(4)
    notes.ledger.discard(prediction, MISMATCH)
    assert notes.events[-1] == PredictionDiscarded(prediction.prediction_id, MISMATCH, 2.0, "")


@pytest.mark.parametrize("way", [(), ("skip",), ("ready",)])
def test_what_did_not_run_has_wasted_nothing(way: tuple[str, ...]) -> None:
    notes = Notes()
    prediction = notes.proposed(way)
    notes.clock.advance(4)
    notes.ledger.discard(prediction, MISMATCH)
    assert notes.events[-1] == PredictionDiscarded(prediction.prediction_id, MISMATCH, 0.0, "")


def test_predictions_of_the_same_call_and_step_are_found() -> None:
    notes = Notes()
    first, ended, second = notes.proposed(), notes.proposed(("discard",)), notes.proposed(("skip",))
    notes.proposed(step=1)
    notes.proposed(city="Oslo")
    assert list(notes.ledger.same(first.key, 0)) == [first, second]
    assert ended not in notes.ledger.open()
    other = CallKey(first.key.tool_name, "2", first.key.arguments)
    assert list(notes.ledger.same(other, 0)) == []
    assert notes.ledger.proposed == 5


def test_predictions_may_end_while_they_are_walked_through() -> None:
    notes = Notes()
    both = [notes.proposed(), notes.proposed(city="Oslo")]
    for prediction in notes.ledger.open():
        notes.ledger.discard(prediction, MISMATCH)
    assert all(not each.open for each in both)
