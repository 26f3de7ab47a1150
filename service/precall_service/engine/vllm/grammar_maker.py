"""The grammars of all tools: each is made once for a tenant, in another process, and kept.

Owns: the kept grammars, and the order in which tenants and conversations have theirs made.
Concurrency: one event loop. One task asks the process, as long as something waits for it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter, deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final, Protocol

from cachetools import LRUCache

from precall_service.domain.events import LoosenedKeyword
from precall_service.domain.tools import ToolDeclaration
from precall_service.engine.vllm.grammar_process import GrammarProcessError
from precall_service.engine.vllm.grammar_worker import Ended, Made, Wanted
from precall_service.engine.vllm.grammars import ArgumentsForm
from precall_service.engine.vllm.tool_grammars import ToolGrammar, any_object
from precall_service.fair_turns import FairLine

log = logging.getLogger(__name__)

WAIT_MAX_S: Final = 30.0
"""How long a caller waits for the grammars of its tools."""
KNOWN_CHARS_MAX: Final = 64 << 20
"""The most characters of all grammars that are kept; the least recently used ones go first."""
FAILURES_MAX: Final = 2
"""How often in a row the process may end before those who wait go without grammars."""
BATCH_CHARS_MAX: Final = 256 << 10
"""The schemas of a batch stop at this number of characters, for they are written in one go."""
WAITING_TOOLS_PER_TENANT_MAX: Final = 512
"""The most tools of one tenant whose grammars are waited for: four conversations with all that one
may have. Further ones go without until they are asked for again."""
WAITING_TOOLS_MAX: Final = 8192
"""The same for all tenants."""
_NO_ROOM: Final = "too many grammars of new tools are waited for already"
_ENDED: Final = "the process that makes grammars has ended; the server's log says more"


class Process(Protocol):
    """What makes grammars: a GrammarProcess."""

    def ask(self, wanted: Sequence[Wanted]) -> AsyncGenerator[Made | Ended]:
        """As `GrammarProcess.ask`."""
        ...

    async def close(self) -> None:
        """Ends it."""
        ...


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A tool whose grammar is awaited; `costly` as for `tool_grammar`."""

    tool: ToolDeclaration
    costly: bool = True

    def wanted(self) -> Wanted:
        """As the process reads it."""
        return Wanted(schema=json.dumps(self.tool.input_schema), costly=self.costly)


@dataclass(frozen=True, slots=True)
class _Key:
    """Names a grammar: tenants share none, since one could tell by time what another uses."""

    tenant: str
    digest: str


@dataclass(eq=False, slots=True)
class _Caller:
    """Who waits, and the tools whose grammars it waits for."""

    tenant: str
    tools: deque[_Waiting]


class _Line:
    """The callers that wait, with their tools: tenants take turns of one batch each."""

    def __init__(self) -> None:
        self._callers = FairLine[_Caller]()
        self._tools: Counter[str] = Counter()
        """How many tools of each tenant wait."""

    def __bool__(self) -> bool:
        return bool(self._callers)

    def room_of(self, tenant: str) -> int:
        """How many more tools of a tenant may wait."""
        own = WAITING_TOOLS_PER_TENANT_MAX - self._tools[tenant]
        return max(0, min(own, WAITING_TOOLS_MAX - self._tools.total()))

    def add(self, caller: _Caller) -> None:
        """Has a caller wait, if it has tools: behind the others of its tenant."""
        if caller.tools:
            self._callers.add(caller.tenant, caller)
            self._tools[caller.tenant] += len(caller.tools)

    def next(self) -> _Caller:
        """Returns the caller whose turn is next. It must be added again with what is left."""
        tenant, caller = self._callers.next()
        self._tools[tenant] -= len(caller.tools)
        if not self._tools[tenant]:
            del self._tools[tenant]
        return caller


