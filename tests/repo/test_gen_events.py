"""The generator of events, tested on a small contract with a field of every kind."""

from __future__ import annotations

import dataclasses
import importlib.resources
import subprocess
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

import gen_events

CONTRACT = """
syntax = "proto3";
package precall.v1;
import "google/protobuf/duration.proto";
import "google/protobuf/timestamp.proto";
import "google/rpc/status.proto";

message ConverseResponse {
  uint64 sequence = 1;
  oneof event {
    TextDelta text_delta = 2;
    Acknowledge acknowledge = 3;
    ApprovalRequested approval_requested = 4;
    GoAway go_away = 5;
    Everything everything = 6;
    Nothing nothing = 7;
  }
}
// A piece.
message TextDelta { string text = 1; }
message Acknowledge {}
message ApprovalRequested {}
// Only the conversation sees it.
message GoAway { Notice notice = 1; }
// Only GoAway needs it.
message Notice { string text = 1; }
// Has no fields, and a comment whose first sentence goes on for so long
// that no line of Python holds it.
message Nothing {}

// One of two colours.
enum Colour {
  // Never sent.
  COLOUR_UNSPECIFIED = 0;
  // Like a tomato.
  COLOUR_RED = 1;
  COLOUR_DARK_BLUE = 2;
}
// Who did it.
enum Source {
  // It was not said.
  SOURCE_UNSPECIFIED = 0;
}
// Has nine fields and is no event.
message Part {
  string a = 1; string b = 2; string c = 3; string d = 4; string e = 5;
  string f = 6; string g = 7; string h = 8; string i = 9;
}

// Has a field of every kind. This comment goes on for longer than
// one line of Python can hold,
// so that its first sentence stands alone.
message Everything {
  // The "text", with a comment that is so long that it takes more than a line of Python, it seems.
  string text = 1;
  bool flag = 2;
  double ratio = 3;
  uint64 count = 4;
  bytes data = 5;
  // How far. Unset: unknown.
  optional double maybe_ratio = 6;
  repeated string names = 7;
  Colour colour = 8;
  repeated Colour colours = 9;
  Part part = 10;
  optional Part maybe_part = 11;
  repeated Part parts = 12;
  google.protobuf.Duration took = 13;
  optional google.protobuf.Duration maybe_took = 14;
  google.rpc.Status error = 15;
  string value_json = 16;
  oneof choice {
    string left = 17;
    Colour right = 18;
  }
  Source source = 19;
}
"""

VALUES = "service/precall_service/domain/events.py"
WRITERS = "service/precall_service/transport/events_out.py"
CLIENT_VALUES = "clients/python/src/precall/_events.py"
CLIENT_READERS = "clients/python/src/precall/_events_in.py"


def described(contract: str, folder: Path) -> FileDescriptorSet:
    """The descriptors of a contract in one file, as `scripts/gen.py` makes them."""
    (folder / "small.proto").write_text(contract, encoding="utf-8")
    googleapis = importlib.resources.files("google.rpc") / "../.."
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"-I{googleapis}"]
    command += ["--include_imports", "--include_source_info", f"--descriptor_set_out={folder}/d"]
    subprocess.run([*command, "small.proto"], check=True)
    return FileDescriptorSet.FromString((folder / "d").read_bytes())


