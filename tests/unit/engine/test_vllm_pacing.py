"""Text is parsed at once until a call is long, and then in parts that grow with it."""

from __future__ import annotations

from precall_service.engine.vllm.pacing import Pace


def test_a_long_call_is_parsed_in_parts_that_grow() -> None:
    pace, asked = Pace(), 0
    for _ in range(100_000):
        if pace.take("abcd", [1], special=False):
            asked += 1
            pace.taken()
    assert 1024 < asked < 1200


def test_nothing_is_lost() -> None:
    pace, texts, ids = Pace(), list[str](), list[int]()
    for number in range(10_000):
        if pace.take(str(number), [number], special=False):
            text, token_ids = pace.taken()
            texts.append(text)
            ids += token_ids
    assert pace.holds
    text, token_ids = pace.taken()
    assert not pace.holds
    assert "".join([*texts, text]) == "".join(map(str, range(10_000)))
    assert [*ids, *token_ids] == list(range(10_000))


def test_a_special_token_is_parsed_at_once() -> None:
    pace = Pace()
    pace.take("x" * 10_000, [1], special=False)
    pace.taken()
    assert not pace.take("y", [2], special=False)
    assert pace.take("z", [3], special=True)
    assert pace.taken() == ("yz", [2, 3])


def test_text_is_never_delayed() -> None:
    pace = Pace()
    for _ in range(10_000):
        assert pace.take("text", [1], special=False)
        pace.taken()
        pace.told()
