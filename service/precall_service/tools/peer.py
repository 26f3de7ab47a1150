"""The state of one process that holds handlers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from cachetools import FIFOCache

from precall_service.tools import failures
from precall_service.tools.gate import Gate
from precall_service.tools.toolset import RegisteredTool

if TYPE_CHECKING:
    from precall_service.tools.run import Run

OWED_MAX: Final = 256
"""The most late answers expected from one process; the oldest is forgotten first."""


class Peer:
    """The state of one process that holds handlers.

    Attributes:
        lost: Whether the process is gone.
        runs: The runs that have not ended, by invocation id.
        gates: The gates of tools with a run that holds a slot or waits for one, by name.
        owed: The runs that ended before their handlers answered, by invocation id: for each of
            them, the function to call when the answer comes.
    """

    def __init__(self) -> None:
        self.lost = False
        self.runs: dict[str, Run] = {}
        self.gates: dict[str, Gate] = {}
        self.owed: FIFOCache[str, Callable[[], None]] = FIFOCache(OWED_MAX)

    def current_registration(self, tool: RegisteredTool) -> RegisteredTool:
        """Returns the current registration of the tool.

        Raises:
            ServiceError: TOOL_UNAVAILABLE, the tool was withdrawn or the process is gone.
        """
        current = tool.current()
        if current is None:
            raise failures.withdrawn(tool)
        if self.lost:
            raise failures.gone(current, sent=False)
        return current

    def owe(self, invocation_id: str, on_answer: Callable[[], None]) -> None:
        """Notes that the answer of an ended run is still to come."""
        self.owed[invocation_id] = on_answer

    def lose(self) -> None:
        """Ends the runs of a process that is gone. Idempotent."""
        self.lost = True
        self.owed.clear()
        for run in list(self.runs.values()):
            run.lose()
