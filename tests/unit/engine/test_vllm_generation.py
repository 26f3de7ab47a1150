"""What vLLM is asked for a step, and what its ways to end one become; vLLM itself is a stand-in."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from precall_service.engine.base import EngineDiedError, GenerationRefusedError, Prompt, StepSpec
from tests.support.prompt_renderers import model_config, tokenizer
from tests.support.steps import declared, heard, step_spec


class FakeLlm:
    """An AsyncLLM that keeps what it was asked for, and ends for the reason it was given."""

    def __init__(self, finish_reason: str) -> None:
        self._finish_reason = finish_reason
        self.prompt: dict[str, Any] = {}
        self.options: dict[str, Any] = {}

    async def generate(
        self, prompt: Any, _params: Any, request_id: str, **options: Any
    ) -> AsyncGenerator[Any]:
        from vllm.outputs import CompletionOutput, RequestOutput  # noqa: PLC0415

        self.prompt, self.options = prompt, options
        completion = CompletionOutput(
            0, "Hi", [5, 6], None, None, finish_reason=self._finish_reason
        )
        yield RequestOutput(request_id, None, None, None, [completion], finished=True)


async def generated(
    spec: StepSpec,
    *,
    finish_reason: str = "stop",
    reasoning: str | None = None,
    share_prefix_cache: bool = False,
) -> FakeLlm:
    model_tokenizer = tokenizer()  # first, since it imports vLLM as precall does
    from vllm.parser.parser_manager import ParserManager  # noqa: PLC0415

    from precall_service.engine.vllm.engine import VllmEngine  # noqa: PLC0415
    from precall_service.engine.vllm.parsing import SpecialTokens  # noqa: PLC0415
    from precall_service.engine.vllm.sampling import StepPlans  # noqa: PLC0415

    parser_class: Any = ParserManager.get_parser(
        tool_parser_name="hermes", reasoning_parser_name=reasoning, enable_auto_tools=True
    )
    llm: Any = FakeLlm(finish_reason)
    unused: Any = None
    engine = VllmEngine(
        llm,
        info=unused,
        renderer=unused,
        plans=StepPlans(
            parser_class, model_tokenizer, model_config(), structured_calls=True, defaults={}
        ),
        special_tokens=SpecialTokens({}),
        processes=unused,
        stop_timeout_s=1.0,
        share_prefix_cache=share_prefix_cache,
    )
    await heard(engine.generate(Prompt((1, 2, 3)), spec))
    return llm


async def test_a_prompt_is_cached_for_its_tenant_alone() -> None:
    llm = await generated(step_spec(tenant="one"))
    assert (llm.prompt["prompt_token_ids"], llm.prompt["cache_salt"]) == ([1, 2, 3], "one")


async def test_an_operator_may_let_tenants_share_the_cache() -> None:
    llm = await generated(step_spec(tenant="one"), share_prefix_cache=True)
    assert "cache_salt" not in llm.prompt


async def test_the_engine_knows_whether_the_template_left_reasoning_out() -> None:
    """Else it waits for the end of reasoning before it holds calls to the grammar."""
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


async def test_an_abort_that_nobody_here_asked_for_is_the_engines_end() -> None:
    """As when its process was told to stop; a client may try again."""
    with pytest.raises(EngineDiedError):
        await generated(step_spec(), finish_reason="abort")


async def test_a_generation_that_fails_by_itself_is_refused() -> None:
    with pytest.raises(GenerationRefusedError):
        await generated(step_spec(), finish_reason="error")
