"""Decides what vLLM's engine is started with: the operator's arguments, then our defaults.

Owns: the arguments that precall must set itself, each with its reason, and the defaults on a CPU.
Never: a list of what may be set. vLLM's own parser reads the arguments, so all of them can be set.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn, cast

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser

from precall_service.domain.json import JsonValue
from precall_service.engine.base import EngineStartError
from precall_service.engine.vllm.config import CPU_KV_CACHE_BYTES, VllmConfig

CPU_BLOCK_TOKENS: Final = 32
"""Tokens in a block of the KV cache on a CPU, where vLLM's default is 128. A step finds the tokens
of the step before it in whole blocks, so smaller blocks leave fewer tokens to compute again."""

CPU_SEQUENCES_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class _Owned:
    """An argument that the operator cannot set, except to the values that change nothing.

    Some belong to vLLM's server, which is not used; its engine would call them unknown.
    """

    reason: str
    harmless: tuple[object, ...] = ()


_OWNED: Final[Mapping[str, _Owned]] = {
    "model": _Owned("name the model with precall's own --model"),
    "served_model_name": _Owned("clients are told the model's own name"),
    "tool_call_parser": _Owned("name the parser with precall's own --tool-call-parser"),
    "enable_auto_tool_choice": _Owned("a model that has a tool parser may always call tools"),
    "reasoning_parser": _Owned("name the parser with precall's own --reasoning-parser"),
    "chat_template": _Owned("name the template with precall's own --chat-template"),
    "host": _Owned("name the interface with precall's own --host"),
    "port": _Owned("name the port with precall's own --port"),
    "data_parallel_size": _Owned(
        "the steps of a turn would go to different ranks, and no rank would have its whole cache: "
        "run a service for each rank, behind a load balancer",
        harmless=(1,),
    ),
    "enable_lora": _Owned(
        "no client can choose an adapter: serve a model with the adapter merged in",
        harmless=(False,),
    ),
    "scheduling_policy": _Owned(
        "steps that continue a turn go before steps that start one", harmless=("priority",)
    ),
    "scheduler_cls": _Owned("precall asks the scheduler what the engine holds"),
    "enable_prefix_caching": _Owned(
        "each step starts from the cached tokens of the step before it", harmless=(True,)
    ),
    "logprobs_mode": _Owned(
        "precall reads how sure the model is of a call", harmless=("raw_logprobs",)
    ),
    "skip_tokenizer_init": _Owned(
        "prompts are rendered and calls are parsed with the tokenizer", harmless=(False,)
    ),
    "runner": _Owned("the model must generate text", harmless=("auto", "generate")),
    "convert": _Owned("the model must generate text", harmless=("auto", "none")),
    "max_num_queued_reqs": _Owned("turns wait in precall's queue, by its limits"),
    "max_num_queued_tokens": _Owned("turns wait in precall's queue, by its limits"),
    "log_level": _Owned("set engine.log_level in precall's settings"),
    "log_config_file": _Owned("set engine.log_level in precall's settings"),
    "logging_config": _Owned("set engine.log_level in precall's settings"),
    "shutdown_timeout": _Owned("precall lets turns finish before it stops the engine"),
}
_GRAMMAR_BACKENDS: Final = ("auto", "xgrammar")


def engine_arguments(config: VllmConfig, *, on_cpu: bool) -> AsyncEngineArgs:
    """Returns the arguments of the engine. The first call takes two seconds: vLLM defines 250.

    Raises:
        EngineStartError: an argument is unknown or malformed, or the operator cannot set it.
    """
    given = _given(config)
    defaults = _cpu_defaults(config) if on_cpu else _gpu_defaults(config)
    return AsyncEngineArgs(**(defaults | given | _own(config)))


def _own(config: VllmConfig) -> dict[str, Any]:
    return {"model": config.model, "scheduling_policy": "priority", "shutdown_timeout": 0}


def _cpu_defaults(config: VllmConfig) -> dict[str, Any]:
    return {
        "block_size": CPU_BLOCK_TOKENS,
        "kv_cache_memory_bytes": config.kv_cache_bytes or CPU_KV_CACHE_BYTES,
        "max_num_seqs": CPU_SEQUENCES_MAX,
        "max_model_len": -1,  # the model's own limit, or less if the cache holds less
        "enforce_eager": True,  # compiling takes a minute and gains little without a GPU
        "use_tqdm_on_load": False,
    }


def _gpu_defaults(config: VllmConfig) -> dict[str, Any]:
    cache = {"kv_cache_memory_bytes": config.kv_cache_bytes} if config.kv_cache_bytes else {}
    return cache | {"use_tqdm_on_load": False}


def _given(config: VllmConfig) -> dict[str, Any]:
    """Returns what the operator has set, by the names of vLLM's fields.

    Raises:
        EngineStartError: the operator cannot set one of them.
    """
    if any(argument.split("=")[0] == "--config" for argument in config.arguments):
        raise EngineStartError(
            "--config does not work after --: put vLLM's arguments under [engine.vllm] in "
            "precall's own settings file"
        )
    parser = _argument_parser()
    command_line = [*parser.command_line(config.settings), *config.arguments]
    given = dict(vars(parser.parse_args(command_line)))
    for name, value in given.items():
        owned = _OWNED.get(name)
        if owned is not None and value not in owned.harmless:
            raise _not_settable(name, owned)
    _check_grammar_backend(given, config)
    return given


def _check_grammar_backend(given: Mapping[str, Any], config: VllmConfig) -> None:
    outputs = given.get("structured_outputs_config")
    if outputs is None or not config.structured_calls:
        return
    fields = cast("dict[str, Any]", outputs if isinstance(outputs, dict) else vars(outputs))
    backend = fields.get("backend", "auto")
    if backend not in _GRAMMAR_BACKENDS:
        raise EngineStartError(
            f"vLLM's --structured-outputs-config.backend {backend} cannot hold calls to their "
            "schemas: leave it out, or set engine.structured_calls to false"
        )


@functools.cache
def _argument_parser() -> _ArgumentParser:
    parser = _ArgumentParser(prog="precall serve --", add_help=False, allow_abbrev=False)
    AsyncEngineArgs.add_cli_args(parser)
    parser.forget_defaults()
    return parser


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _not_settable(name: str, owned: _Owned) -> EngineStartError:
    return EngineStartError(f"vLLM's {_option(name)} cannot be set here: {owned.reason}")


class _ArgumentParser(FlexibleArgumentParser):
    """vLLM's parser, which raises instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown == message:
            raise EngineStartError(f"vLLM's {message.removeprefix('argument ')}")
        raise self._unknown(re.split(r"[\s=]", unknown)[0])

    def forget_defaults(self) -> None:
        """Makes parsed arguments hold only those that were given."""
        for action in self._actions:
            action.default = argparse.SUPPRESS

    def command_line(self, settings: Mapping[str, JsonValue]) -> Iterator[str]:
        """Yields settings as arguments of a command line."""
        actions = {action.dest: action for action in self._actions}
        for name, value in settings.items():
            action = actions.get(name.replace("-", "_"))
            if action is None:
                raise self._unknown(_option(name))
            yield from _as_arguments(action, value)

    def _unknown(self, option: str) -> EngineStartError:
        name = option.removeprefix("--").replace("-", "_")
        if owned := _OWNED.get(name):
            return _not_settable(name, owned)
        known = [text for action in self._actions for text in action.option_strings]
        near = difflib.get_close_matches(option, known, n=3, cutoff=0.6)
        meant = f"; did you mean {' or '.join(near)}?" if near else ""
        return EngineStartError(f"vLLM has no argument {option}{meant}")


def _as_arguments(action: argparse.Action, value: JsonValue) -> Sequence[str]:
    option = next(text for text in action.option_strings if text.startswith("--"))
    match _switch(option, value) if action.nargs == 0 else value:
        case None:
            return ()
        case True:
            return (option,)
        case False:
            negative = f"--no-{option.removeprefix('--')}"
            return (negative,) if negative in action.option_strings else ()
        case str() | int() | float():
            return (option, str(value))
        case [*items] if action.nargs in {"+", "*"}:
            return (option, *map(_as_text, items))
        case _:
            return (option, json.dumps(value))


def _switch(option: str, value: JsonValue) -> JsonValue:
    """Returns the value of an on/off argument, which is text if it came from a variable."""
    match value.lower() if isinstance(value, str) else value:
        case True | "true":
            return True
        case False | "false":
            return False
        case None:
            return None
        case _:
            raise EngineStartError(f"vLLM's {option} is {value!r}, and must be true or false")


def _as_text(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value)
