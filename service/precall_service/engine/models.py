"""Resolves what the operator named with --model into what the engine is given to load.

Owns: the three kinds of model name (none, a folder, a name on a hub) and how each is checked.
Never: vLLM, and never a network: a name on a hub is passed on unchanged for the engine to fetch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

from precall_service.engine.base import Progress
from precall_service.engine.embedded import (
    EMBEDDED_NAME,
    built_model_folder,
    embedded_chat_template,
    embedded_model_folder,
)
from precall_service.engine.families import choose_parsers
from precall_service.engine.model_files import ModelError, check_model_folder, read_json_object

_EMBEDDED_NAMES: Final = frozenset({None, "", "embedded"})
_EMBEDDED_REASONING_TOKENS_MAX: Final = 80
"""The embedded model was not trained to reason, and does not always find an end by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    """A model that can be given to the engine.

    `tool_parser` and `reasoning_parser` are vLLM's names, or None for no parser. For a name on a
    hub, both and `chat_template` are None: nothing is known until the engine has fetched it.
    `reasoning_tokens_max` is the most tokens that a step should reason if the operator sets no
    limit, or None for no limit.
    """

    path_or_name: str
    display_name: str
    embedded: bool
    local: bool
    tool_parser: str | None
    reasoning_parser: str | None
    chat_template: str | None
    parser_reason: str
    reasoning_tokens_max: int | None = None


def default_cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Returns where converted models are kept: $PRECALL_CACHE_DIR, or the user's cache folder."""
    if own := environ.get("PRECALL_CACHE_DIR"):
        return Path(own).expanduser()
    if shared := environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "precall"
    return Path.home() / ".cache" / "precall"


def is_embedded(name: str | None) -> bool:
    """Whether `name`, as given with --model, means the embedded model."""
    return name in _EMBEDDED_NAMES


def find_embedded(cache_dir: Path | None) -> ResolvedModel | None:
    """Returns the embedded model if `resolve_model` has built it; None if not.

    Raises:
        ModelError: a package that it is made with is missing.
    """
    folder = built_model_folder(cache_dir or default_cache_dir())
    return None if folder is None else replace(describe_embedded(), path_or_name=str(folder))


def describe_embedded() -> ResolvedModel:
    """Returns the embedded model without building it: `path_or_name` is its name, not a folder."""
    config, template = {"model_type": "llama"}, embedded_chat_template()
    return _described(EMBEDDED_NAME, EMBEDDED_NAME, config, template, embedded=True)


def resolve_model(
    name: str | None,
    *,
    cache_dir: Path | None = None,
    on_progress: Progress = lambda _stage, _fraction: None,
) -> ResolvedModel:
    """Returns what to load for `name`: None or "embedded", a local folder, or a name on a hub.

    The embedded model is kept in `cache_dir`; None: in `default_cache_dir()`.
    Blocks while it reads and checks files: some ten seconds if it builds the embedded model.
    `on_progress` is called in the calling thread.

    Raises:
        ModelError: the embedded model is not available, or the folder is missing or incomplete.
    """
    if name is None or is_embedded(name):
        folder = embedded_model_folder(cache_dir or default_cache_dir(), on_progress)
        return replace(describe_embedded(), path_or_name=str(folder))
    path = Path(name).expanduser()
    if path.is_dir():
        return _local(path)
    if path.exists():
        raise ModelError(f"--model {name} is a file: name the folder that holds the model")
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise ModelError(
            f"--model {name}: there is no such folder. Check the path, or leave --model out for "
            "the embedded model"
        )
    return ResolvedModel(
        path_or_name=name,
        display_name=name.rsplit("/", maxsplit=1)[-1],
        embedded=False,
        local=False,
        tool_parser=None,
        reasoning_parser=None,
        chat_template=None,
        parser_reason="the model is not on this machine yet",
    )


def _local(folder: Path) -> ResolvedModel:
    check_model_folder(folder)
    folder = folder.resolve()
    config = read_json_object(folder / "config.json")
    return _described(str(folder), folder.name, config, _chat_template(folder), embedded=False)


def _described(
    path_or_name: str,
    display_name: str,
    config: Mapping[str, object],
    chat_template: str | None,
    *,
    embedded: bool,
) -> ResolvedModel:
    parsers = choose_parsers(config, chat_template)
    return ResolvedModel(
        path_or_name=path_or_name,
        display_name=display_name,
        embedded=embedded,
        local=True,
        tool_parser=parsers.tool,
        reasoning_parser=parsers.reasoning,
        chat_template=chat_template,
        parser_reason=parsers.reason,
        reasoning_tokens_max=_EMBEDDED_REASONING_TOKENS_MAX if embedded else None,
    )


def _chat_template(folder: Path) -> str | None:
    """Returns the folder's chat template, from either of the files that may hold it."""
    own_file = folder / "chat_template.jinja"
    if own_file.is_file():
        return own_file.read_text(encoding="utf-8")
    template = read_json_object(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):  # named templates: take the one for tools, or the default
        entries = cast("list[dict[str, object]]", template)
        named = {str(entry.get("name")): str(entry.get("template")) for entry in entries}
        return named.get("tool_use") or named.get("default")
    return template if isinstance(template, str) else None
