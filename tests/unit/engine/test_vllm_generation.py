"""The request to vLLM for a step, and the errors for each way in which vLLM ends one.

A stand-in takes the place of vLLM.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from precall_service.domain.errors import Reason
from precall_service.domain.tools import ToolDeclaration
from precall_service.engine.base import (
    CallBegun,
    EngineDiedError,
    Finish,
    GenerationFailedError,
    GenerationRefusedError,
    StepSpec,
)
from precall_service.engine.vllm.token_prompt import TokenPrompt
from tests.support.prompt_renderers import model_config, tokenizer
from tests.support.steps import declared, heard, step_spec

if TYPE_CHECKING:  # importing vLLM is slow, and it reads environment variables that are set later
    from precall_service.engine.vllm.engine import VllmEngine

WEATHER = declared("get_weather")


class FakeLlm:
    """An AsyncLLM that keeps its request and ends for the reason given, or raises the error."""

    def __init__(self, finish_reason: str, error: Exception | None) -> None:
        self._finish_reason = finish_reason
        self._error = error
        self.prompt: dict[str, Any] = {}
        self.options: dict[str, Any] = {}

    async def generate(
        self, prompt: Any, _params: Any, request_id: str, **options: Any
    ) -> AsyncGenerator[Any]:
        from vllm.outputs import CompletionOutput, RequestOutput

        self.prompt, self.options = prompt, options
        if self._error is not None:
            raise self._error
        completion = CompletionOutput(
            0, "Hi", [5, 6], None, None, finish_reason=self._finish_reason
        )
        yield RequestOutput(request_id, None, None, None, [completion], finished=True)


class FakeProcesses:
    """Processes that have died, or that live on."""

    def __init__(self, *, dead: bool) -> None:
        self.output_handler: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if dead:
            self.output_handler.set_result(None)


class GrammarsMadeHere:
    """As a GrammarMaker, without a process."""

    async def of(self, tools: Sequence[ToolDeclaration], tenant: str) -> list[Any]:
        from precall_service.engine.vllm.grammars import AS_JSON
        from precall_service.engine.vllm.tool_grammars import tool_grammar

        return [tool_grammar(tool.input_schema, [AS_JSON]) for tool in tools]


async def generated(
    spec: StepSpec,
    *,
    finish_reason: str = "stop",
    error: Exception | None = None,
    dead: bool = False,
    reasoning: str | None = None,
    share_prefix_cache: bool = False,
) -> FakeLlm:
    llm = FakeLlm(finish_reason, error)
    engine = engine_of(llm, dead=dead, reasoning=reasoning, share_prefix_cache=share_prefix_cache)
    await heard(engine.generate(TokenPrompt((1, 2, 3)), spec))
    return llm


def engine_of(
    llm: Any,
    *,
    dead: bool = False,
    reasoning: str | None = None,
    share_prefix_cache: bool = False,
    calls_max: int | None = None,
    verify: Callable[[Any], None] | None = None,
) -> VllmEngine:
    model_tokenizer = tokenizer()  # first, since it imports vLLM as precall does
    from vllm.parser.parser_manager import ParserManager

    from precall_service.engine.vllm.engine import VllmEngine
    from precall_service.engine.vllm.parsing import SpecialTokens
    from precall_service.engine.vllm.planning import Planning
    from precall_service.engine.vllm.plans import StepPlans
    from precall_service.engine.vllm.sampling import StepSampling

    parser_class: Any = ParserManager.get_parser(
        tool_parser_name="hermes", reasoning_parser_name=reasoning, enable_auto_tools=True
    )
    plans = StepPlans(parser_class, model_tokenizer, model_config(), structured_calls=True)
    if calls_max is not None:
        plans.limit_calls()
    processes: Any = FakeProcesses(dead=dead)
    unused: Any = None
    grammars: Any = GrammarsMadeHere()
    return VllmEngine(
        llm,
        info=unused,
        renderer=unused,
        branches=None,
        drafting=None,
        planning=Planning(plans, verify or (lambda _grammar: None)),
        sampling=StepSampling({}),
        grammars=grammars,
        special_tokens=SpecialTokens({}),
        processes=processes,
        stop_timeout_s=1.0,
        share_prefix_cache=share_prefix_cache,
        reasoning_limit=None,
    )


async def test_a_prompt_is_cached_for_its_tenant_alone() -> None:
    llm = await generated(step_spec(tenant="one"))
    assert (llm.prompt["prompt_token_ids"], llm.prompt["cache_salt"]) == ([1, 2, 3], "one")


async def test_an_operator_may_let_tenants_share_the_cache() -> None:
    llm = await generated(step_spec(tenant="one"), share_prefix_cache=True)
    assert "cache_salt" not in llm.prompt


async def test_the_engine_knows_whether_the_template_left_reasoning_out() -> None:
    """Otherwise it waits for the end of reasoning before it holds calls to the grammar."""
    spec = step_spec(tools=(declared("get_weather"),), template_variables={"thinking": False})
    llm = await generated(spec, reasoning="deepseek_v3")
    assert llm.options["reasoning_ended"] is True
    assert llm.options["reasoning_parser_kwargs"] == {"chat_template_kwargs": {"thinking": False}}
    thinking = step_spec(tools=(declared("get_weather"),), template_variables={"thinking": True})
    llm = await generated(thinking, reasoning="deepseek_v3")
    assert llm.options["reasoning_ended"] is False
    assert (await generated(spec)).options["reasoning_parser_kwargs"] is None


async def test_variables_that_a_parser_refuses_are_refused() -> None:
    spec = step_spec(template_variables={"reasoning_effort": "huge"})
    with pytest.raises(GenerationRefusedError, match="Unsupported reasoning_effort 'huge'"):
        await generated(spec, reasoning="k2_horizon")


async def test_tools_that_a_parser_fails_on_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With any error, since vLLM's parsers do not check what they are given."""
    tokenizer()  # first, since it imports vLLM as precall does
    from precall_service.engine.vllm.plans import StepPlans

    def fail(*_arguments: object) -> None:
        raise AttributeError("'int' object has no attribute 'items'")

    monkeypatch.setattr(StepPlans, "_make", fail)
    with pytest.raises(GenerationRefusedError, match="has no attribute 'items'"):
        await generated(step_spec(tools=(declared("get_weather"),)))


