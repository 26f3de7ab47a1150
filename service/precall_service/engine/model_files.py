"""Checks the files of a model on disk, so that a fault in them is named before the engine starts.

Owns: what a local model folder must hold; the manifest that a converted folder is verified by.
Never: any network; reading weights into memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, cast

MANIFEST_NAME: Final = "manifest.json"

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
    """Returns if `folder` holds a configuration, whole weights and a tokenizer.

    Raises:
        ModelError: something is missing; all that is missing is named at once.
    """
    missing: list[str] = []
    if not any((folder / name).is_file() for name in ("config.json", "params.json")):
        missing.append("config.json")
    missing += _missing_weights(folder)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        missing.append("a tokenizer (tokenizer.json or tokenizer.model)")
    if missing:
        raise ModelError(
            f"the model folder {folder} is not complete: missing {', '.join(missing)}. "
            "Download or copy the whole model again, or name another one with --model"
        )


def read_json_object(path: Path) -> dict[str, object]:
    """Returns the JSON object in `path`, or an empty one where there is no such file.

    Raises:
        ModelError: the file cannot be read, or holds something else.
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


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file as hexadecimal text (about 0.3 s per 100 MB)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, origin: Mapping[str, str]) -> None:
    """Records `origin` and the size and digest of every file that `folder` holds now."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST_NAME
    }
    text = json.dumps({"origin": dict(origin), "files": files}, indent=2)
    (folder / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")


def manifest_fault(folder: Path) -> str | None:
    """Returns what in `folder` differs from its manifest, or None where all of it is as written."""
    try:
        files = read_json_object(folder / MANIFEST_NAME).get("files")
    except ModelError:
        return f"{MANIFEST_NAME} is damaged"
    if not isinstance(files, dict) or not files:
        return f"{MANIFEST_NAME} is missing"
    records = cast("dict[str, dict[str, object]]", files)
    # All sizes first: a file cut short is the common fault, and costs nothing to see.
    for name, record in records.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != record.get("bytes"):
            return f"{name} has the wrong size"
    for name, record in records.items():
        if file_sha256(folder / name) != record.get("sha256"):
            return f"{name} does not match its checksum"
    return None


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
