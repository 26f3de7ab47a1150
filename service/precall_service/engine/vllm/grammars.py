"""Rewrites the grammars that vLLM builds for calls, so that models write calls as templates do.

vLLM's grammars let a model put whitespace anywhere in its JSON and, for some families, choose
between several forms of a call. A call that is not written as the template would write it changes
when a later turn is rendered afresh, and its tokens are then computed again.

Never: decides which tools may be called; vLLM's grammar has decided that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

from xgrammar import Grammar

from precall_service.domain.json import JsonObject
from precall_service.engine.vllm.patterns import json_regex

_MARKER: Final = "the text of pattern {}"
_BYTE_ESCAPE: Final = re.compile(r"(?P<before>(?<!\\)(?:\\\\)*)\\x(?P<digits>[0-9a-fA-F]{2})")
"""How a printed grammar spells U+0080 to U+00FF. Read again, it would take a third digit too, if
one follows: `\\xe9a` becomes U+0E9A."""
_BLANKS: Final = re.compile(
    r'(?<=>") \[ \\n\\r\\t\]\* (?P<value>\w+_prop_\d+) \[ \\n\\r\\t\]\*(?= "</)'
)
"""A value between tags in a printed grammar, with any blanks around it."""
_ESCAPED_DELETE: Final = re.compile(r"(?P<before>(?<!\\)(?:\\{4})*)\\\\u007f")
"""How a printed grammar spells U+007F in a constant or a name: as an escape of JSON, which only
control characters below U+0020 need. Templates write the character."""


@dataclass(frozen=True, slots=True)
class ArgumentsForm:
    """How calls have their arguments: in a style of xgrammar's.

    `lines`: each value between tags has lines of its own.
    """

    style: str
    lines: bool = False


AS_JSON: Final = ArgumentsForm("json")

GrammarOf: TypeAlias = Callable[[JsonObject | bool, ArgumentsForm], str]
"""The grammar of arguments in a form, of a schema: `arguments_grammar`, or one made before."""


@dataclass(frozen=True, slots=True)
class CallForm:
    """The text that a template writes around a tool's name at the beginning of a call."""

    before: str
    after: str

    def begin(self, tool_name: str) -> str:
        """The beginning of a call of this tool."""
        return f"{self.before}{tool_name}{self.after}"


@dataclass(frozen=True, slots=True)
class WholeCall:
    """The text of a message with one call, around the tool's name and its arguments as JSON.

    `call_id` is the id that stands in it for one that the model is to write; empty if none does.
    """

    before: str
    between: str
    after: str
    call_id: str = ""


def whole_call(written: str, tool_name: str, arguments_json: str, call_id: str) -> WholeCall | None:
    """The form of a message with this call; None if the name or the JSON is not found in it."""
    before, name, rest = written.partition(tool_name)
    between, arguments, after = rest.partition(arguments_json)
    if not name or not arguments or tool_name in between + after:
        return None
    return WholeCall(before, between, after, call_id if call_id in between + after else "")


def one_call_of(
    schemas: Mapping[str, JsonObject | bool], form: WholeCall, grammar_of: GrammarOf
) -> str:
    """The grammar of a message that is one call in this form, as a structural tag.

    `schemas` are those of the tools that may be called, by name, as `held` returned them.
    """
    calls = [
        {
            "type": "sequence",
            "elements": [
                *_with_any_id(f"{form.before}{name}{form.between}", form.call_id),
                {"type": "grammar", "grammar": grammar_of(schema, AS_JSON)},
                *_with_any_id(form.after, form.call_id),
            ],
        }
        for name, schema in schemas.items()
    ]
    one = calls[0] if len(calls) == 1 else {"type": "or", "elements": calls}
    return json.dumps({"type": "structural_tag", "format": one})


def calls_listed(
    schemas: Mapping[str, JsonObject | bool], grammar_of: GrammarOf, *, several: bool
) -> str:
    """The grammar of a list of calls that vLLM reads in every family with no grammar of its own.

    VLLM makes one schema of all tools for it, which it refuses if two tools define a name in two
    ways, or if one is nested deeply.
    """
    calls = [
        {
            "type": "tag",
            "begin": f'{{"name": {json.dumps(name)}, "parameters": ',
            "content": {"type": "grammar", "grammar": grammar_of(schema, AS_JSON)},
            "end": "}",
        }
        for name, schema in schemas.items()
    ]
    listed = {
        "type": "tags_with_separator",
        "tags": calls,
        "separator": ", ",
        "at_least_one": True,
        "stop_after_first": not several,
    }
    ends = [{"type": "const_string", "value": value} for value in "[]"]
    form = {"type": "sequence", "elements": [ends[0], listed, ends[1]]}
    return json.dumps({"type": "structural_tag", "format": form})


def arguments_alone(schema: JsonObject | bool, grammar_of: GrammarOf) -> str:
    """The grammar of a named call, which vLLM reads in the same families, as a structural tag."""
    form = {"type": "grammar", "grammar": grammar_of(schema, AS_JSON)}
    return json.dumps({"type": "structural_tag", "format": form})


def _with_any_id(text: str, call_id: str) -> list[dict[str, str]]:
    """The parts of a grammar for a text, in which any other id may stand for this one."""
    texts = text.split(call_id) if call_id else [text]
    parts: list[dict[str, str]] = []
    for number, each in enumerate(texts):
        if number:
            parts.append({"type": "regex", "pattern": f"[a-zA-Z0-9]{{{len(call_id)}}}"})
        if each:
            parts.append({"type": "const_string", "value": each})
    return parts


