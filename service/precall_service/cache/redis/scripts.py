"""The scripts that Redis runs. Each of them is one atomic operation.

They are loaded on every new connection and called by their hashes. If the server has forgotten a
script, it is loaded again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Final


@dataclass(frozen=True, slots=True)
class Script:
    """The text of a script, and the hash by which it is called."""

    text: str
    sha: str


def _script(*names: str) -> Script:
    folder = resources.files("precall_service.cache.redis") / "lua"
    text = "\n".join((folder / f"{name}.lua").read_text() for name in names)
    # Redis names a script by its SHA-1, which protects nothing here.
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


LOOK_UP: Final = _script("latest", "reading", "look_up")
VERSIONS: Final = _script("latest", "reading", "versions")
PREPARE: Final = _script("latest", "common", "prepare")
ADVANCE: Final = _script("latest", "common", "advance")
ANNOUNCE: Final = _script("latest", "common", "announce")
PUT: Final = _script("latest", "common", "entries", "put")
DROP: Final = _script("latest", "common", "entries", "drop")
SIZE: Final = _script("latest", "common", "entries", "size")
FOLLOW: Final = _script("latest", "common", "follow")
EPOCH: Final = _script("epoch")
REMEMBER: Final = _script("remember")
RECALL: Final = _script("recall")

ALL: Final = (
    *(LOOK_UP, VERSIONS, PREPARE, ADVANCE, ANNOUNCE, PUT, DROP, SIZE, FOLLOW, EPOCH),
    *(REMEMBER, RECALL),
)
