"""Validates scripts before they are played, with errors that name the entry."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from precall._events import DiscardReason, Predictor
from precall.testing._script import (
    Call,
    Disconnect,
    Fail,
    Hang,
    Limit,
    NoCall,
    Parallel,
    Predict,
    Refuse,
    Say,
    Step,
)
from precall.v1 import error_pb2

_ENDINGS = (Say, Limit, NoCall, Fail, Refuse, Disconnect, Hang)
_NO_CALL_REASONS = ("CALL_LOST", "CALL_MISSING", "CALL_STOPPED")
_STRAY_CALLS = ("open", "lost", "reasoning")
_REASONS = [name.removeprefix("ERROR_REASON_") for name in error_pb2.ErrorReason.keys()]  # noqa: SIM118  a protobuf enum


def check_scripts(scripts: Iterable[object]) -> None:
    """Validates scripts as far as possible without playing them.

    Raises:
        TypeError: A script is not a list, or an entry is not a step or a function.
        ValueError: An entry holds a value that cannot be sent, or comes after the end of its turn.
    """
    for number, script in enumerate(scripts, start=1):
        if isinstance(script, str) or not isinstance(script, Sequence):
            raise TypeError(
                f"turn {number} is {script!r}, and must be a list of entries, as in "
                'FakeServer([Say("Hello.")])'
            )
        entries = cast(Sequence[object], script)
        for position, entry in enumerate(entries, start=1):
            where = f"entry {position} of turn {number}"
            if callable(entry) and not isinstance(entry, type):
                if inspect.iscoroutinefunction(entry):
                    raise TypeError(f"{where} is a coroutine function, and must be a plain one")
                continue
            check_step(entry, where)
            if isinstance(entry, _ENDINGS) and position < len(entries):
                raise ValueError(
                    f"{where}: {type(entry).__name__} ends its turn, and more follows; "
                    "give Call(..., text=...) or another turn"
                )


def check_step(step: object, where: str) -> Step | Predict:
    """Returns the step or prediction if it can be played.

    Raises:
        TypeError: It is neither, or one of its fields has the wrong type.
        ValueError: It holds a value that cannot be sent.
    """
    match step:
        case Say(text) | Hang(text):
            _check_text(text, where)
        case Call():
            _check_call(step, where)
        case Predict():
            _check_prediction(step, where)
        case Parallel(calls):
            for call in calls:
                if not isinstance(call, Call):  # pyright: ignore[reportUnnecessaryIsInstance]
                    raise TypeError(f"{where}: Parallel holds {call!r}, and must hold Calls")
                _check_call(call, where)
        case Limit(reason) | Fail(reason) | Refuse(reason):
            check_reason(reason, where)
        case NoCall(reason, text, reasoning, stray_call):
            _check_text(text, where)
            _check_text(reasoning, where)
            _check_one_of(reason, _NO_CALL_REASONS, where)
            _check_one_of(stray_call, _STRAY_CALLS, where)
        case Disconnect(reason):
            if reason:
                check_reason(reason, where)
        case _:
            raise TypeError(
                f"{where} is {step!r}, and must be a Say, Call, Parallel, Predict, Limit, NoCall, "
                "Fail, Refuse, Disconnect or Hang, or a function that returns one"
            )
    return step


def check_reason(reason: str, where: str) -> None:
    """Validates a reason.

    Raises:
        ValueError: The contract has no such reason.
    """
    if reason not in _REASONS:
        nearest = difflib.get_close_matches(str(reason), _REASONS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"{where}: the contract has no reason {reason!r}{hint}")


def _check_prediction(predicted: Predict, where: str) -> None:
    _check_called(predicted, where)
    if not isinstance(predicted.predictor, Predictor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{where}: {predicted.predictor!r} must be a precall.Predictor")
    if not isinstance(predicted.discard, DiscardReason | None):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{where}: {predicted.discard!r} must be a precall.DiscardReason")
    if predicted.predictor is Predictor.UNKNOWN or predicted.discard is DiscardReason.UNKNOWN:
        raise ValueError(f"{where}: no server sends UNKNOWN")


def _check_call(call: Call, where: str) -> None:
    _check_text(call.text, where)
    _check_called(call, where)


def _check_called(call: Call | Predict, where: str) -> None:
    _check_text(call.tool_name, where)
    if not isinstance(call.arguments, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{where}: the arguments of {call.tool_name!r} are not a dict")
    try:
        json.dumps(dict(call.arguments), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{where}: the arguments of {call.tool_name!r}: {error}") from None


def _check_one_of(said: object, known: Sequence[str], where: str) -> None:
    if said not in known:
        raise ValueError(f"{where}: {said!r} must be one of {', '.join(known)}")


def _check_text(text: object, where: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{where}: {text!r} must be a string")
