"""The tools of a chat, called as the client calls them."""

from __future__ import annotations

import pytest

from precall import Tool
from precall_service.cli.chat_tools import CHAT_TOOLS, current_time, roll_dice


def test_every_function_is_a_tool_with_a_description() -> None:
    tools = [Tool.from_function(function, read_only=True) for function in CHAT_TOOLS]
    assert [tool.name for tool in tools] == ["current_time", "roll_dice"]
    assert all(tool.description for tool in tools)


def test_current_time_in_a_zone() -> None:
    assert current_time("Asia/Tokyo").endswith("JST")
    assert current_time().endswith("UTC")


@pytest.mark.parametrize("zone", ["Atlantis", "", "../../etc/passwd", "Europe"])
def test_unknown_zone(zone: str) -> None:
    with pytest.raises(ValueError, match="there is no time zone"):
        current_time(zone)


def test_roll_dice() -> None:
    rolled = roll_dice(sides=6, count=50)
    assert len(rolled) == 50
    assert set(rolled) <= set(range(1, 7))