async def test_an_abort_by_an_engine_that_dies_is_its_death() -> None:
    """As when its process was told to stop; a client may try again."""
    with pytest.raises(EngineDiedError):
        await generated(step_spec(), finish_reason="abort", dead=True)


async def test_an_abort_by_an_engine_that_lives_fails_the_generation_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer()  # first, since it imports vLLM as precall does
    from precall_service.engine.vllm import engine

    monkeypatch.setattr(engine, "_DEATH_WAIT_S", 0.0)
    with pytest.raises(GenerationFailedError) as caught:
        await generated(step_spec(), finish_reason="abort")
    assert caught.value.reason is Reason.ENGINE_FAILED


async def test_a_generation_that_vllm_gives_up_has_failed() -> None:
    with pytest.raises(GenerationFailedError):
        await generated(step_spec(), finish_reason="error")


async def test_an_error_of_vllm_fails_the_generation() -> None:
    tokenizer()  # first, since it imports vLLM as precall does
    from vllm.v1.engine.exceptions import EngineGenerateError

    with pytest.raises(GenerationFailedError, match="failed on this generation"):
        await generated(step_spec(), error=EngineGenerateError())


@pytest.mark.parametrize(
    ("parameter", "field"),
    [("top_p", "start_turn.generation.top_p"), ("prompt", ""), (None, "")],
)
async def test_input_that_vllm_refuses_is_a_fault_of_the_client(
    parameter: str | None, field: str
) -> None:
    tokenizer()  # first, since it imports vLLM as precall does
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(GenerationRefusedError, match="out of range") as caught:
        await generated(
            step_spec(), error=VLLMValidationError("it is out of range", parameter=parameter)
        )
    assert caught.value.reason is Reason.FIELD_INVALID
    assert caught.value.field == field


