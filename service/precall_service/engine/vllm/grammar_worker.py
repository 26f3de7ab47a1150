"""A process that makes and compiles the grammars of tools, each within bounds of time and memory.

A schema of a few kilobytes can keep xgrammar busy for minutes, and nothing can interrupt it. So the
process forks for each batch, and the kernel ends the fork when a bound is reached. Importing
xgrammar takes seconds and is done once. What a fork uses is gone when it ends.

The service writes one message for a batch. It reads an answer for each schema, in order, and at
last how the batch ended. A batch may end early: the service asks for the rest again.

Concurrency: one thread, so that it can fork. It ends when its standard input does.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, Final, NoReturn, TypedDict, cast

from xgrammar import GrammarCompiler, TokenizerInfo

from precall_service.domain.json import JsonObject
from precall_service.engine.vllm.grammars import ArgumentsForm
from precall_service.engine.vllm.lifeline import die_with
from precall_service.engine.vllm.tool_grammars import (
    ToolGrammar,
    any_object,
    plain_reason,
    tool_grammar,
)
from precall_service.helper_process import bound_fork

TOOL_CPU_MAX_S: Final = 4.0
"""The most processor time for one tool: twice what the heaviest one that is tried should take."""
BATCH_CPU_MAX_S: Final = 2.0
"""The processor time after which a batch goes no further, so that others have their turn."""
BATCH_WALL_MAX_S: Final = 60.0
"""The most time for one batch, in case that a fork hangs."""
MEMORY_MAX_BYTES: Final = 1 << 30
"""The most memory for one batch, in addition to what the process has."""

SHARED_MAX_S: Final = 0.02
"""After so much processor time, the compiler forgets what it has compiled. It takes no time for
parts that it knows, but the engine may compile a tool without those that came before it here."""

NICENESS: Final = 10
"""How much it stands back for the turns that run: beside a process that computes, it has a tenth of
a core."""

_OUT_OF_MEMORY: Final = 3
"""The status of a fork that has reached its bound."""

LENGTH: Final = struct.Struct(">I")
"""Precedes each message: the number of its bytes."""


class Form(TypedDict):
    """The fields of ArgumentsForm."""

    style: str
    lines: bool


class Start(TypedDict):
    """The first message: the model's tokens, and the forms in which its calls have arguments."""

    tokenizer_info: str
    forms: list[Form]


class Wanted(TypedDict):
    """A schema to make a grammar of; `costly` as for `tool_grammar`."""

    schema: str
    costly: bool


class Text(Form):
    """A grammar for this form."""

    text: str


class Made(TypedDict):
    """The fields of ToolGrammar."""

    schema: JsonObject | bool
    texts: list[Text]
    loosened: list[list[str]]
    compile_s: float
    rules: int


class Ended(TypedDict):
    """How a batch ended; `given_up` says why the schema after the last answer was, or is empty."""

    given_up: str


@dataclass(frozen=True, slots=True)
class _Compiler:
    """Compiles grammars as vLLM does for this model."""

    tokenizer_info: TokenizerInfo
    forms: Sequence[ArgumentsForm]

    def made(self, wanted: Sequence[Wanted]) -> Iterator[Made]:
        """Makes and compiles one grammar after the other."""
        compiler = GrammarCompiler(self.tokenizer_info, max_threads=1)
        shared_s = 0.0
        for each in wanted:
            signal.setitimer(signal.ITIMER_PROF, TOOL_CPU_MAX_S)
            grammar = self._made(compiler, json.loads(each["schema"]), costly=each["costly"])
            yield Made(
                schema=grammar.schema,
                texts=[
                    Text(style=form.style, lines=form.lines, text=text)
                    for form, text in grammar.texts.items()
                ],
                loosened=[[keyword.path, keyword.reason] for keyword in grammar.loosened],
                compile_s=grammar.compile_s,
                rules=grammar.rules,
            )
            shared_s += grammar.compile_s
            if shared_s > SHARED_MAX_S:
                compiler.clear_cache()
                shared_s = 0.0

    def _made(self, compiler: GrammarCompiler, schema: JsonObject, *, costly: bool) -> ToolGrammar:
        try:
            grammar = tool_grammar(schema, self.forms, costly=costly)
            begun_s = time.process_time()
            compiled = [compiler.compile_grammar(text) for text in grammar.texts.values()]
            compile_s = time.process_time() - begun_s
        except Exception as error:  # noqa: BLE001  (whatever fails here would fail at a turn)
            if isinstance(error, MemoryError) or "bad_alloc" in str(error):
                os._exit(_OUT_OF_MEMORY)
            return any_object(f"it does not compile: {plain_reason(error)}")
        rules = sum(str(each.grammar).count("\n") for each in compiled)
        return replace(grammar, compile_s=compile_s, rules=rules)


