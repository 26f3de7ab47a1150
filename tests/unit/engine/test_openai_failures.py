"""The remote backend, against a scripted server that fails, stalls, lies or dies."""

from __future__ import annotations

import asyncio

import pytest

from precall_service.domain.errors import Reason, ServiceError
from precall_service.engine.base import (
    EngineDiedError,
    EngineStartError,
    GenerationFailedError,
    GenerationRefusedError,
)
from precall_service.engine.openai import engine as remote
from precall_service.engine.openai.errors import ServerBusyError
from tests.support.openai_engine import QUESTION, WEATHER, answered, config, connected, engine_on
from tests.support.openai_server import (
    SAYS_HI,
    OpenAiServer,
    Sent,
    call,
    delta,
    refused,
    streamed,
)
from tests.support.steps import heard, step_spec

CALL = '{"city":"Rome"}'


class TestFailing:
    @pytest.mark.parametrize(
        ("answer", "error", "words"),
        [
            (refused("400 Bad Request", "too long"), GenerationRefusedError, "too long"),
            (refused("401 Unauthorized", "bad key"), GenerationFailedError, "bad key"),
            (refused("404 Not Found", "no model"), GenerationFailedError, "no model"),
            (refused("500 Oh", "on fire"), GenerationFailedError, "status 500 .on fire"),
            (refused("503 No", ""), GenerationFailedError, "status 503"),
            (Sent(b"<html>", "502 Bad Gateway"), GenerationFailedError, "status 502"),
            (Sent(b"data: {\n\n"), GenerationFailedError, "no answer"),
            (Sent(b"data: []\n\n"), GenerationFailedError, "no answer"),
            (Sent(b""), GenerationFailedError, "broke its answer off"),
            (streamed(delta(content="Hal"), done=False), GenerationFailedError, "broke its answer"),
            (streamed({"choices": "x"}), GenerationFailedError, "no answer"),
            (streamed({"choices": [{"delta": {"content": 3}}]}), GenerationFailedError, "answer"),
            (streamed({"error": {"message": "late"}}), GenerationFailedError, "late"),
            (streamed(delta(tool_calls=[call(None, "{}")])), GenerationFailedError, "name"),
            (streamed(delta("content_filter")), GenerationFailedError, "filter"),
            (
                Sent(b"5\r\ndata:\r\n", headers=("Transfer-Encoding: chunked",)),
                GenerationFailedError,
                "broke the connection",
            ),
        ],
        ids=lambda value: value.status + str(value.body[:40]) if isinstance(value, Sent) else "",
    )
    async def test_a_failure_is_one_clear_error(
        self, answer: Sent, error: type[ServiceError], words: str
    ) -> None:
        with pytest.raises(error, match=words):
            await answered(answer)

    async def test_a_long_answer_to_a_step_is_cut_and_kept_in_one_line(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with pytest.raises(GenerationFailedError) as caught:
            await answered(Sent(b"<p>\n" * 100_000, "502 Bad Gateway"))
        (logged,) = [each.getMessage() for each in caplog.records if "step" in each.getMessage()]
        for told in (str(caught.value), logged):
            assert len(told) < 1_000
            assert "\n" not in told

    async def test_a_server_that_is_busy_says_when_to_try_again(self) -> None:
        with pytest.raises(ServerBusyError, match="slow down") as caught:
            await answered(refused("429 Too Many Requests", "slow down", "Retry-After: 7"))
        assert caught.value.reason is Reason.OVERLOADED
        assert caught.value.retry_after_s == 7.0

    async def test_a_step_that_was_refused_for_now_is_tried_again(self) -> None:
        busy = refused("429 Too Many Requests", "slow down", "Retry-After-Ms: 1")
        server = OpenAiServer([busy, SAYS_HI])
        async with engine_on(server, tries_max=2) as engine:
            said = await heard(engine.generate(await engine.render(QUESTION), step_spec()))
        assert said.text == "Hi"
        assert len(server.asked) == 2

    async def test_a_server_that_stalls_costs_its_time_limit_and_one_turn(self) -> None:
        stalled = streamed(delta(content="Hal"), done=False, hangs=True)
        server = OpenAiServer([stalled, SAYS_HI])
        async with engine_on(server, answer_timeout_s=0.2) as engine:
            prompt = await engine.render(QUESTION)
            with pytest.raises(GenerationFailedError, match="in time"):
                await heard(engine.generate(prompt, step_spec()))
            assert (await heard(engine.generate(prompt, step_spec()))).text == "Hi"
            assert (await engine.load()).running == 0

    async def test_an_endless_line_is_cut(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from precall_service.engine.openai import connection

        monkeypatch.setattr(connection, "ANSWER_BYTES_MAX", 10_000)
        with pytest.raises(GenerationFailedError, match="more than 10000 bytes"):
            await answered(Sent(b"data: " + b"y" * 20_000, hangs=True))

    async def test_closing_a_generation_closes_its_connection(self) -> None:
        server = OpenAiServer([streamed(delta(content="Hi"), done=False, hangs=True)])
        async with engine_on(server) as engine:
            generation = engine.generate(await engine.render(QUESTION), step_spec())
            await anext(generation)
            assert (await engine.load()).running == 1
            await generation.aclose()
            await asyncio.wait_for(server.closed_early.wait(), 10)
            assert (await engine.load()).running == 0


class TestHanging:
    @pytest.mark.parametrize("end", ["kill", "close"])
    async def test_what_waits_for_a_server_that_is_given_up_dies_with_it(self, end: str) -> None:
        server = OpenAiServer([streamed(delta(content="Hi"), done=False, hangs=True)])
        async with engine_on(server) as engine:
            generation = engine.generate(await engine.render(QUESTION), step_spec())
            await anext(generation)
            waiting = asyncio.ensure_future(anext(generation))
            await asyncio.sleep(0)
            await getattr(engine, end)()
            async with asyncio.timeout(10):
                with pytest.raises(EngineDiedError):
                    await waiting
                await engine.wait_dead()

    async def test_parts_of_answers_and_probes_are_signs_of_life(self) -> None:
        server = OpenAiServer([SAYS_HI])
        async with engine_on(server, probe_s=0.01) as engine:
            began = engine.progress
            async with asyncio.timeout(10):
                while engine.progress == began:  # noqa: ASYNC110  (a probe sets no event)
                    await asyncio.sleep(0)
        async with engine_on(OpenAiServer([SAYS_HI])) as engine:
            began = engine.progress
            await engine.load()
            assert engine.progress == began, "the server was not asked"
            await heard(engine.generate(await engine.render(QUESTION), step_spec()))
            assert engine.progress > began


class TestStart:
    async def test_what_is_known_of_it(self) -> None:
        server = OpenAiServer()
        async with engine_on(server, model=None) as engine:
            info = engine.info
            assert info.model == "tiny"
            assert server.url in info.name
            assert info.sequences_max == 4
            assert (info.kv_tokens, info.context_tokens_max) == (None, None)
            prompt = await engine.render(QUESTION)
            assert prompt.tokens is None
            assert await engine.judge([WEATHER], "tenant") == [()]
            assert await engine.branch(prompt, (), step_spec()) is None
        assert not server.asked, "nothing is generated at the start"

    async def test_the_context_window_that_the_server_tells(self) -> None:
        models = [{"id": "tiny", "object": "model", "max_model_len": 8192}]
        async with engine_on(OpenAiServer(models=models)) as engine:
            assert engine.info.context_tokens_max == 8192
        async with engine_on(OpenAiServer(models=models), context_tokens_max=4096) as engine:
            assert engine.info.context_tokens_max == 4096

    async def test_a_server_that_lists_no_models_is_taken_at_its_word(self) -> None:
        async with engine_on(OpenAiServer(models=None), model="any") as engine:
            assert engine.info.model == "any"

    @pytest.mark.parametrize(
        ("server", "model", "words"),
        [
            (OpenAiServer(), "other", "has tiny"),
            (OpenAiServer(models=[]), None, "name a model"),
            (OpenAiServer(models=None), None, "name a model"),
            (OpenAiServer(models_status="401 Unauthorized"), "tiny", "PRECALL_OPENAI__API_KEY"),
            (OpenAiServer(models_status="500 Oh"), "tiny", "--url"),
        ],
    )
    async def test_what_keeps_it_from_starting(
        self, server: OpenAiServer, model: str | None, words: str
    ) -> None:
        async with server.running():
            with pytest.raises(EngineStartError, match=words):
                await connected(server, model=model)

    async def test_no_server_at_all(self) -> None:
        server = OpenAiServer()
        async with server.running():
            pass
        with pytest.raises(EngineStartError, match="lists no models"):
            await connected(server)

    async def test_a_key_is_never_shown(self) -> None:
        assert "a secret" not in repr(config("http://localhost"))


class TestDeath:
    async def test_a_server_that_no_longer_answers_is_dead(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(remote, "PROBES_MAX", 2)
        server = OpenAiServer()
        async with server.running():
            engine = await connected(server, probe_s=0.01)
        await asyncio.wait_for(engine.wait_dead(), 10)
        assert "does not answer" in await engine.cause_of_death()
        await engine.close()

    async def test_a_server_that_refuses_a_probe_lives(self) -> None:
        server = OpenAiServer()
        async with engine_on(server, probe_s=0.001) as engine:
            server.models_status = "403 Forbidden"
            for _ in range(remote.PROBES_MAX + 2):
                await asyncio.wait_for(server.listed.acquire(), 10)
            said = await heard(engine.generate(await engine.render(QUESTION), step_spec()))
            assert said.text == "Hi"
            dead = asyncio.ensure_future(engine.wait_dead())
            await asyncio.sleep(0)
            assert not dead.done()
            dead.cancel()
