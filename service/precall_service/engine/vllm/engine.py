"""The engine protocol on one AsyncLLM.

Owns: the AsyncLLM and its processes once they run.
Never: starts them (`start` does); conversations, admission.
Concurrency: one event loop. Prompts and ends are values; each generation has its own parser.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Any, Final, cast

from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.inputs.engine import tokens_input
from vllm.outputs import CompletionOutput
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from precall_service.domain.events import LoosenedKeyword, TokenUsage
from precall_service.domain.messages import Message, Transcript
from precall_service.domain.tools import ToolDeclaration
from precall_service.engine.base import (
    Chunk,
    EngineDiedError,
    EngineInfo,
    EngineLoad,
    Feature,
    Finish,
    GenerationFailedError,
    GenerationRefusedError,
    Prompt,
    StepEnd,
    StepSpec,
    StepStream,
)
from precall_service.engine.drafts import Draft
from precall_service.engine.vllm.branching import Branches
from precall_service.engine.vllm.compiling import Compiling
from precall_service.engine.vllm.drafting import Drafting
from precall_service.engine.vllm.grammar_maker import GrammarMaker
from precall_service.engine.vllm.outputs import (
    given_up,
    log_probabilities,
    pieces_of,
    refused,
)
from precall_service.engine.vllm.parsing import SpecialTokens, StepParser
from precall_service.engine.vllm.planning import Planning
from precall_service.engine.vllm.plans import StepPlan
from precall_service.engine.vllm.processes import EngineProcesses
from precall_service.engine.vllm.proposing import DRAFTS_ARGUMENT, STAGE_UTILITY
from precall_service.engine.vllm.reasoning import ReasoningLimit
from precall_service.engine.vllm.rendering import PromptRenderer
from precall_service.engine.vllm.sampled import CallLimit, Sampled
from precall_service.engine.vllm.sampling import StepSampling
from precall_service.engine.vllm.token_prompt import TokenPrompt, own
from precall_service.engine.vllm.utilities import LOAD_UTILITY

log = logging.getLogger(__name__)

_DIED: Final = "the engine's process died"

_DEATH_WAIT_S: Final = 30.0
"""How long to wait for the death of an engine that aborts a generation by itself. An engine that
shuts down aborts its generations first, then ends its workers, and then dies."""

_STAGE_TIMEOUT_S: Final = 5.0
"""How long the engine may take to accept a draft: no longer than a step, unless it hangs."""


class VllmEngine:
    """vLLM, in this process and its children."""

    def __init__(
        self,
        llm: AsyncLLM,
        *,
        info: EngineInfo,
        renderer: PromptRenderer,
        branches: Branches | None,
        drafting: Drafting | None,
        planning: Planning,
        sampling: StepSampling,
        grammars: GrammarMaker,
        special_tokens: SpecialTokens,
        processes: EngineProcesses,
        stop_timeout_s: float,
        share_prefix_cache: bool,
        reasoning_limit: ReasoningLimit | None,
    ) -> None:
        self._llm = llm
        self._info = info
        self._renderer = renderer
        self._branches = branches
        self._drafting = drafting
        self._planning = planning
        self._sampling = sampling
        self._grammars = grammars
        self._special_tokens = special_tokens
        self._processes = processes
        self._stop_timeout_s = stop_timeout_s
        self._share_prefix_cache = share_prefix_cache
        self._reasoning_limit = reasoning_limit
        self._compiling = Compiling()
        self._progress = 0

    @property
    def info(self) -> EngineInfo:
        """As `Engine.info`."""
        return self._info

    @property
    def progress(self) -> int:
        """As `Engine.progress`."""
        return self._progress

    async def judge(
        self, tools: Sequence[ToolDeclaration], tenant: str
    ) -> Sequence[Sequence[LoosenedKeyword]]:
        """As `Engine.judge`."""
        if Feature.STRUCTURED_CALLS not in self._info.features:
            return [()] * len(tools)
        return [grammar.loosened for grammar in await self._grammars.of(tools, tenant)]

    async def render(self, transcript: Transcript) -> Prompt:
        """As `Engine.render`."""
        return await self._renderer.render(transcript)

    async def append(
        self,
        prompt: Prompt,
        end: StepEnd,
        transcript: Transcript,
        following: Sequence[Message],
    ) -> Prompt:
        """As `Engine.append`."""
        return await self._renderer.append(own(prompt), end, transcript, following)

    async def branch(
        self, prompt: Prompt, token_ids: Sequence[int], spec: StepSpec
    ) -> Prompt | None:
        """As `Engine.branch`."""
        if self._branches is None:
            return None
        begun = own(prompt)
        written = TokenPrompt((*begun.token_ids, *token_ids))
        _, parser = await self._planned(written, spec)
        if parser is None or parser.reasoning_ended is not False:
            return None
        return await self._branches.prompt(begun, token_ids, spec.template_variables)

    async def draft(self, spec: StepSpec, drafts: Sequence[Draft]) -> None:
        """As `Engine.draft`."""
        staged = [] if self._drafting is None else await self._drafting.more(spec, drafts)
        if not staged:
            return
        try:
            async with asyncio.timeout(_STAGE_TIMEOUT_S):
                await self._asked(STAGE_UTILITY, spec.step_id, staged)
        except TimeoutError:
            log.warning("the engine has not accepted a draft within %g s", _STAGE_TIMEOUT_S)

    async def generate(self, prompt: Prompt, spec: StepSpec) -> StepStream:
        """As `Engine.generate`.

        On cancel, or if closed early: AsyncLLM aborts the generation, because its own generator is
        closed here.
        """
        start = own(prompt)
        numbered = None if self._drafting is None else self._drafting.numbered(spec)
        sampled = Sampled(start.tokens, numbered)
        plan, parser = await self._planned(start, spec)
        grammar, reasoning_ended = self._grammar(start, plan, parser)
        params = self._params(spec, grammar, parsed=parser is not None)
        calls = CallLimit(plan.calls_max)
        if numbered is not None:
            drafts = await numbered.first(reasons=reasoning_ended is False)
            params.extra_args = {DRAFTS_ARGUMENT: drafts} if drafts else None
        try:
            async with (
                self._compiling.turn(plan, spec.tenant) as compiled,
                contextlib.aclosing(
                    self._llm.generate(
                        tokens_input(
                            list(start.token_ids),
                            cache_salt=None if self._share_prefix_cache else spec.tenant,
                        ),
                        params,
                        spec.step_id,
                        priority=int(spec.priority),
                        reasoning_ended=reasoning_ended,
                        reasoning_parser_kwargs=plan.reasoning_parser_kwargs,
                    )
                ) as outputs,
            ):
                async for output in outputs:
                    self._progress += 1
                    compiled()
                    completion = output.outputs[0]
                    sampled.add(output)
                    pieces = tuple(calls.within(pieces_of(completion, parser)))
                    finish = Finish.STOP if calls.exceeded else None
                    if completion.finish_reason is not None:
                        finish = await self._finish(completion.finish_reason)
                        pieces += tuple(calls.within(sampled.ending(parser, finish)))
                    yield Chunk(tuple(completion.token_ids), pieces, log_probabilities(completion))
                    if finish is not None:
                        yield self._end(sampled, parser, finish, completion, calls)
                    if calls.exceeded:
                        return
        except EngineDeadError as error:
            raise EngineDiedError(_DIED) from error
        except VLLMClientError as error:
            raise refused(error) from error
        except (EngineGenerateError, GracefulHTTPError, ValueError) as error:
            # A parser's ValueError too: AsyncLLM lets no other plain error pass.
            log.exception("the engine failed on step %s", spec.step_id)
            raise GenerationFailedError(
                "the engine failed on this generation: send the turn again, with a new turn id"
            ) from error

    def _grammar(
        self, prompt: TokenPrompt, plan: StepPlan, parser: StepParser | None
    ) -> tuple[StructuredOutputsParams | None, bool | None]:
        """The grammar of a step, and whether it holds from the first token on.

        If not, vLLM applies it from the end of the reasoning on; None: vLLM finds out itself.
        """
        ended = None if parser is None else parser.reasoning_ended
        if ended is not False or self._reasoning_limit is None:
            return plan.structured_outputs, ended
        opened = self._reasoning_limit.marks.opened_in(prompt.token_ids)
        return plan.limited[opened], True

    def _params(
        self, spec: StepSpec, grammar: StructuredOutputsParams | None, *, parsed: bool
    ) -> SamplingParams:
        try:
            return self._sampling.params(spec, grammar, parsed=parsed)
        except (VLLMClientError, ValueError) as error:
            raise refused(error) from error

    async def load(self) -> EngineLoad:
        """As `Engine.load`. Waits until the engine has finished the step that it computes."""
        loads: list[tuple[int, int, float]] = await self._asked(LOAD_UTILITY)
        return EngineLoad(
            running=sum(load[0] for load in loads),
            waiting=sum(load[1] for load in loads),
            kv_usage=sum(load[2] for load in loads) / len(loads),
        )

    async def _asked(self, utility: str, *arguments: object) -> list[Any]:
        """The answers to a utility of ours, one for each process of the engine.

        Also waits for the engine's death, since a process that dies never answers.

        Raises:
            EngineDiedError: the engine's process has died.
        """
        core = cast("Any", self._llm.engine_core)
        call: asyncio.Future[list[Any]] = asyncio.ensure_future(
            core.call_utility_all_async(utility, *arguments)
        )
        try:
            await asyncio.wait((call, self._alive()), return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                raise EngineDiedError(_DIED)
            answers = call.result()
            self._progress += 1
            return answers
        except EngineDeadError as error:
            raise EngineDiedError(_DIED) from error
        finally:
            call.cancel()

    async def wait_dead(self) -> None:
        """As `Engine.wait_dead`."""
        await asyncio.wait([self._alive()])

    async def cause_of_death(self) -> str:
        """As `Engine.cause_of_death`."""
        return await self._processes.how_they_ended()

    async def kill(self) -> None:
        """As `Engine.kill`."""
        await self._processes.kill()
        await asyncio.wait([self._alive()], timeout=_DEATH_WAIT_S)

    async def close(self) -> None:
        """As `Engine.close`."""
        await self._grammars.close()
        self._planning.close()
        await self._processes.close(self._stop_timeout_s)

    def _alive(self) -> asyncio.Task[None]:
        """The task that runs as long as the engine's processes do."""
        handler = self._processes.output_handler
        assert handler is not None, "the first generation, during the start, has begun it"
        return handler

    async def _planned(
        self, prompt: TokenPrompt, spec: StepSpec
    ) -> tuple[StepPlan, StepParser | None]:
        """The plan of a step, and its parser; no parser if the step can bring text only.

        Raises:
            GenerationRefusedError: a parser does not take the tools or the template variables, or
                vLLM does not take the grammar.
        """
        grammars = await self._grammars.of(spec.tools, spec.tenant)
        try:
            plan = await self._planning.plan(spec, grammars)
            if plan.make_parser is None:
                return plan, None
            return plan, StepParser(
                plan.make_parser, plan.request, prompt.token_ids, self._special_tokens
            )
        except VLLMClientError as error:
            raise refused(error) from error
        except Exception as error:  # vLLM's parsers raise anything on input of a client
            log.warning("vLLM's parsers refuse the tools or variables of a step", exc_info=True)
            raise GenerationRefusedError(
                "the parsers of this model refuse the tools or the template variables of the "
                f"conversation: {str(error) or type(error).__name__}"
            ) from error

    async def _finish(self, reason: str) -> Finish:
        """Why a generation ended by itself.

        Raises:
            EngineDiedError: the engine aborted the generation because it shuts down.
            GenerationFailedError: the engine gave the generation up and lives on.
        """
        match reason:
            case "length":
                return Finish.LENGTH
            case "abort":  # by the engine itself: a generation that we abort has no reader
                dead, _ = await asyncio.wait([self._alive()], timeout=_DEATH_WAIT_S)
                if dead:
                    raise EngineDiedError(_DIED)
                raise given_up()
            case "error":
                raise given_up()
            case _:
                return Finish.STOP

    def _end(
        self,
        sampled: Sampled,
        parser: StepParser | None,
        finish: Finish,
        completion: CompletionOutput,
        calls: CallLimit,
    ) -> StepEnd:
        text, stop = "".join(sampled.texts), completion.stop_reason
        stray_call = parser.stray_call if parser else None
        return StepEnd(
            finish=Finish.STOP if calls.exceeded else finish,
            token_ids=tuple(sampled.token_ids),
            raw_text=text if parser is None else self._special_tokens.removed_from(text),
            usage=TokenUsage(
                input_tokens=sampled.prompt_tokens,
                cached_tokens=sampled.cached_tokens,
                output_tokens=len(sampled.token_ids),
                reasoning_tokens=parser.reasoning_tokens(sampled.token_ids) if parser else 0,
            ),
            drafted_tokens=sampled.drafted_tokens,
            accepted_tokens=sampled.accepted_tokens,
            drafts=sampled.drafts,
            stop_text=stop if isinstance(stop, str) and not calls.exceeded else "",
            stray_call=None if calls.exceeded else stray_call,
            cut_after_call=calls.exceeded,
        )
