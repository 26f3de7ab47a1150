"""Real chat templates, each with what the engine makes of it: renderer, parsers, plans, findings.

A model is its template, the `model_type` of its configuration where that tells the family, and the
embedded model's tokenizer with the special tokens that the template spells. No engine is started.
The templates are in the user's cache (scripts/model_templates.py), and not in this repository.
"""

from __future__ import annotations

import copy
import functools
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from precall_service.domain.messages import Transcript
from precall_service.engine.vllm.config import VllmConfig
from precall_service.engine.vllm.plain_text import PlainTexts
from scripts.model_templates import folder
from tests.support.harmony import write_harmony_tokenizer
from tests.support.prompt_renderers import base_renderer, temporary_folder, write_tokenizer

if TYPE_CHECKING:  # importing vLLM is slow, and it reads environment variables that are set later
    from precall_service.engine.vllm.parts import ModelParts

MODEL_TYPES: Final = {
    "Cohere2MoE": "cohere2_moe",
    "Kimi-K3": "kimi_k3",
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": "nemotron_h",
    "NVIDIA-Nemotron-Nano-v2": "nemotron_h",
    "StepFun3.5-Flash": "step3p5",
    "deepseek-ai-DeepSeek-V3.2": "deepseek_v32",
    "deepseek-ai-DeepSeek-V4": "deepseek_v4",
    "deepseek-ai-DeepSeek-V4-Flash-0731": "deepseek_v4",
    "ibm-granite-granite-4.0": "granitemoehybrid",
    "inclusionai-ling-3.0-flash": "bailing_moe_v3",
    "muse-glimmer": "muse_glimmer",
    "openai-gpt-oss-120b": "gpt_oss",
    "poolside-Laguna-S-2.1": "laguna",
    "poolside-Laguna-XS-2.1": "laguna",
    "poolside-Laguna-XS.2": "laguna",
    "tencent-Hy3": "hy_v3",
}
"""The `model_type` of the models whose family it tells."""

_TOKENIZER_SETTINGS: Final = {"tencent-Hy3": {"token_suffix": ":opensource"}}
"""What a parser looks for in the configuration of its family's tokenizer."""

_RENDERER_MODES: Final = {
    "deepseek_v32": "deepseek_v32",
    "deepseek_v4": "deepseek_v4",
    "kimi_k3": "kimi_k3",
}
"""The model types that vLLM renders with code of its own, and what it calls that."""

_VOCABULARY: Final = 4096
"""The tokens of a family's tokenizer before its special ones."""

_UNSPELLED: Final = {
    "meta-llama-Llama-3.2-3B-Instruct": ("<|python_tag|>",),
    "tencent-Hy3": tuple(
        f"<{slash}{tag}:opensource>"
        for tag in ("think", "tool_calls", "tool_call", "tool_sep", "arg_key", "arg_value")
        for slash in ("", "/")
    ),
}
"""Special tokens that a family's parser needs and its template does not spell as a whole."""

_SPECIAL: Final = re.compile(
    r"<\|[^|<>\s'\"{}]+\|?>|<[a-z_]+\|>|<｜[^｜<>\s]+｜>"  # noqa: RUF001 the bars are part of tokens
    r"|\[/?[A-Z][A-Z_]+\]|</?s>|<bos>|<eos>|<sop>|\[gMASK\]|<(?:start|end)_of_\w+>"
    r"|</?(?:seed:|mm:|minimax:|longcat_)?(?:think|tool_calls?|tool_response)>|<SPECIAL_\d+>"
    r"|</?(?:arg_key|arg_value|tool_sep)>|\]<\]minimax\[>\[|\]~!?b\[|\[e~\[|<seed:\w+>"
)
"""Spellings of special tokens in templates: those that the families' own tokenizers keep whole."""

_ENDS: Final = (
    *("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|eot|>", "<|end_of_text|>"),
    *("<|endoftext|>", "</s>", "<end_of_turn>", "<turn|>", "<eos>", "<seed:eos>", "[e~["),
    *("<|END_OF_TURN_TOKEN|>", "<|end_of_msg|>", "<|message_sep|>", "<|assistant_end|>"),
    *("<|call|>", "<|return|>", "<|role_end|>", "<|user|>", "<|observation|>", "<|eom|>"),
    *("<|user_end|>", "<SPECIAL_12>", "<sep>", "</assistant>", "<end_of_sentence>"),
    "<｜end▁of▁sentence｜>",  # noqa: RUF001 the bars are part of the token
)
"""Tokens that end a message in one family or another."""

