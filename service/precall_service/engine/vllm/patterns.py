"""Turns a pattern of a JSON Schema into a regular expression that a grammar can hold.

A pattern is a *search*, in the dialect of ECMA 262: `^https?://` fits every text that begins so.
A grammar needs an expression for the whole text; and in a JSON string for what stands between the
quotes, where quotes, backslashes and control characters are escapes. So a pattern is parsed, padded
where it has no anchor, and written again from sets of characters (`ecma` parses it). Long
repetitions are loosened, since their grammars grow with their bounds.

Never: decides what becomes of a pattern that is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from precall_service.engine.vllm.ecma import (
    ANY,
    SURROGATES,
    Anchor,
    Chars,
    Choice,
    Node,
    Parser,
    PatternError,
    Ranges,
    Repeat,
    has_anchor,
    without,
)

REPEAT_MAX: Final = 128
"""The greatest bound of a repetition that is held exactly."""
REPEAT_WIDE_MAX: Final = 32
"""The same for a set of many characters, such as any character."""
WEIGHT_MAX: Final = 512
"""The greatest weight of a pattern. A weight of 512 takes about a second to compile with a
vocabulary of 49,000 tokens. A character weighs as much as it is repeated, one of a wide set eight
times that."""
_WIDE: Final = 256
_WIDE_WEIGHT: Final = 8
_SPELLED: Final = {0x22: '"', 0x5C: "\\", 0x08: "b", 0x09: "t", 0x0A: "n", 0x0C: "f", 0x0D: "r"}
"""How JSON spells a character after a backslash."""

_ANYTHING: Final = Repeat(ANY, 0, None)


@dataclass(frozen=True, slots=True)
class WholeRegex:
    """A regular expression of whole texts.

    `loosened` says what it does not hold of the pattern; empty if it is exact. `weight` is what it
    costs to compile.
    """

    text: str
    loosened: str
    weight: int


def whole_regex(pattern: str) -> WholeRegex:
    """Returns the expression of all texts in which the pattern is found.

    Raises:
        PatternError: the pattern has a part that no regular expression has, or is too large.
    """
    return _written(pattern, in_json=False)


def json_regex(whole: str) -> str:
    """Returns the expression of the same texts as JSON spells them between quotes.

    `whole` is a text that `whole_regex` has written.
    """
    return _written(f"^({whole})$", in_json=True).text


def _written(pattern: str, *, in_json: bool) -> WholeRegex:
    parser = Parser(pattern)
    options = [_padded(option) for option in _edged(parser.parsed().options)]
    weight = _weight(Choice(tuple(options)))
    if weight > WEIGHT_MAX:
        raise PatternError(f"a weight of {weight}, the limit is {WEIGHT_MAX}")
    writer = _Writer(in_json=in_json)
    text = writer.choice(options)
    return WholeRegex(text, "; ".join(dict.fromkeys(parser.loosened + writer.loosened)), weight)


def _edged(options: Iterable[tuple[Node, ...]]) -> Iterator[tuple[Node, ...]]:
    """Yields the options with the anchors that groups have at their edges drawn out of them."""
    for option in options:
        for index in {0, len(option) - 1}:
            part = option[index] if option else None
            if isinstance(part, Choice) and has_anchor(part):
                yield from _edged(
                    (*option[:index], *inner, *option[index + 1 :]) for inner in part.options
                )
                break
        else:
            yield option


def _padded(option: tuple[Node, ...]) -> tuple[Node, ...]:
    """Returns a sequence that fits the whole text.

    Raises:
        PatternError: there is an anchor in its midst.
    """
    begins = bool(option) and option[0] == Anchor(end=False)
    ends = len(option) > begins and option[-1] == Anchor(end=True)
    inner = option[begins : len(option) - ends]
    if any(map(has_anchor, inner)):
        raise PatternError("^ or $ within it")
    return (*(() if begins else (_ANYTHING,)), *inner, *(() if ends else (_ANYTHING,)))


class _Writer:
    """Writes nodes as regular expressions, of texts or of how JSON spells them."""

    def __init__(self, *, in_json: bool) -> None:
        self.loosened: list[str] = []
        self._in_json = in_json

    def choice(self, options: Iterable[tuple[Node, ...]]) -> str:
        return "|".join("".join(map(self._node, option)) for option in options)

    def _node(self, node: Node) -> str:
        match node:
            case Chars(ranges):
                text = _json_chars(ranges) if self._in_json else _class(ranges)
            case Choice(options):
                text = f"({self.choice(options)})"
            case Repeat():
                text = self._repeat(node)
            case Anchor():
                raise AssertionError("anchors are drawn out before")
        return text

    def _repeat(self, node: Repeat) -> str:
        limit = _repeat_max(node.part)
        least, most = min(node.least, limit), node.most
        if node.least > limit or (most or 0) > limit:
            self.loosened.append(f"repetitions of it are held to bounds of at most {limit}")
            most = None
        part = self._node(node.part)
        if (least, most) in {(0, None), (1, None)}:
            return f"{part}{'*+'[least]}"
        return f"{part}{{{least},{'' if most is None else most}}}"


def _repeat_max(node: Node) -> int:
    return REPEAT_WIDE_MAX if _is_wide(node) else REPEAT_MAX


def _is_wide(node: Node) -> bool:
    match node:
        case Chars(ranges):
            return sum(last - first for first, last in ranges) > _WIDE
        case Repeat(part):
            return _is_wide(part)
        case Choice(options):
            return any(_is_wide(part) for option in options for part in option)
        case Anchor():
            return False


def _weight(node: Node) -> int:
    match node:
        case Chars():
            return _WIDE_WEIGHT if _is_wide(node) else 1
        case Repeat(part, least, most):
            count = least if most is None or most > _repeat_max(part) else most
            return max(1, min(count, _repeat_max(part))) * _weight(part)
        case Choice(options):
            return sum(_weight(part) for option in options for part in option)
        case Anchor():
            return 0


def _class(ranges: Ranges) -> str:
    """Returns the expression of one character of a set.

    Raises:
        PatternError: the set is empty.
    """
    found = without((*without(ranges), SURROGATES))
    if not found:
        raise PatternError("a set without characters")
    return f"[{''.join(map(_range, found))}]"


def _json_chars(ranges: Ranges) -> str:
    """Returns the expression of one character of a set, as JSON spells it."""
    escaped = [
        code
        for code in (*range(0x20), 0x22, 0x5C)
        if any(first <= code <= last for first, last in ranges)
    ]
    plain = without((*without(ranges), (0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C), SURROGATES))
    options = [f"[{''.join(map(_range, plain))}]"] if plain else []
    letters = "".join(_SPELLED[code] for code in escaped if code in _SPELLED)
    if letters:
        options.append(f"\\\\[{''.join(_escaped(ord(letter)) for letter in letters)}]")
    options += [f"\\\\u00{code:02x}" for code in escaped if code not in _SPELLED]
    return options[0] if len(options) == 1 else f"({'|'.join(options)})"


def _range(ends: tuple[int, int]) -> str:
    first, last = map(_escaped, ends)
    return first if first == last else f"{first}-{last}"


def _escaped(code: int) -> str:
    return chr(code) if chr(code).isascii() and chr(code).isalnum() else f"\\u{{{code:x}}}"
