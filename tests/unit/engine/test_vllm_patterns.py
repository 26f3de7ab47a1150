"""A pattern is a search, in the dialect of ECMA 262, in the text that JSON spells."""

from __future__ import annotations

import pytest

from precall_service.engine.vllm.patterns import (
    REPEAT_MAX,
    REPEAT_WIDE_MAX,
    PatternError,
    whole_regex,
)
from tests.support.grammars import fits


@pytest.mark.parametrize(
    ("pattern", "right", "wrong"),
    [
        ("^https?://", ["https://", "http://a.org/x?y"], ["ftp://a", " https://"]),
        ("foo", ["foo", "a foo b", "foofoo"], ["fo", ""]),
        ("foo$", ["foo", "a foo"], ["foo b"]),
        ("^foo$", ["foo"], ["foo ", "xfoo"]),
        ("^a|b$", ["a", "ac", "cb"], ["ca", "bc"]),
        ("^(?:a|b)$", ["a", "b"], ["ab", ""]),
        ("(^a|b$)", ["ac", "cb"], ["cac"]),
        ("^(a(b)?)+$", ["a", "ab", "aab"], ["b", ""]),
        ("^[a-z0-9-]{1,255}$", ["a", "a-1", "x" * 255], ["", "A", "a b"]),
        ("^[^a-c]$", ["d", '"', "\\", "\n", "é", "😀"], ["a", "de"]),
        ("^[\\w.-]+@[\\w-]+\\.com$", ["a.b@c.com"], ["a@b", "@c.com"]),
        ("^\\d{3}-\\d{4}$", ["555-1234"], ["5555-123", "555-12345"]),
        ("^\\D\\S\\W$", ["ab!"], ["1b!", "a !", "abc"]),
        ("^a{2}b{1,}c{0,2}$", ["aab", "aabbbcc"], ["ab", "aac", "aabccc"]),
        ("^\\u00e9\\xe9\\u{1F600}$", ["éé😀"], ["ee😀"]),
        ("^\\ud83d\\ude00$", ["😀"], ["😁"]),
        ("^.$", ["a", "é", '"'], ["\n", "ab"]),
        ("^\\t\\n$", ["\t\n"], ["tn"]),
        ('^"\\\\/$', ['"\\/'], ['"/']),
        ("^[\\]\\-\\\\]+$", ["]-\\"], ["["]),
        ("^[a-]$", ["a", "-"], ["b"]),
        ("^(?<year>\\d{4})$", ["2026"], ["26"]),
        ("^a*?b+?$", ["b", "aabb"], ["a"]),
        ("", ["", "anything"], []),
        ("^Montr[é]al$", ["Montréal"], ["Montreal"]),
        ("^\\$\\^\\.\\*$", ["$^.*"], ["a"]),
    ],
)
def test_what_a_pattern_fits(pattern: str, right: list[str], wrong: list[str]) -> None:
    assert whole_regex(pattern).loosened == "" or "255" in pattern
    assert [text for text in right if not fits(pattern, text)] == []
    assert [text for text in wrong if fits(pattern, text)] == []


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("\\bfoo\\b", "\\b"),
        ("(?=a)a", "lookahead"),
        ("(?!a)b", "lookahead"),
        ("(?<=a)b", "lookbehind"),
        ("(a)\\1", "refers back"),
        ("a^b", "^ or $"),
        ("(?:a$)+", "^ or $"),
        ("[]", "without characters"),
        ("(a", "end"),
        ("a)", "beginning"),
        ("*a", "after nothing"),
        ("a{2,1}", "2,1"),
        ("[z-a]", "backwards"),
        ("\\", "end"),
        ("\\u{110000}", "110000"),
        ("\\uZZZZ", "ZZZZ"),
        ("(?:(?:[a-z]{1,60}){1,60}){1,60}", "weight"),
        ("(" * 100 + ")" * 100, "levels"),
    ],
)
def test_what_a_grammar_cannot_hold_is_named(pattern: str, names: str) -> None:
    with pytest.raises(PatternError) as caught:
        whole_regex(pattern)
    assert names in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "says", "text"),
    [
        ("^[a-z]{1,3000}$", f"at most {REPEAT_MAX}", "a" * 1000),
        ("^[a-z]{200}$", f"at most {REPEAT_MAX}", "a" * 200),
        ("^.{1,33}$", f"at most {REPEAT_WIDE_MAX}", "a" * 33),
        ("^\\p{L}{1,20}$", "\\p{L}", "été"),
        ("^\\P{Lu}+$", "\\p{Lu}", "été"),
    ],
)
def test_what_is_loosened_is_told(pattern: str, says: str, text: str) -> None:
    assert says in whole_regex(pattern).loosened
    assert fits(pattern, text)