def form_of_calls(structural_tag: str, tool_name: str, rendered: str) -> CallForm | None:
    """The form of a call of this tool in a rendering; None if the grammar lacks it."""
    for begin in _begins(json.loads(structural_tag)):
        before, name, after = begin.partition(tool_name)
        if name and begin in rendered:
            return CallForm(before, after)
    return None


def as_templates_write(
    structural_tag: str, tool_names: Collection[str], form: CallForm | None, grammar_of: GrammarOf
) -> str:
    """The same grammar with JSON spaced as `{"a": 1, "b": 2}` and calls in one form."""
    begins = [form.begin(name) for name in tool_names] if form else []
    return json.dumps(_rewritten(json.loads(structural_tag), begins, grammar_of))


def schema_text(schema: JsonObject | bool) -> str:
    """A text that is the same for the same schema."""
    return json.dumps(schema)


def _begins(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for item in cast("list[Any]", node):
            yield from _begins(item)
    elif isinstance(node, dict):
        fields = cast("dict[str, Any]", node)
        if isinstance(fields.get("begin"), str):
            yield fields["begin"]
        yield from _begins(list(fields.values()))


def _rewritten(node: Any, begins: Collection[str], grammar_of: GrammarOf) -> Any:
    if isinstance(node, list):
        return [_rewritten(item, begins, grammar_of) for item in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    fields = cast("dict[str, Any]", node)
    if fields.get("type") == "json_schema":  # a schema holds no tags, only lookalikes
        if fields["style"] != AS_JSON.style:
            return fields
        return {"type": "grammar", "grammar": grammar_of(fields["json_schema"], AS_JSON)}
    if "tags" in fields:
        tags = _in_form(fields["tags"], begins)
        held = [each for tag in tags for each in _between_tags(tag, grammar_of)]
        fields = fields | {"tags": held}
    return {name: _rewritten(value, begins, grammar_of) for name, value in fields.items()}


def _in_form(tags: list[dict[str, Any]], begins: Collection[str]) -> list[dict[str, Any]]:
    """The tags of a call that have the template's form; all of them if none has."""
    return [tag for tag in tags if tag.get("begin") in begins] or tags


def _between_tags(tag: dict[str, Any], grammar_of: GrammarOf) -> list[dict[str, Any]]:
    """The tag, with our grammar for values between tags; also without any, if it may have none.

    Where each value has lines of its own, vLLM's grammar of a call without arguments has an empty
    line, which templates do not write.
    """
    fields = cast("dict[str, Any]", tag.get("content") or {})
    schema, style = fields.get("json_schema"), fields.get("style", AS_JSON.style)
    if schema is None or style == AS_JSON.style:
        return [tag]
    form = ArgumentsForm(style, lines=tag["end"].startswith("\n"))
    held_tag = tag | {"content": {"type": "grammar", "grammar": grammar_of(schema, form)}}
    if not form.lines or not isinstance(schema, dict):
        return [held_tag]
    known = cast("dict[str, Any]", schema)
    if known.get("required"):
        return [held_tag]
    end = {"type": "const_string", "value": tag["end"].lstrip()}
    nothing = not known.get("properties") and known.get("additionalProperties") is False
    return [tag | {"content": end, "end": ""}, *(() if nothing else (held_tag,))]


def arguments_grammar(schema: JsonObject | bool, form: ArgumentsForm) -> str:
    """The grammar of arguments in this form, of a schema that `held` returned.

    Raises:
        RuntimeError: xgrammar cannot express it.
    """
    return _json_grammar(schema) if form == AS_JSON else _xml_grammar(schema, form)


def _json_grammar(schema: JsonObject | bool) -> str:
    patterns: list[str] = []
    unpatterned = json.dumps(_without_patterns(schema, patterns))
    grammar = str(Grammar.from_json_schema(unpatterned, any_whitespace=False))
    for index, pattern in enumerate(patterns):
        grammar = grammar.replace(json.dumps(json.dumps(_MARKER.format(index))), f"pattern_{index}")
        grammar += f'\npattern_{index} ::= "\\"" Regex({json.dumps(json_regex(pattern))}) "\\""'
    return _exact(grammar)


def _xml_grammar(schema: JsonObject | bool, form: ArgumentsForm) -> str:
    """Xgrammar allows any blanks around a value, of which parsers take only a line break away."""
    content = {"type": "json_schema", "json_schema": schema, "style": form.style}
    tag = json.dumps({"type": "structural_tag", "format": content})
    blank = r' "\\n"' if form.lines else ""
    grammar = _exact(str(Grammar.from_structural_tag(tag)))
    return _BLANKS.sub(rf"{blank} \g<value>{blank}", grammar)


def _exact(printed: str) -> str:
    """A printed grammar that means the same when it is read again."""
    grammar = _ESCAPED_DELETE.sub(r"\g<before>\\u007f", printed)
    return _BYTE_ESCAPE.sub(r"\g<before>\\u00\g<digits>", grammar)


def _without_patterns(schema: Any, patterns: list[str]) -> Any:
    """The same schema with a constant in the place of each pattern.

    xgrammar takes patterns for expressions of the text as JSON spells it, but allows no escapes.
    """
    if isinstance(schema, list):
        return [_without_patterns(each, patterns) for each in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    fields = cast("dict[str, Any]", schema)
    if isinstance(fields.get("pattern"), str):
        patterns.append(fields["pattern"])
        return {"const": _MARKER.format(len(patterns) - 1)}
    written: dict[str, Any] = {
        name: value
        if name == "enum" and isinstance(value, list)
        else _without_patterns(value, patterns)
        for name, value in fields.items()
    }
    return written
