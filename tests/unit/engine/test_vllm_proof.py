"""What a start finds of a model's template and parsers, for each way in which they can fail."""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import Any, cast

import pytest

from precall_service.domain.turn import ToolChoice
from precall_service.engine.findings import Finding, Findings, Standing, Subject
from tests.support.prompt_renderers import STOP_TOKENS, tokenizer
from tests.support.proving import limits, mistral_parts, parts_of, proved, template
from tests.support.steps import REQUIRED, declared, named
from tests.unit.engine.test_vllm_plans import PARIS, grammar_accepts

TOOLS = (declared("get_weather"), declared("get_time"))

HEAD = "{{- '<|im_start|>assistant\\n' if add_generation_prompt }}"
CHATML = (
    """{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content }}
    {%- if loop.first and tools %}{{ tools | tojson }}{% endif %}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
        {{- call.function.arguments | tojson + '}\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}"""
    + HEAD
)
"""A small template in the form of Hermes, of which each test spoils one thing."""


def refusing(condition: str, words: str) -> str:
    check = "{%- for message in messages %}{%- if " + condition + " %}"
    return check + "{{- raise_exception('" + words + "') }}{%- endif %}{%- endfor %}" + CHATML


def spoiled(old: str, new: str) -> str:
    assert old in CHATML
    return CHATML.replace(old, new)


async def found(chat_template: str, **options: Any) -> dict[Subject, str]:
    return limits(await proved(parts_of(chat_template, **options)))


@pytest.mark.parametrize("chat_template", [CHATML, "embedded"], ids=["small", "embedded"])
async def test_all_holds(chat_template: str) -> None:
    text = template("embedded") if chat_template == "embedded" else CHATML
    findings = await proved(parts_of(text))
    assert not limits(findings)
    proofs = {finding.subject for finding in findings.each}
    reasons = {Subject.REASONING} if chat_template == "embedded" else set[Subject]()
    assert proofs == set(Subject) - {Subject.REASONING} | reasons


@pytest.mark.parametrize("name", ["removes", "thinking_chatml", "roles", "headers", "brackets"])
async def test_tools_are_taken_by_the_templates_of_the_tests(name: str) -> None:
    findings = await proved(parts_of(template(name), stop=STOP_TOKENS[name]))
    assert findings.hold(Subject.TOOL_CALLS)
    assert findings.hold(Subject.REQUIRED_CALLS)


async def test_a_tokenizer_that_writes_messages_itself() -> None:
    findings = await proved(mistral_parts())
    assert findings.hold(Subject.PARALLEL_CALLS)
    assert findings.hold(Subject.REQUIRED_CALLS)
    limited = limits(findings)
    assert list(limited) == [
        Subject.TOOL_CALLS,
        Subject.SCHEMAS,
        Subject.APPENDING,
        Subject.HISTORY,
    ]
    assert "either content or tool_calls, but not both" in limited[Subject.TOOL_CALLS]


TOOLS_REFUSED = {
    "not shown": (
        spoiled("{%- if loop.first and tools %}{{ tools | tojson }}{% endif %}", ""),
        "the chat template leaves out the tools",
    ),
    "no calls": (
        refusing("message.tool_calls", "No calls"),
        "the chat template refuses a conversation that has the result of a call (No calls)",
    ),
    "no role for tools": (
        refusing("message.role == 'tool'", "Roles are user and assistant"),
        (
            "the chat template refuses a conversation that has the result of a call "
            "(Roles are user and assistant)"
        ),
    ),
    "no results": (
        spoiled("+ message.content }}", "+ (message.content if message.role != 'tool' else '') }}"),
        "the chat template leaves out the result of a call",
    ),
    "one round": (
        refusing("loop.index0 > 3", "Four messages"),
        (
            "the chat template refuses a conversation that has the results of a second call "
            "(Four messages)"
        ),
    ),
    "calls that are not read": (
        spoiled('{"name": "', '{"function": "'),
        "of a call, the parser reads no call",
    ),
    "other names": (
        spoiled("+ call.function.name +", "+ call.function.name + '2' +"),
        "of a call, the parser reads another name of the tool",
    ),
    "other arguments": (
        spoiled("arguments | tojson", "arguments | string | tojson"),
        "of a call, the parser reads",
    ),
    "no parser": (
        spoiled("<tool_call>", "<call>").replace("</tool_call>", "</call>"),
        "their calls could not be read, since the chat template contains no known form",
    ),
}


@pytest.mark.parametrize(("chat_template", "why"), TOOLS_REFUSED.values(), ids=TOOLS_REFUSED)
async def test_tools_are_refused(chat_template: str, why: str) -> None:
    sentence = (await found(chat_template))[Subject.TOOL_CALLS]
    assert sentence.startswith(f"tools are refused: {why}")