async def test_a_value_error_is_no_fault_of_the_client(caplog: pytest.LogCaptureFixture) -> None:
    """AsyncLLM wraps its own errors, so it comes from a parser. It may have no words."""
    with pytest.raises(GenerationFailedError) as caught:
        await generated(step_spec(), error=ValueError())
    assert caught.value.reason is Reason.ENGINE_FAILED
    assert "ValueError" in caplog.text


async def test_a_grammar_that_vllm_refuses_is_refused() -> None:
    tokenizer()  # first, since it imports vLLM as precall does
    from vllm.exceptions import VLLMValidationError

    def refuse(_grammar: object) -> None:
        raise VLLMValidationError("Invalid structural tag specification.")

    engine = engine_of(FakeLlm("stop", None), verify=refuse)
    with pytest.raises(GenerationRefusedError, match="Invalid structural tag"):
        await heard(engine.generate(TokenPrompt((1, 2, 3)), step_spec(tools=(WEATHER,))))


async def test_settings_that_vllm_refuses_without_a_word_are_refused_by_the_errors_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer()  # first, since it imports vLLM as precall does
    from precall_service.engine.vllm.sampling import StepSampling

    def refuse(*_arguments: object, **_options: object) -> None:
        raise ValueError

    monkeypatch.setattr(StepSampling, "params", refuse)
    with pytest.raises(GenerationRefusedError, match="refuses this step: ValueError"):
        await generated(step_spec())


class TalkingLlm:
    """An AsyncLLM that samples these texts, one token each, until it is closed."""

    def __init__(self, texts: list[str], finish_reason: str) -> None:
        self._texts = texts
        self._finish_reason = finish_reason
        self.sampled = 0
        self.closed = False

    async def generate(self, *_: Any, **_options: Any) -> AsyncGenerator[Any]:
        from vllm.outputs import CompletionOutput, RequestOutput

        try:
            for index, text in enumerate(self._texts, start=1):
                self.sampled = index
                last = index == len(self._texts)
                reason = self._finish_reason if last else None
                completion = CompletionOutput(0, text, [index], None, None, finish_reason=reason)
                yield RequestOutput("", None, None, None, [completion], finished=last)
        finally:
            self.closed = True


ONE = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}'
CLOSE = "\n</tool_call>"
SECOND = '<tool_call>\n{"name": "get_weather", '
MORE = '"arguments": {"city": "Oslo"}}\n</tool_call>'


@pytest.mark.parametrize("finish_reason", ["stop", "length"])
@pytest.mark.parametrize(
    ("texts", "sampled", "cut"),
    [
        ([ONE, CLOSE], 2, False),
        ([ONE, CLOSE, SECOND, MORE, "never"], 3, True),
        ([ONE, CLOSE, SECOND], 3, True),
        ([ONE + CLOSE + SECOND + MORE], 1, True),
        (["I look. ", ONE + CLOSE, " And again.", SECOND], 4, True),
    ],
)
async def test_a_step_that_may_make_one_call_ends_when_it_begins_another(
    texts: list[str], sampled: int, cut: bool, finish_reason: str
) -> None:
    llm = TalkingLlm(texts, finish_reason)
    engine = engine_of(llm, calls_max=1)
    said = await heard(engine.generate(TokenPrompt((1, 2, 3)), step_spec(tools=(WEATHER,))))
    assert [call.arguments_json for call in said.calls] == ['{"city": "Rome"}']
    assert not [piece for piece in said.pieces if isinstance(piece, CallBegun) and piece.index]
    assert (llm.sampled, llm.closed) == (sampled, True)
    assert said.end.token_ids == tuple(range(1, sampled + 1))
    assert said.end.cut_after_call == cut
    assert said.end.stray_call is None
    length = finish_reason == "length" and not cut
    assert said.end.finish is (Finish.LENGTH if length else Finish.STOP)


async def test_a_step_without_a_limit_makes_all_its_calls() -> None:
    engine = engine_of(TalkingLlm([ONE + CLOSE, SECOND + MORE], "stop"), calls_max=None)
    said = await heard(engine.generate(TokenPrompt((1, 2, 3)), step_spec(tools=(WEATHER,))))
    assert len(said.calls) == 2
    assert not said.end.cut_after_call
