"""The embedded model's tokenizer with the vocabulary of gpt-oss, as far as texts need one.

vLLM reads gpt-oss's messages by the numbers of their tokens (openai_harmony). The vocabulary's
bytes are enough to write any text, so this tokenizer has them and the special tokens, each with its
own number.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, cast

from tests.support.prompt_renderers import write_tokenizer

_PRINTABLE: Final = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
"""The bytes that have the first numbers, and are spelled as themselves."""


def write_harmony_tokenizer(folder: Path, tokens: list[str]) -> dict[str, int]:
    """Writes the tokenizer, and returns the numbers of its tokens."""
    from openai_harmony import HarmonyEncodingName, load_harmony_encoding

    encoding: Any = cast("Any", load_harmony_encoding)(HarmonyEncodingName.HARMONY_GPT_OSS)
    write_tokenizer(folder, tokens)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    others = [byte for byte in range(0x100) if byte not in _PRINTABLE]
    spelled = [*map(chr, _PRINTABLE), *(chr(0x100 + index) for index in range(len(others)))]
    ids = {text: number for number, text in enumerate(spelled)}
    special = {text: encoding.encode(text, allowed_special="all") for text in tokens}
    for token in tokenizer["added_tokens"]:
        found = special.get(token["content"], [])
        token["id"] = found[0] if len(found) == 1 else -1
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["id"] >= 0]
    ids |= {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    tokenizer["model"] |= {"vocab": ids, "merges": []}
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    return ids
