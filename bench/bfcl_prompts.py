"""Single questions of the Berkeley Function Calling Leaderboard, with 2 to 8 tools to choose from.

The questions with several tools have them from the leaderboard. Those with a single tool get others
from other questions, so that there is something to choose. As in `bench.bfcl`, ids that end in 7 to
9 are used for nothing.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from bench import bfcl
from precall_service.domain.json import JsonObject
from precall_service.domain.tools import ToolDeclaration, ToolEffects

SEVERAL: Final = "multiple"
SINGLE: Final = "simple_python"
USED: Final = bfcl.LEARNED | bfcl.REPORTED
TOOLS_MAX: Final = 8
TOOL_TIMEOUT_S: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolPrompt:
    """A question, and the tools that may answer it."""

    id: str
    text: str
    tools: tuple[ToolDeclaration, ...]


def tool_prompts(count: int, seed: int = 0) -> list[ToolPrompt]:
    """Returns varied prompts: those with tools of their own and the others take turns.

    Raises:
        ValueError: there are not so many.
    """
    several, single = list(_asked(SEVERAL)), list(_asked(SINGLE))
    asked = {prompt.text for prompt in several}
    single = [prompt for prompt in single if prompt.text not in asked]
    source = random.Random(seed)
    source.shuffle(several)
    source.shuffle(single)
    pool = [tool for prompt in single for tool in prompt.tools]
    single = [_with_others(prompt, pool, source) for prompt in single]
    mixed = [prompt for pair in zip(several, single, strict=False) for prompt in pair]
    mixed += single[len(several) :]
    if count > len(mixed):
        raise ValueError(f"there are {len(mixed)} prompts, not {count}")
    return mixed[:count]


def _asked(category: str) -> Iterator[ToolPrompt]:
    for row in bfcl.rows(f"BFCL_v4_{category}.json"):
        if row["id"][-1] in USED:
            yield ToolPrompt(
                id=row["id"],
                text="\n".join(message["content"] for message in row["question"][0]),
                tools=tuple(map(_declaration, row["function"])),
            )


def _with_others(
    prompt: ToolPrompt, pool: list[ToolDeclaration], source: random.Random
) -> ToolPrompt:
    """Returns the prompt with 1 to 7 tools of other prompts, in a random order."""
    (own,) = prompt.tools
    tools = [own]
    while len(tools) < 2 or (len(tools) < TOOLS_MAX and source.random() < 0.7):
        other = source.choice(pool)
        if other.name not in {tool.name for tool in tools}:
            tools.append(other)
    source.shuffle(tools)
    return replace(prompt, tools=tuple(tools))


def _declaration(function: dict[str, Any]) -> ToolDeclaration:
    name = re.sub(r"[^A-Za-z0-9_-]", "_", function["name"])
    schema = _described(function["parameters"])
    told = json.dumps([name, function["description"], schema])
    return ToolDeclaration(
        name=name,
        version="1",
        digest=hashlib.sha256(told.encode()).hexdigest(),
        description=function["description"],
        input_schema=schema,
        output_schema=None,
        effects=ToolEffects(read_only=True, speculation_safe=True),
        timeout_s=TOOL_TIMEOUT_S,
        max_concurrency=16,
    )


def _described(schema: dict[str, Any]) -> JsonObject:
    """Returns a schema of JSON Schema with the descriptions, which the model reads."""
    found = bfcl.json_schema(schema)
    if "description" in schema:
        found["description"] = schema["description"]
    if "properties" in schema:
        found["properties"] = {k: _described(v) for k, v in schema["properties"].items()}
    if "items" in schema:
        found["items"] = _described(schema["items"])
    return found
