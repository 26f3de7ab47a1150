"""Checks the files of a local model, so that a fault in them is reported before the engine starts.

Owns: what a local model folder must hold.
Never: any network; reading weights into memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast

_WEIGHT_PATTERNS: Final = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")
_TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer.model",
    "tekken.json",
    "tiktoken.model",
    "vocab.json",
    "vocab.txt",
)
_LFS_POINTER_PREFIX: Final = b"version https://git-lfs"


class ModelError(Exception):
    """A model cannot be served. The message says what is wrong, where, and what to do about it."""


def check_model_folder(folder: Path) -> None:
    """Returns if `folder` holds a configuration, complete weights and a tokenizer.

    Raises:
        ModelError: something is missing; the message names everything that is.
    """
    missing: list[str] = []
    if not any((folder / name).is_file() for name in ("config.json", "params.json")):
        missing.append("config.json")
    missing += _missing_weights(folder)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        missing.append("a tokenizer (tokenizer.json or tokenizer.model)")
    if missing:
        raise ModelError(
            f"the model folder {folder} is incomplete: missing {', '.join(missing)}. "
            "Download or copy the whole model again, or name another one with --model"
        )


def read_json_object(path: Path) -> dict[str, object]:
    """Returns the JSON object in `path`, or an empty one if there is no such file.

    Raises:
        ModelError: the file cannot be read, or does not hold a JSON object.
    """
    try:
        value: object = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}. Copy the model again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object. Copy the model again")
    return cast("dict[str, object]", value)


def _missing_weights(folder: Path) -> Iterator[str]:
    weights = [path for pattern in _WEIGHT_PATTERNS for path in folder.glob(pattern)]
    if not weights:
        yield "weights (*.safetensors)"
    for path in weights:
        with path.open("rb") as file:
            if file.read(len(_LFS_POINTER_PREFIX)) == _LFS_POINTER_PREFIX:
                yield f"the content of {path.name} (it is a Git LFS pointer: run `git lfs pull`)"
    for index in folder.glob("*.index.json"):
        shards = read_json_object(index).get("weight_map")
        if isinstance(shards, dict):
            names = {str(name) for name in cast("dict[str, object]", shards).values()}
            yield from sorted(name for name in names if not (folder / name).is_file())
