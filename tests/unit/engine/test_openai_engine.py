"""The remote backend, against a scripted server: what it asks, and what it reads."""

from __future__ import annotations

from typing import Any

import pytest

from precall_service.domain.events import TokenUsage
from precall_service.domain.messages import (
    AssistantMessage,
    ToolCall,
    ToolMessage,
    Transcript,
    UserMessage,
)
from precall_service.domain.turn import GenerationSettings
from precall_service.engine.base import (
    CallUnreadable,
    Finish,
)
from precall_service.engine.vllm.token_prompt import TokenPrompt
from tests.support.openai_engine import QUESTION, WEATHER, answered, engine_on
from tests.support.openai_server import (
    OpenAiServer,
    call,
    counted,
    delta,
    streamed,
    whole,
)
from tests.support.steps import NONE, REQUIRED, heard, named, step_spec

CALL = '{"city":"Rome"}'


class TestReading:
    async def test_text_reasoning_and_usage(self) -> None:
        said = await answered(
            streamed(
                delta(role="assistant", content=""),
                delta(reasoning_content="Hm. "),
                delta(reasoning="Yes."),
                delta(content="It "),
                delta(content="rains."),
                delta("stop"),
                counted(),
            )
        )
        assert (said.text, said.reasoning) == ("It rains.", "Hm. Yes.")
        assert said.end.finish is Finish.STOP
        assert said.end.usage == TokenUsage(
            input_tokens=30, cached_tokens=16, output_tokens=7, reasoning_tokens=2
        )

    @pytest.mark.parametrize(
        "parts",
        [
            [call("get_weather", "", call_id="a"), call(None, '{"city":'), call(None, '"Rome"}')],
            [call("get_weather", CALL, call_id="a")],
            [call("get_weather", CALL, call_id="a", index=None)],
            [call("get_weather", '{"city":', call_id="a"), call("get_weather", '"Rome"}')],
        ],
        ids=["in parts", "whole", "without an index", "with the name repeated"],
    )
    async def test_a_call(self, parts: list[Any]) -> None:
        said = await answered(
            streamed(*(delta(tool_calls=[part]) for part in parts), delta("tool_calls"))
        )
        assert [(made.tool_name, made.arguments_json) for made in said.calls] == [
            ("get_weather", CALL)
        ]

    @pytest.mark.parametrize("indices", [(0, 1), (0, 0), (None, None)])
    async def test_several_calls(self, indices: tuple[int | None, int | None]) -> None:
        """Servers that give no index, or the same for all, tell calls apart by their ids."""
        first, second = indices
        said = await answered(
            streamed(
                delta(tool_calls=[call("get_weather", CALL, index=first, call_id="a")]),
                delta(tool_calls=[call("get_weather", "{}", index=second, call_id="b")]),
                delta("tool_calls"),
            )
        )
        assert [made.arguments_json for made in said.calls] == [CALL, "{}"]

    async def test_calls_of_one_part(self) -> None:
        both = [call("get_weather", CALL, index=None), call("get_time", "{}", index=None)]
        said = await answered(streamed(delta("tool_calls", tool_calls=both)))
        assert [made.tool_name for made in said.calls] == ["get_weather", "get_time"]

    async def test_arguments_that_are_no_text(self) -> None:
        part = call("get_weather", "") | {
            "function": {"name": "get_weather", "arguments": {"city": "Rome"}}
        }
        said = await answered(streamed(delta("tool_calls", tool_calls=[part])))
        assert said.arguments == [{"city": "Rome"}]

    async def test_a_call_without_arguments(self) -> None:
        said = await answered(
            streamed(delta("tool_calls", tool_calls=[call("get_weather", "")]), counted())
        )
        assert said.arguments == [{}]

    async def test_arguments_that_are_no_object_cannot_be_read(self) -> None:
        part = call("get_weather", '{"city": "Ro')
        said = await answered(streamed(delta("tool_calls", tool_calls=[part])))
        assert not said.calls
        (unreadable,) = [each for each in said.pieces if isinstance(each, CallUnreadable)]
        assert "write the whole call again" in unreadable.problem

    async def test_a_call_that_a_limit_cuts_is_not_complete(self) -> None:
        part = call("get_weather", '{"city": "Ro')
        said = await answered(streamed(delta("length", tool_calls=[part])))
        assert said.end.finish is Finish.LENGTH
        assert not said.calls

    async def test_a_stop_text_is_known_if_the_server_tells_it(self) -> None:
        last = delta("stop")
        last["choices"][0]["stop_reason"] = "END"
        said = await answered(streamed(delta(content="Yes."), last))
        assert said.end.stop_text == "END"

    async def test_without_usage_the_parts_are_counted(self) -> None:
        said = await answered(streamed(delta(content="a"), delta(content="b"), delta("stop")))
        assert said.end.usage == TokenUsage(output_tokens=2)

    async def test_a_server_that_keeps_to_no_limit_is_cut(self) -> None:
        parts = [delta(content="y") for _ in range(100)]
        said = await answered(
            streamed(*parts, hangs=True), spec=step_spec(max_tokens=10, tools=(WEATHER,))
        )
        assert said.end.finish is Finish.LENGTH
        assert len(said.text) == 11

    async def test_an_answer_as_a_whole(self) -> None:
        """As draft models are read whose streamed calls their servers get wrong."""
        made = {"id": "a", "type": "function", "function": {"name": "f", "arguments": CALL}}
        message = {"content": "Well.", "tool_calls": [made]}
        said = await answered(whole(message, "tool_calls"), streams=False)
        assert said.text == "Well."
        assert [each.arguments_json for each in said.calls] == [CALL]
        assert said.end.usage.output_tokens == 7