def main() -> None:
    """Answers the batches that standard input brings, on standard output."""
    os.nice(NICENESS)
    incoming = os.fdopen(os.dup(0), "rb")
    outgoing = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever is printed must not stand among the answers
    start = cast("Start", read(incoming))
    compiler = _Compiler(
        TokenizerInfo.deserialize_json(start["tokenizer_info"]),
        [ArgumentsForm(form["style"], form["lines"]) for form in start["forms"]],
    )
    while (wanted := read(incoming)) is not None:
        write(outgoing, _batch(compiler, cast("list[Wanted]", wanted), outgoing))


def read(stream: BinaryIO) -> object:
    """Returns the next message; None if the stream ends first."""
    length = stream.read(LENGTH.size)
    if len(length) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(length)
    body = stream.read(size)
    return json.loads(body) if len(body) == size else None


def write(stream: BinaryIO, message: object) -> None:
    """Writes a message."""
    body = json.dumps(message).encode()
    stream.write(LENGTH.pack(len(body)) + body)
    stream.flush()


def _batch(compiler: _Compiler, wanted: Sequence[Wanted], outgoing: BinaryIO) -> Ended:
    """Passes on what a fork makes, and returns how it ended."""
    from_fork, to_service = os.pipe()
    parent_pid = os.getpid()
    fork = os.fork()
    if fork == 0:
        os.close(from_fork)
        _work(compiler, wanted, to_service, parent_pid)
    os.close(to_service)
    with os.fdopen(from_fork, "rb") as answers:
        while (made := read(answers)) is not None:
            write(outgoing, made)
    _, status = os.waitpid(fork, 0)
    return Ended(given_up=_given_up(os.waitstatus_to_exitcode(status)))


def _work(
    compiler: _Compiler, wanted: Sequence[Wanted], to_service: int, parent_pid: int
) -> NoReturn:
    """The fork: makes grammars until one of its bounds is reached."""
    status = 1
    try:
        die_with(parent_pid)  # a fork begins without
        bound_fork(MEMORY_MAX_BYTES)
        signal.setitimer(signal.ITIMER_REAL, BATCH_WALL_MAX_S)
        with os.fdopen(to_service, "wb") as answers:
            for made in compiler.made(wanted):
                write(answers, made)
                if time.process_time() > BATCH_CPU_MAX_S:
                    break
        status = 0
    finally:
        os._exit(status)


def _given_up(exit_code: int) -> str:
    """Why a fork ended before it had an answer; empty if it ended by itself."""
    match exit_code:
        case 0:
            return ""
        case _ if exit_code == -signal.SIGPROF:
            return f"it takes more than {TOOL_CPU_MAX_S:g} s to compile"
        case _ if exit_code == -signal.SIGALRM:
            return f"it was not compiled within {BATCH_WALL_MAX_S:g} s"
        case _ if exit_code == _OUT_OF_MEMORY:
            return f"it takes more than {MEMORY_MAX_BYTES >> 20} MiB to compile"
        case _:
            return f"the compiler ended with status {exit_code}"
