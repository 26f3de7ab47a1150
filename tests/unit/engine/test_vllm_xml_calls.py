"""Calls in XML forms run only if it is certain what their arguments are."""

from __future__ import annotations

import pytest

from precall_service.engine.vllm.xml_calls import XML_FORMS, XmlCalls

WRITTEN = {
    "Qwen3EngineToolParser": (
        "<tool_call>\n<function=f>\n<parameter=a>\n{}\n</parameter>\n</function>\n</tool_call>"
    ),
    "SeedOssEngineToolParser": (
        "<seed:tool_call>\n<function=f>\n<parameter=a>{}</parameter>\n</function>\n"
        "</seed:tool_call>"
    ),
    "Glm47MoeModelToolParser": (
        "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>{}</arg_value>\n</tool_call>"
    ),
    "MinimaxM2ToolParser": (
        '<minimax:tool_call>\n<invoke name="f">\n<parameter name="a">{}</parameter>\n</invoke>\n'
        "</minimax:tool_call>"
    ),
}


def problems(family: str, *messages: str) -> list[str]:
    """What is wrong with each of the calls, of which one begins in each message."""
    calls = XmlCalls(XML_FORMS[family])
    found: list[str] = []
    for message in messages:
        calls.feed(message)
        found.append(calls.begin("f"))
    return [*found[1:], calls.end()]


@pytest.mark.parametrize("value", ["Paris", "", " ", "1 < 2 </b>", "{}", '"\n\n</tool'])
@pytest.mark.parametrize("family", WRITTEN)
def test_plain_values_are_certain(family: str, value: str) -> None:
    written = WRITTEN[family].format(value.replace("{", "{{").replace("}", "}}"))
    assert problems(family, written) == [""]
    assert problems(family, "Hm. " + written, "\n" + written) == ["", ""]


@pytest.mark.parametrize("family", WRITTEN)
def test_values_that_hold_a_mark_are_not(family: str) -> None:
    form = XML_FORMS[family]
    for mark in (*form.ends, *form.others):
        for value in (mark, f"a {mark} b", f"{mark}\n", f"{mark} and {mark}"):
            written = WRITTEN[family].format(value)
            assert all(problems(family, written)), mark
            assert form.value_end in problems(family, written)[0]


@pytest.mark.parametrize("family", WRITTEN)
def test_a_value_that_holds_the_end_of_a_whole_call_is_not(family: str) -> None:
    end = WRITTEN[family].partition("{}")[2]
    assert all(problems(family, WRITTEN[family].format(f"a{end}b")))


@pytest.mark.parametrize("family", WRITTEN)
def test_a_call_that_ends_in_the_middle_is_not(family: str) -> None:
    written, form = WRITTEN[family].format("Paris"), XML_FORMS[family]
    for length in range(written.index("Paris"), written.index(form.call_end) + 1):
        assert problems(family, written[:length]) != [""]


def test_another_spelling_is_left_to_the_parser() -> None:
    assert problems("Qwen3EngineToolParser", "<function = f>\n</function>") == [""]
