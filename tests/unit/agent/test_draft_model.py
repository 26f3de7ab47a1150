"""What the draft model is asked, and that no turn depends on whether and how it answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from precall_service.domain.events import DiscardReason, Predictor, ResultSource
from precall_service.domain.speculation import SpeculationMode, SpeculationSettings
from precall_service.domain.turn import GenerationSettings, ToolChoice, ToolChoiceMode
from precall_service.engine.base import (
    EngineDiedError,
    Feature,
    GenerationFailedError,
    Priority,
    TextPiece,
)
from precall_service.engine.supervisor import EngineState
from precall_service.speculation.limits import DraftModelLimits, SpeculationLimits
from precall_service.speculation.predictors.draft_model import DraftModelPredictor
from tests.support import scripted_template as template
from tests.support.agent import OSLO, ROME, Agent, Client, agent_on, scripted
from tests.support.clock import settle
from tests.support.scripted_engine import INFO, ScriptedEngine
from tests.support.scripts import (
    TICK,
    Item,
    Pause,
    Script,
    always,
    calls,
    never,
    says,
    thinks,
)
from tests.support.speculating import WEATHER, Thinking, answers, reasons, story

DRAFTS = frozenset({Predictor.DRAFT_MODEL})
REQUIRED = ToolChoice(mode=ToolChoiceMode.REQUIRED)
NAMED = ToolChoice(mode=ToolChoiceMode.NAMED, tool_name="weather")


def drafting(
    *steps: Sequence[Item], script: Script | None = None, **fields: object
) -> ScriptedEngine:
    """An engine of a draft model: its samples are these, in order, for all steps."""
    rest = iter(steps)
    info = replace(INFO, **fields)  # pyright: ignore[reportArgumentType]
    return ScriptedEngine(script or (lambda _prompt, _spec: next(rest, ())), info)


@asynccontextmanager
async def there(
    main: ScriptedEngine,
    *drafts: ScriptedEngine,
    limits: DraftModelLimits | None = None,
    **more: float,
) -> AsyncGenerator[Agent]:
    asked = replace(limits or DraftModelLimits(), **more)  # pyright: ignore[reportArgumentType]
    async with agent_on(
        main,
        predictors=[DraftModelPredictor(asked.samples)],
        speculation=SpeculationLimits(
            most=SpeculationSettings(predictors=DRAFTS), draft_model=asked
        ),
        draft_engines=drafts,
    ) as agent:
        yield agent


def running(agent: Agent) -> int:
    draft_model = agent.speculation.draft_model
    assert draft_model is not None
    return draft_model.running


def slowly(*items: Item) -> list[Item]:
    """A step before which other tasks run."""
    return [*[TICK] * 20, *items]


async def finish(client: Client, thinking: Thinking) -> None:
    """Lets the model make its call and answer."""
    await thinking.on()
    await thinking.on(1)


async def test_a_call_of_the_draft_model_runs_early_and_answers_the_models() -> None:
    thinking = Thinking()
    main = scripted(thinking.then(ROME), thinking.then())
    async with there(main, drafting(calls(ROME), calls(ROME), calls(OSLO))) as agent:
        client = agent.open(WEATHER)
        await client.send()
        assert story(client) == [
            "proposed weather Rome",
            "launched weather Rome",
            "proposed weather Oslo",
            "launched weather Oslo",
        ]
        await client.answer(0, '"sunny"')
        await finish(client, thinking)
        assert answers(client) == [(ResultSource.SPECULATIVE, '"sunny"')]
        assert "discarded weather Oslo: MISMATCH" in story(client)


async def test_the_draft_model_sees_the_transcript_in_its_own_template() -> None:
    main = scripted(
        slowly(*thinks("hm"), *calls(ROME)), slowly(*says("Sunny.")), slowly(*says("Bye."))
    )
    engine = drafting(script=always(says("no call")))
    async with there(main, engine, samples=1) as agent:
        client = agent.open(
            WEATHER, system_prompt="Be brief.", template_variables={"enable_thinking": True}
        )
        await client.send("Weather?")
        await client.answer(0, '"sunny"')
        await client.ask("Thanks.")
    first, second, third = (template.prompt_text(each) for each in engine.prompts)
    skipped = f"<model>{template.THINK}{template.THINK_END}"
    assert first == f"<system>Be brief. tools: weather\n<user>Weather?\n{skipped}"
    assert '<call weather>{"city":"Rome"}</call>' in second
    assert second.endswith(f"<tool>weather: sunny\n{skipped}")
    assert third.endswith(f"Sunny.\n<user>Thanks.\n{skipped}")
    assert all(not spec.template_variables for spec in engine.specs)


async def test_samples_are_generated_as_is_set_and_never_before_a_step() -> None:
    engine = drafting(script=always(calls(ROME)))
    async with there(scripted(slowly(*says("Hi."))), engine, samples=5, temperature=0.9) as agent:
        await agent.open(WEATHER, tenant="bob").ask(
            generation=GenerationSettings(temperature=0.1, seed=3, stop=("x",))
        )
        [main] = agent.engine.specs
    assert len({spec.step_id for spec in [main, *engine.specs]}) == 6
    for spec in engine.specs:
        assert spec.generation == GenerationSettings(temperature=0.9, tool_choice=REQUIRED)
        assert spec.tool_choice == REQUIRED
        assert spec.max_tokens == 256
        assert spec.priority is Priority.SPECULATES
        assert (spec.tenant, spec.tools) == ("bob", main.tools)


@pytest.mark.parametrize(
    ("asked", "holds", "required", "expected"),
    [
        (ToolChoice(), False, None, ToolChoice()),
        (ToolChoice(), True, None, REQUIRED),
        (ToolChoice(), False, True, REQUIRED),
        (ToolChoice(), True, False, ToolChoice()),
        (REQUIRED, False, None, REQUIRED),
        (REQUIRED, True, False, REQUIRED),
        (NAMED, True, None, NAMED),
        (NAMED, False, None, NAMED),
    ],
)
async def test_a_call_is_required_if_the_turn_requires_it_or_the_engine_can_hold_to_that(
    asked: ToolChoice, expected: ToolChoice, *, holds: bool, required: bool | None
) -> None:
    missing: set[Feature] = set() if holds else {Feature.STRUCTURED_CALLS}
    features = INFO.features - missing
    engine = drafting(script=always(says("?")), features=features)
    limits = DraftModelLimits(samples=1, require_calls=required)
    async with there(scripted(slowly(*calls(ROME)), says("ok")), engine, limits=limits) as agent:
        client = agent.open(WEATHER, handler=None)
        await client.send(generation=GenerationSettings(tool_choice=asked))
        await client.answer()
    assert engine.specs[0].tool_choice == expected


async def test_nothing_is_asked_where_no_call_can_be_made() -> None:
    engine = drafting(script=always(calls(ROME)))
    none = GenerationSettings(tool_choice=ToolChoice(mode=ToolChoiceMode.NONE))
    async with there(scripted(slowly(*says("Hi.")), slowly(*says("Hi."))), engine) as agent:
        await agent.open(WEATHER).ask(generation=none)
        await agent.open().ask()
    assert engine.specs == []


async def test_a_model_that_cannot_call_is_not_asked() -> None:
    engine = drafting(script=always(calls(ROME)), features=frozenset[Feature]())
    async with there(scripted(slowly(*says("Hi."))), engine) as agent:
        await agent.open(WEATHER).ask()
    assert engine.specs == []


async def test_a_prompt_that_does_not_fit_is_not_sampled() -> None:
    engine = drafting(script=always(calls(ROME)), context_tokens_max=8)
    async with there(scripted(slowly(*says("Hi."))), engine) as agent:
        await agent.open(WEATHER).ask()
    assert engine.specs == []


async def test_a_template_that_refuses_the_transcript_costs_the_predictions_alone() -> None:
    engine = drafting(script=always(calls(ROME)))
    engine.template_refusal = "roles must alternate"
    async with there(scripted(slowly(*says("Hi."))), engine) as agent:
        client = agent.open(WEATHER)
        await client.ask()
        assert story(client) == []


@pytest.mark.parametrize(
    "failure", [GenerationFailedError("given up"), EngineDiedError("died")], ids=["failed", "died"]
)
async def test_samples_that_fail_cost_themselves_alone(failure: Item) -> None:
    thinking = Thinking()
    engine = drafting([failure], calls(ROME), [TICK, *calls(ROME)])
    spare = drafting()
    async with there(scripted(thinking.then(ROME), thinking.then()), engine, spare) as agent:
        client = agent.open(WEATHER)
        await client.send()
        assert story(client)[:1] == ["proposed weather Rome"]
        await client.answer()
        await finish(client, thinking)
        assert answers(client) == [(ResultSource.SPECULATIVE, "1")]


async def test_an_engine_that_dies_is_replaced_and_no_turn_notices() -> None:
    thinking = Thinking()
    dead, next_one = drafting([never()] * 1, [never()], [never()]), drafting(script=always([]))
    main = scripted(thinking.then(), slowly(*says("again")))
    async with there(main, dead, next_one) as agent:
        client = agent.open(WEATHER)
        await client.send()
        assert running(agent) == 3
        dead.die()
        await settle()
        assert running(agent) == 0
        assert agent.supervisor.state is EngineState.READY
        await agent.advance(1)
        assert agent.draft_supervisor.running is next_one
        await thinking.on()
        assert client.ending().error is None
        await client.ask()
        assert len(next_one.specs) == 3


async def test_turns_run_while_the_draft_models_engine_is_not_there() -> None:
    dead = drafting()
    async with there(scripted(says("Hi.")), dead, drafting()) as agent:
        dead.die()
        await settle()
        assert (await agent.open(WEATHER).ask()).error is None
        await agent.advance(1)


async def test_samples_that_take_too_long_are_given_up() -> None:
    thinking = Thinking()
    engine = drafting(calls(ROME), [TextPiece("hm"), never()], [TextPiece("hm"), never()])
    async with there(scripted(thinking.then()), engine, timeout_s=3) as agent:
        client = agent.open(WEATHER)
        await client.send()
        assert running(agent) == 3
        assert story(client) == [], "one of three is not most of them"
        await agent.advance(3)
        assert running(agent) == 0
        assert story(client)[:1] == ["proposed weather Rome"]
        await client.answer()
        await thinking.on()
        assert agent.draft_supervisor.running is engine


@pytest.mark.parametrize("step_s", [3.0, 1.0], ids=["given up", "ended with their step"])
async def test_an_engine_that_stays_silent_is_taken_for_dead(
    caplog: pytest.LogCaptureFixture, step_s: float
) -> None:
    """Two turns at the same time wait for it at the same time: that counts once."""
    thinking = Thinking()
    silent, next_one = drafting(script=always([never()])), drafting(script=always([]))
    rounds = int(9.0 / step_s)
    main = scripted(*(thinking.then() for _ in range(2 * rounds)))
    async with there(main, silent, next_one, timeout_s=3) as agent:
        clients = [agent.open(WEATHER), agent.open(WEATHER)]
        for number in range(rounds):
            assert agent.draft_supervisor.running is silent, number
            for client in clients:
                await client.send()
            await agent.advance(step_s)
            for index in (2 * number, 2 * number + 1):
                await thinking.on(index)
            await agent.advance(60)
        assert "in the 9 s that samples have waited for it: it is taken for dead" in caplog.text
        assert agent.draft_supervisor.running is next_one


async def test_an_engine_that_generates_a_token_is_not_silent() -> None:
    thinking = Thinking()
    engine = drafting(script=lambda _prompt, spec: [TextPiece("hm"), never()])
    main = scripted(*(thinking.then() for _ in range(4)))
    async with there(main, engine, samples=1, timeout_s=3) as agent:
        for number in range(4):
            await agent.open(WEATHER).send()
            await agent.advance(3)
            await thinking.on(number)
        assert agent.draft_supervisor.running is engine


async def test_samples_end_with_the_step_that_they_predict() -> None:
    engine = drafting(script=always([never()]))
    gate = asyncio.Event()
    async with there(scripted([Pause(gate), *says("Hi.")]), engine) as agent:
        client = agent.open(WEATHER)
        await client.send()
        assert running(agent) == 3
        gate.set()
        await settle()
        assert client.ending().error is None
        assert running(agent) == 0
        assert (await engine.load()).running == 0


async def test_samples_end_with_a_turn_that_is_cancelled() -> None:
    engine = drafting([*calls(ROME)], [*calls(ROME)], [never()])
    async with there(scripted([never()]), engine) as agent:
        client = agent.open(WEATHER)
        turn_id = await client.send()
        assert story(client) == ["proposed weather Rome", "launched weather Rome"]
        client.conversation.cancel_turn(turn_id)
        await settle()
        assert reasons(client) == [DiscardReason.CANCELLED]
        assert (await engine.load()).running == 0


async def test_only_so_many_samples_run_at_the_same_time() -> None:
    engine = drafting(script=always([never()]))
    gate = asyncio.Event()
    main = scripted(script=always([Pause(gate), *says("Hi.")]))
    async with there(main, engine, samples=5, samples_running_max=8) as agent:
        clients = [agent.open(WEATHER) for _ in range(3)]
        for client, count in zip(clients, (5, 8, 8), strict=True):
            await client.send()
            assert running(agent) == count
        gate.set()
        await settle()


async def test_the_load_of_the_turns_engine_throttles_the_draft_model() -> None:
    engine = drafting(script=always([never()]))
    gate = asyncio.Event()
    main = scripted(script=always([Pause(gate), *says("Hi.")]), sequences_max=2)
    async with there(main, engine) as agent:
        clients = [agent.open(WEATHER) for _ in range(2)]
        for client in clients:
            await client.send()
        assert running(agent) == 3, "with both slots taken, nothing is left for the second turn"
        gate.set()
        await settle()


async def test_a_call_is_proposed_before_its_sample_has_ended() -> None:
    engine = drafting(script=always([*calls(ROME), never()]))
    thinking = Thinking()
    async with there(scripted(thinking.then()), engine) as agent:
        client = agent.open(WEATHER)
        await client.send()
        assert story(client) == ["proposed weather Rome", "launched weather Rome"]
        assert running(agent) == 3
        await thinking.on()


async def test_a_sample_has_a_bounded_number_of_calls() -> None:
    many = [("weather", f'{{"city":"{number}"}}') for number in range(6)]
    engine = drafting([*calls(*many), never()])
    thinking = Thinking()
    async with there(scripted(thinking.then()), engine, samples=1) as agent:
        client = agent.open(WEATHER)
        await client.send()
        proposed = [line for line in story(client) if line.startswith("proposed")]
        assert len(proposed) == 4
        assert running(agent) == 0
        await thinking.on()


async def test_shadow_runs_nothing_early_but_scores() -> None:
    thinking = Thinking()
    main = scripted(thinking.then(ROME), thinking.then())
    limits = SpeculationLimits(
        most=SpeculationSettings(predictors=DRAFTS),
        draft_model=DraftModelLimits(samples=1),
        stages={("*", Predictor.DRAFT_MODEL): SpeculationMode.SHADOW},
    )
    async with agent_on(
        main,
        predictors=[DraftModelPredictor(1)],
        speculation=limits,
        draft_engines=[drafting(script=always(calls(ROME)))],
    ) as agent:
        client = agent.open(WEATHER)
        await client.send()
        assert story(client) == ["proposed weather Rome"]
        await thinking.on()
        await client.answer()
        await thinking.on(1)
        record = agent.speculation.records.of("ann").tool("weather").of(Predictor.DRAFT_MODEL)
        assert (record.proposed, record.matched, record.launched) == (2, 1, 0)
