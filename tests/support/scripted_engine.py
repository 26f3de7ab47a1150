"""A deterministic engine that generates the steps of a script as fast as Python can yield them.

Its tokens are characters, so that tests can read a prompt with `prompt_text`. Appending to a prompt
gives exactly the rendering of the whole transcript. The engine never waits for time: a script
suspends a generation with `Pause` and lets other tasks run with `TICK`.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

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
    GenerationRefusedError,
    Progress,
    Prompt,
    StepEnd,
    StepSpec,
    StepStream,
    TemplateRefusedError,
    TextPiece,
)
from precall_service.engine.drafts import Draft, VerifiedDraft
from precall_service.engine.vllm.token_prompt import TokenPrompt, own
from tests.support import scripted_template as template
from tests.support.scripts import Ends, Pause, Script, Step, StepWriter, Tick, in_turn

BLOCK_TOKENS = 16

INFO = EngineInfo(
    name="scripted",
    model="script",
    context_tokens_max=8192,
    sequences_max=64,
    kv_tokens=1 << 20,
    kv_block_tokens=BLOCK_TOKENS,
    device="cpu",
    features=frozenset(Feature),
)


class ScriptedEngine:
    """An `Engine` on a script. `specs` and `prompts` record its generations, in order."""

    def __init__(self, script: Script | Sequence[Step], info: EngineInfo = INFO) -> None:
        self._script = script if callable(script) else in_turn(*script)
        self._info = info
        self._dead = False
        self._death: asyncio.Future[None] | None = None
        self._running: dict[str, int] = {}
        self._waiting: list[tuple[int, int, asyncio.Future[None], str, int]] = []
        self._arrivals = itertools.count()
        self._cached_blocks: set[int] = set()
        self.specs: list[StepSpec] = []
        self.prompts: list[TokenPrompt] = []
        self.drafts: dict[str, list[Draft]] = {}
        self.closed = False
        self.killed = False
        self.silent = False
        """Whether it hangs: it does not answer for its load."""
        self.progress = 0
        self.loosened: Mapping[str, Sequence[LoosenedKeyword]] = {}
        """What `judge` says of tools, by their names."""
        self.template_refusal = ""
        """If set, `render` and `append` raise a TemplateRefusedError with this message."""
        self.verified: Mapping[str, tuple[int, int]] = {}
        """How many tokens of drafts are verified and kept in each step, by the names of their
        tools; by "" for the ends of calls."""

    @property
    def info(self) -> EngineInfo:
        """As `Engine.info`."""
        return self._info

    def die(self) -> None:
        """Ends the engine's process, as SIGKILL would. Idempotent."""
        self._dead = True
        for future in (self._dying(), *(turn for _, _, turn, _, _ in self._waiting)):
            if not future.done():
                future.set_result(None)

    async def judge(
        self, tools: Sequence[ToolDeclaration], tenant: str
    ) -> Sequence[Sequence[LoosenedKeyword]]:
        """As `Engine.judge`."""
        return [self.loosened.get(tool.name, ()) for tool in tools]

    async def render(self, transcript: Transcript) -> TokenPrompt:
        """As `Engine.render`."""
        self._check_template()
        return TokenPrompt(template.tokens(template.transcript_text(transcript)))

    async def append(
        self,
        prompt: Prompt,
        end: StepEnd,
        transcript: Transcript,
        following: Sequence[Message],
    ) -> TokenPrompt:
        """As `Engine.append`."""
        self._check_template()
        close = template.END if end.finish is Finish.LENGTH else ""
        delta = f"{close}{template.messages_text(following)}{template.MODEL}"
        return TokenPrompt(own(prompt).token_ids + end.token_ids + template.tokens(delta))

    async def branch(
        self, prompt: Prompt, token_ids: Sequence[int], spec: StepSpec
    ) -> TokenPrompt | None:
        """As `Engine.branch`. The variable `enable_thinking` turns reasoning off."""
        if Feature.BRANCHES not in self._info.features:
            return None
        text = "".join(map(chr, token_ids))
        ending = template.end_of_reasoning(text)
        if ending is None or not spec.template_variables.get("enable_thinking", True):
            return None
        return TokenPrompt((*own(prompt).token_ids, *token_ids, *template.tokens(ending)))

    async def draft(self, spec: StepSpec, drafts: Sequence[Draft]) -> None:
        """As `Engine.draft`: records them in `drafts`, by step."""
        self._check_alive()
        if Feature.DRAFTS in self._info.features:
            self.drafts.setdefault(spec.step_id, []).extend(drafts)

    async def generate(self, prompt: Prompt, spec: StepSpec) -> StepStream:
        """As `Engine.generate`."""
        self._check_alive()
        start = own(prompt)
        room = self._info.context_tokens_max
        if not start or (room is not None and len(start) >= room):
            raise GenerationRefusedError(f"a prompt of {len(start)} tokens does not fit")
        self.specs.append(spec)
        self.prompts.append(start)
        async with self._slot(start, spec):
            writer = StepWriter(spec.max_tokens)
            scored = spec.log_probabilities
            ends = Ends()
            for item in self._script(start, spec):
                self.progress += 1
                if self._dead:
                    raise EngineDiedError(_DIED)
                # The fast path, for benchmarks.
                if type(item) is TextPiece and not scored and writer.fits(item):
                    yield Chunk(template.tokens(item.text), (item,))
                elif isinstance(item, Exception):
                    raise item
                elif isinstance(item, Pause | Tick):
                    await self._wait(item)
                elif isinstance(item, Ends):
                    ends = item
                else:
                    chunk = writer.write(item)
                    yield chunk if scored else replace(chunk, log_probabilities=())
                    if writer.full:
                        break
            if writer.finish is Finish.STOP:
                yield Chunk(template.tokens(template.END), (), (0.0,) if scored else ())
            end = self._end(start, spec, writer)
            yield replace(
                end,
                stop_text=ends.stop_text,
                stray_call=ends.stray_call,
                cut_after_call=ends.cut_after_call,
            )

    async def load(self) -> EngineLoad:
        """As `Engine.load`."""
        if self.silent:
            await asyncio.wait([self._dying()])
        self._check_alive()
        self.progress += 1
        return EngineLoad(
            running=len(self._running),
            waiting=sum(not turn.done() for _, _, turn, _, _ in self._waiting),
            kv_usage=sum(self._running.values()) / (self._info.kv_tokens or 1),
        )

    async def wait_dead(self) -> None:
        """As `Engine.wait_dead`."""
        await asyncio.wait([self._dying()])

    async def cause_of_death(self) -> str:
        """As `Engine.cause_of_death`."""
        return "the test killed it" if self._dead else "it still runs"

    async def kill(self) -> None:
        """As `Engine.kill`."""
        self.killed = True
        self.die()

    async def close(self) -> None:
        """As `Engine.close`."""
        self.closed = True
        self.die()

    def _dying(self) -> asyncio.Future[None]:
        if self._death is None:
            self._death = asyncio.get_running_loop().create_future()
        return self._death

    def _check_alive(self) -> None:
        if self._dead:
            raise EngineDiedError(_DIED)

    def _check_template(self) -> None:
        if self.template_refusal:
            raise TemplateRefusedError(self.template_refusal)

    async def _wait(self, item: Pause | Tick) -> None:
        if isinstance(item, Tick):
            await asyncio.sleep(0)
            return
        waiter = asyncio.ensure_future(item.event.wait())
        try:
            await asyncio.wait((waiter, self._dying()), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        self._check_alive()

    @asynccontextmanager
    async def _slot(self, prompt: TokenPrompt, spec: StepSpec) -> AsyncGenerator[None]:
        """Holds one of the engine's slots. Slots are given by priority, then by arrival."""
        try:
            if len(self._running) < self._info.sequences_max:
                self._running[spec.step_id] = len(prompt)
            else:
                turn = asyncio.get_running_loop().create_future()
                arrival = next(self._arrivals)
                waiter = (int(spec.priority), arrival, turn, spec.step_id, len(prompt))
                heapq.heappush(self._waiting, waiter)
                await turn  # the generation that frees the slot enters this one in `_running`
                self._check_alive()
            yield
        finally:
            if self._running.pop(spec.step_id, None) is not None:
                self._call_next()

    def _call_next(self) -> None:
        while self._waiting:
            _, _, turn, step_id, prompt_tokens = heapq.heappop(self._waiting)
            if not turn.done():
                self._running[step_id] = prompt_tokens
                turn.set_result(None)
                return

    def _end(self, prompt: TokenPrompt, spec: StepSpec, writer: StepWriter) -> StepEnd:
        cached_tokens = self._cached_tokens(prompt.token_ids, spec.tenant)
        end = template.END if writer.finish is Finish.STOP else ""
        token_ids = template.tokens(writer.text + end)
        self._cached_blocks.update(self._blocks(prompt.token_ids + token_ids, spec.tenant))
        drafts = self._verified(spec)
        return StepEnd(
            finish=writer.finish,
            token_ids=token_ids,
            raw_text=writer.text,
            usage=TokenUsage(
                input_tokens=len(prompt),
                cached_tokens=cached_tokens,
                output_tokens=len(token_ids),
                reasoning_tokens=writer.reasoning_tokens,
            ),
            drafted_tokens=sum(each.proposed_tokens for each in drafts),
            accepted_tokens=sum(each.accepted_tokens for each in drafts),
            drafts=drafts,
        )

    def _verified(self, spec: StepSpec) -> tuple[VerifiedDraft, ...]:
        staged = [*spec.drafts, *self.drafts.get(spec.step_id, ()), None]
        names = ["" if each is None else each.tool_name for each in staged]
        return tuple(
            VerifiedDraft(draft, *self.verified[name])
            for draft, name in zip(staged, names, strict=True)
            if name in self.verified
        )

    def _cached_tokens(self, token_ids: tuple[int, ...], tenant: str) -> int:
        """The number of cached tokens of a prompt: whole blocks, without the last token."""
        blocks = self._blocks(token_ids[:-1], tenant)
        count = sum(1 for _ in itertools.takewhile(self._cached_blocks.__contains__, blocks))
        return count * BLOCK_TOKENS

    def _blocks(self, token_ids: tuple[int, ...], tenant: str) -> Iterator[int]:
        """The keys of the whole blocks. A key depends on the tenant and on all tokens before it."""
        size = BLOCK_TOKENS
        name = hash(tenant)
        for start in range(0, len(token_ids) - size + 1, size):
            name = hash((name, token_ids[start : start + size]))
            yield name


class ScriptedFactory:
    """An `EngineFactory` of scripted engines; `started` lists them in order.

    Each start calls `make` and raises what `make` raises.
    """

    def __init__(self, make: Callable[[], ScriptedEngine]) -> None:
        self._make = make
        self.started: list[ScriptedEngine] = []

    async def __call__(self, on_progress: Progress) -> ScriptedEngine:
        """As `EngineFactory`."""
        on_progress("starting the scripted engine", None)
        engine = self._make()
        self.started.append(engine)
        return engine


_DIED = "the scripted engine died"