async def test_a_parser_that_does_not_fit_the_tokenizer() -> None:
    sentence = (await found("<|tool_call_start|>" + CHATML))[Subject.TOOL_CALLS]
    assert sentence.startswith("tools are refused: their calls could not be read, since")
    assert "LFM2" in sentence


async def test_objects_that_are_not_written_as_json() -> None:
    chat_template = spoiled(
        "call.function.arguments | tojson +",
        "('{}' if call.function.arguments.place else call.function.arguments | tojson) +",
    )
    limited = await found(chat_template)
    assert limited == {
        Subject.TOOL_CALLS: "of a call with an object or a list in its arguments, the parser reads "
        "other arguments"
    }


async def test_text_before_a_call_that_is_lost() -> None:
    chat_template = spoiled('\\n{"name": "', '\\n\' + message.content + \'{"name": "')
    assert "a call with text before it" in (await found(chat_template))[Subject.TOOL_CALLS]


async def test_calls_that_the_history_leaves_out() -> None:
    begin, end = CHATML.index("{%- for call"), CHATML.index("{{- '<|im_end|>")
    marks = "{#- <tool_call> #}"
    limited = await found(marks + CHATML[:begin] + CHATML[end:])
    assert "leaves calls out of the history" in limited[Subject.TOOL_CALLS]


ONE_CALL = {
    "two are refused": refusing("message.tool_calls and message.tool_calls | length > 1", "One!"),
    "one is left out": spoiled("message.tool_calls or []", "(message.tool_calls or [])[:1]"),
    "one result is left out": spoiled(
        "+ message.content }}",
        "+ (message.content if message.role != 'tool' or loop.previtem.role != 'tool' else '') }}",
    ),
}


@pytest.mark.parametrize("chat_template", ONE_CALL.values(), ids=ONE_CALL)
async def test_a_step_makes_one_call(chat_template: str) -> None:
    parts = parts_of(chat_template)
    limited = limits(await proved(parts))
    assert list(limited) == [Subject.PARALLEL_CALLS]
    assert limited[Subject.PARALLEL_CALLS].startswith("a step makes one call, and ends after it: ")
    for choice in (ToolChoice(), REQUIRED):
        plan = parts.plans.plan(TOOLS, choice)
        assert plan.calls_max == 1
        tag = cast("Any", plan.structured_outputs).structural_tag
        call = f'<tool_call>\n{{"name": "get_time", "arguments": {PARIS}}}\n</tool_call>'
        assert grammar_accepts(tag, call)
        assert not grammar_accepts(tag, call * 2)


@pytest.fixture
def other_grammar() -> Generator[str]:
    """A parser of Hermes's form whose grammar of required calls is another, as Mistral's is."""
    tokenizer()  # first, since it imports vLLM as precall does
    from vllm.sampling_params import StructuredOutputsParams
    from vllm.tool_parsers import ToolParserManager

    from precall_service.engine.vllm.call_parsers import HermesCallParser

    class OtherGrammar(HermesCallParser):
        structural_tag_model = None
        supports_required_and_named = False

        def adjust_request(self, request: Any) -> Any:
            choice = request.tool_choice
            if request.tools and not (isinstance(choice, str) and choice in {"auto", "none"}):
                request.structured_outputs = StructuredOutputsParams(json={"type": "object"})
            return request

    ToolParserManager.register_module("other_grammar", module=OtherGrammar)
    yield "other_grammar"
    del ToolParserManager.tool_parsers["other_grammar"]


async def test_required_calls_are_held_in_the_form_of_the_template(other_grammar: str) -> None:
    parts = parts_of(CHATML, tool_parser=other_grammar)
    findings = await proved(parts)
    assert findings.on(Subject.REQUIRED_CALLS) == Finding(
        Subject.REQUIRED_CALLS,
        Standing.HOLDS,
        "a required or named call is held by a grammar, one in a step",
    )
    plan = parts.plans.plan(TOOLS, REQUIRED)
    assert plan.request.tool_choice == "auto", "its parser must read the template's form"
    tag = cast("Any", plan.structured_outputs).structural_tag
    call = '<tool_call>\n{{"name": "{}", "arguments": {}}}\n</tool_call>'.format
    assert grammar_accepts(tag, call("get_weather", PARIS))
    assert grammar_accepts(tag, call("get_time", PARIS))
    assert not grammar_accepts(tag, call("get_time", "{}"))
    assert not grammar_accepts(tag, "{}")
    tag = cast("Any", parts.plans.plan(TOOLS, named("get_time")).structured_outputs).structural_tag
    assert grammar_accepts(tag, call("get_time", PARIS))
    assert not grammar_accepts(tag, call("get_weather", PARIS))


