"""A process with handlers for two tools, as the dispatcher sees it."""

from __future__ import annotations

from precall_service.tools.declarations import ToolProposal, declare
from precall_service.tools.toolset import RegisteredTool
from tests.support.calls import SAFE, TIMEOUT_S
from tests.support.links import RecordingLink
from tests.support.tools import new_toolset, tool_limits

LIMITS = tool_limits()
NAMES = ("a", "b")


class Process:
    """A process with handlers for two tools, and its current state."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.link = RecordingLink()
        self.toolset = new_toolset(self.link, LIMITS)
        self.lost = False
        self.was_stuck = False
        self.register()
        self.tools: tuple[RegisteredTool, ...] = self.toolset.snapshot()

    def register(self) -> None:
        for name in NAMES:
            proposal = ToolProposal(
                name=name, effects=SAFE, timeout_s=TIMEOUT_S, max_concurrency=self.slots
            )
            self.toolset.add(declare(proposal, LIMITS))