_OWN_ENDS: Final = {"openai-gpt-oss-120b": ("<|return|>", "<|call|>")}
"""The tokens that end a message in a family where others of these tokens stand inside messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What the engine makes of one template.

    Attributes:
        parts: As the engine has them.
        unbroken: The same, but they leave every text of a conversation as it is. A model may write
            any text into its calls, also the marks that are broken in the texts of a history.
    """

    parts: ModelParts
    unbroken: ModelParts

    @property
    def stop_texts(self) -> list[str]:
        """The texts of the tokens that end a message."""
        return [self.parts.tokenizer.decode([each]) for each in self.parts.renderer.stop_token_ids]


def names() -> list[str]:
    """The templates by name."""
    found = sorted((path.stem for path in folder().glob("*.jinja")), key=str.lower)
    assert found, (
        "the templates of real models are fetched by `make test`, or scripts/model_templates.py"
    )
    return found


def template(name: str) -> str:
    return (folder() / f"{name}.jinja").read_text(encoding="utf-8")


def special_tokens(name: str) -> list[str]:
    """The special tokens of a template's family."""
    spelled = {*_SPECIAL.findall(template(name)), *_UNSPELLED.get(name, ())}
    return sorted(spelled | {text for text in _ENDS if text in template(name)})


def family_tokenizer(name: str, place: Path, *more: str) -> dict[str, int]:
    """Writes the tokenizer of a template's family, and returns the numbers of its tokens."""
    tokens = [*dict.fromkeys((*more, *special_tokens(name)))]
    if MODEL_TYPES.get(name) == "gpt_oss":
        return write_harmony_tokenizer(place, tokens)
    ids = write_tokenizer(place, tokens, vocabulary=_VOCABULARY)
    path = place / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | _TOKENIZER_SETTINGS.get(name, {})
    path.write_text(json.dumps(settings), encoding="utf-8")
    return ids


@functools.lru_cache(2)  # each has tokenizers of its own
def family(name: str) -> Family:
    """What the engine makes of a template.

    Raises:
        EngineStartError: the engine would not start.
    """
    renderer, model_config = _renderer(name)
    from precall_service.engine.vllm.parts import model_parts
    from precall_service.engine.vllm.rendering import PromptRenderer

    written = template(name)
    config = VllmConfig(model=model_config.model, model_name=name, chat_template=written)
    parts = model_parts(renderer, model_config, config)
    unbroken = PromptRenderer(
        renderer,
        chat_template=written,
        stop_token_ids=parts.renderer.stop_token_ids,
        texts=_Unbroken((), template="", normalize=str),
    )
    return Family(parts=parts, unbroken=replace(parts, renderer=unbroken))


class _Unbroken(PlainTexts):
    """Leaves the texts of a conversation as they are."""

    def transcript(self, transcript: Transcript) -> Transcript:
        return transcript


def _renderer(name: str) -> tuple[Any, Any]:
    """VLLM's renderer and configuration of a model that consists of a template and a tokenizer."""
    base = base_renderer()
    from vllm.renderers.registry import RENDERER_REGISTRY
    from vllm.tokenizers.registry import TokenizerRegistry

    place, model_type = temporary_folder(), MODEL_TYPES.get(name, "")
    ids = family_tokenizer(name, place)
    ends = [ids[text] for text in _OWN_ENDS.get(name, _ENDS) if text in ids]
    (place / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    mode = _RENDERER_MODES.get(model_type, "hf")
    config = copy.copy(base.config)
    config.model_config = model_config = copy.copy(base.config.model_config)
    model_config.model = model_config.tokenizer = str(place)
    model_config.hf_config = copy.copy(model_config.hf_config)
    kind = cast("Any", type(model_config.hf_config))
    model_config.hf_config.__class__ = type(kind.__name__, (kind,), {"model_type": model_type})
    model_config.hf_config.model_type = model_type
    tokenizer = cast("Any", TokenizerRegistry).load_tokenizer(mode, place)
    renderer = RENDERER_REGISTRY.load_renderer(mode, config, tokenizer)
    renderer.default_chat_tok_params = renderer.default_cmpl_tok_params
    return renderer, model_config
