"""Conversations of the Berkeley Function Calling Leaderboard, with the calls that solve them.

Each call of the ground truth is made, in order, by the package's own tool classes, so that it has a
real result. Ids are split by their last digit: what ends in 0 to 4 may be learned from, what ends
in 5 or 6 is only reported on, and the rest is used for nothing.
"""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final, cast

from precall_service.domain.json import JsonObject
from precall_service.domain.tools import ToolDeclaration, ToolEffects
from precall_service.speculation.base import PastCall

CATEGORY: Final = "multi_turn_base"
LEARNED: Final = frozenset("01234")
REPORTED: Final = frozenset("56")

_TOOLS: Final = "bfcl_eval.eval_checker.multi_turn_eval.func_source_code"
_MODULES: Final = {
    "GorillaFileSystem": "gorilla_file_system",
    "MathAPI": "math_api",
    "MessageAPI": "message_api",
    "TwitterAPI": "posting_api",
    "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking",
    "VehicleControlAPI": "vehicle_control",
}

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class UserTurn:
    """What the user says, and the calls that solve it, with their results."""

    text: str
    calls: tuple[PastCall, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BfclConversation:
    """A conversation, and the tools that it may use."""

    id: str
    tools: dict[str, ToolDeclaration]
    turns: tuple[UserTurn, ...]


def conversations(last_digits: frozenset[str]) -> list[BfclConversation]:
    """Returns the conversations whose ids end in these digits, in the order of the data."""
    answers = {row["id"]: row["ground_truth"] for row in rows(f"possible_answer/{_FILE}")}
    return [
        _conversation(row, answers[row["id"]])
        for row in rows(_FILE)
        if row["id"][-1] in last_digits
    ]


_FILE: Final = f"BFCL_v4_{CATEGORY}.json"


def _conversation(row: Row, answers: list[list[str]]) -> BfclConversation:
    places = _instances(row)
    texts = ["\n".join(message["content"] for message in turn) for turn in row["question"]]
    turns = [
        UserTurn(text=text, calls=tuple(_made(call, places) for call in calls))
        for text, calls in zip(texts, answers, strict=True)
    ]
    excluded = set(row.get("excluded_function", ()))
    tools = {
        tool.name: tool
        for name in row["involved_classes"]
        for tool in _declarations(_MODULES[name])
        if tool.name not in excluded
    }
    return BfclConversation(id=row["id"], tools=tools, turns=tuple(turns))


def _instances(row: Row) -> list[object]:
    """Returns the tool classes of a conversation, in the state in which it starts."""
    made: list[object] = []
    for name in row["involved_classes"]:
        place: Any = getattr(importlib.import_module(f"{_TOOLS}.{_MODULES[name]}"), name)()
        if name != "MathAPI":  # it has no state
            place._load_scenario(copy.deepcopy(row["initial_config"].get(name, {})))
        made.append(place)
    return made


def _made(call: str, places: list[object]) -> PastCall:
    """Makes a call, written as a line of Python, and returns it with its result."""
    parsed = ast.parse(call, mode="eval").body
    assert isinstance(parsed, ast.Call), call
    assert isinstance(parsed.func, ast.Name), call
    name = parsed.func.id
    method = next(getattr(place, name) for place in places if hasattr(place, name))
    given = inspect.signature(method).bind(
        *map(ast.literal_eval, parsed.args),
        **{str(each.arg): ast.literal_eval(each.value) for each in parsed.keywords},
    )
    try:
        result = method(*given.args, **given.kwargs)
    except Exception as error:  # noqa: BLE001 - the model would be told so
        result = {"error": str(error)}
    return PastCall(
        tool_name=name,
        arguments=cast("JsonObject", json.loads(json.dumps(given.arguments))),
        result_json=json.dumps(result, default=str),
    )


def _declarations(module: str) -> Iterator[ToolDeclaration]:
    for row in rows(f"multi_turn_func_doc/{module}.json"):
        yield ToolDeclaration(
            name=row["name"],
            version="1",
            digest=row["name"],
            description=row["description"].partition("Tool description: ")[2],
            input_schema=json_schema(row["parameters"]),
            output_schema=None,
            effects=ToolEffects(read_only=True, speculation_safe=True),
            timeout_s=10.0,
            max_concurrency=1,
        )


def rows(path: str) -> Iterator[Row]:
    """Yields the rows of a file of the leaderboard's data."""
    text = (resources.files("bfcl_eval") / "data" / path).read_text(encoding="utf-8")
    return (cast("Row", json.loads(line)) for line in text.splitlines())


def json_schema(schema: Row) -> Row:
    """Returns a schema with the types of JSON Schema instead of those of Python."""
    types = {"dict": "object", "float": "number", "tuple": "array"}
    found = {name: value for name, value in schema.items() if name in ("required", "enum")}
    if (kind := schema.get("type", "any")) != "any":
        found["type"] = types.get(kind, kind)
    if "properties" in schema:
        found["properties"] = {k: json_schema(v) for k, v in schema["properties"].items()}
    if "items" in schema:
        found["items"] = json_schema(schema["items"])
    return found
