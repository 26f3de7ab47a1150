"""Schemas as people and their libraries write them for tools, each with values that fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, cast

from hypothesis import strategies as st

Authored: TypeAlias = tuple[dict[str, Any], st.SearchStrategy[Any]]

TEXT = st.text(
    st.sampled_from("abzAZ019 _-./:\"\\\n\t'{}[]<>éßñ½ÿबไ中😀\x7f") | st.characters(codec="utf-8"),
    max_size=12,
)
NAMES = st.text(st.sampled_from('abcdé_ -"$'), min_size=1, max_size=4)
NUMBERS = st.integers(-(2**40), 2**40) | st.sampled_from([0.5, -0.25, 3.25, 1e20, -1.5e-7])
PATTERNS = (
    ("^https?://", 'https?://[a-z/"é]{0,5}'),
    ("[0-9]+$", '[a-z"\\\\]{0,3}[0-9]{1,3}'),
    ("^[a-z0-9-]{1,255}$", "[a-z0-9-]{1,70}"),
    ("^\\w+@\\w+\\.(com|org)$", "[a-z_]{1,4}@[a-z]{1,4}\\.(com|org)"),
    ('^(?:[^"\\\\]|\\n)*$', "[a-zé\\n]{0,5}"),
    ("\\bfoo\\b", "foo"),
)


@st.composite
def authored(draw: Callable[..., Any], depth: int = 2) -> Authored:
    """A schema, and a strategy of values that fit and that its author could mean."""
    simple = [_text, _pattern, _integer, _number, _enum, _plain]
    nested = [_array, _tuple, _object, _object, _dict, _optional, _union, _referred, _merged]
    make = draw(st.sampled_from(simple + nested if depth else simple))
    schema, values = make(draw, depth - 1)
    if draw(st.booleans()):
        schema = {"title": "A title", "description": "What it is.", **schema}
    return schema, values


def _text(draw: Callable[..., Any], _depth: int) -> Authored:
    least, most = draw(st.integers(0, 3)), draw(st.none() | st.integers(4, 100))
    schema: dict[str, Any] = {"type": "string"}
    schema |= {"minLength": least} if least else {}
    schema |= {} if most is None else {"maxLength": most}

    def padded(text: str) -> str:
        return f"{text}xyz"[:most]

    return schema, cast("st.SearchStrategy[Any]", TEXT.map(padded))


def _pattern(draw: Callable[..., Any], _depth: int) -> Authored:
    pattern, written = cast("tuple[str, str]", draw(st.sampled_from(PATTERNS)))
    schema: dict[str, Any] = {"type": "string", "pattern": pattern}
    if draw(st.booleans()):
        schema |= {"maxLength": 90}
    texts: st.SearchStrategy[Any] = st.from_regex(written, fullmatch=True)
    return schema, texts


def _integer(draw: Callable[..., Any], _depth: int) -> Authored:
    least, most = draw(st.none() | st.integers(-50, 0)), draw(st.none() | st.integers(0, 2**70))
    schema: dict[str, Any] = {"type": "integer"}
    schema |= {} if least is None else {"minimum": least}
    schema |= {} if most is None else {"maximum": most}
    return schema, st.integers(least if least is not None else -500, min(most or 0, 10**9))


def _number(draw: Callable[..., Any], _depth: int) -> Authored:
    if draw(st.booleans()):
        return {"type": "number"}, NUMBERS
    return {"type": "number", "minimum": 0.5, "exclusiveMaximum": 9}, st.sampled_from(
        [0.5, 1, 8.75]
    )


def _enum(draw: Callable[..., Any], _depth: int) -> Authored:
    values = draw(st.lists(TEXT | st.integers(-9, 9) | st.none(), min_size=1, max_size=4))
    if len(values) == 1 and draw(st.booleans()):
        return {"const": values[0]}, st.just(values[0])
    schema: dict[str, Any] = {"enum": values}
    if all(isinstance(value, str) for value in values):
        schema |= {"type": "string"}
    return schema, st.sampled_from(values)


def _plain(draw: Callable[..., Any], _depth: int) -> Authored:
    kinds: list[Authored] = [
        ({"type": "boolean"}, st.booleans()),
        ({"type": "null"}, st.none()),
        ({}, st.none() | st.booleans() | TEXT | st.lists(st.integers(0, 9))),
        ({"type": "array"}, st.lists(st.none() | TEXT, max_size=2)),
        ({"type": "object"}, st.dictionaries(NAMES, st.booleans(), max_size=2)),
    ]
    return draw(st.sampled_from(kinds))


def _array(draw: Callable[..., Any], depth: int) -> Authored:
    items, values = draw(authored(depth))
    return {"type": "array", "items": items, "maxItems": 80}, st.lists(values, max_size=3)


def _tuple(draw: Callable[..., Any], depth: int) -> Authored:
    parts = draw(st.lists(authored(depth), min_size=1, max_size=2))
    schemas, values = zip(*parts, strict=True)
    count = len(parts)
    schema = {"type": "array", "prefixItems": list(schemas), "minItems": count, "maxItems": count}
    return schema, st.tuples(*values).map(list)


def _object(draw: Callable[..., Any], depth: int) -> Authored:
    parts: dict[str, Authored] = draw(st.dictionaries(NAMES, authored(depth), max_size=3))
    required = [name for name in parts if draw(st.booleans())]
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: each for name, (each, _) in parts.items()},
        "required": required,
    }
    if draw(st.booleans()):
        schema["additionalProperties"] = False

    @st.composite
    def values(draw: Callable[..., Any]) -> dict[str, Any]:
        return {
            name: draw(each)
            for name, (_, each) in parts.items()
            if name in required or draw(st.booleans())
        }

    return schema, values()


def _dict(draw: Callable[..., Any], depth: int) -> Authored:
    schema, values = draw(authored(depth))
    return (
        {"type": "object", "additionalProperties": schema},
        st.dictionaries(NAMES, values, max_size=2),
    )


def _optional(draw: Callable[..., Any], depth: int) -> Authored:
    schema, values = draw(authored(depth))
    if isinstance(schema.get("type"), str) and "enum" not in schema and draw(st.booleans()):
        return {**schema, "type": [schema["type"], "null"]}, st.none() | values
    return {"anyOf": [schema, {"type": "null"}], "default": None}, st.none() | values


def _union(draw: Callable[..., Any], depth: int) -> Authored:
    first, second = draw(authored(depth)), draw(authored(depth))
    return {"anyOf": [first[0], second[0]]}, first[1] | second[1]


def _referred(draw: Callable[..., Any], depth: int) -> Authored:
    schema, values = draw(authored(depth))
    return {"$ref": "#/$defs/Part", "$defs": {"Part": schema}}, values


def _merged(draw: Callable[..., Any], depth: int) -> Authored:
    schema, values = draw(_built(_object, depth))
    return {"allOf": [schema, {"description": "One of them."}]}, values


@st.composite
def _built(
    draw: Callable[..., Any], make: Callable[[Callable[..., Any], int], Authored], depth: int
) -> Authored:
    return make(draw, depth)


@st.composite
def authored_tools(draw: Callable[..., Any]) -> tuple[dict[str, Any], Any]:
    """A tool's input schema, with its definitions at the root, and arguments that fit."""
    schema, values = draw(_built(_object, 2))
    definitions: dict[str, Any] = {}
    return {**_with_definitions(schema, definitions), "$defs": definitions}, draw(values)


def _with_definitions(part: Any, definitions: dict[str, Any]) -> Any:
    """The same schema, with the definitions of its parts at the root, each under its own name."""
    if isinstance(part, list):
        return [_with_definitions(each, definitions) for each in cast("list[Any]", part)]
    if not isinstance(part, dict):
        return part
    fields = cast("dict[str, Any]", part)
    if "$ref" in fields and "$defs" in fields:
        name = f"Part{len(definitions)}"
        definitions[name] = {}
        definitions[name] = _with_definitions(fields["$defs"]["Part"], definitions)
        return {"$ref": f"#/$defs/{name}"}
    found: dict[str, Any] = {}
    for name, each in fields.items():
        data = name in ("enum", "const", "default")
        found[name] = each if data else _with_definitions(each, definitions)
    return found