async def test_a_grammar_that_no_parser_reads_is_not_used(other_grammar: str) -> None:
    chat_template = spoiled("arguments | tojson", "arguments | tojson(indent=2)")
    parts = parts_of(chat_template, tool_parser=other_grammar)
    limited = limits(await proved(parts))
    assert "ends with NO_CALL" in limited[Subject.REQUIRED_CALLS]
    assert Subject.TOOL_CALLS not in limited
    assert parts.plans.plan(TOOLS, REQUIRED).structured_outputs is None


async def test_ids_in_the_form_of_a_call_may_be_any(other_grammar: str) -> None:
    chat_template = spoiled(
        "+ '}\\n</tool_call>'", "+ ', \"id\": \"' + call.id + '\"}\\n</tool_call>'"
    )
    parts = parts_of(chat_template, tool_parser=other_grammar)
    assert Subject.REQUIRED_CALLS not in limits(await proved(parts))
    tag = cast("Any", parts.plans.plan(TOOLS, REQUIRED).structured_outputs).structural_tag
    call = f'<tool_call>\n{{"name": "get_time", "arguments": {PARIS}, "id": "%s"}}\n</tool_call>'
    assert grammar_accepts(tag, call % "abcDEF123")
    assert not grammar_accepts(tag, call % "abc")


async def test_no_grammar_for_calls() -> None:
    limited = await found(template("brackets"), stop=STOP_TOKENS["brackets"])
    assert "vLLM has no grammar" in limited[Subject.SCHEMAS]
    limited = await found(CHATML, structured_calls=False)
    assert limited == {
        Subject.SCHEMAS: "calls are checked once they are written, not held to their schemas: "
        "engine.structured_calls is off"
    }


@pytest.mark.parametrize(
    ("chat_template", "subject", "sentence"),
    [
        (
            refusing("message.role == 'system'", "No system"),
            Subject.SYSTEM_PROMPTS,
            "the chat template refuses a conversation that has the system prompt (No system)",
        ),
        (
            spoiled(
                "+ message.content }}", "+ (message.content if message.role != 'system' else '') }}"
            ),
            Subject.SYSTEM_PROMPTS,
            "the chat template leaves out the system prompt",
        ),
        (
            refusing("not tools", "Only with tools"),
            Subject.CONVERSATIONS,
            (
                "the chat template refuses a conversation that has several turns without tools "
                "(Only with tools)"
            ),
        ),
        (
            refusing("tools is none and loop.index0 > 1", "One question"),
            Subject.CONVERSATIONS,
            (
                "the chat template refuses a conversation that has several turns without tools "
                "(One question)"
            ),
        ),
    ],
)
async def test_what_a_template_refuses(chat_template: str, subject: Subject, sentence: str) -> None:
    assert (await found(chat_template))[subject] == sentence


async def test_history_that_is_rewritten() -> None:
    chat_template = spoiled(
        "+ message.content }}",
        "+ (message.content if loop.last or message.role != 'assistant' else '...') }}",
    )
    assert "changes earlier messages" in (await found(chat_template))[Subject.HISTORY]


async def test_reasoning_that_history_drops_is_as_it_should_be() -> None:
    findings = await proved(parts_of(template("embedded")))
    history = findings.on(Subject.HISTORY)
    assert history is not None
    assert not history.limits
    assert history.sentence.endswith("unless the model has reasoned")


async def test_a_message_without_an_end() -> None:
    limited = await found(template("plain"), stop=STOP_TOKENS["plain"])
    assert limited[Subject.APPENDING].startswith("the prompt after an answer is rendered afresh")


async def test_results_that_depend_on_earlier_messages() -> None:
    chat_template = spoiled(
        "+ message.content }}",
        "+ message.content }}{{- loop.index if message.role == 'tool' }}",
    )
    limited = await found(chat_template)
    assert list(limited) == [Subject.APPENDING]
    assert "the prompt after a call or a text with a call is" in limited[Subject.APPENDING]


async def test_thoughts_that_no_parser_reads() -> None:
    chat_template = template("thinking_chatml")
    limited = await found(chat_template, reasoning_parser="none")
    assert "thoughts stay in the text" in limited[Subject.REASONING]


async def test_a_message_without_a_thought() -> None:
    """The parser of Qwen3 takes what comes before the end of a thought as one."""
    limited = await found(template("thinking_chatml"))
    assert "does not think is taken for a thought" in limited[Subject.REASONING]


async def test_each_finding_that_limits_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer()
    from precall_service.engine.vllm.proof import warn_of

    findings = Findings(
        (
            Finding(Subject.CONVERSATIONS, Standing.HOLDS, "all of them"),
            Finding(Subject.SYSTEM_PROMPTS, Standing.FAILS, "none of them"),
            Finding(Subject.PARALLEL_CALLS, Standing.LIMITED, "one of them"),
        )
    )
    with caplog.at_level(logging.INFO, logger="precall_service"):
        warn_of(findings)
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "system prompts: none of them"),
        ("WARNING", "parallel calls: one of them"),
    ]
