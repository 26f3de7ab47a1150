"""Prompt renderers for templates of several families, on the embedded model's tokenizer.

The special tokens of all families are added to the tokenizer. Like Llama's tokenizer, it puts one
of them before each text unless special tokens are turned off. No engine is started: a renderer
needs only the model's configuration and tokenizer.
"""

from __future__ import annotations

import atexit
import functools
import json
import re
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import mistral_common

from precall_service.engine.models import resolve_model
from precall_service.engine.vllm import environment
from precall_service.engine.vllm.config import Device, VllmConfig

if TYPE_CHECKING:  # importing vLLM is slow, and it reads environment variables that are set later
    from precall_service.engine.vllm.rendering import PromptRenderer

STOP_TOKENS = {
    "embedded": ("<|im_end|>", "<|endoftext|>"),
    "thinking_chatml": ("<|im_end|>", "<|endoftext|>"),
    "opens_thought": ("<|im_end|>", "<|endoftext|>"),
    "removes": ("<|im_end|>", "<|endoftext|>"),
    "ids": ("<|im_end|>", "<|endoftext|>"),
    "numbered": ("<|im_end|>", "<|endoftext|>"),
    "late_text": ("<|im_end|>", "<|endoftext|>"),
    "headers": ("<|eot_id|>", "<|eom_id|>", "<|endoftext|>"),
    "brackets": ("</s>", "<|endoftext|>"),
    "turns": ("<end_of_turn>", "<|endoftext|>"),
    "roles": ("<|user|>", "<|observation|>", "<|endoftext|>"),
    "plain": ("<|endoftext|>",),
}
"""The templates by name, each with the tokens that end a message of its model family."""

BEGIN = "<|begin_of_text|>"
"""The token that the tokenizer puts first. Only the template "headers" writes it, once."""

_SPECIAL_TOKENS = (
    *(BEGIN, "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"),
    *("<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    "<|python_tag|>",
    *("<bos>", "<start_of_turn>", "<end_of_turn>"),
    *("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
    *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    *("<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"),
    *("<think>", "</think>", "<tool_response>", "</tool_response>"),
)
_TAG = re.compile(r"</?(?:\w+:)?(?:think|tool_\w+|arg_\w+)(?::\w+)?>")
_TEMPLATES = Path(__file__).parent / "templates"
MISTRAL_TOKENIZER = Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"


@functools.cache
def prompt_renderer(name: str) -> PromptRenderer:
    """The renderer with a template."""
    renderer = base_renderer()
    from precall_service.engine.vllm.plain_text import plain_texts
    from precall_service.engine.vllm.rendering import PromptRenderer

    ids = tokenizer().get_added_vocab()
    return PromptRenderer(
        renderer,
        chat_template=_template(name),
        stop_token_ids=[ids[token] for token in STOP_TOKENS[name]],
        texts=plain_texts(tokenizer(), _template(name)),
    )


@functools.cache
def mistral_renderer() -> PromptRenderer:
    """A renderer with a mistral-common tokenizer."""
    base = base_renderer()
    from vllm.renderers.mistral import MistralRenderer
    from vllm.tokenizers.mistral import MistralTokenizer

    from precall_service.engine.vllm.plain_text import plain_texts
    from precall_service.engine.vllm.rendering import PromptRenderer

    folder = temporary_folder()
    shutil.copy(MISTRAL_TOKENIZER, folder / "tekken.json")
    mistral = cast("Any", MistralTokenizer).from_pretrained(folder)
    return PromptRenderer(
        MistralRenderer(base.config, mistral),
        chat_template=None,
        stop_token_ids=[mistral.eos_token_id],
        texts=plain_texts(mistral, None),
    )


def model_config() -> Any:
    """VLLM's configuration of the model that all renderers here share."""
    return base_renderer().model_config


def tokenizer() -> Any:
    """The tokenizer that all renderers but Mistral's share."""
    return base_renderer().get_tokenizer()


def token_ids(text: str) -> tuple[int, ...]:
    """The tokens of a text by the shared tokenizer."""
    return tuple(tokenizer().encode(text, add_special_tokens=False))


def _template(name: str) -> str:
    if name == "embedded":
        return _embedded().chat_template or ""
    return (_TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


@functools.cache
def _embedded() -> Any:
    return resolve_model(None)


@functools.cache
def base_renderer() -> Any:
    """VLLM's renderer with the shared tokenizer."""
    folder = temporary_folder()
    write_tokenizer(folder, _SPECIAL_TOKENS, begin=BEGIN)
    environment.prepare(VllmConfig(model=str(folder), model_name="tokenizer", device=Device.CPU))
    environment.import_vllm()
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.renderers import registry

    renderer = cast("Any", registry).renderer_from_config(
        AsyncEngineArgs(model=str(folder)).create_engine_config()
    )
    # Multimodal models do the same: their processors add the tokens that their tokenizers add.
    renderer.default_chat_tok_params = renderer.default_cmpl_tok_params
    return renderer


def temporary_folder() -> Path:
    """A new folder, which is removed when the process ends."""
    folder = tempfile.mkdtemp(prefix="precall-tokenizer-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def write_tokenizer(
    folder: Path, tokens: Collection[str], *, begin: str = "", vocabulary: int | None = None
) -> dict[str, int]:
    """Writes the embedded model's tokenizer and configuration, with more tokens. Returns their ids.

    Those that look like tags of XML are not special, as in the tokenizers of models that have such.
    If there is a token to begin with, the tokenizer puts it before each text. A tokenizer with the
    first tokens of the vocabulary alone splits texts into more tokens, and is read much faster.
    """
    model = Path(_embedded().path_or_name)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        shutil.copy(model / name, folder)
    tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    _shorten(tokenizer["model"], vocabulary)
    known = {token["content"] for token in tokenizer["added_tokens"]}
    first = 1 + max(
        *(token["id"] for token in tokenizer["added_tokens"]), *tokenizer["model"]["vocab"].values()
    )
    ids = {text: first + index for index, text in enumerate(t for t in tokens if t not in known)}
    tokenizer["added_tokens"] += [
        {
            "id": token_id,
            "content": content,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": not _TAG.fullmatch(content),
        }
        for content, token_id in ids.items()
    ]
    if begin:
        sequence, token = {"Sequence": {"id": "A", "type_id": 0}}, {"id": begin, "type_id": 0}
        tokenizer["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": token}, sequence],
            "pair": [sequence, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {begin: {"id": begin, "ids": [ids[begin]], "tokens": [begin]}},
        }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return {token["content"]: token["id"] for token in tokenizer["added_tokens"]}


def _shorten(model: dict[str, Any], vocabulary: int | None) -> None:
    """Leaves the first tokens, which are special ones, bytes, and the most frequent pairs."""
    kept = {text: number for text, number in model["vocab"].items() if number < (vocabulary or 1e9)}
    model["vocab"] = kept
    model["merges"] = [[one, two] for one, two in model["merges"] if one + two in kept]
