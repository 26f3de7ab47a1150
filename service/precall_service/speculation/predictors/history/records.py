"""What the predictor learned from one step, in the form in which it is kept.

A record has what an update of the model needs, and nothing else: hashes of the words of the user's
message and of the sources, the names of the tools that were called, and their arguments. A model
that learns from the same records in the same order is the same model.
"""

from __future__ import annotations

from typing import Final

import msgspec

FORMAT: Final = 1
"""The first byte of a record. Records of another format are ignored."""

PROBABILITY_UNITS: Final = 10_000
RESEMBLANCE: Final = 15

RECORD_BYTES_MAX: Final = 16 << 10
"""A step whose record is larger is not learned from."""


class Rival(msgspec.Struct, array_like=True, frozen=True):
    """A tool that could have been called: its hash, and what it has in common with the text.

    `name` and `description` are fractions of the words of the tool's name and description that are
    in the text, in units of 1/RESEMBLANCE. `called` says whether the turn has called it before.
    """

    tool: int
    name: int = 0
    description: int = 0
    called: bool = False


class ValueSeen(msgspec.Struct, array_like=True, frozen=True):
    """A possible value of an argument: its pointers, and its hash as a constant (0: it is none)."""

    constant: int
    pointers: tuple[int, ...]


class LeafSeen(msgspec.Struct, array_like=True, frozen=True):
    """One argument: where it is, its canonical text, its pointers, and other possible values.

    Without a `text`, the value was not learned: it is too long, or has no canonical text.
    """

    path: tuple[str | int, ...]
    text: str
    pointers: tuple[int, ...] = ()
    others: tuple[ValueSeen, ...] = ()


class CallSeen(msgspec.Struct, array_like=True, frozen=True):
    """A call that was made, and other known forms of its arguments.

    Without `leaves`, its arguments were not learned: there are too many.
    """

    tool_name: str
    leaves: tuple[LeafSeen, ...] | None
    other_forms: tuple[int, ...] = ()


class Judged(msgspec.Struct, array_like=True, frozen=True):
    """A call that was proposed, and whether it was made.

    The estimate of its probability is in units of 1/PROBABILITY_UNITS. `repeats` says whether it
    repeats a call of its turn.
    """

    probability: int
    made: bool
    repeats: bool


class StepSeen(msgspec.Struct, array_like=True, frozen=True):
    """A step: the features of its situation, what else could have been called, and its calls.

    `words` are hashes of the words of the text, and `begins` says whether the step began the turn.
    """

    contexts: tuple[int, ...]
    words: tuple[int, ...]
    begins: bool
    rivals: tuple[Rival, ...]
    calls: tuple[CallSeen, ...]
    judged: tuple[Judged, ...]


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(StepSeen)


def encode(step: StepSeen) -> bytes | None:
    """Returns a step as a record; None if it is too large."""
    try:
        record = bytes((FORMAT,)) + _ENCODER.encode(step)
    except UnicodeEncodeError:  # half of a surrogate pair
        return None
    return record if len(record) <= RECORD_BYTES_MAX else None


def decode(record: bytes) -> StepSeen | None:
    """Returns the step of a record; None if it has another format or is damaged."""
    if record[:1] != bytes((FORMAT,)) or len(record) > RECORD_BYTES_MAX:
        return None
    try:
        return _DECODER.decode(memoryview(record)[1:])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
