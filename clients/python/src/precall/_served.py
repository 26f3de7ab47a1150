"""Warns where an option of a tool has no effect on the server at hand.

Owns: which option needs which capability. Options that a server must not ignore are not here: the
server refuses their tools.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from precall._server import Capability
from precall._tool import Tool

_PACKAGE = str(Path(__file__).parent) + os.sep

_NEEDED: Mapping[str, Capability | None] = {
    "speculation_safe": Capability.SPECULATION,
    "open_world": Capability.SPECULATION,
    "cache_ttl_s": Capability.TOOL_CACHE,
    "cache_scope": Capability.TOOL_CACHE,
    "reads": Capability.TOOL_CACHE,
    "writes": Capability.TOOL_CACHE,
    "approval_may_edit": Capability.APPROVALS,
    "idempotent": None,  # no capability covers it yet
}


class NotServedWarning(UserWarning):
    """An option of a tool has no effect, because the server lacks the capability for it."""


class UnservedOptions:
    """Warns once per client and option."""

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def warn(self, tools: Iterable[Tool], granted: Collection[Capability]) -> None:
        """Warns of each option that is set on a tool and that the server does not serve.

        The warning points at the first line of the stack outside this package.
        """
        for tool in tools:
            for option, capability in _NEEDED.items():
                if not tool.options.get(option) or option in self._warned or capability in granted:
                    continue
                self._warned.add(option)
                why = (
                    "no server uses it yet"
                    if capability is None
                    else f"this server does not list {capability.name}"
                )
                text = f"tool {tool.name!r}: {option} has no effect, since {why}"
                warnings.warn(text, NotServedWarning, stacklevel=_level_of_user())


def _level_of_user() -> int:
    """Returns the `stacklevel` for the caller that shows the first frame outside this package."""
    level, frame = 0, inspect.currentframe()  # Python 3.12 has skip_file_prefixes instead
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    return level
