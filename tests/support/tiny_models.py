"""Models of a few million random weights, each with the form of a real family.

They say nothing sensible, and end a message as soon as a grammar lets them. But the real engine
runs them as it runs the family: its architecture, its chat template, its special tokens, and so its
parsers and grammars. The weights depend on nothing but the family. Every tokenizer is the embedded
model's, with the family's special tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from precall_service.domain.json import JsonObject
from precall_service.engine.vllm.config import VllmConfig
from tests.support.model_families import family_tokenizer, template

_SIZES: Final = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
_SEED: Final = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyModel:
    """A family: its template, its architecture, and the tokens that end its messages.

    `variables` turn reasoning off, which a model of random weights would never end.
    """

    template: str
    model_type: str
    ends: tuple[str, ...]
    begin: str
    shape: dict[str, Any]
    variables: JsonObject


QWEN3 = TinyModel(
    template="Qwen-Qwen3-0.6B",
    model_type="qwen3",
    begin="<|im_start|>",
    ends=("<|im_end|>",),
    shape={},
    variables={"enable_thinking": False},
)
LLAMA = TinyModel(
    template="meta-llama-Llama-3.1-8B-Instruct",
    model_type="llama",
    begin="<|begin_of_text|>",
    ends=("<|eot_id|>", "<|eom_id|>"),
    shape={},
    variables={},
)
MISTRAL = TinyModel(
    template="mistralai-Mistral-Nemo-Instruct-2407",
    model_type="mistral",
    begin="<s>",
    ends=("</s>",),
    shape={"sliding_window": None},
    variables={},
)
GEMMA4 = TinyModel(
    template="google-gemma-4-31B-it",
    model_type="gemma4_text",
    begin="<bos>",
    ends=("<turn|>", "<|tool_response>"),
    shape={
        "global_head_dim": 64,
        "num_global_key_value_heads": 1,
        "hidden_size_per_layer_input": 0,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    variables={},
)
GPT_OSS = TinyModel(
    template="openai-gpt-oss-120b",
    model_type="gpt_oss",
    begin="<|startoftext|>",
    ends=("<|return|>", "<|call|>"),
    shape={
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "layer_types": ["sliding_attention", "full_attention"],
        "tie_word_embeddings": False,
    },
    variables={},
)


def write_model(model: TinyModel, folder: Path) -> VllmConfig:
    """Writes a model, and returns what an engine is started with to serve it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    ids = family_tokenizer(model.template, folder, model.begin, *model.ends)
    _replace(
        folder / "tokenizer_config.json",
        bos_token=model.begin,
        eos_token=model.ends[0],
        pad_token=model.ends[0],
    )
    (folder / "chat_template.jinja").write_text(template(model.template), encoding="utf-8")
    ends = [ids[text] for text in model.ends]
    config = cast("Any", AutoConfig).for_model(
        model.model_type,
        **(_SIZES | model.shape),
        vocab_size=1 + max(ids.values()),
        bos_token_id=ids[model.begin],
        eos_token_id=ends,
        pad_token_id=ends[0],
    )
    random = cast("Any", torch).random
    with random.fork_rng():
        random.manual_seed(_SEED)
        weights = cast("Any", AutoModelForCausalLM).from_config(config)
        _prefer(weights, ends)
    weights.save_pretrained(folder)
    _replace(folder / "generation_config.json", eos_token_id=ends)
    return VllmConfig(
        model=str(folder),
        model_name=model.template,
        settings={"dtype": "float32", "max_model_len": 4096},
        kv_cache_bytes=1 << 28,
    )


def _prefer(weights: Any, token_ids: Sequence[int]) -> None:
    """Makes tokens more likely than all others, whatever came before.

    All tokens bring a constant along in one place of the hidden state, to which these answer most.
    """
    for table in (weights.get_input_embeddings().weight, weights.get_output_embeddings().weight):
        table.data[:, 0] = 0.1
        table.data[list(token_ids), 0] = 2.0


def _replace(path: Path, **fields: Any) -> None:
    """Sets fields of a file that has a JSON object."""
    known = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(known | fields), encoding="utf-8")