class GrammarMaker:
    """Has grammars made. Those who wait take turns of one batch each, by tenant."""

    def __init__(self, process: Process, *, wait_max_s: float = WAIT_MAX_S) -> None:
        self._process = process
        self._wait_max_s = wait_max_s
        self._known: LRUCache[_Key, ToolGrammar] = LRUCache(KNOWN_CHARS_MAX, _size)
        self._awaited: dict[_Key, asyncio.Future[ToolGrammar]] = {}
        self._line = _Line()
        self._asking: asyncio.Task[None] | None = None

    async def of(self, tools: Sequence[ToolDeclaration], tenant: str) -> list[ToolGrammar]:
        """Returns the grammar of each tool of a tenant.

        A tool whose grammar is not made in time is held to any object until it is asked for again,
        and so is one for which there is no room to wait.
        On cancel: the grammars are made nevertheless, and kept.
        """
        found: dict[str, ToolGrammar] = {}
        missing: deque[_Waiting] = deque()
        room = self._line.room_of(tenant)
        for tool in tools:
            key = _Key(tenant, tool.digest)
            if (known := self._known.get(key)) is not None:
                found[tool.digest] = known
            elif key not in self._awaited and len(missing) == room:
                found[tool.digest] = any_object(_NO_ROOM)
            elif key not in self._awaited:
                self._awaited[key] = asyncio.get_running_loop().create_future()
                missing.append(_Waiting(tool))
        if missing:
            self._line.add(_Caller(tenant, missing))
            if self._asking is None or self._asking.done():
                self._asking = asyncio.ensure_future(self._ask())
        awaited = {
            tool.digest: self._awaited[_Key(tenant, tool.digest)]
            for tool in tools
            if tool.digest not in found
        }
        if awaited:
            done, _ = await asyncio.wait(awaited.values(), timeout=self._wait_max_s)
            late = any_object(f"its grammar was not made within {self._wait_max_s:g} s")
            for digest, future in awaited.items():
                found[digest] = future.result() if future in done else late
        return [found[tool.digest] for tool in tools]

    async def close(self) -> None:
        """Ends the process. Idempotent."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        await self._process.close()
        for future in self._awaited.values():
            future.set_result(any_object(_ENDED))
        self._awaited.clear()

    async def _ask(self) -> None:
        """Has grammars made until nobody waits for one."""
        failures = 0
        while self._line:
            caller = self._line.next()
            batch = _batch(caller.tools)
            try:
                await self._ask_for(batch, caller)
            except GrammarProcessError:
                log.exception("the process that makes grammars has ended; it is started again")
                failures += 1
                while caller.tools and failures >= FAILURES_MAX:
                    tool = caller.tools.popleft().tool
                    self._settle(caller.tenant, tool, any_object(_ENDED), keep=False)
            else:
                failures = 0
            self._line.add(caller)

    async def _ask_for(self, batch: Sequence[Wanted], caller: _Caller) -> None:
        """Settles the first of a caller's tools, as far as the process comes with the batch."""
        async with aclosing(self._process.ask(batch)) as answers:
            async for answer in answers:
                if "given_up" not in answer:
                    self._settle(caller.tenant, caller.tools.popleft().tool, _grammar(answer))
                elif answer["given_up"]:
                    self._give_up(caller, answer["given_up"])
                await asyncio.sleep(0)  # several answers may have come at once

    def _give_up(self, caller: _Caller, why: str) -> None:
        """Has the first tool tried again without what is costly, or holds it to any object."""
        first = caller.tools.popleft()
        if first.costly:
            caller.tools.appendleft(replace(first, costly=False))
        else:
            self._settle(caller.tenant, first.tool, any_object(why))

    def _settle(
        self, tenant: str, tool: ToolDeclaration, grammar: ToolGrammar, *, keep: bool = True
    ) -> None:
        key = _Key(tenant, tool.digest)
        if keep:
            self._known[key] = grammar
        for keyword in grammar.loosened:
            log.warning(
                "calls of tool %r are not held to %s: %s", tool.name, keyword.path, keyword.reason
            )
        future = self._awaited.pop(key, None)
        if future is not None:
            future.set_result(grammar)


def _batch(waiting: Iterable[_Waiting]) -> list[Wanted]:
    """Returns the first tools, one at least, as far as a batch may have them."""
    batch: list[Wanted] = []
    size = 0
    for each in waiting:
        batch.append(each.wanted())
        size += len(batch[-1]["schema"])
        if size > BATCH_CHARS_MAX:
            break
    return batch


def _grammar(made: Made) -> ToolGrammar:
    return ToolGrammar(
        schema=made["schema"],
        texts={ArgumentsForm(each["style"], each["lines"]): each["text"] for each in made["texts"]},
        loosened=tuple(LoosenedKeyword(path, reason) for path, reason in made["loosened"]),
        compile_s=made["compile_s"],
        rules=made["rules"],
    )


def _size(grammar: ToolGrammar) -> int:
    """About the number of characters that a grammar takes; the schema is about as long again."""
    return 2 * grammar.size + 1
