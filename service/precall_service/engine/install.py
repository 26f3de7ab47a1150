"""How an engine is installed, for messages to whoever lacks one.

Until there is a release, that is from a checkout: the requirement files there replace a PyTorch
that vLLM asks for and no package index serves.
"""

from __future__ import annotations

from typing import Final


def install_command(backend: str) -> str:
    """What installs the engine for `cpu` or `gpu`, in a checkout of precall."""
    return f"make setup BACKEND={backend}"


INSTALL_ENGINE: Final = (
    f"`{install_command('cpu')}` in a checkout of precall, or `{install_command('gpu')}` for an "
    "NVIDIA GPU"
)
