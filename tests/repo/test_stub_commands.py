"""The commands of proto/README.md generate stubs from proto/ alone, with the named tools only."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from tests.repo.files import copy, text

SECTION = re.compile(r"^### (.+)\n[^#]*?^```sh\n(.+)\n```$", re.M)
COMMANDS = dict(SECTION.findall(text("proto/README.md")))
VENV = Path(sys.executable).parent
GO_PLUGINS = ("protoc-gen-go", "protoc-gen-go-grpc")
# The programs on PATH for each command, in addition to mkdir.
TOOLS = {
    "Python, with grpcio-tools": ("python",),
    "Python messages, with protoc": ("protoc",),
    "Go, with protoc": ("protoc", *GO_PLUGINS),
    "Python messages, with buf": ("buf", "protoc"),
    "Go, with buf": ("buf", *GO_PLUGINS),
}
# The Go plugins are not on a Python index. This program replaces both: it writes a file that lists
# what it was asked to generate.
GO_PLUGIN = """
import json, sys
from google.protobuf.compiler import plugin_pb2 as plugin

request = plugin.CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
own = [file for file in request.proto_file if file.name in request.file_to_generate]
asked = {
    "parameter": request.parameter,
    "files": sorted(request.file_to_generate),
    "services": {s.name: [m.name for m in s.method] for file in own for s in file.service},
    "packages": {file.name: file.options.go_package for file in request.proto_file},
}
answer = plugin.CodeGeneratorResponse()
answer.supported_features = answer.FEATURE_PROTO3_OPTIONAL
answer.file.add(name=sys.argv[1] + ".json", content=json.dumps(asked))
sys.stdout.buffer.write(answer.SerializeToString())
"""
USE_MESSAGES = """
from google.rpc.status_pb2 import Status
from precall.v1 import agent_pb2 as agent, common_pb2 as common

assert agent.__file__.startswith(GEN), agent.__file__
sent = agent.ConverseResponse(
    sequence=7, frame_rejected=common.FrameRejected(frame_sequence=3, error=Status(code=5))
)
assert agent.ConverseResponse.FromString(sent.SerializeToString()) == sent
converse = agent.DESCRIPTOR.services_by_name["AgentService"].methods_by_name["Converse"]
assert converse.client_streaming and converse.server_streaming
"""
USE_STUBS = """
import grpc
from precall.v1 import agent_pb2_grpc, tool_cache_pb2_grpc, tool_host_pb2_grpc

with grpc.insecure_channel("localhost:1") as channel:
    assert callable(agent_pb2_grpc.AgentServiceStub(channel).Converse)
    assert callable(tool_host_pb2_grpc.ToolHostServiceStub(channel).Host)
    assert callable(tool_cache_pb2_grpc.ToolCacheServiceStub(channel).Get)
"""


def install(tools: tuple[str, ...], folder: Path) -> Path:
    """Makes a folder for PATH that has only mkdir, which every system has, and `tools`."""
    folder.mkdir()
    (folder / "mkdir").symlink_to(str(shutil.which("mkdir")))
    for tool in tools:
        command = [str(VENV / tool)]
        if tool in GO_PLUGINS:
            command = [sys.executable, "-c", GO_PLUGIN, tool]
        # A script and not a link, since Python and protoc look for files next to the real program.
        (folder / tool).write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        (folder / tool).chmod(0o755)
    return folder


def generate(name: str, tmp_path: Path) -> Path:
    """Runs a command of the README in a clean copy of proto/; returns the output folder."""
    proto = copy("proto", tmp_path)
    environment = {
        "PATH": str(install(TOOLS[name], tmp_path / "bin")),
        "HOME": str(tmp_path),
        # Nothing listens on port 9, so a download fails at once.
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }
    result = subprocess.run(
        ["/bin/sh", "-c", COMMANDS[name]],
        cwd=proto,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, "")
    return proto / "gen"


def use(gen: Path, *programs: str) -> None:
    """Runs Python programs that can import `precall` only from `gen`."""
    program = "".join((f"GEN = {str(gen)!r}\n", *programs))
    # -S, because the .pth files of site-packages make this repository's `precall` importable.
    result = subprocess.run(
        [sys.executable, "-S", "-c", program],
        cwd=gen,
        env={"PYTHONPATH": os.pathsep.join((str(gen), sysconfig.get_path("purelib")))},
        check=False,
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert result.returncode == 0, result.stderr


def test_every_command_of_the_readme_is_tested() -> None:
    assert COMMANDS.keys() == TOOLS.keys()
    assert text("proto/README.md").count("```sh") == len(TOOLS)


def test_grpcio_tools_generates_messages_and_service_stubs(tmp_path: Path) -> None:
    use(generate("Python, with grpcio-tools", tmp_path), USE_MESSAGES, USE_STUBS)


@pytest.mark.parametrize("tool", ["protoc", "buf"])
def test_generates_messages(tool: str, tmp_path: Path) -> None:
    gen = generate(f"Python messages, with {tool}", tmp_path)
    use(gen, USE_MESSAGES)
    assert not (gen / "google").exists()


@pytest.mark.parametrize("tool", ["protoc", "buf"])
def test_asks_the_plugins_of_go_for_the_whole_contract(tool: str, tmp_path: Path) -> None:
    gen = generate(f"Go, with {tool}", tmp_path)
    files = sorted(f"precall/v1/{p.name}" for p in (gen.parent / "precall/v1").glob("*.proto"))
    for plugin in GO_PLUGINS:
        asked: dict[str, Any] = json.loads((gen / f"{plugin}.json").read_text())
        assert asked["files"] == files
        assert "Converse" in asked["services"]["AgentService"]
        assert asked["parameter"] == "paths=source_relative"
        google = asked["packages"]["google/rpc/status.proto"]
        assert google.startswith("google.golang.org/genproto/googleapis/rpc/")
