"""Reads the calls in the pieces of a message that is no step of a turn."""

from __future__ import annotations

from precall_service.engine.base import CallBegun, CallPiece, CallWritten, Piece


class WrittenCalls:
    """The calls of one message, as far as it is written."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._arguments: dict[int, list[str]] = {}

    @property
    def begun(self) -> bool:
        """Whether the message has begun a call."""
        return bool(self._names)

    def read(self, piece: Piece) -> tuple[str, str] | None:
        """Returns the call that a piece completes, as the tool's name and a JSON object."""
        match piece:
            case CallBegun(index, tool_name):
                self._names[index] = tool_name
                self._arguments[index] = []
            case CallPiece(index, fragment):
                self._arguments[index].append(fragment)
            case CallWritten(index):
                return self._names[index], "".join(self._arguments[index])
            case _:
                pass
        return None
