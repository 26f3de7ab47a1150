"""Turns the GGUF file of SmolLM2 into the Hugging Face folder that vLLM serves.

Owns: names, shapes and order of the tensors, and the tokenizer's rules.
Never: torch or transformers. They take half a minute for the same work and write the same weights,
to the last bit, but they lose the tokenizer's rule that every digit is a token of its own, which
the model was trained with.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias, TypeVar, cast

import gguf
import numpy as np
from numpy.typing import NDArray

_T = TypeVar("_T")
_OnFraction: TypeAlias = Callable[[float], None]

CONVERTER_VERSION: Final = 2
"""Part of the cache key: incremented whenever the files written here change."""

_LAYER_NAMES: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL_TOKEN_TYPE: Final = 3
_RENAMED_TOKENS: Final = {"<repo_name>": "<think>", "<filename>": "</think>"}
"""Two tokens become the marks of a thought, which have to be single tokens. No chat contains them,
but SmolLM2 knows them from code. It never learnt the other tokens that no chat contains, and would
not write one even after an example. Like these marks in other models, they are not special."""


def convert(source: Path, folder: Path, *, chat_template: str, on_progress: _OnFraction) -> None:
    """Writes the model in `source` into `folder`, an existing empty folder. Takes some seconds.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: `source` is not a GGUF file of a Llama-shaped model with tied embeddings.
    """
    reader = gguf.GGUFReader(source)
    fields = _Fields(reader)
    if fields.text("general.architecture") != "llama":
        raise ValueError(f"{source.name} does not hold a Llama-shaped model")
    on_progress(0.3)  # opening the file parses the whole vocabulary, a third of the work
    _write_json(folder / "config.json", _model_config(fields))
    _write_json(folder / "generation_config.json", _generation_config(fields))
    _write_json(folder / "tokenizer.json", _tokenizer(fields))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(fields))
    (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    on_progress(0.4)
    _write_weights(
        folder / "model.safetensors",
        reader,
        fields,
        lambda fraction: on_progress(0.4 + 0.6 * fraction),
    )


@dataclass(frozen=True, slots=True)
class _Fields:
    """The metadata of a GGUF file. Each value is checked to be of the type asked for."""

    reader: gguf.GGUFReader

    def text(self, key: str) -> str:
        return self._value(key, str)

    def integer(self, key: str) -> int:
        return self._value(key, int)

    def number(self, key: str) -> float:
        return self._value(key, float)

    def texts(self, key: str) -> list[str]:
        return [str(item) for item in self._items(key)]

    def integers(self, key: str) -> list[int]:
        return [int(str(item)) for item in self._items(key)]

    def _items(self, key: str) -> list[object]:
        return cast("list[object]", self._value(key, list))

    def _value(self, key: str, kind: type[_T]) -> _T:
        field = self.reader.get_field(key)
        value: object = None if field is None else field.contents()
        if not isinstance(value, kind):
            raise ValueError(f"the GGUF file has no {kind.__name__} {key}")
        return value


def _model_config(fields: _Fields) -> dict[str, object]:
    heads = fields.integer("llama.attention.head_count")
    width = fields.integer("llama.embedding_length")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": fields.integer("llama.vocab_size"),
        "hidden_size": width,
        "intermediate_size": fields.integer("llama.feed_forward_length"),
        "num_hidden_layers": fields.integer("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": fields.integer("llama.attention.head_count_kv"),
        "head_dim": width // heads,
        "hidden_act": "silu",
        "max_position_embeddings": fields.integer("llama.context_length"),
        "rms_norm_eps": fields.number("llama.attention.layer_norm_rms_epsilon"),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": fields.number("llama.rope.freq_base"),
        },
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        **_token_ids(fields),
    }


def _generation_config(fields: _Fields) -> dict[str, object]:
    return dict(_token_ids(fields))


def _token_ids(fields: _Fields) -> dict[str, int]:
    return {
        "bos_token_id": fields.integer("tokenizer.ggml.bos_token_id"),
        "eos_token_id": fields.integer("tokenizer.ggml.eos_token_id"),
        "pad_token_id": fields.integer("tokenizer.ggml.padding_token_id"),
    }


def _tokenizer_config(fields: _Fields) -> dict[str, object]:
    tokens = fields.texts("tokenizer.ggml.tokens")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": fields.integer("llama.context_length"),
        "bos_token": tokens[fields.integer("tokenizer.ggml.bos_token_id")],
        "eos_token": tokens[fields.integer("tokenizer.ggml.eos_token_id")],
        "pad_token": tokens[fields.integer("tokenizer.ggml.padding_token_id")],
        "unk_token": tokens[fields.integer("tokenizer.ggml.unknown_token_id")],
        "clean_up_tokenization_spaces": False,
    }


def _tokenizer(fields: _Fields) -> dict[str, object]:
    """Returns a tokenizer.json: byte-level BPE that splits every digit off."""
    own_tokens = fields.texts("tokenizer.ggml.tokens")
    tokens = [_RENAMED_TOKENS.get(token, token) for token in own_tokens]
    kinds = fields.integers("tokenizer.ggml.token_type")
    byte_level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": token_id,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": token not in _RENAMED_TOKENS.values(),
            }
            for token_id, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
            if kind == _CONTROL_TOKEN_TYPE
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {**byte_level, "add_prefix_space": False},
            ],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: token_id for token_id, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in fields.texts("tokenizer.ggml.merges")],
        },
    }


def _write_weights(
    path: Path, reader: gguf.GGUFReader, fields: _Fields, on_progress: _OnFraction
) -> None:
    """Writes every tensor in bfloat16, one at a time, so the whole model is never in memory."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in reader.tensors:
        shape = [int(size) for size in reversed(tensor.shape)]  # GGUF lists the fastest axis first
        end = offset + 2 * int(np.prod(shape))
        header[_tensor_name(tensor.name)] = {
            "dtype": "BF16",
            "shape": shape,
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # safetensors aligns the tensors
    heads = {
        "attn_q": fields.integer("llama.attention.head_count"),
        "attn_k": fields.integer("llama.attention.head_count_kv"),
    }
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for done, tensor in enumerate(reader.tensors, start=1):
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
            kind = tensor.name.split(".")[-2]
            if kind in heads:
                values = _halves_not_pairs(values, heads[kind])
            file.write(_bfloat16(values).tobytes())
            on_progress(done / len(reader.tensors))


def _tensor_name(name: str) -> str:
    match name.split("."):
        case ["token_embd", "weight"]:
            return "model.embed_tokens.weight"
        case ["output_norm", "weight"]:
            return "model.norm.weight"
        case ["blk", layer, kind, "weight"] if kind in _LAYER_NAMES:
            return f"model.layers.{layer}.{_LAYER_NAMES[kind]}.weight"
        case _:
            raise ValueError(f"the GGUF file holds a tensor {name}, which the model does not have")


def _halves_not_pairs(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Reorders rows: GGUF rotates neighbours in a head, Hugging Face its two halves."""
    rows, columns = values.shape
    pairs = values.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounds to the nearest even. numpy has no bfloat16, but it is the upper half of a float32."""
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def _write_json(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
