"""What a predictor reads in a user's message: its words, and the spans that may be arguments.

A span is told by its kind (quoted, a number, a path, ...) and by where it stands: how many spans of
its kind come before and after it, and the words next to it.
"""

from __future__ import annotations

import datetime
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Final

from precall_service.domain.json import JsonValue
from precall_service.speculation.predictors.history.values import number_of, written
from precall_service.speculation.predictors.history.weights import keyed

TEXT_CHARS_MAX: Final = 3000
"""Only this much of the beginning of a message is read."""
WORDS_MAX: Final = 48
SPANS_MAX: Final = 80
READINGS_MAX: Final = 128
"""The readings that are kept. They hold at most this many times TEXT_CHARS_MAX."""

_MONTHS: Final = [
    "jan",
    "feb",
    "mar",
    "apr",
    "may",
    "jun",
    "jul",
    "aug",
    "sep",
    "oct",
    "nov",
    "dec",
]
_MONTH: Final = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_SPAN: Final = re.compile(
    rf"""
    (?P<quoted>(?<!\w)'[^'\n]{{1,500}}'(?!\w) | (?<!\w)"[^"\n]{{1,500}}"
             | \u201c[^\u201d\n]{{1,500}}\u201d | \u2018[^\u2019\n]{{1,500}}\u2019
             | `[^`\n]{{1,500}}`)
  | (?P<url>https?://[^\s<>"']{{1,500}}[^\s<>"'.,;:!?)])
  | (?P<email>[\w.+-]{{1,64}}@[\w-]{{1,64}}\.[\w.]{{1,64}}\w)
  | (?P<tag>[@\#]\w{{1,64}})
  | (?P<day>(?i:{_MONTH}\s\d{{1,2}}(?:st|nd|rd|th)?,?\s\d{{4}}
           | \d{{1,2}}(?:st|nd|rd|th)?\s(?:of\s)?{_MONTH},?\s\d{{4}}) | \d{{4}}-\d\d-\d\d)
  | (?P<path>[\w.~-]{{0,200}}/[\w./~-]{{0,200}}\w | \w[\w-]{{0,100}}\.[A-Za-z][A-Za-z0-9]{{0,7}}\b)
  | (?P<number>-?\d[\d,]{{0,20}}(?:\.\d{{1,20}})?(?!\w))
  | (?P<capitals>[A-Z]{{2}}[A-Z0-9]{{0,20}}\b)
  | (?P<name>[A-Z][\w'-]{{0,60}}(?:\s[A-Z][\w'-]{{0,60}}){{0,4}})
  | (?P<word>\w[\w-]{{0,60}})
    """,
    re.VERBOSE,
)
_WORD: Final = re.compile(r"[^\W\d_]{3,30}")
_CAMEL: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
_ENDINGS: Final = ("ing", "ed", "es", "s", "e")


@dataclass(frozen=True, slots=True)
class Span:
    """A span of a text: its kind, value, canonical text, and the keys of where it stands."""

    kind: str
    value: JsonValue
    text: str
    keys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """The hashes of the words of a text, each once, and its spans."""

    words: tuple[int, ...]
    spans: tuple[Span, ...]


def reading(text: str) -> Reading:
    """Returns what there is to read in a text."""
    return _reading(text[:TEXT_CHARS_MAX])


@lru_cache(maxsize=READINGS_MAX)
def _reading(text: str) -> Reading:
    return Reading(words_of(text), _spans(text))


def words_of(text: str) -> tuple[int, ...]:
    """Returns hashes of the words of a text, each once, without case and English endings.

    Compound names such as `sendMessage` and `send_message` are split.
    """
    words = (_stem(word) for word in _WORD.findall(_CAMEL.sub(" ", text).lower()))
    return tuple(keyed("w", word) for word in islice(dict.fromkeys(words), WORDS_MAX))


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def _spans(text: str) -> tuple[Span, ...]:
    found: list[tuple[str, str]] = []
    for match in _SPAN.finditer(text):
        kind, span = match.lastgroup or "", match[0]
        _, _, rest = span.partition(" ")
        if kind == "name" and rest and _begins_sentence(text, match.start()):
            # The first word of a sentence has a capital whether it belongs to a name or not.
            found += [("opening", span), ("name", rest)]
        else:
            found.append((kind, span))
        if len(found) >= SPANS_MAX:
            break
    totals = Counter(kind for kind, _ in found)
    seen: Counter[str] = Counter()
    near = ["^", "^", *(span.lower() for _, span in found), "$"]
    spans: list[Span] = []
    for index, (kind, span) in enumerate(found):
        value = _value(kind, span)
        if (canonical := written(value)) is not None:
            earlier, before, after = near[index], near[index + 1], near[index + 3]
            keys = [f"<{before}", f"<{earlier} {before}", f">{after}", f"<>{before} {after}"]
            if kind != "word":
                rank = seen[kind]
                keys += [kind, f"{kind} {rank}", f"{kind} {rank - totals[kind]}"]
                keys.append(f"{kind} <{before}")
            spans.append(Span(kind, value, canonical, tuple(keyed("t", key) for key in keys)))
        seen[kind] += 1
    return tuple(spans)


def _begins_sentence(text: str, place: int) -> bool:
    before = text[:place].rstrip(" ")
    return not before or before[-1] in ".!?:\n"


def _value(kind: str, span: str) -> JsonValue:
    match kind:
        case "quoted":
            return span[1:-1]
        case "number":
            return number_of(span)
        case "day":
            return _iso(span)
        case _:
            return span


def _iso(day: str) -> str:
    """Returns a day as ISO 8601 writes it; the text itself if there is no such day."""
    words = re.findall(r"\d+|[a-z]+", day.lower())
    numbers = [int(word) for word in words if word.isdecimal()]
    months = [_MONTHS.index(word[:3]) + 1 for word in words if word[:3] in _MONTHS]
    try:
        if months:
            return datetime.date(numbers[-1], months[0], numbers[0]).isoformat()
    except ValueError:
        pass
    return day
