"""The tools of `precall chat`: the time, and dice."""

from __future__ import annotations

import datetime
import random
import zoneinfo
from collections.abc import Callable
from typing import Annotated, Final

from pydantic import Field


def current_time(
    timezone: Annotated[
        str, Field(max_length=60, description="IANA name, such as Europe/Paris")
    ] = "UTC",
) -> str:
    """Get the current date and time in a time zone."""
    try:
        zone = zoneinfo.ZoneInfo(timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"there is no time zone {timezone!r}: use Europe/Paris, or UTC") from None
    return f"{datetime.datetime.now(zone):%A %Y-%m-%d %H:%M:%S %Z}"


def roll_dice(
    sides: Annotated[int, Field(ge=2, le=1000, description="Sides of each die")] = 6,
    count: Annotated[int, Field(ge=1, le=100, description="How many dice")] = 1,
) -> list[int]:
    """Roll dice and return the number on each."""
    return [random.randint(1, sides) for _ in range(count)]  # noqa: S311 - a game


CHAT_TOOLS: Final[tuple[Callable[..., object], ...]] = (current_time, roll_dice)
"""Every tool of the chat. None reads the machine or changes anything: the model of any server may
call them, and a server may run them early."""