class TestAsking:
    async def test_everything_that_a_step_sets(self) -> None:
        server = OpenAiServer()
        generation = GenerationSettings(
            temperature=0.5,
            top_p=0.9,
            top_k=20,
            seed=7,
            stop=("END",),
            presence_penalty=0.1,
            frequency_penalty=0.2,
        )
        async with engine_on(server) as engine:
            spec = step_spec(
                max_tokens=9,
                tools=(WEATHER,),
                tool_choice=named("get_weather"),
                generation=generation,
                template_variables={"enable_thinking": False},
            )
            await heard(engine.generate(await engine.render(QUESTION), spec))
        (body,) = server.asked
        function = {"name": "get_weather"}
        assert body["tool_choice"] == {"type": "function", "function": function}
        assert body["tools"][0]["function"]["parameters"] == dict(WEATHER.input_schema)
        for name, value in {
            "model": "tiny", "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_k": 20,
            "seed": 7, "stop": ["END"], "presence_penalty": 0.1, "frequency_penalty": 0.2,
            "chat_template_kwargs": {"enable_thinking": False}, "stream": True,
        }.items():  # fmt: skip
            assert body[name] == value, name
        assert "cache_salt" not in body, "only vLLM's server is known to take it"
        assert "Bearer a secret" in server.headers[-1]

    async def test_what_a_step_leaves_out_is_left_out(self) -> None:
        server = OpenAiServer()
        async with engine_on(server, limit_field="max_completion_tokens") as engine:
            prompt = await engine.render(Transcript(messages=(UserMessage(text="Hi"),)))
            spec = step_spec(max_tokens=9999, generation=GenerationSettings())
            await heard(engine.generate(prompt, spec))
        assert set(server.asked[0]) == {
            "model", "messages", "max_completion_tokens", "stream", "stream_options",
        }  # fmt: skip
        assert server.asked[0]["max_completion_tokens"] == 4096

    @pytest.mark.parametrize("choice", [NONE, REQUIRED])
    async def test_tools_are_sent_with_every_choice(self, choice: Any) -> None:
        """So the prompt of a turn stays the same, and with it what the server has cached."""
        server = OpenAiServer()
        async with engine_on(server) as engine:
            spec = step_spec(tools=(WEATHER,), tool_choice=choice)
            await heard(engine.generate(await engine.render(QUESTION), spec))
        assert server.asked[0]["tool_choice"] == choice.mode.value
        assert server.asked[0]["tools"]

    @pytest.mark.parametrize("field", [None, "reasoning", "reasoning_content"])
    async def test_a_step_continues_with_the_results(self, field: str | None) -> None:
        """Calls keep the ids that the server gave them. Reasoning is sent back if that is set."""
        server = OpenAiServer()
        async with engine_on(server, reasoning_field=field) as engine:
            prompt = await engine.render(QUESTION)
            said = await heard(engine.generate(prompt, step_spec(tools=(WEATHER,))))
            made = ToolCall(
                call_id="ours", tool_name="get_weather", arguments_json=CALL, written_id="theirs"
            )
            message = AssistantMessage(text="", reasoning="Hm.", tool_calls=(made,))
            transcript = Transcript(
                messages=(*QUESTION.messages, message),
                tools=QUESTION.tools,
                system_prompt=QUESTION.system_prompt,
            )
            result = ToolMessage(call_id="ours", tool_name="get_weather", text="Sun.")
            longer = await engine.append(prompt, said.end, transcript, [result])
            await heard(engine.generate(longer, step_spec(tools=(WEATHER,))))
        function = {"name": "get_weather", "arguments": CALL}
        assert server.asked[1]["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "How is the weather?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "theirs", "type": "function", "function": function}],
                **({field: "Hm."} if field else {}),
            },
            {"role": "tool", "tool_call_id": "theirs", "content": "Sun."},
        ]

    @pytest.mark.parametrize(("share", "salted"), [(False, True), (True, False)])
    async def test_tenants_do_not_share_the_cache_of_vllm_s_server(
        self, share: bool, salted: bool
    ) -> None:
        server = OpenAiServer(models=[{"id": "tiny", "object": "model", "owned_by": "vllm"}])
        async with engine_on(server, share_prefix_cache=share) as engine:
            spec = step_spec(tenant="ann")
            await heard(engine.generate(await engine.render(QUESTION), spec))
        assert (server.asked[0].get("cache_salt") == "ann") is salted

    async def test_a_prompt_of_another_backend_is_a_defect(self) -> None:
        async with engine_on(OpenAiServer()) as engine:
            with pytest.raises(TypeError, match="TokenPrompt"):
                await heard(engine.generate(TokenPrompt((1, 2)), step_spec()))