@pytest.fixture(name="texts", scope="module")
def texts_fixture(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    return gen_events.modules(described(CONTRACT, tmp_path_factory.mktemp("contract")))


def loaded(text: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of a text."""
    module = types.ModuleType("generated")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(text, vars(module))
    return module


@pytest.mark.parametrize(("path", "unknown"), [(VALUES, "UNSPECIFIED"), (CLIENT_VALUES, "UNKNOWN")])
def test_every_field_has_the_type_and_the_default_of_its_kind(
    texts: Mapping[str, str], path: str, unknown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = loaded(texts[path], monkeypatch)
    fields = dataclasses.fields(module.Everything)
    error = "ServiceError" if path == VALUES else "PrecallError"
    assert {field.name: (field.type, field.default) for field in fields} == {
        "text": ("str", ""),
        "flag": ("bool", False),
        "ratio": ("float", 0.0),
        "count": ("int", 0),
        "data": ("bytes", b""),
        "maybe_ratio": ("float | None", None),
        "names": ("tuple[str, ...]", ()),
        "colour": ("Colour", module.Colour[unknown]),
        "colours": ("tuple[Colour, ...]", ()),
        "part": ("Part", module.Part()),
        "maybe_part": ("Part | None", None),
        "parts": ("tuple[Part, ...]", ()),
        "took_s": ("float", 0.0),
        "maybe_took_s": ("float | None", None),
        "error": (f"{error} | None", None),
        "value_json": ("str", ""),
        "left": ("str | None", None),
        "right": ("Colour | None", None),
        "source": ("Source", module.Source[unknown]),
    }


def test_values_are_frozen_and_a_long_event_keeps_its_first_fields_positional(
    texts: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = loaded(texts[VALUES], monkeypatch)
    first = ("text", "flag", "ratio", "count", "data", "maybe_ratio", "names", "colour")
    assert module.Everything.__match_args__ == first
    assert module.Part.__match_args__ == ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        module.TextDelta("a").text = "b"


def test_enums_have_the_numbers_of_the_contract_or_texts(
    texts: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    colour = loaded(texts[VALUES], monkeypatch).Colour
    assert {each.name: each.value for each in colour} == {
        "UNSPECIFIED": 0,
        "RED": 1,
        "DARK_BLUE": 2,
    }
    colour = loaded(texts[CLIENT_VALUES], monkeypatch).Colour
    assert {each.name: each.value for each in colour} == {
        "UNKNOWN": "unknown",
        "RED": "red",
        "DARK_BLUE": "dark_blue",
    }


def test_comments_are_docstrings(texts: Mapping[str, str]) -> None:
    values = texts[VALUES]
    assert (
        '''class Everything:
    """Has a field of every kind.

    This comment goes on for longer than one line of Python can hold, so that its first sentence
    stands alone.
    """

    text: str = ""
    """The "text", with a comment that is so long that it takes more than a line of Python, it
    seems."""
    flag: bool = False
    ratio: float = 0.0
'''
        in values
    )
    assert (
        '''    maybe_ratio: float | None = None
    """How far. None: unknown."""
'''
        in values
    )
    assert (
        '''    RED = 1
    """Like a tomato."""
    DARK_BLUE = 2
'''
        in values
    )


def test_a_sentence_longer_than_a_line_is_not_cut(texts: Mapping[str, str]) -> None:
    assert '''class Nothing:
    """Nothing of the contract.

    Has no fields, and a comment whose first sentence goes on for so long that no line of Python
    holds it.
    """
''' in texts[VALUES]


def test_the_client_documents_its_unknown_members(texts: Mapping[str, str]) -> None:
    client = texts[CLIENT_VALUES]
    assert 'UNKNOWN = "unknown"\n    """A value of a newer server."""' in client
    assert '"""It was not said. Or a value of a newer server."""' in client


def test_json_has_a_property_with_its_value(
    texts: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = loaded(texts[CLIENT_VALUES], monkeypatch).Everything
    assert everything(value_json='{"a": [1]}').value == {"a": [1]}
    assert everything().value is None
    assert "pydantic" not in texts[VALUES]


def test_events_are_left_out_on_purpose(
    texts: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in texts.values():
        assert "class Acknowledge" not in text
        assert "Approval" not in text
    service, client = (loaded(texts[path], monkeypatch) for path in (VALUES, CLIENT_VALUES))
    of_a_turn = {"TextDelta", "Everything", "Nothing"}
    assert {each.__name__ for each in service.TurnEvent.__args__} == of_a_turn
    assert {each.__name__ for each in service.ConversationEvent.__args__} == {*of_a_turn, "GoAway"}
    assert {each.__name__ for each in client.Event.__args__} == of_a_turn
    assert client.__all__ == sorted([*of_a_turn, "Colour", "Event", "Part", "Source"])


@pytest.mark.parametrize(
    "line",
    [
        "text=value.text,",
        "maybe_ratio=value.maybe_ratio,",
        "names=value.names,",
        "colour=small_pb2.Colour.ValueType(value.colour.value),",
        "colours=[small_pb2.Colour.ValueType(each.value) for each in value.colours],",
        "part=part(value.part),",
        "maybe_part=None if value.maybe_part is None else part(value.maybe_part),",
        "parts=[part(each) for each in value.parts],",
        "took=duration(value.took_s),",
        "maybe_took=None if value.maybe_took_s is None else duration(value.maybe_took_s),",
        "error=None if value.error is None else to_status(value.error),",
        "if value.left is not None: message.left = value.left",
        "if value.right is not None: message.right = small_pb2.Colour.ValueType(value.right.value)",
    ],
)
def test_a_field_is_written_by_its_kind(texts: Mapping[str, str], line: str) -> None:
    assert line in one_line(texts[WRITERS])


@pytest.mark.parametrize(
    "line",
    [
        "text=message.text,",
        'maybe_ratio=message.maybe_ratio if message.HasField("maybe_ratio") else None,',
        "names=tuple(message.names),",
        "colour=member(_events.Colour, small_pb2.Colour.DESCRIPTOR, message.colour),",
        "part=part(message.part),",
        'maybe_part=part(message.maybe_part) if message.HasField("maybe_part") else None,',
        "parts=tuple(part(each) for each in message.parts),",
        "took_s=seconds(message.took),",
        'maybe_took_s=seconds(message.maybe_took) if message.HasField("maybe_took") else None,',
        'error=_errors.from_status(message.error) if message.HasField("error") else None,',
        'left=message.left if message.HasField("left") else None,',
    ],
)
def test_a_field_is_read_by_its_kind(texts: Mapping[str, str], line: str) -> None:
    assert line in one_line(texts[CLIENT_READERS])


def test_a_kind_without_a_rule_is_refused_by_name(tmp_path: Path) -> None:
    field = "google.protobuf.Timestamp began = 20;"
    contract = CONTRACT.replace("Source source = 19;", field)
    with pytest.raises(SystemExit, match=r"began: an event cannot hold \.google\.protobuf\.Time"):
        gen_events.modules(described(contract, tmp_path))


def one_line(text: str) -> str:
    """Code without the layout that depends on its length."""
    return " ".join(text.split()).replace("( ", "(").replace(", )", ")")
