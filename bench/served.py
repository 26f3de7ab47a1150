"""Starts the servers of both arms with the same model and the same arguments of vLLM.

Owns: the flags of the benches that need an engine, and their translation for each server.
"""

from __future__ import annotations

import argparse
import socket
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.process import Child, started
from bench.trees import ROOT, environ
from precall_service.domain.json import JsonObject, JsonValue
from precall_service.engine.model_files import ModelError
from precall_service.engine.models import (
    ResolvedModel,
    is_embedded,
    resolve_model,
)

_CPU_KV_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model and the arguments with which vLLM serves it in every arm."""

    model: ResolvedModel
    device: str
    vllm: JsonObject

    @asynccontextmanager
    async def precall(self, *, forced_calls: int = 0, tree: Path = ROOT) -> AsyncGenerator[Child]:
        """Runs the service, from the files of a tree, until the block ends."""
        config: JsonObject = {
            "model": None if self.model.embedded else self.model.path_or_name,
            "device": self.device,
            "vllm": self.vllm,
            "forced_calls": forced_calls,
        }
        print("starting precall", flush=True)
        async with started("bench.arms.service", config, environ=environ(tree)) as child:
            yield child

    @asynccontextmanager
    async def openai(self, *, port: int | None = None) -> AsyncGenerator[Child]:
        """Runs today's server until the block ends, on a free port if none is given."""
        arguments = ["--model", self.model.path_or_name]
        arguments += ["--served-model-name", self.model.display_name]
        assert self.model.tool_parser is not None  # the flag refuses such models
        arguments += ["--enable-auto-tool-choice", "--tool-call-parser", self.model.tool_parser]
        if self.model.reasoning_parser:
            arguments += ["--reasoning-parser", self.model.reasoning_parser]
        arguments += ["--uvicorn-log-level", "warning"]
        for name, value in self.vllm.items():
            arguments += _flag(name, value)
        config: JsonObject = {"port": port or _free_port(), "arguments": arguments}
        environ = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
        print("starting today's server", flush=True)
        with tempfile.TemporaryDirectory(prefix="precall-bench-") as folder:
            environ["VLLM_RPC_BASE_PATH"] = folder  # its sockets, which it leaves behind
            async with started("bench.arms.openai_server", config, environ=environ) as child:
                yield child


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of every bench that needs an engine."""
    parser.add_argument("--model", type=_model, help="folder (default: the embedded model)")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--max-num-seqs", type=int)
    parser.add_argument("--max-model-len", type=int)


def add_block_size(parser: argparse.ArgumentParser) -> None:
    """Adds the flag of the benches that use one block size throughout."""
    parser.add_argument("--block-size", type=int, help="tokens in a block of the KV cache")


def served(options: argparse.Namespace, *, block_size: int, kv_tokens: int | None = None) -> Served:
    """The served model that the flags ask for.

    `kv_tokens` is the size of the KV cache; it is rounded down to whole blocks.
    """
    on_cpu = options.sizes != "gpu"
    vllm: dict[str, JsonValue] = {
        "max_num_seqs": options.max_num_seqs,
        "max_model_len": options.max_model_len,
        "max_num_batched_tokens": max(2048, options.max_num_seqs),
        "block_size": block_size,
    }
    if on_cpu:
        vllm |= {"enforce_eager": True, "kv_cache_memory_bytes": _CPU_KV_BYTES}
    if kv_tokens is not None:
        vllm["num_gpu_blocks_override"] = kv_tokens // block_size
    return Served(
        model=resolve_model(options.model),
        device=options.device,
        vllm=vllm,
    )


def _model(text: str) -> str:
    """Checks that the model is a local folder with a known tool parser.

    Only then do both arms use the same parsers: for a model on a hub, the service would derive them
    from the files that the engine fetches, and today's server would get none.
    """
    if is_embedded(text):
        return text
    try:
        model = resolve_model(text)
    except ModelError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not model.local:
        raise argparse.ArgumentTypeError(
            f"{text} is not a local folder. Fetch the model first: "
            f"hf download {text} --local-dir {model.display_name}"
        )
    if model.tool_parser is None:
        raise argparse.ArgumentTypeError(f"{text} cannot make tool calls: {model.parser_reason}")
    return text


def _flag(name: str, value: JsonValue) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    return [flag] if value is True else [flag, str(value)]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
